"""Run-time checks of annotations, for the import hook in `conftest.py`."""

from beartype import beartype
from beartype.roar import BeartypeDecorHintPep673Exception


def checked(function):
    """Check arguments and result by beartype.

    jaxtyping decorates methods before their class exists, where beartype cannot resolve `typing.Self` inside
    another hint. Such a method stays as it is.
    """
    try:
        return beartype(function)
    except BeartypeDecorHintPep673Exception:
        return function
