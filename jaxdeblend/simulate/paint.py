"""Paint many sources into one large image, each with the PSF at its own place."""

import dataclasses
import math
from collections.abc import Iterator, Sequence

import numpy as np
from scipy import fft

from ..instrument.box import Box
from ..instrument.psf_field import AbstractPSFField
from .population import TrueSource
from .profiles import Blobs, Profile, frequencies
from .radial import sersic_transform
from .render import draw, stamp_radius
from .survey import Survey

EDGES = (64, 96, 128, 192, 256, 384, 512)
"""Edges of stamps that are drawn by the batch; the light of a giant beyond the last folds back into its stamp."""

_BATCH = 64
"""Stamps that are drawn at once."""

_CLEARANCE = 7
"""Pixels between the reach of a source and the edge of its stamp."""

_KEPT_LEVEL = 0.1
"""Stamps that are kept end where the source is fainter than this fraction of the noise in every band."""


@dataclasses.dataclass(frozen=True)
class Stamp:
    """What one source adds to the image, where it matters.

    Attributes
    ----------
    row
        Number of the source.
    start
        First pixel (y, x) in the image; it may lie outside.
    image
        Noiseless image (band, y, x), cut where it is a tenth of the noise.
    total
        Sum (band,) over the whole stamp before it was cut.
    snr
        Signal-to-noise ratio (band,) of the source alone, see `signal_to_noise`.
    """

    row: int
    start: tuple[int, int]
    image: np.ndarray
    total: np.ndarray
    snr: np.ndarray


def paint(
    sources: Sequence[TrueSource],
    centers: np.ndarray,
    shape: tuple[int, int],
    survey: Survey,
    field: AbstractPSFField,
) -> tuple[np.ndarray, list[Stamp]]:
    """Add all sources into an image.

    Sources of plain Sérsic profiles and Gaussians are drawn in batches of one size in Fourier space, where their
    transforms are known; others, with spiral arms and the like, one by one, see `draw`.

    Parameters
    ----------
    sources
        The sources.
    centers
        Their centres (source, 2), (y, x) in pixels; some may lie outside.
    shape
        Shape (y, x) of the image.
    survey
        Bands and noise.
    field
        PSF of each band at each place.

    Returns
    -------
    frame : np.ndarray
        Sum of all sources (band, y, x), float32.
    stamps : list[Stamp]
        Each source alone, in order.

    Examples
    --------
    >>> import jaxdeblend as jd
    >>> from jaxdeblend.simulate.population import draw_star
    >>> from jaxdeblend.simulate.survey import make_survey
    >>> survey = make_survey(("g", "r"))
    >>> star = draw_star(np.random.default_rng(1), survey, 20.0)
    >>> field = jd.ConstantPSFField(survey.psf)
    >>> frame, stamps = paint([star, star], np.array([[30.0, 30.2], [50.5, 64.0]]), (90, 100), survey, field)
    >>> bool(np.allclose(frame.sum(axis=(1, 2)), 2 * star.flux, rtol=1e-3))
    True
    """
    frame = np.zeros((len(survey.bands), *shape), np.float32)
    kept: dict[int, Stamp] = {}
    for rows, corners, images in _drawn(sources, centers, survey, field):
        for row, corner, image in zip(rows, corners, images, strict=True):
            _add(frame, image, corner)
            kept[row] = _cut(row, image, corner, survey)
    return frame, [kept[row] for row in range(len(sources))]


Drawn = Iterator[tuple[list[int], np.ndarray, np.ndarray]]
"""Numbers of sources, first pixels (source, 2) of their stamps, and the stamps (source, band, y, x)."""


def _drawn(sources: Sequence[TrueSource], centers: np.ndarray, survey: Survey, field: AbstractPSFField) -> Drawn:
    """Draw all sources, in an order of their own: those of one size together."""
    reach = [stamp_radius(source, survey) for source in sources]
    plain = [all(_is_plain(part.shape) for part in source.components) for source in sources]
    edges = np.array([next((edge for edge in EDGES if edge >= 2 * (r + _CLEARANCE)), EDGES[-1]) for r in reach], int)
    for edge in EDGES:
        rows = [int(row) for row in np.flatnonzero(edges == edge)]
        for is_plain, draw_some in ((True, _draw_plain), (False, _draw_one_by_one)):
            some = [row for row in rows if plain[row] is is_plain]
            for first in range(0, len(some), _BATCH):
                batch = some[first : first + _BATCH]
                corners = np.rint(centers[batch]).astype(int) - edge // 2
                psfs = _psfs(field, centers[batch], len(survey.bands))
                local = centers[batch] - corners
                yield batch, corners, draw_some([sources[row] for row in batch], local, edge, psfs, survey)


def _is_plain(shape: Profile | Blobs) -> bool:
    return isinstance(shape, Blobs) or not shape.modulations


def _psfs(field: AbstractPSFField, places: np.ndarray, n_bands: int) -> np.ndarray:
    """Stamps (source, band, n, n) at the places; always computed for a full batch, so that it is compiled once."""
    padded = np.concatenate([places, np.broadcast_to(places[-1], (_BATCH - len(places), 2))])
    stamps = np.asarray(field.stamps(padded), np.float32)[: len(places)]
    return np.broadcast_to(stamps, (len(places), n_bands, *stamps.shape[2:]))


def _draw_plain(
    sources: list[TrueSource], centers: np.ndarray, edge: int, psfs: np.ndarray, survey: Survey
) -> np.ndarray:
    """Transforms that are known, times that of the PSF, back to pixels."""
    ky, kx = frequencies((edge, edge))
    n_bands = len(survey.bands)
    images = np.empty((len(sources), n_bands, edge, edge), np.float32)
    for image, source, center, psf in zip(images, sources, centers, psfs, strict=True):
        total = np.zeros((n_bands, *np.broadcast_shapes(ky.shape, kx.shape)), np.complex64)
        for part in source.components:
            total += part.flux[:, None, None].astype(np.float32) * _transform(part.shape, ky, kx)
        half = psf.shape[-1] // 2  # the middle of the PSF moves to the origin
        shift = [np.exp(-2j * math.pi * k * (at - half)) for k, at in ((ky, center[0]), (kx, center[1]))]
        total *= np.asarray(fft.rfft2(psf, s=(edge, edge))) * (shift[0] * shift[1]).astype(np.complex64)
        image[:] = np.asarray(fft.irfft2(total, s=(edge, edge)))
    return np.maximum(images, 0, out=images)


def _transform(shape: Profile | Blobs, ky: np.ndarray, kx: np.ndarray) -> np.ndarray:
    """Transform about the source's own centre."""
    if isinstance(shape, Profile):
        return sersic_transform(shape, ky, kx)
    edges = (ky.size, 2 * (kx.size - 1))
    return shape.transform(np.zeros(2), edges).astype(np.complex64)


def _draw_one_by_one(
    sources: list[TrueSource], centers: np.ndarray, edge: int, psfs: np.ndarray, survey: Survey
) -> np.ndarray:
    images = [
        draw(source, center, (edge, edge), dataclasses.replace(survey, psf=np.asarray(psf, float)))
        for source, center, psf in zip(sources, centers, psfs, strict=True)
    ]
    return np.stack(images)


def _add(frame: np.ndarray, image: np.ndarray, corner: np.ndarray) -> None:
    """Add the part of a stamp that is inside."""
    to, of = overlap(corner, image.shape[-2:], frame.shape[-2:])
    frame[(slice(None), *to)] += image[(slice(None), *of)]


def overlap(
    corner: np.ndarray, edges: tuple[int, ...], shape: tuple[int, ...]
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Slices of the pixels that an image and a stamp have in common, in each of them.

    Parameters
    ----------
    corner
        First pixel of the stamp in the image.
    edges
        Shape of the stamp.
    shape
        Shape of the image.

    Returns
    -------
    tuple of tuples of slices
        Those of the image and those of the stamp; empty where they do not meet.

    Examples
    --------
    >>> overlap(np.array([-2, 3]), (5, 5), (10, 10))
    ((slice(0, 3, None), slice(3, 8, None)), (slice(2, 5, None), slice(0, 5, None)))
    """
    pairs = [
        (max(int(c), 0), max(min(int(c) + e, n), max(int(c), 0)), int(c))
        for c, e, n in zip(corner, edges, shape, strict=True)
    ]
    inside = tuple(slice(start, stop) for start, stop, _ in pairs)
    return inside, tuple(slice(start - c, stop - c) for start, stop, c in pairs)


def _cut(row: int, image: np.ndarray, corner: np.ndarray, survey: Survey) -> Stamp:
    sky = survey.sky_variance.astype(np.float32)[:, None, None]
    bright = np.any(image > _KEPT_LEVEL * np.sqrt(sky), axis=0)
    window = Box.of_mask(bright)
    if not min(window.shape):
        middle = image.shape[-1] // 2
        window = Box((middle, middle), (1, 1))
    snr = np.sqrt(np.sum(image**2 / (sky + image), axis=(1, 2), dtype=float))
    start = window.shifted_by(*corner.astype(int).tolist()).start
    return Stamp(row, start, image[(slice(None), *window.slices)].copy(), image.sum(axis=(1, 2), dtype=float), snr)


def blendedness_in(frame: np.ndarray, stamps: Sequence[Stamp]) -> np.ndarray:
    """Blendedness 1 - Σ t² / Σ t T of each source t among the sum T of all (Bosch et al. 2018, PASJ 70, S5).

    Parameters
    ----------
    frame
        Sum of all sources (band, y, x).
    stamps
        Each source.

    Returns
    -------
    np.ndarray
        Blendedness (source, band), from the pixels inside the image; NaN for a source that has none.

    Examples
    --------
    >>> frame = np.full((1, 4, 4), 2.0)
    >>> stamp = Stamp(0, (1, 1), np.ones((1, 2, 2)), np.array([4.0]), np.array([1.0]))
    >>> blendedness_in(frame, [stamp])
    array([[0.5]])
    """
    found = np.full((len(stamps), len(frame)), np.nan)
    for values, stamp in zip(found, stamps, strict=True):
        to, of = overlap(np.array(stamp.start), stamp.image.shape[1:], frame.shape[1:])
        alone, everything = stamp.image[(slice(None), *of)].astype(float), frame[(slice(None), *to)]
        together = np.sum(alone * everything, axis=(1, 2))
        values[:] = 1 - np.sum(alone**2, axis=(1, 2)) / np.where(together > 0, together, np.nan)
    return np.maximum(found, 0)
