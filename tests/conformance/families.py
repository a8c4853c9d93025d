"""The members of a family of classes, for suites that every member must pass."""

import sys

import equinox as eqx


def members(family: type[eqx.Module]) -> list[type[eqx.Module]]:
    """Final classes of jaxdeblend that derive from an abstract one; a new one is found by itself."""
    found = [cls for heir in family.__subclasses__() for cls in (heir, *members(heir))]
    own = [cls for cls in found if getattr(sys.modules[cls.__module__], cls.__name__, None) is cls]
    final = [cls for cls in own if cls.__module__.startswith("jaxdeblend.") and not cls.__abstractmethods__]
    return sorted(set(final), key=lambda cls: cls.__name__)
