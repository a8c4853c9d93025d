"""Whether images are in the order of the bands, by the filters that their headers state."""

import re
from collections.abc import Sequence

_NO_FILTER = ("", "none", "unknown", "multi", "multiple", "detection", "white", "open", "n/a")
"""What headers say of images of no filter, or of several."""


def check_filters(bands: Sequence[str], filters: Sequence[str | None], labels: Sequence[str]) -> None:
    """Refuse images whose filters show that they are of other bands, or twice of one.

    A filter belongs to a band if the name of the band is one of the words in it, as ``g`` is in ``HSC-G`` and
    ``g.MP9402``. Filters in which no band is found raise no doubt.

    Parameters
    ----------
    bands
        Names of the bands.
    filters
        Filter of each image, None where it is not known.
    labels
        What the images are called in messages.

    Raises
    ------
    ValueError
        If an image has the filter of another band, or two have the same filter.

    Examples
    --------
    >>> check_filters(["g", "r"], ["HSC-G", "HSC-R2"], ["a.fits", "b.fits"])
    >>> check_filters(["g", "r"], ["r", "g"], ["a.fits", "b.fits"])
    Traceback (most recent call last):
    ValueError: bands: got g, r, but the headers say r (a.fits), g (b.fits); give them in another order.
    """
    known = [(name or "").strip() for name in filters]
    said = ", ".join(f"{name or 'nothing'} ({label})" for name, label in zip(known, labels, strict=True))
    for band, name in zip(bands, known, strict=True):
        meant = _bands_of(name, bands)
        if meant and band not in meant:
            raise ValueError(f"bands: got {', '.join(bands)}, but the headers say {said}; give them in another order.")
    stated = [name for name in known if name.lower() not in _NO_FILTER]
    twice = sorted({name for name in stated if stated.count(name) > 1})
    if twice:
        raise ValueError(
            f"bands: got {', '.join(bands)}, but the headers say {said}; images of one filter, or chips of one "
            f"exposure, are not bands: give one image of {', '.join(twice)}, or stack them first."
        )


def check_chips(path: object, bands: Sequence[str], versions: Sequence[object]) -> None:
    """Refuse extensions of one name that differ in EXTVER alone: the chips of one exposure, as HST writes them.

    Parameters
    ----------
    path
        Their file.
    bands
        Names of the bands.
    versions
        EXTVER of each, None where the header has none.

    Raises
    ------
    ValueError
        If they have different versions.

    Examples
    --------
    >>> check_chips("g.fits", ["g", "r"], [None, None])
    """
    if None in versions or len(set(versions)) < 2:
        return
    listed = ", ".join(str(version) for version in versions)
    raise ValueError(
        f"bands: got {', '.join(bands)} for extensions of {path} that differ in EXTVER alone ({listed}), as chips of "
        "one exposure do; name the extensions SCI_<band>, or say in the FILTER of each which band it is."
    )


def _bands_of(name: str, bands: Sequence[str]) -> list[str]:
    """Bands that a filter may be, those first that are spelled as it is: y and Y can be two bands."""
    words = [word for word in re.split(r"[^A-Za-z0-9]+", name) if word]
    stripped = [re.sub(r"(?<=^[A-Za-z])\d$", "", word) for word in words]  # HSC-R2 is the second r filter
    spelled = {name, *words, *stripped}
    exact = [band for band in bands if band in spelled]
    if exact:
        return exact
    lower = {word.lower() for word in spelled}
    return [band for band in bands if band.lower() in lower]
