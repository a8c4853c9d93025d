"""A patch of a survey with known truth: thousands of sources, some in groups, seen by an imperfect instrument."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import cast

import numpy as np
from astropy.table import Column, Table
from astropy.wcs import WCS
from scipy.spatial import KDTree

from ..instrument.box import Box
from ..instrument.psf_field import AbstractPSFField
from .clustering import draw_clustered, king_offsets
from .defects import PLANES, SATURATION, coverage, draw_mask, saturated
from .field import make_wcs
from .paint import Stamp, blendedness_in, paint
from .population import TrueSource, draw_asymmetric_galaxy, draw_magnitude, draw_smooth_galaxy, draw_star
from .profiles import Profile
from .psf import vary_psf
from .survey import Survey, make_survey

_MARGIN = 40.0
"""Width in pixels of the strip around the image that has sources, too."""

_STRUCTURED = 24.0
"""Magnitude above which galaxies are drawn smooth: nothing of their spiral arms would be seen."""

_STAR_SLOPE = 0.16
"""Slope of the counts of stars."""


@dataclasses.dataclass(frozen=True)
class Patch:
    """A simulated patch and what is true about it. Fluxes are in electrons.

    Attributes
    ----------
    images
        Noisy images (band, y, x), sky subtracted, float32; NaN where there are no data.
    variance
        Their variance as a survey states it: sky plus the positive part of the image; NaN where there are no data.
    mask_bits
        What is wrong with each pixel (band, y, x), uint16.
    mask_planes
        Bit of each plane: BAD (dead columns, cosmic rays), SAT (saturated, or bled into), CR (cosmic rays), EDGE (the
        border), NO_DATA (a corner).
    psf
        PSF of each band at each place.
    bands
        Names of the bands.
    truth
        One row per source whose centre is inside: ``id``, ``x``, ``y`` (0-based pixels), ``ra``, ``dec`` (degrees),
        ``kind``, ``group`` (-1 for none), ``radius`` (half-light, along the major axis, pixels), ``e1``, ``e2``
        (ellipticity of its main part without the PSF, as `jaxdeblend.measure` has it), ``neighbor`` (distance to the
        nearest other source, pixels), and per band ``flux_<b>`` (total), ``snr_<b>`` (alone on the sky) and
        ``blendedness_<b>``.
    outside
        The same for sources just outside, whose light reaches in.
    wcs
        Tangential projection, 0.2″ per pixel.
    zero_point
        AB magnitude of one electron (band,).
    noiseless
        Sum of all sources (band, y, x), float32.
    unit
        Unit of the images.
    """

    images: np.ndarray
    variance: np.ndarray
    mask_bits: np.ndarray
    mask_planes: dict[str, int]
    psf: AbstractPSFField
    bands: tuple[str, ...]
    truth: Table
    outside: Table
    wcs: WCS
    zero_point: np.ndarray
    noiseless: np.ndarray
    unit: str = "electron"

    @property
    def mask(self) -> np.ndarray:
        """True where a pixel is unusable (band, y, x): every plane is of such pixels."""
        return self.mask_bits != 0


def simulate_patch(
    seed: int | np.random.Generator,
    *,
    shape: tuple[int, int] = (4000, 4000),
    bands: Sequence[str] = ("g", "r", "i", "z", "y"),
    n_sources: int = 20_000,
    star_fraction: float = 0.1,
    clustered: float = 0.4,
    structured: float = 0.5,
    psf: AbstractPSFField | None = None,
    psf_fwhm: float | Sequence[float] | Mapping[str, float] | None = None,
    sky: float | Sequence[float] | Mapping[str, float] | None = None,
    magnitudes: tuple[float, float] = (18.0, 26.0),
    defects: bool = True,
) -> Patch:
    """Simulate a patch of the sky as LSST would see it after ten years (0.2″ per pixel).

    Galaxies follow the counts, sizes and colours of `simulate_field`; a fraction is in groups, of mostly two to ten,
    which makes blends. Stars are anywhere; bright ones saturate and bleed. The PSF varies over the patch, differently
    in each band. Noise and defects have random streams of their own: they are the same whatever the sources are.

    A patch of 4000 x 4000 pixels in five bands with 20 000 sources takes some two minutes on one core, and 2 GB.

    Parameters
    ----------
    seed
        Seed, or a generator to draw from. The same seed gives the same patch.
    shape
        Shape (y, x) of the images.
    bands
        Names of the bands, from ugrizy.
    n_sources
        Number of sources whose centre is inside.
    star_fraction
        Fraction of stars.
    clustered
        Fraction of the galaxies in groups.
    structured
        Fraction of the galaxies brighter than i = 24 that have spiral arms, clumps, tails and dust; the rest is smooth.
    psf
        PSF field; by default polynomials of the second degree about Moffat profiles, see `vary_psf`.
    psf_fwhm
        FWHM of the default PSFs in the middle in pixels: one number, one per band, or by name. By default LSST's median
        seeing.
    sky
        Sky variance per pixel: one number, one per band, or by name. By default LSST after ten years.
    magnitudes
        Brightest and faintest i-band magnitude of galaxies; stars begin 1.5 magnitudes brighter.
    defects
        Whether there are masks, saturated stars and gaps in the coverage.

    Returns
    -------
    Patch
        Images and truth.

    Raises
    ------
    ValueError
        If an option is not understood.

    Examples
    --------
    >>> patch = simulate_patch(3, shape=(96, 128), bands=("g", "i"), n_sources=12)
    >>> patch.images.shape, len(patch.truth), patch.psf.n_bands
    ((2, 96, 128), 12, 2)
    """
    _check_fractions(star_fraction=star_fraction, clustered=clustered, structured=structured)
    _check_size(shape, n_sources)
    survey = make_survey(bands, psf_fwhm=psf_fwhm, sky=sky)
    streams = np.random.default_rng(seed).spawn(4)
    n_stars = round(star_fraction * n_sources)

    def draw_one(rng: np.random.Generator, is_star: bool) -> TrueSource:
        if is_star:
            return draw_star(rng, survey, draw_magnitude(rng, (magnitudes[0] - 1.5, magnitudes[1]), slope=_STAR_SLOPE))
        magnitude = draw_magnitude(rng, magnitudes)
        if rng.random() < structured and magnitude < _STRUCTURED:
            return draw_asymmetric_galaxy(rng, survey, magnitude)
        return draw_smooth_galaxy(rng, survey, magnitude)

    centers, group, is_star = _draw_positions(streams[0], shape, n_sources - n_stars, n_stars, clustered)
    sources = [draw_one(streams[1], bool(star)) for star in is_star]
    field = vary_psf(streams[2], survey, shape) if psf is None else psf
    return _observe(streams[3], sources, centers, group, shape, survey, field, defects=defects)


def simulate_cluster(
    seed: int | np.random.Generator,
    *,
    shape: tuple[int, int] = (640, 640),
    bands: Sequence[str] = ("g", "r", "i", "z", "y"),
    n_stars: int = 4000,
    core_radius: float = 150.0,
    psf: AbstractPSFField | None = None,
    psf_fwhm: float | Sequence[float] | Mapping[str, float] | None = None,
    sky: float | Sequence[float] | Mapping[str, float] | None = None,
    magnitudes: tuple[float, float] = (18.6, 23.5),
    defects: bool = False,
) -> Patch:
    """Simulate a globular cluster, so crowded that the light of all its stars runs together.

    Stars are around the middle with a King profile, as far as the image reaches. They follow the main sequence, cooler
    where it is fainter, and above its turn-off a branch of red giants; a few are on the horizontal branch, and blue.
    With the default numbers, some 2300 of the 4000 stars are peaks of their own in one footprint.

    Parameters
    ----------
    seed
        Seed, or a generator to draw from. The same seed gives the same cluster.
    shape
        Shape (y, x) of the images.
    bands
        Names of the bands, from ugrizy.
    n_stars
        Number of stars; all are inside.
    core_radius
        Of the King profile, in pixels.
    psf, psf_fwhm, sky
        As for `simulate_patch`.
    magnitudes
        Brightest and faintest i-band magnitude.
    defects
        Whether there are masks, saturated stars and gaps in the coverage.

    Returns
    -------
    Patch
        Images and truth; every star is of group 0.

    Raises
    ------
    ValueError
        If an option is not understood.

    Examples
    --------
    >>> cluster = simulate_cluster(3, shape=(96, 96), bands=("g", "i"), n_stars=80, core_radius=15.0)
    >>> len(cluster.truth), sorted(set(cluster.truth["kind"].tolist()))
    (80, ['star'])
    """
    _check_size(shape, n_stars)
    survey = make_survey(bands, psf_fwhm=psf_fwhm, sky=sky)
    streams = np.random.default_rng(seed).spawn(4)
    middle = (np.array(shape) - 1) / 2

    def draw_inside(rng: np.random.Generator) -> np.ndarray:
        found = np.zeros((0, 2))
        while len(found) < n_stars:
            more = middle + core_radius * king_offsets(rng, 2 * n_stars, extent=20.0)
            found = np.concatenate([found, more[Box((0, 0), shape).contains(more)]])
        return found[:n_stars]

    centers = draw_inside(streams[0])
    sources = [_draw_member(streams[1], survey, magnitudes) for _ in range(n_stars)]
    field = vary_psf(streams[2], survey, shape) if psf is None else psf
    group = np.zeros(n_stars, int)
    return _observe(streams[3], sources, centers, group, shape, survey, field, defects=defects)


def _draw_member(rng: np.random.Generator, survey: Survey, magnitudes: tuple[float, float]) -> TrueSource:
    """Draw a star of a cluster: the turn-off is a third of the way from the brightest magnitude to the faintest."""
    bright, faint = magnitudes
    turn_off = bright + (faint - bright) / 3
    if rng.random() < 0.02:
        magnitude = bright + (turn_off - bright) * rng.normal(0.55, 0.08)
        return draw_star(rng, survey, magnitude, temperature=rng.uniform(7e3, 1.1e4))
    magnitude = draw_magnitude(rng, magnitudes, slope=0.2)
    along = (magnitude - turn_off) / (faint - turn_off if magnitude > turn_off else turn_off - bright)
    temperature = 6400 - 2400 * along if along > 0 else 5600 + 1700 * along
    return draw_star(rng, survey, magnitude, temperature=temperature * rng.normal(1, 0.02))


def _draw_positions(
    rng: np.random.Generator, shape: tuple[int, int], n_galaxies: int, n_stars: int, clustered: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centres, groups, and which are stars: the wanted numbers inside, and as dense outside."""
    area = np.array(shape) + 2 * _MARGIN
    share = float(np.prod(area) / np.prod(shape))

    def draw_clustered_galaxies(n: int) -> tuple[np.ndarray, np.ndarray]:
        return draw_clustered(rng, (float(area[0]), float(area[1])), n, fraction=clustered)

    def draw_stars(n: int) -> tuple[np.ndarray, np.ndarray]:
        return rng.uniform(0, 1, (n, 2)) * area, np.full(n, -1)

    kinds = ((draw_clustered_galaxies, n_galaxies), (draw_stars, n_stars))
    parts = [_exactly(rng, draw, n, share, shape) for draw, n in kinds]
    centers, group = (np.concatenate([part[k] for part in parts]) for k in range(2))
    return centers, group, np.repeat([False, True], [len(part[0]) for part in parts])


def _exactly(
    rng: np.random.Generator,
    draw: Callable[[int], tuple[np.ndarray, np.ndarray]],
    n: int,
    share: float,
    shape: tuple[int, int],
) -> tuple[np.ndarray, np.ndarray]:
    """Draw until n are inside; of those too many, some are left out at random."""
    if n == 0:
        return np.zeros((0, 2)), np.zeros(0, int)
    drawn = round(1.05 * n * share) + 20
    while True:
        centers, group = draw(drawn)
        order = rng.permutation(len(centers))
        centers, group = centers[order] - 0.5 - _MARGIN, group[order]
        upto = np.cumsum(Box((0, 0), shape).contains(centers))
        if upto[-1] >= n:
            last = int(np.searchsorted(upto, n)) + 1
            return centers[:last], group[:last]
        drawn += round(0.1 * drawn)


def _observe(
    rng: np.random.Generator,
    sources: list[TrueSource],
    centers: np.ndarray,
    group: np.ndarray,
    shape: tuple[int, int],
    survey: Survey,
    field: AbstractPSFField,
    *,
    defects: bool,
) -> Patch:
    """Paint the sources, expose the images, and tabulate the truth."""
    frame, stamps = paint(sources, centers, shape, survey, field)
    images, variance = np.empty_like(frame), np.empty_like(frame)
    bits = np.zeros(frame.shape, np.uint16)
    depth = np.ones((len(sources), len(survey.bands)))
    pixels = np.clip(np.rint(centers).astype(int), 0, np.array(shape) - 1)
    for number, stream in enumerate(rng.spawn(len(survey.bands))):
        relative = coverage(stream, shape) if defects else np.ones(shape, np.float32)
        depth[:, number] = relative[tuple(pixels.T)]
        sky = float(survey.sky_variance[number])
        images[number], variance[number] = _expose(stream, frame[number], sky, relative)
        if defects:
            bits[number] = _spoil(stream, images[number], variance[number], frame[number], sky)
    wcs = make_wcs(shape)
    table = _tabulate(sources, centers, group, stamps, blendedness_in(frame, stamps), depth, survey, wcs)
    inside = Box((0, 0), shape).contains(centers)
    truth, outside = Table(table[inside]), Table(table[~inside])
    truth["id"], outside["id"] = np.arange(len(truth)), np.arange(len(outside)) + len(truth)
    return Patch(
        images=images,
        variance=variance,
        mask_bits=bits,
        mask_planes=dict(PLANES),
        psf=field,
        bands=survey.bands,
        truth=truth,
        outside=outside,
        wcs=wcs,
        zero_point=survey.zeropoint,
        noiseless=frame,
    )


def _expose(
    rng: np.random.Generator, noiseless: np.ndarray, sky: float, relative: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Noise of sky and photons, and the variance that is stated, from the noisy image; one band."""
    noise = np.sqrt(relative * (np.float32(sky) + noiseless))
    image = noiseless + noise * rng.standard_normal(noiseless.shape, np.float32)
    return image, relative * (np.float32(sky) + np.maximum(image, 0))


def _spoil(
    rng: np.random.Generator, image: np.ndarray, variance: np.ndarray, noiseless: np.ndarray, sky: float
) -> np.ndarray:
    """Spoil pixels of one band in place; returns the bits of what is wrong with them."""
    bits, values = draw_mask(rng, (image.shape[0], image.shape[1]))
    full = saturated(noiseless)
    image[full], variance[full] = SATURATION, SATURATION
    useless = bits != 0
    image[useless] = values[useless]
    variance[useless] = np.where(np.isnan(values[useless]), np.nan, np.float32(sky))
    bits[full & ~np.isnan(values)] |= 1 << PLANES["SAT"]
    return bits


def _tabulate(
    sources: list[TrueSource],
    centers: np.ndarray,
    group: np.ndarray,
    stamps: list[Stamp],
    blendedness: np.ndarray,
    depth: np.ndarray,
    survey: Survey,
    wcs: WCS,
) -> Table:
    y, x = centers.T
    table = Table({"id": np.arange(len(x)), "x": x, "y": y})
    table["ra"], table["dec"] = wcs.all_pix2world(x, y, 0) if len(x) else (x, y)
    table["kind"] = np.array([source.kind for source in sources], dtype="U16")
    table["group"] = group
    table["radius"] = np.array([source.radius for source in sources], float)
    table["e1"], table["e2"] = np.array([_ellipticity(source) for source in sources]).reshape(-1, 2).T
    distances = KDTree(centers).query(centers, k=2)[0][:, 1] if len(x) > 1 else np.full(len(x), np.inf)
    table["neighbor"] = distances
    shape = (len(x), len(survey.bands))
    snr = np.array([stamp.snr for stamp in stamps]).reshape(shape) / np.sqrt(depth)
    flux = np.array([source.flux for source in sources]).reshape(shape)
    for name, values in (("flux", flux), ("snr", snr), ("blendedness", blendedness)):
        for band, column in zip(survey.bands, values.T, strict=True):
            table[f"{name}_{band}"] = column
    for name, unit in {"x": "pix", "y": "pix", "ra": "deg", "dec": "deg", "radius": "pix", "neighbor": "pix"}.items():
        cast(Column, table[name]).unit = unit
    return table


def _ellipticity(source: TrueSource) -> tuple[float, float]:
    """Of its first part that is a profile: (Q_xx - Q_yy, 2 Q_xy) / (Q_xx + Q_yy) of the second moments Q."""
    profile = next((part.shape for part in source.components if isinstance(part.shape, Profile)), None)
    if profile is None:
        return 0.0, 0.0
    size = (1 - profile.axis_ratio**2) / (1 + profile.axis_ratio**2)
    return size * float(np.cos(2 * profile.angle)), size * float(np.sin(2 * profile.angle))


def _check_fractions(**fractions: float) -> None:
    for name, value in fractions.items():
        if not 0 <= value <= 1:
            raise ValueError(f"`{name}` must be a fraction from 0 to 1, got {value}.")


def _check_size(shape: tuple[int, int], n: int) -> None:
    if len(shape) != 2 or min(shape) < 16:
        raise ValueError(f"`shape` must be (y, x) of at least 16 pixels, got {shape}.")
    if n < 0:
        raise ValueError(f"the number of sources must not be negative, got {n}.")
