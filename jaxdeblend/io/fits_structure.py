"""What the headers of a FITS file promise, compared with the file, before any reader believes them.

A flipped bit in NAXIS1 or TFIELDS makes readers allocate terabytes or count to a thousand million. So the mandatory
cards are read here first, by a few lines that trust nothing (FITS Standard 4.0, sections 4.4 and 7).
"""

import gzip
import io
import math
import re
from collections.abc import Mapping
from pathlib import Path

BLOCK = 2880
"""Bytes of a block: headers and data begin at multiples of it."""

_CARD = 80

_MOST_AXES = 999

_MOST_HEADER = 20_000 * BLOCK
"""Bytes of the longest header: no END within them, no header."""

_GZIP = b"\x1f\x8b"
"""First bytes of gzipped files."""

_MOST_COMPRESSED = 10_000
"""Bytes of pixels that a byte of a compressed image may stand for; PLIO, the densest, makes 8000 of one."""

_BITPIX = (8, 16, 32, 64, -32, -64)


def check_structure(path: Path) -> int | None:
    """Compare the sizes in the headers of a FITS file with its length.

    Gzipped files are unpacked once, piece by piece. Files that begin otherwise are left to their readers.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    int | None
        Number of extensions, the primary one counted; None if the file begins otherwise.

    Raises
    ------
    ValueError
        If a mandatory card is missing or has a value that it cannot have, or the data that a header promises are not
        there, or something follows that is no extension.
    EOFError, OSError
        If a gzipped file ends too early or is damaged.
    """
    with path.open("rb") as file:
        start = file.read(6)
        if start == b"SIMPLE":
            file.seek(0)
            return _check_extensions(file, path.stat().st_size)
    if start[:2] != _GZIP:
        return None
    with gzip.open(path) as unpacked:
        size = 0
        while chunk := unpacked.read(1 << 24):
            size += len(chunk)
        unpacked.seek(0)
        if unpacked.read(6) != b"SIMPLE":
            return None
        unpacked.seek(0)
        return _check_extensions(unpacked, size)


def _check_extensions(file: io.BufferedReader | gzip.GzipFile, size: int) -> int:
    """Number of extensions, if all of them can be there."""
    place = number = 0
    while place < size:
        file.seek(place)
        if number and _is_padding(file, size - place):
            break
        file.seek(place)
        cards, length = _header(file, number)
        data = _data_size(cards, number)
        _check_compressed(cards, number, size)
        place += length + data
        if place > size:
            raise ValueError(
                f"the header of extension {number} promises {data} bytes of data, but the file ends {place - size} "
                "bytes too early: it is truncated, or the header damaged"
            )
        place += -place % BLOCK
        number += 1
    return number


def _is_padding(file: io.BufferedReader | gzip.GzipFile, rest: int) -> bool:
    """Whether nothing but zeros or blanks follows, as some programs write."""
    start = file.read(min(rest, BLOCK))
    if start.strip(b"\0 "):
        return False
    while chunk := file.read(1 << 20):
        if chunk.strip(b"\0 "):
            return False
    return True


def _header(file: io.BufferedReader | gzip.GzipFile, number: int) -> tuple[dict[str, str], int]:
    """Values of the cards by keyword, and the bytes that the header takes."""
    cards: dict[str, str] = {}
    length = 0
    while length < _MOST_HEADER:
        block = file.read(BLOCK)
        length += len(block)
        if len(block) < BLOCK:
            break
        for start in range(0, BLOCK, _CARD):
            card = block[start : start + _CARD]
            key = card[:8].rstrip().decode("latin-1")
            if not cards and key != ("XTENSION" if number else "SIMPLE"):
                raise ValueError(f"extension {number} begins with {key!r}, which is no header")
            if key == "END":
                return cards, length
            if not cards:
                _check_first(card, number)
            cards.setdefault(key, card[10:].split(b"/")[0].decode("latin-1").strip() if card[8:9] == b"=" else "")
    raise ValueError(f"the header of extension {number} has no END")


def _check_first(card: bytes, number: int) -> None:
    """The first card says T of SIMPLE, or the name of a kind of extension; readers go astray where it does not."""
    value = rb"'[ -&(-~]*'" if number else b"T"
    if not re.fullmatch(rb"\w+ *= +" + value + rb" *(/[ -~]*)?", card):
        raise ValueError(f"the first card of extension {number} is {card.decode('latin-1').rstrip()!r}")


def _data_size(cards: Mapping[str, str], number: int) -> int:
    """Bytes of data that a header promises: |BITPIX| GCOUNT (PCOUNT + NAXIS1 NAXIS2 …) / 8."""
    bits = _whole(cards, "BITPIX", number)
    if bits not in _BITPIX:
        raise ValueError(f"BITPIX of extension {number} is {bits}, which is no type of pixels")
    axes = _whole(cards, "NAXIS", number, 0, _MOST_AXES)
    edges = [_whole(cards, f"NAXIS{axis + 1}", number, 0) for axis in range(axes)]
    if "TFIELDS" in cards:
        _whole(cards, "TFIELDS", number, 0, _MOST_AXES)
    random_groups = bool(edges) and edges[0] == 0 and cards.get("GROUPS") == "T"
    if not edges:
        return 0
    if random_groups:
        edges = edges[1:]
    extra = _whole(cards, "PCOUNT", number, 0) if number or random_groups else 0
    groups = _whole(cards, "GCOUNT", number, 1) if number or random_groups else 1
    return abs(bits) // 8 * groups * (extra + math.prod(edges))


def _check_compressed(cards: Mapping[str, str], number: int, size: int) -> None:
    """A compressed image has a row for each of its tiles, and is not larger than its bytes can stand for."""
    if cards.get("ZIMAGE") != "T":
        return
    axes = _whole(cards, "ZNAXIS", number, 0, _MOST_AXES)
    edges = [_whole(cards, f"ZNAXIS{axis + 1}", number, 0) for axis in range(axes)]
    usual = [max(edge, 1) if axis == 0 else 1 for axis, edge in enumerate(edges)]  # a row of pixels is a tile
    rows = 1
    for axis, edge in enumerate(edges):
        key = f"ZTILE{axis + 1}"
        tile = _whole(cards, key, number, 1) if key in cards else usual[axis]
        rows *= -(-edge // tile)
    bits = _whole(cards, "ZBITPIX", number)
    if bits not in _BITPIX:
        raise ValueError(f"ZBITPIX of extension {number} is {bits}, which is no type of pixels")
    if rows != _whole(cards, "NAXIS2", number, 0) or math.prod(edges) * abs(bits) // 8 > _MOST_COMPRESSED * size:
        raise ValueError(f"extension {number}: its compressed image of {edges[::-1]} pixels is not all there")


def _whole(cards: Mapping[str, str], key: str, number: int, low: int | None = None, high: int | None = None) -> int:
    """A card's whole number, within limits."""
    text = cards.get(key)
    if text is None:
        raise ValueError(f"the header of extension {number} has no {key}")
    try:
        value = int(text)
    except ValueError:
        raise ValueError(f"{key} of extension {number} is {text!r}; it must be a whole number") from None
    if (low is not None and value < low) or (high is not None and value > high):
        raise ValueError(f"{key} of extension {number} is {value}, which cannot be")
    return value
