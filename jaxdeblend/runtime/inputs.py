"""Borders: masks and units that come with arrays are used, not dropped.

Masked arrays of NumPy and of Astropy become NaN where they are masked. Quantities are known by their attributes, so
that nothing here imports Astropy.
"""

from typing import Any

import jax
import numpy as np


def plain_numbers(values: object, name: str = "values") -> Any:
    """Real numbers without mask: NaN where a masked array is masked.

    Parameters
    ----------
    values
        A JAX array or tracer, an array, a masked array, a quantity, or a sequence of them.
    name
        Name of the argument, for error messages.

    Returns
    -------
    Any
        A JAX array as it is, else what NumPy makes an array of.

    Raises
    ------
    ValueError
        If the numbers are complex.

    Examples
    --------
    >>> plain_numbers(np.ma.array([1, 2], mask=[False, True])).tolist()
    [1.0, nan]
    """
    if isinstance(values, jax.Array):
        plain: Any = values
    elif _needs_care(values):
        plain = _unmasked(values, name)
    else:
        plain = np.asarray(values)
    if hasattr(values, "uncertainty"):
        raise ValueError(
            f"{name}: got {type(values).__name__}; make an exposure of it with exposure_from_nddata, or give its data."
        )
    if np.issubdtype(plain.dtype, np.complexfloating):
        raise ValueError(f"{name}: got complex numbers ({plain.dtype}); give real ones, for example their real part.")
    return plain


def plain_mask(mask: object) -> Any:
    """A mask, True too where it is itself masked.

    Examples
    --------
    >>> plain_mask(np.ma.array([False, False], mask=[False, True])).tolist()
    [False, True]
    """
    if isinstance(mask, jax.Array):
        return mask
    if isinstance(mask, list | tuple):
        return np.asarray([plain_mask(part) for part in mask])
    if isinstance(mask, np.ma.MaskedArray):
        return mask.filled(fill_value=True)
    if hasattr(mask, "unmasked"):  # astropy.utils.masked
        given: Any = mask
        return np.asarray(given.unmasked) | np.asarray(given.mask)
    return np.asarray(mask)


def quantity_unit(values: object) -> Any:
    """Unit of a quantity, or of a sequence of quantities; None of plain numbers.

    Examples
    --------
    >>> from astropy import units
    >>> str(quantity_unit([1.0, 2.0] * units.nJy)), quantity_unit([1.0, 2.0])
    ('nJy', None)
    """
    if isinstance(values, list | tuple):
        units = [quantity_unit(value) for value in values]
        return next((unit for unit in units if unit is not None), None)
    return values.unit if _is_quantity(values) else None  # type: ignore[attr-defined]


def numbers_in(values: object, unit: Any, name: str) -> Any:
    """Numbers in a unit, without it. Plain numbers are taken to be in that unit already.

    Parameters
    ----------
    values
        Numbers, a quantity, or a sequence of quantities.
    unit
        Unit of the result; None: numbers without unit.
    name
        Name of the argument, for error messages.

    Returns
    -------
    Any
        The numbers.

    Raises
    ------
    ValueError
        If the unit of the values cannot be converted.

    Examples
    --------
    >>> from astropy import units
    >>> round(numbers_in(2 * units.uJy, units.nJy, "images"))
    2000
    """
    if isinstance(values, list | tuple) and quantity_unit(values) is not None:
        return [numbers_in(value, unit, name) for value in values]
    if not _is_quantity(values):
        return values
    quantity: Any = values
    try:
        return quantity.to_value("" if unit is None else unit)
    except (ValueError, TypeError) as error:  # UnitConversionError is both
        wanted = "no unit" if unit is None else f"the unit {str(unit)!r}"
        raise ValueError(
            f"{name}: got the unit {str(quantity.unit)!r}, expected {wanted}; convert one of them, or give numbers."
        ) from error


def images_and_variance(
    images: object, variance: object, *, unit: Any = None, name: str = "images"
) -> tuple[object, object, Any]:
    """Images and their variance as plain numbers in one unit and in its square.

    Parameters
    ----------
    images, variance
        Numbers or quantities. Without a unit of their own, variances are in the square of that of the images.
    unit
        Unit that the images shall have; by default their own.
    name
        Name of the images, for error messages.

    Returns
    -------
    tuple[object, object, Any]
        The images, the variance, and their unit; None if they have none.

    Raises
    ------
    ValueError
        If one cannot be converted to the unit of the other.

    Examples
    --------
    >>> from astropy import units
    >>> _, variance, _ = images_and_variance([1.0] * units.nJy, [1.0] * units.uJy**2)
    >>> round(variance[0])
    1000000
    """
    own = quantity_unit(images) if unit is None else unit
    spread = quantity_unit(variance)
    numbers = numbers_in(images, own, name)
    if spread is None:
        return numbers, variance, own
    try:
        return numbers, numbers_in(variance, None if own is None else own**2, "variance"), own
    except (ValueError, TypeError) as error:
        of_images = "no unit" if own is None else f"the unit {str(own)!r}"
        raise ValueError(
            f"variance: got the unit {str(spread)!r} for {name} of {of_images}; give a variance in the square of the "
            f"unit of the {name}, or both as plain numbers."
        ) from error


def _is_quantity(values: object) -> bool:
    return hasattr(values, "unit") and hasattr(values, "to_value")


def _is_masked(values: object) -> bool:
    """Whether it is a masked array of NumPy or of `astropy.utils.masked`."""
    return isinstance(values, np.ma.MaskedArray) or (hasattr(values, "unmasked") and hasattr(values, "mask"))


def _needs_care(values: object) -> bool:
    """Whether NumPy would drop a mask, or stumble over units, of the values or of those in a sequence."""
    if isinstance(values, list | tuple):
        return any(_needs_care(value) for value in values)
    return _is_masked(values) or _is_quantity(values)


def _unmasked(values: Any, name: str) -> np.ndarray:
    if isinstance(values, list | tuple):
        unit = quantity_unit(values)
        return np.stack([_unmasked(numbers_in(value, unit, name), name) for value in values])
    if not _is_masked(values):
        return np.asarray(values)
    inside = values.data if isinstance(values, np.ma.MaskedArray) else values.unmasked
    hidden = np.ma.getmaskarray(values) if isinstance(values, np.ma.MaskedArray) else values.mask
    numbers = np.asarray(inside)
    dtype = np.result_type(numbers.dtype, np.float32)  # integers have no NaN
    return np.where(hidden, dtype.type(np.nan), numbers.astype(dtype, copy=False))
