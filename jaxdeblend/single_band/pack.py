"""From ragged to rectangular: checks of one blend, and its padding to a short ladder of shapes."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from ..fitting.initialize import check_centers
from ..fitting.ladder import IMAGE_EDGES, rung
from ..instrument.noise_units import noise_unit
from ..instrument.psf import AbstractPSF, ImagePSF
from ..runtime.host import default_dtype
from ..runtime.inputs import images_and_variance, plain_mask, plain_numbers
from .blend import BlendArrays
from .config import SingleBandConfig
from .flags import SingleBandFlag

SOURCE_COUNTS = (8, 16, 32, 64, 128, 256, 512, 1024)
"""Numbers of peaks; few, as padding them costs little."""

PIXELS_PER_SOURCE = 12
"""Edge of a blend in pixels for each of its peaks, usually; fewer peaks do not get a program of their own."""

PSF_SIZES = ((51, 6), (51, 8), (81, 12), (127, 20), (201, 32))
"""Edges of PSFs, and half-widths of the stamps that they are fitted on, which grow with them."""

LANES = 16
"""Most blends that share a call on an accelerator."""

FEW_SOURCES = 16
"""Peaks of a blend that a core takes one by one; more than that are shared among the cores."""

MAX_PIXELS = 2**24
"""Pixels of all templates that are made at a time, about: fewer blends share a call, and larger ones are alone."""


@dataclass(frozen=True)
class Bucket:
    """Shapes of one compiled program.

    Attributes
    ----------
    image_edge, psf_edge
        Edges in pixels.
    n_sources
        Number of peaks.
    fit_radius
        Half of the edge of the stamps that PSFs are fitted on.
    """

    image_edge: int
    psf_edge: int
    n_sources: int
    fit_radius: int

    @classmethod
    def of(cls, shape: tuple[int, int], psf_edge: int, n_sources: int, fit_radius: int) -> "Bucket":
        """The smallest rungs that hold a blend: the ladders are short and depend on each other.

        Examples
        --------
        >>> Bucket.of((60, 52), 33, 3, 6)
        Bucket(image_edge=64, psf_edge=51, n_sources=8, fit_radius=6)
        """
        edge = rung(max(shape), IMAGE_EDGES)
        beyond = max(psf_edge, PSF_SIZES[-1][0]), max(fit_radius, PSF_SIZES[-1][1])
        sizes = [size for size in PSF_SIZES if psf_edge <= size[0] and fit_radius <= size[1]]
        psf_edge, fit_radius = (sizes or [beyond])[0]
        return cls(edge, psf_edge, rung(max(n_sources, edge // PIXELS_PER_SOURCE), SOURCE_COUNTS), fit_radius)

    @property
    def cost(self) -> int:
        """What buckets are ordered by, about the time of a call."""
        return self.image_edge**2 * self.n_sources

    @property
    def lanes(self) -> int:
        """Blends that share a call, always so many: one on a CPU, where the data of one fill the cache of a core."""
        if jax.default_backend() == "cpu":
            return 1
        return max(1, min(LANES, MAX_PIXELS // self.cost))

    @property
    def in_turn(self) -> bool:
        """Whether the peaks of a blend are taken one by one."""
        return self.n_sources <= FEW_SOURCES and jax.default_backend() == "cpu"

    @property
    def side_by_side(self) -> bool:
        """Whether several calls are made at a time; otherwise one has all cores."""
        return self.cost <= MAX_PIXELS and (self.in_turn or jax.default_backend() != "cpu")


@dataclass(frozen=True)
class Item:
    """One blend, checked but still ragged.

    Attributes
    ----------
    image, variance
        Pixels in the unit `scale`, and its square; 0 where unusable.
    good, footprint
        Pixels with data; pixels of the blend.
    psf
        Stamp of unit sum.
    fwhm
        Its FWHM in pixels.
    centers
        Positions as they were given.
    flags
        Bits of `SingleBandFlag` that are known before anything is computed.
    scale
        A power of two near the noise of a pixel, in the unit of the image.
    """

    image: Float[np.ndarray, "y x"]
    variance: Float[np.ndarray, "y x"]
    good: Bool[np.ndarray, "y x"]
    footprint: Bool[np.ndarray, "y x"]
    psf: Float[np.ndarray, "p p"]
    fwhm: float
    centers: Float[np.ndarray, "source 2"]
    flags: Int[np.ndarray, " source"]
    scale: float

    @classmethod
    def of(
        cls,
        image: object,
        variance: object,
        psf: object,
        centers: object,
        footprint: object | None,
        mask: object | None,
        config: SingleBandConfig,
    ) -> "Item":
        """Check everything; see `jaxdeblend.single_band.deblend_single_band`."""
        pixels, spread, good, scale = _clean(image, variance, mask)
        region = _boolean("footprint", footprint, pixels.shape, default=True)
        stamp, fwhm = _psf_of(psf)
        positions = check_centers(centers)
        parent = _parent_flags(region, good, fwhm, config, given=footprint is not None)
        flags = _peak_flags(positions, pixels, good, region, fwhm, config) | int(parent)
        if parent:
            flags |= int(SingleBandFlag.SKIPPED)
        return cls(pixels, spread, good, region, stamp, fwhm, positions, flags, scale)

    @functools.cached_property
    def bucket(self) -> Bucket:
        """The smallest rungs that hold the blend."""
        return Bucket.of(self.image.shape, self.psf.shape[0], len(self.centers), int(np.ceil(1.5 * self.fwhm)))

    @property
    def active(self) -> Bool[np.ndarray, " source"]:
        """Peaks that are deblended."""
        return (self.flags & int(SingleBandFlag.SKIPPED)) == 0

    @property
    def noise(self) -> float:
        """√ of the median variance of the blend; 0 without data."""
        used = self.variance[self.good & self.footprint]
        return float(np.sqrt(np.median(used))) if used.size else 0.0


def pack(items: Sequence[Item], bucket: Bucket) -> BlendArrays:
    """Pad blends of one bucket and stack them, one in each lane.

    Parameters
    ----------
    items
        At least one blend, at most as many as there are lanes; the last one is in all lanes that are left, too.
    bucket
        Shapes.

    Returns
    -------
    BlendArrays
        Arrays (lane, …).
    """
    lanes = [_padded(item, bucket) for item in items]
    lanes += [lanes[-1]] * (bucket.lanes - len(lanes))
    return BlendArrays(**{name: jnp.asarray(np.stack([lane[name] for lane in lanes])) for name in lanes[0]})


def _padded(item: Item, bucket: Bucket) -> dict[str, np.ndarray]:
    dtype = item.image.dtype
    height, width = item.image.shape
    margin = (bucket.psf_edge - item.psf.shape[0]) // 2
    n = len(item.centers)

    def frame(plane: np.ndarray) -> np.ndarray:
        return np.pad(plane, ((0, bucket.image_edge - height), (0, bucket.image_edge - width)))

    centers, active = np.zeros((bucket.n_sources, 2), dtype), np.zeros(bucket.n_sources, bool)
    active[:n] = item.active
    centers[:n] = np.where(item.active[:, None], item.centers, 0.0)
    return dict(
        image=frame(item.image),
        variance=frame(item.variance),
        good=frame(item.good),
        footprint=frame(item.footprint),
        inside=frame(np.ones_like(item.good)),
        psf=np.pad(item.psf, margin),
        psf_edge=np.asarray(item.psf.shape[0], np.int32),
        fwhm=np.asarray(item.fwhm, dtype),
        noise=np.asarray(item.noise, dtype),
        centers=centers,
        active=active,
    )


# --------------------------------------------------------------------------------------------------------------- checks


def _clean(
    image: object, variance: object, mask: object | None
) -> tuple[Float[np.ndarray, "y x"], Float[np.ndarray, "y x"], Bool[np.ndarray, "y x"], float]:
    """Image and variance in units of about the noise, both 0 where unusable; where they are usable; the unit."""
    image, variance, _ = images_and_variance(image, variance, name="image")
    pixels, spread = (
        np.asarray(jax.device_get(plain_numbers(values, name)), np.float64)
        for values, name in ((image, "image"), (variance, "variance"))
    )
    if pixels.ndim != 2 or pixels.size == 0:
        raise ValueError(f"image: got shape {pixels.shape}; give one image (y, x), not empty.")
    if spread.shape not in ((), pixels.shape):
        raise ValueError(
            f"variance: got shape {spread.shape} for an image of shape {pixels.shape}; give the same, or one number."
        )
    spread = np.broadcast_to(spread, pixels.shape)
    masked = _boolean("mask", mask, pixels.shape, default=False)
    good = np.isfinite(pixels) & np.isfinite(spread) & (spread > 0) & ~masked
    scale = noise_unit(spread[good])
    with np.errstate(over="ignore"):  # what is too large for the precision is unusable
        pixels, spread = ((x / unit).astype(default_dtype()) for x, unit in ((pixels, scale), (spread, scale**2)))
    good &= np.isfinite(pixels) & np.isfinite(spread) & (spread > 0)
    return np.where(good, pixels, 0), np.where(good, spread, 0), good, scale


def _boolean(name: str, value: object | None, shape: tuple[int, ...], *, default: bool) -> Bool[np.ndarray, "y x"]:
    if value is None:
        return np.full(shape, default)
    array = np.asarray(plain_mask(value)) if name == "mask" else np.asarray(value)
    if array.shape != shape:
        raise ValueError(f"{name}: got shape {array.shape} for an image of shape {shape}; give the same shape.")
    if array.dtype != bool:
        raise ValueError(f"{name}: got dtype {array.dtype}; give booleans, for example (mask & bad_bits) != 0.")
    return array


def _psf_of(psf: object) -> tuple[Float[np.ndarray, "p p"], float]:
    """Stamp of unit sum and FWHM."""
    known = psf if isinstance(psf, AbstractPSF) else ImagePSF(psf)
    if known.n_bands != 1:
        raise ValueError(f"psf: got {known.n_bands} bands; one image has one PSF, give that of its band.")
    return np.asarray(known.stamp(known.edge), default_dtype())[0], float(np.asarray(known.fwhm())[0])


def _parent_flags(
    footprint: np.ndarray, good: np.ndarray, fwhm: float, config: SingleBandConfig, *, given: bool
) -> SingleBandFlag:
    """What is wrong with a blend as a whole."""
    flags = SingleBandFlag(0)
    area = int(footprint.sum())
    if given and _too_big(footprint, area, config):
        flags |= SingleBandFlag.PARENT_TOO_BIG
    unusable = int((footprint & ~good).sum())
    if area and (unusable > config.max_masked_fraction * area or unusable == area):
        flags |= SingleBandFlag.PARENT_MASKED
    if not (np.isfinite(fwhm) and fwhm > 0):
        flags |= SingleBandFlag.FAILED
    return flags


def _too_big(footprint: np.ndarray, area: int, config: SingleBandConfig) -> bool:
    y, x = np.nonzero(footprint)
    if area == 0:
        return False
    size = max(np.ptp(y), np.ptp(x)) + 1
    q_yy, q_xx, q_yx = np.var(y), np.var(x), np.mean((y - y.mean()) * (x - x.mean()))
    # a pixel has a width of its own, so that a line has one, too
    half, root = 0.5 * (q_yy + q_xx) + 1 / 12, np.hypot(0.5 * (q_yy - q_xx), q_yx)
    ratio = np.sqrt(max(half - root, 0.0) / (half + root))
    return bool(
        (0 < config.max_footprint_area < area)
        or (0 < config.max_footprint_size < size)
        or ratio < config.min_footprint_axis_ratio
    )


def _peak_flags(
    positions: np.ndarray,
    image: np.ndarray,
    good: np.ndarray,
    footprint: np.ndarray,
    fwhm: float,
    config: SingleBandConfig,
) -> Int[np.ndarray, " source"]:
    """What is wrong with each peak."""
    flags = np.zeros(len(positions), np.int32)
    finite = np.isfinite(positions).all(axis=1)
    known = np.where(finite.reshape(-1, 1), positions, -1.0)
    pixel = np.floor(np.clip(known, -1e6, 1e6) + 0.5).astype(int)  # far outside is as good as farther
    inside = np.asarray(finite & ((pixel >= 0) & (pixel < np.asarray(image.shape)[None, :])).all(axis=1))
    y, x = np.where(inside[:, None], pixel, 0).T
    inside &= footprint[y, x]
    flags[~inside] |= int(SingleBandFlag.OUT_OF_BOUNDS | SingleBandFlag.SKIPPED)
    flags[inside & ~good[y, x]] |= int(SingleBandFlag.MASKED_PEAK)
    tiny = inside & (_room(y, x, footprint, fwhm) <= config.tiny_footprint)
    flags[tiny] |= int(SingleBandFlag.TINY_FOOTPRINT | SingleBandFlag.SKIPPED)
    same = (pixel[:, None] == pixel[None, :]).all(axis=-1) & inside[:, None] & inside[None, :]
    flags[same.sum(axis=1) > 1] |= int(SingleBandFlag.SHARED_PIXEL)
    usable = np.flatnonzero(inside & ~tiny)
    if 0 < config.max_peaks < len(usable):
        faint = usable[np.argsort(-image[y, x][usable], kind="stable")[config.max_peaks :]]
        flags[faint] |= int(SingleBandFlag.TOO_MANY_PEAKS | SingleBandFlag.SKIPPED)
    return flags


def _room(y: np.ndarray, x: np.ndarray, footprint: np.ndarray, fwhm: float) -> Int[np.ndarray, " source"]:
    """Shorter side of the box about each peak, as far as the PSF is fitted, within that of the footprint."""
    rows, columns = np.nonzero(footprint.any(axis=1))[0], np.nonzero(footprint.any(axis=0))[0]
    if rows.size == 0:
        return np.zeros(len(y), int)
    reach = int(np.ceil(1.5 * fwhm)) if np.isfinite(fwhm) else 0
    sides = [
        np.minimum(place + reach, used[-1]) - np.maximum(place - reach, used[0]) + 1
        for place, used in ((y, rows), (x, columns))
    ]
    return np.minimum(*sides)
