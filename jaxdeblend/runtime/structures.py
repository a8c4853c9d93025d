"""Descriptions of PyTrees: all that is known of them but the numbers in their arrays, as JSON.

Descriptions tell programs apart in a store on disk, and the result of a stored program is put together by one. Only
classes of `PACKAGES` are described: others may change while their name stays.
"""

import importlib
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import equinox as eqx
import jax

PACKAGES = ("jaxdeblend", "optax")
"""Packages whose classes are described; their versions are a part of the key of a stored program."""


class NotDescribedError(TypeError):
    """A PyTree with a class or a value that has no description."""


def description_of(tree: Any, array: Callable[[Any], Any] = lambda _: True) -> Any:
    """Describe a PyTree.

    Parameters
    ----------
    tree
        The tree.
    array
        Description of an array, anything that JSON has.

    Returns
    -------
    Any
        What JSON has.

    Raises
    ------
    NotDescribedError
        If the tree has a class of another package, or a value that is no array, number, text or None.

    Examples
    --------
    >>> import numpy as np
    >>> description_of((np.zeros(2), "r"), lambda array: list(array.shape))
    {'tuple': [{'array': [2]}, {'value': 'r'}]}
    """
    if tree is None or isinstance(tree, bool | int | float | str):
        return {"value": tree}
    if eqx.is_array(tree) or isinstance(tree, jax.ShapeDtypeStruct):
        return {"array": array(tree)}
    if isinstance(tree, eqx.Module):
        parts = {
            field.name: description_of(getattr(tree, field.name), _no_array if field.metadata.get("static") else array)
            for field in fields(tree)
        }
        return {"module": _name_of(type(tree)), "fields": parts}
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return {"named": _name_of(type(tree)), "parts": [description_of(part, array) for part in tree]}
    if type(tree) in (tuple, list):
        return {type(tree).__name__: [description_of(part, array) for part in tree]}
    if type(tree) is dict and all(isinstance(key, str) for key in tree):
        return {"dict": {key: description_of(tree[key], array) for key in sorted(tree)}}
    raise NotDescribedError(f"no description of a {type(tree).__module__}.{type(tree).__qualname__}")


def tree_of(description: Any, array: Callable[[Any], Any]) -> Any:
    """The PyTree of a description.

    Parameters
    ----------
    description
        From `description_of`.
    array
        What stands for an array, from its description.

    Returns
    -------
    Any
        The tree.

    Raises
    ------
    NotDescribedError
        If it names a class that is not there.

    Examples
    --------
    >>> tree_of({"tuple": [{"array": True}, {"value": "r"}]}, lambda _: 1.0)
    (1.0, 'r')
    """
    match description:
        case {"value": value}:
            return value
        case {"array": known}:
            return array(known)
        case {"module": name, "fields": parts}:
            module = object.__new__(_class_of(name))
            for field, part in parts.items():  # as Equinox itself does when it unflattens a module
                object.__setattr__(module, field, tree_of(part, array))
            return module
        case {"named": name, "parts": parts}:
            return _class_of(name)(*[tree_of(part, array) for part in parts])
        case {"tuple": parts}:
            return tuple(tree_of(part, array) for part in parts)
        case {"list": parts}:
            return [tree_of(part, array) for part in parts]
        case {"dict": parts}:
            return {key: tree_of(part, array) for key, part in parts.items()}
    raise NotDescribedError(f"not the description of a tree: {description!r}")


def _no_array(array: Any) -> Any:
    """Refuse arrays where their numbers are a part of the structure."""
    raise NotDescribedError(f"an array of shape {array.shape} in a static field")


def _name_of(cls: type) -> str:
    """Name that the class is found by."""
    name = f"{cls.__module__}:{cls.__qualname__}"
    if _class_of(name) is not cls:
        raise NotDescribedError(f"{name} is another class")
    return name


def _class_of(name: str) -> Any:
    module, _, qualname = name.partition(":")
    if module.partition(".")[0] not in PACKAGES:
        raise NotDescribedError(f"{name} belongs to no package whose classes are described")
    try:
        return getattr(importlib.import_module(module), qualname)
    except (ImportError, AttributeError) as error:
        raise NotDescribedError(f"there is no {name}") from error
