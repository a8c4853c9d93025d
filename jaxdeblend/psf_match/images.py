"""One image brought to the PSF, the flux scale and the background of another, by the stars that both show."""

import dataclasses
import warnings
from collections.abc import Callable
from typing import Generic

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from ..instrument.box import Box
from ..instrument.psf_field import AbstractPSFField, as_field
from ..ops import polynomials
from ..runtime.host import AnyArray, default_dtype
from .apply import E, Imaged, MatchedPSFField, convolved_exposure
from .basis import gaussian_basis, principal_basis
from .candidates import KernelCandidates
from .decorrelate import decorrelation_kernel
from .exposure import grid_of_cells
from .image_config import ImageMatchConfig
from .linear import fit_joint, fit_single, residuals
from .options import check_within
from .quality import KernelQuality, kernel_qualities
from .spatial import MAX_CONDITION, SpatialKernel, fit_spatial_kernel
from .units import common_units, in_range, multiplied, units_of
from .widths import fluxes_of_stars, what_is_wider


class MatchedImages(eqx.Module, Generic[E]):
    """An exposure that was matched to another, and their difference.

    Attributes
    ----------
    exposure
        The exposure, convolved and with the background added: as the reference would see it.
    difference
        Reference - exposure, with the sum of their variances and both masks.
    kernel
        The kernel that was applied; its sum is the ratio of the flux scales.
    background
        The background that was added (band, y, x).
    candidates
        The stars, and which of them were used.
    condition
        Condition number of each band's solution, see `jaxdeblend.psf_match.linear.JointFit`.

    Examples
    --------
    >>> import jaxdeblend as jd
    >>> jd.MatchedImages.__name__
    'MatchedImages'
    """

    exposure: E
    difference: E
    kernel: SpatialKernel
    background: Float[AnyArray, "band y x"]
    candidates: KernelCandidates
    condition: Float[AnyArray, " band"]


def match_images(
    exposure: E,
    reference: E,
    positions: object,
    config: ImageMatchConfig | None = None,
    *,
    decorrelate: bool = False,
) -> MatchedImages[E]:
    """Find the kernel and the background that turn one image into another of the same pixels, and subtract.

    K varies as a polynomial of position, K(q; p) = Σ_ij a_ij P_j(p) B_i(q), in a basis of Gaussians times polynomials,
    and is fitted to cut-outs of stars (Alard & Lupton 1998, ApJ 503, 325; Alard 2000, A&AS 144, 363), all pixels of a
    cut-out with the same weight, the inverse of the median variance of both images there, on the reference's flux
    scale. Stars are fitted one by one
    first: those that are not like the others, or that the common kernel does not fit, are rejected.

    Parameters
    ----------
    exposure
        What is convolved; its PSF should be the narrower one.
    reference
        What it shall become.
    positions
        Stars (y, x) in pixels. Those near the border, or on a masked pixel of `exposure`, are not used.
    config
        Basis, polynomials, cut-outs and rejection.
    decorrelate
        Whether the difference is convolved so that its noise is white again, see `decorrelation_kernel`.

    Returns
    -------
    MatchedImages
        Matched exposure, difference, kernel, background and stars.

    Raises
    ------
    ValueError
        If the exposures have other shapes or bands; if kernel or cut-outs are larger than the images; if there are too
        few good stars for the solution, and also if that is because the exposure has the wider PSF.

    Warns
    -----
    UserWarning
        If the exposure's stars are wider than those of the reference, so that the kernel deconvolves.

    Examples
    --------
    >>> import numpy as np
    >>> import jaxdeblend as jd
    >>> stars = np.stack(np.meshgrid([30, 60, 90], [30, 60, 90]), axis=-1).reshape(-1, 2)
    >>> images = np.zeros((2, 121, 121))
    >>> for image, sigma in zip(images, (1.5, 2.0)):
    ...     for y, x in stars:
    ...         image[y - 10 : y + 11, x - 10 : x + 11] = 1000 * np.asarray(jd.GaussianPSF(sigma).stamp(21)[0])
    >>> narrow, wide = (jd.Exposure(image[None], [1.0], jd.GaussianPSF(2.0), bands=["r"]) for image in images)
    >>> config = jd.ImageMatchConfig(kernel_edge=11, stamp_edge=29, sigmas=(1.3,), degrees=(2,), order=0)
    >>> bool(np.abs(jd.match_images(narrow, wide, stars, config).difference.images).max() < 1)
    True
    """
    config = ImageMatchConfig() if config is None else config
    if exposure.images.shape != reference.images.shape or exposure.bands != reference.bands:
        raise ValueError(
            f"reference: got images of shape {reference.images.shape} in bands {reference.bands} for an exposure of "
            f"{exposure.images.shape} in {exposure.bands}; both must have the same pixels and bands."
        )
    reference_units = units_of(reference)
    units = common_units(reference_units, units_of(exposure))
    own = multiplied(exposure, 1 / units), multiplied(reference, 1 / reference_units)
    matched = _matched(*own, positions, config, decorrelate=decorrelate)
    return _in_units(matched, units, reference_units)


def _matched(
    exposure: E, reference: E, positions: object, config: ImageMatchConfig, *, decorrelate: bool
) -> MatchedImages[E]:
    """The work of `match_images`, for images whose noise is neither tiny nor huge."""
    box = Box((0, 0), (exposure.images.shape[-2], exposure.images.shape[-1]))
    check_within("kernel_edge", config.kernel_edge, box.shape)
    check_within("stamp_edge", config.stamp_edge, box.shape)
    stars = _Stars.found(exposure, reference, np.asarray(positions, np.float64), box, config)
    if len(stars.positions) < config.n_stars_needed:
        raise ValueError(
            f"positions: {len(stars.positions)} stars are {config.stamp_edge // 2} pixels or more from the border, "
            f"unmasked and among the first {config.stars_per_cell} of their cell, for {config.n_stars_needed} terms of "
            "position; give more stars or a lower order, smaller cut-outs or smaller cells."
        )
    basis = np.asarray(gaussian_basis(config.kernel_edge, config.sigmas, config.degrees), np.float64)
    fits = [_fit_named(stars, band, name, basis, box, config) for band, name in enumerate(exposure.bands)]
    images = np.stack([fit.images for fit in fits]).astype(default_dtype())
    kernel = SpatialKernel(images, box, config.order, config.polynomial)
    background = np.stack([_background(fit.background, box, config) for fit in fits])
    good = np.stack([fit.good for fit in fits], axis=1)
    psf = as_field(reference.psf)
    convolved = convolved_exposure(exposure, kernel, psf, config.mask_share)
    matched = dataclasses.replace(convolved, images=convolved.images + background)  # type: ignore[type-var]
    difference = _difference(reference, matched)
    if decorrelate:
        difference = _decorrelated(difference, exposure, reference, kernel, psf, config)
    candidates = _candidates(stars, kernel, basis, background, good)
    condition = np.asarray([fit.condition for fit in fits])
    return MatchedImages(matched, difference, kernel, background, candidates, condition)


def _in_units(
    matched: MatchedImages[E], units: Float[np.ndarray, " band"], reference_units: Float[np.ndarray, " band"]
) -> MatchedImages[E]:
    """Matched images in the units of those that were given."""
    ratio = (reference_units / units)[:, None, None]
    if (ratio == 1).all() and (units == 1).all():
        return matched
    kernel, candidates = matched.kernel, matched.candidates
    return MatchedImages(
        multiplied(matched.exposure, reference_units),
        multiplied(matched.difference, reference_units),
        SpatialKernel(
            in_range(np.asarray(kernel.images, np.float64) * ratio[:, None]), kernel.box, kernel.order, kernel.kind
        ),
        in_range(np.asarray(matched.background, np.float64) * reference_units[:, None, None]),
        dataclasses.replace(
            candidates,
            source=np.asarray(candidates.source, np.float64) * units[:, None, None],
            target=np.asarray(candidates.target, np.float64) * reference_units[:, None, None],
            kernels=np.asarray(candidates.kernels, np.float64) * ratio,
        ),
        matched.condition,
    )


class _Stars(eqx.Module):
    """Cut-outs of both images about each star that can be used."""

    positions: Float[np.ndarray, "star 2"]
    cells: Int[np.ndarray, "star 2"]
    source: Float[np.ndarray, "star band n n"]
    target: Float[np.ndarray, "star band n n"]
    weights: Float[np.ndarray, "star band n n"]

    @classmethod
    def found(
        cls, exposure: E, reference: E, positions: Float[np.ndarray, "..."], box: Box, config: ImageMatchConfig
    ) -> "_Stars":
        """The most significant stars of each cell, among those with all of their cut-out on the image."""
        if positions.ndim != 2 or positions.shape[1] != 2:
            raise ValueError(f"positions: got shape {positions.shape}; give (star, 2), (y, x) in pixels.")
        half = config.stamp_edge // 2
        pixels = np.rint(positions[np.isfinite(positions).all(axis=1)]).astype(int)
        inside = ((pixels >= half) & (pixels < np.asarray(box.shape) - half)).all(axis=1)
        pixels = pixels[inside]
        windows = pixels[:, :, None] + np.arange(-half, half + 1)
        y, x = windows[:, 0, :, None], windows[:, 1, None, :]

        def cut(images: np.ndarray) -> np.ndarray:
            return np.moveaxis(images[:, y, x], 0, 1)

        usable = ~cut(exposure.mask).any(axis=(1, 2, 3))
        variance = _common_variance(cut, exposure, reference)
        weights = np.where(cut(reference.mask), 0.0, 1 / variance).astype(np.float64)
        target = np.where(weights > 0, cut(reference.images), 0.0).astype(np.float64)
        significance = np.where(usable, (target * np.sqrt(weights)).sum(axis=(1, 2, 3)), -np.inf)
        cells = pixels // config.cell
        chosen = _first_of_each_cell(cells, significance, config.stars_per_cell)
        source = np.where(cut(exposure.mask), 0.0, cut(exposure.images)).astype(np.float64)
        return cls(pixels[chosen].astype(float), cells[chosen], source[chosen], target[chosen], weights[chosen])


def _common_variance(
    cut: Callable[[np.ndarray], np.ndarray], exposure: Imaged, reference: Imaged
) -> Float[np.ndarray, "star band 1 1"]:
    """Median variance of both images about each star, that of the exposure on the flux scale of the reference."""
    own, other = (np.asarray(cut(image.variance), np.float64) for image in (exposure, reference))
    stars = (np.where(cut(image.mask), 0.0, cut(image.images)).astype(np.float64) for image in (exposure, reference))
    before, after = (np.stack([fluxes_of_stars(band) for band in np.moveaxis(s, 1, 0)]) for s in stars)
    shining = (before > 0) & (after > 0)
    ratio = np.ones(len(before))
    for band in np.flatnonzero(shining.any(axis=1)):
        use = shining[band]
        ratio[band] = np.median(after[band, use] / before[band, use])
    return np.median(other + ratio[:, None, None] ** 2 * own, axis=(2, 3), keepdims=True)


def _first_of_each_cell(
    cells: Int[np.ndarray, "star 2"], significance: Float[np.ndarray, " star"], count: int
) -> Int[np.ndarray, " chosen"]:
    """Indices of the most significant stars of each cell, without those of -inf."""
    taken: dict[tuple[int, int], int] = {}
    chosen = []
    for star in np.argsort(-significance, kind="stable"):
        cell = (int(cells[star, 0]), int(cells[star, 1]))
        if np.isfinite(significance[star]) and taken.get(cell, 0) < count:
            taken[cell] = taken.get(cell, 0) + 1
            chosen.append(star)
    return np.sort(np.asarray(chosen, int))


class _BandFit(eqx.Module):
    """What was found for one band."""

    images: Float[np.ndarray, "p k k"]
    background: Float[np.ndarray, " q"]
    condition: float
    good: Bool[np.ndarray, " star"]


def _fit_named(
    stars: _Stars, band: int, name: str, basis: Float[np.ndarray, "term k k"], box: Box, config: ImageMatchConfig
) -> _BandFit:
    """Fit a band; if the images are exchanged, say so instead of what comes of it."""
    wider = what_is_wider(name, stars.source[:, band], stars.target[:, band])
    try:
        fit = _fit_band(stars, band, basis, box, config)
    except ValueError as error:
        if wider is None:
            raise
        raise ValueError(f"exposure: {wider}. As it is: {error}") from error
    if wider is not None:
        warnings.warn(f"match_images: {wider}.", stacklevel=3)
    return fit


def _fit_band(
    stars: _Stars, band: int, basis: Float[np.ndarray, "term k k"], box: Box, config: ImageMatchConfig
) -> _BandFit:
    """Reject stars that are not like the others, then those that the common solution does not fit."""
    arrays = stars.source[:, band], stars.target[:, band], stars.weights[:, band]
    with_background = config.background_order is not None
    with jax.enable_x64(True):
        single = fit_single(basis, *arrays, background=with_background, region="valid")
        sums = np.asarray(single.coefficients)[:, 0]
        good = _fitted(single.kernels(basis), arrays, single.background, config) & ~_off(sums, config.clip)
        if config.n_components is not None:
            _check_count(int(good.sum()), config.n_components + 1)
            basis = np.asarray(principal_basis(single.kernels(basis)[good], config.n_components)[0])
        for _ in range(config.max_rounds):
            terms = _terms(stars.positions, box, config.order, config.polynomial)
            levels = _terms(stars.positions, box, config.background_order or 0, config.polynomial)
            _check_count(int(good.sum()), max(terms.shape[1], levels.shape[1]))
            used = np.where(good[:, None, None], arrays[2], 0.0)
            fit = fit_joint(basis, *arrays[:2], used, terms, levels if with_background else None, region="valid")
            level = levels @ np.asarray(fit.background) if with_background else np.zeros(len(good))
            kept = good & _fitted(fit.kernels(basis, terms), arrays, level, config)
            if (kept == good).all():
                break
            good = kept
        if not fit.condition <= MAX_CONDITION:
            warnings.warn(
                f"match_images: the solution is poorly determined (condition number {float(fit.condition):.1e}); more "
                "stars, a lower order or fewer functions would be safer.",
                stacklevel=3,
            )
        images, background = np.asarray(fit.images(basis)), np.asarray(fit.background)
    return _BandFit(images, background, float(fit.condition), good)


def _fitted(
    kernels: Float[AnyArray, "star k k"],
    arrays: tuple[np.ndarray, np.ndarray, np.ndarray],
    background: Float[AnyArray, " star"],
    config: ImageMatchConfig,
) -> Bool[np.ndarray, " star"]:
    """Stars of which little is left."""
    left = residuals(kernels, *arrays, background, region="valid")
    return (np.abs(np.asarray(left.mean)) <= config.max_mean) & (np.asarray(left.rms) <= config.max_rms)


def _off(values: Float[np.ndarray, " star"], clip: float) -> Bool[np.ndarray, " star"]:
    """Values far from the median."""
    offset = np.abs(values - np.median(values))
    return offset > clip * 1.4826 * np.median(offset) + 1e-12 * np.abs(np.median(values))


def _check_count(good: int, terms: int) -> None:
    if good < terms:
        raise ValueError(
            f"positions: {good} good stars cannot determine {terms} terms of position; give more stars, a "
            "lower order, or larger max_mean and max_rms."
        )


def _terms(
    positions: Float[np.ndarray, "position 2"], box: Box, order: int, kind: str
) -> Float[np.ndarray, "position term"]:
    at = polynomials.scaled(jnp.asarray(positions, dtype=float), (box.start, box.shape))
    return np.asarray(polynomials.terms(at[..., 0], at[..., 1], order, kind))


def _background(coefficients: Float[np.ndarray, " q"], box: Box, config: ImageMatchConfig) -> Float[np.ndarray, "y x"]:
    """The background of every pixel."""
    if config.background_order is None:
        return np.zeros(box.shape, np.float32)
    pixels = np.indices(box.shape).reshape(2, -1).T.astype(float)
    terms = _terms(pixels, box, config.background_order, config.polynomial)
    return (terms @ coefficients).reshape(box.shape).astype(np.float32)


def _difference(reference: E, matched: E) -> E:
    """Reference minus matched exposure; zero where masked."""
    mask = reference.mask | matched.mask
    images = np.where(mask, 0.0, reference.images - matched.images).astype(np.float32)
    changes = {"images": images, "variance": reference.variance + matched.variance, "mask": mask}
    return dataclasses.replace(reference, **changes)  # type: ignore[type-var]


def _decorrelated(
    difference: E,
    exposure: E,
    reference: E,
    kernel: SpatialKernel,
    psf: AbstractPSFField,
    config: ImageMatchConfig,
) -> E:
    """The difference convolved with what makes its noise white, found on a grid and varying as the kernel does."""
    nodes, _ = grid_of_cells(kernel.box, max(kernel.box.shape), config.order)
    own, other = (_typical_variance(image) for image in (exposure, reference))
    whitening = decorrelation_kernel(kernel.at(nodes), own[None], other[None], 2 * config.kernel_edge - 1)
    spatial = fit_spatial_kernel(nodes, np.asarray(whitening), kernel.box, order=config.order, kind=config.polynomial)
    white = convolved_exposure(difference, spatial, MatchedPSFField(psf, spatial), config.mask_share)
    scale = np.asarray(kernel.images[:, 0].sum(axis=(-2, -1)), np.float64)[:, None, None]
    variance = reference.variance + scale**2 * exposure.variance
    return dataclasses.replace(white, variance=variance)  # type: ignore[type-var]


def _typical_variance(exposure: Imaged) -> Float[np.ndarray, " band"]:
    """Median variance of the usable pixels of each band."""
    known = np.where(exposure.mask, np.nan, exposure.variance)
    return np.nanmedian(known, axis=(-2, -1))


def _candidates(
    stars: _Stars,
    kernel: SpatialKernel,
    basis: Float[np.ndarray, "term k k"],
    background: Float[np.ndarray, "band y x"],
    good: Bool[np.ndarray, "star band"],
) -> KernelCandidates:
    """The stars as others look at candidates: without background, with the kernel of each and of all."""
    y, x = stars.positions.astype(int).T
    target = stars.target - background[:, y, x].T[..., None, None]
    with jax.enable_x64(True):
        alone = [
            fit_single(basis, stars.source[:, b], target[:, b], stars.weights[:, b], region="valid").kernels(basis)
            for b in range(len(background))
        ]
    kernels = np.stack([np.asarray(band) for band in alone], axis=1)

    def judged(kernels: AnyArray) -> KernelQuality:
        arrays = (jnp.asarray(np.asarray(array), dtype=float) for array in (kernels, stars.source, target))
        return jax.tree.map(np.asarray, kernel_qualities(*arrays))

    return KernelCandidates(
        stars.positions,
        stars.cells,
        stars.source,
        target,
        kernels,
        judged(kernels),
        judged(kernel.at(stars.positions)),
        good,
    )
