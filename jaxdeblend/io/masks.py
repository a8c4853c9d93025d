"""Mask planes: bits that have names, and which of them make a pixel unusable."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Integer

from .files import PathLike

DEFAULT_BAD_PLANES = (
    *("BAD", "NO_DATA", "SAT", "SUSPECT", "EDGE", "SENSOR_EDGE", "UNMASKEDNAN", "ALLMASK"),
    *("DO_NOT_USE", "INVALID"),  # of JWST and Roman, and of Euclid
)
"""Mask planes whose pixels are not used, where a file names its planes."""

_LAST_BIT = 63
"""Number of the highest bit of the widest integers."""

_LEGACY = ("NPRIMARY", "BRIGHT", "BAILOUT", "MEDIUM", "GALAXY", "CLUSTER", "WISEM1", "WISEM2")
"""Cards of the Legacy Surveys' maskbits that are of all bands; their values are powers of two."""

_LEGACY_OF_BAND = {"SATUR_": "SAT", "ALLM_": "ALLMASK", "ALLMASK_": "ALLMASK"}
"""Beginning of such cards of one band, and what the plane is called here."""


def mask_planes(header: Any, band: str | None = None) -> dict[str, int]:
    """Bit number of each plane that the header of a mask names.

    LSST and HSC write ``MP_<name>`` cards with the number of the bit. The Legacy Surveys' maskbits (of that
    ``IMTYPE``) have cards of the value of the bit; those of a band are called ``SAT`` and ``ALLMASK`` here.

    Parameters
    ----------
    header
        Header of the mask.
    band
        Band for which planes of single bands are wanted.

    Returns
    -------
    dict[str, int]
        Bits by name; empty if the header names none.

    Examples
    --------
    >>> mask_planes({"MP_SAT": 1, "MP_BAD": 0, "BUNIT": ""})
    {'SAT': 1, 'BAD': 0}
    >>> mask_planes({"IMTYPE": "maskbits", "NPRIMARY": 1, "SATUR_G": 4, "ALLM_R": 64}, "r")
    {'NPRIMARY': 0, 'ALLMASK': 6}
    """
    named = {key[3:]: int(header[key]) for key in header if key.startswith("MP_")}
    if beyond := [name for name, bit in named.items() if not 0 <= bit <= _LAST_BIT]:
        raise ValueError(f"MP_{beyond[0]} is {named[beyond[0]]}, which is no number of a bit")
    if named or str(header.get("IMTYPE", "")).strip() != "maskbits":
        return named
    names = {name: name for name in _LEGACY}
    if band is not None:
        names |= {start + band.upper(): plane for start, plane in _LEGACY_OF_BAND.items()}
    return {plane: int(header[key]).bit_length() - 1 for key, plane in names.items() if key in header}


def bad_pattern(path: PathLike, named: Mapping[str, int], bad_mask: Sequence[str | int] | None = None) -> int | None:
    """Bits that make a pixel unusable.

    Parameters
    ----------
    path
        File of the mask, for error messages.
    named
        Bits that have names.
    bad_mask
        Names of planes or numbers of bits. None: those of `DEFAULT_BAD_PLANES` that the mask has, or without names
        every bit.

    Returns
    -------
    int | None
        The bits; None: any.

    Raises
    ------
    ValueError
        If a plane is named that the mask does not have.

    Examples
    --------
    >>> bad_pattern("g.fits", {"SAT": 1, "DETECTED": 5})
    2
    """
    if bad_mask is None and not named:
        return None
    wanted = [name for name in DEFAULT_BAD_PLANES if name in named] if bad_mask is None else bad_mask
    unknown = [name for name in wanted if isinstance(name, str) and name not in named]
    if unknown:
        known = f"it has {', '.join(named)}" if named else "it names no planes (no MP_ cards), so give bit numbers"
        raise ValueError(f"bad_mask: got {', '.join(unknown)}, which the mask of {path} does not have; {known}.")
    bits = [named[name] if isinstance(name, str) else int(name) for name in wanted]
    if beyond := [bit for bit in bits if not 0 <= bit <= _LAST_BIT]:
        raise ValueError(f"bad_mask: got bit {beyond[0]} for the mask of {path}; bits have numbers 0 to {_LAST_BIT}.")
    return sum(1 << bit for bit in set(bits))


def any_of(bits: Integer[np.ndarray, "*shape"], pattern: int | None) -> Bool[np.ndarray, "*shape"]:
    """Pixels that have any of the bits.

    Examples
    --------
    >>> any_of(np.array([0, 1, 2, 3]), 2).tolist(), any_of(np.array([0, 4]), None).tolist()
    ([False, False, True, True], [False, True])
    """
    if pattern is None:
        return bits != 0
    unsigned = bits.view(f"u{bits.itemsize}")
    return (unsigned & unsigned.dtype.type(pattern & int(np.iinfo(unsigned.dtype).max))) != 0


def as_bits(values: np.ndarray) -> Integer[np.ndarray, "*shape"]:
    """Integers of a mask; of numbers that are none, whether they are 0.

    Examples
    --------
    >>> as_bits(np.array([0.0, 3.0, np.nan])).tolist(), as_bits(np.array([True])).tolist()
    ([0, 3, 1], [1])
    """
    if values.dtype == bool:
        return values.astype(np.uint8)
    if np.issubdtype(values.dtype, np.integer):
        return values
    return np.where(np.isfinite(values), values, 1).astype(np.int64)


def renumbered(
    bits: Integer[np.ndarray, "*shape"], named: Mapping[str, int], wanted: Mapping[str, int]
) -> Integer[np.ndarray, "*shape"]:
    """Bits of planes moved to where other bands have them.

    Parameters
    ----------
    bits
        Mask.
    named
        Its bits by name; others are dropped.
    wanted
        Where they shall be.

    Returns
    -------
    Integer[np.ndarray, "*shape"]
        The mask with other numbers, int32 or as wide as needed.

    Examples
    --------
    >>> renumbered(np.array([1, 4, 5]), {"SAT": 0, "BAD": 2}, {"BAD": 0, "SAT": 1}).tolist()
    [2, 1, 3]
    """
    moved = np.zeros(bits.shape, np.int32 if max(wanted.values(), default=0) < 31 else np.int64)
    for name, bit in named.items():
        moved |= ((bits >> bit) & 1).astype(moved.dtype) << wanted[name]
    return moved


def free_bit(bits: Integer[np.ndarray, "*shape"] | None, named: Mapping[str, int]) -> int:
    """Lowest bit that no pixel and no plane has.

    Raises
    ------
    ValueError
        If all 63 are taken.

    Examples
    --------
    >>> free_bit(np.array([1, 4]), {"SAT": 1})
    3
    """
    used = 0 if bits is None else int(np.bitwise_or.reduce(bits, axis=None))
    free = [bit for bit in range(63) if not used >> bit & 1 and bit not in named.values()]
    if not free:
        raise ValueError("mask_bits: no bit is left for another plane.")
    return free[0]


def with_bit(
    bits: Integer[np.ndarray, "*shape"], pixels: Bool[np.ndarray, "*shape"], bit: int
) -> Integer[np.ndarray, "*shape"]:
    """The mask with a bit set in some pixels; wider integers if it does not fit.

    Examples
    --------
    >>> with_bit(np.array([1, 1], np.uint8), np.array([False, True]), 9)
    array([  1, 513], dtype=int32)
    """
    info = np.iinfo(bits.dtype)
    if bit >= info.bits - (info.min < 0):
        bits = bits.astype(np.int32 if bit < 31 else np.int64)
    return bits | (pixels.astype(bits.dtype) << bits.dtype.type(bit))
