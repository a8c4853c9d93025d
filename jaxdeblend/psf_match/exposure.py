"""A whole exposure brought to one PSF: what coaddition and colours in apertures ask for."""

import dataclasses
from typing import Generic

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from ..instrument.box import Box
from ..instrument.psf import AbstractPSF, ImagePSF
from ..instrument.psf_field import AbstractPSFField, ConstantPSFField, as_field
from ..runtime.host import default_dtype
from .apply import E, MatchedPSFField, convolved_exposure, resized
from .candidates import KernelCandidates
from .checks import check_psfs, check_quality, recentered
from .match import NARROWER, find_kernels, solver_of
from .options import (
    check_count,
    check_kernel_sum,
    check_kind,
    check_odd,
    check_order,
    check_positive,
    check_share,
    check_within,
)
from .quality import KernelQuality, kernel_qualities
from .solvers import AbstractSolver
from .spatial import SpatialKernel, fit_spatial_kernel
from .units import multiplied, units_of

CLIPPED_FLUX = 1e-3
"""Share of a PSF's flux that may be lost where its stamp is cropped."""

MAX_ROUNDS = 3
"""Times that candidates are rejected and the spatial solution is found anew."""


@dataclasses.dataclass(frozen=True)
class MatchConfig:
    """How an exposure is matched.

    Attributes
    ----------
    solver
        Solver of each candidate's kernel, or its name, see `match_psf`.
    kernel_edge
        Odd edge of the kernels, at most that of the PSFs and of the image; by default the largest that there is.
    psf_edge
        Odd edge to which all stamps are padded or cropped; by default that of the largest.
    cell
        Mean size of a cell in pixels, at most; there are at least two cells more than `order` along each axis. Each has
        one candidate. Cells are narrower towards the border (Chebyshev nodes), where polynomials err most: in a field
        of Moffat profiles that vary to the third power, worst errors are half of those with equal cells.
    order
        Largest total degree of the polynomials by which kernels vary.
    polynomial
        ``"chebyshev"`` or ``"power"``.
    max_l2
        Candidates whose own kernel leaves a larger error are rejected; None: none are.
    clip
        Candidates are rejected whose error with the spatial kernel is by so many σ (from the median absolute deviation)
        above the median; None: none are, which is right for PSF models that can be trusted.
    mask_share
        A pixel is masked where unusable pixels, or those beyond the border, carry more than this share of its kernel.
    recenter, allow_deconvolution
        As for `match_psf`.

    Examples
    --------
    >>> import jaxdeblend as jd
    >>> jd.MatchConfig(order=1, solver=jd.LeastSquares(1e-8)).cell
    128
    """

    solver: str | AbstractSolver = "lsq"
    kernel_edge: int | None = None
    psf_edge: int | None = None
    cell: int = 128
    order: int = 3
    polynomial: str = "chebyshev"
    max_l2: float | None = None
    clip: float | None = None
    mask_share: float = 1e-4
    recenter: bool = False
    allow_deconvolution: bool = False

    def __post_init__(self) -> None:
        check_count("cell", self.cell, 1, "the size of a cell in pixels")
        check_order("order", self.order)
        check_kind("polynomial", self.polynomial)
        check_share("mask_share", self.mask_share)
        for name in ("kernel_edge", "psf_edge"):
            if getattr(self, name) is not None:
                check_odd(name, getattr(self, name))
        if self.max_l2 is not None:
            check_positive("max_l2", self.max_l2, "the largest error of a kernel")
        if self.clip is not None:
            check_positive("clip", self.clip, "a number of σ")
        solver_of(self.solver, "solver")


class MatchedExposure(eqx.Module, Generic[E]):
    """An exposure after matching, and how it came about.

    Attributes
    ----------
    exposure
        The exposure with other images, variance, mask and PSF, and the same bands, pixels, WCS, unit and zero points.
    kernel
        The kernel that was applied.
    candidates
        The PSFs that it was found from.
    reference
        The PSF to match, as it was used: on a stamp of the common edge.

    Examples
    --------
    >>> import numpy as np
    >>> import jaxdeblend as jd
    >>> exposure = jd.Exposure(np.zeros((1, 64, 64)), [1.0], jd.GaussianPSF(1.5), bands=["r"])
    >>> matched = jd.match_exposure(exposure, jd.GaussianPSF(2.0))
    >>> matched.reference.edge, bool(matched.candidates.good.all())
    (21, True)
    """

    exposure: E
    kernel: SpatialKernel
    candidates: KernelCandidates
    reference: AbstractPSF


def match_exposure(
    exposure: E,
    reference_psf: AbstractPSF | object,
    config: MatchConfig | None = None,
    *,
    kernel_sum: float = 1.0,
) -> MatchedExposure[E]:
    """Convolve an exposure so that its PSF becomes the same everywhere, in each band.

    1. The PSF is evaluated once in each cell of a grid, and brought to the edge of the reference PSF.
    2. A kernel is found for each cell, by any solver.
    3. Every pixel of the kernels becomes a polynomial of position; cells that do not fit are rejected, if wanted.
    4. Images are convolved with the kernel that belongs to each pixel, variances with its square: the variance of each
       pixel is right, but neighbouring pixels are correlated, which a variance cannot tell.
    5. A pixel is masked where unusable ones, or those beyond the border, carry more than `MatchConfig.mask_share` of
       its kernel. They count as zero.

    It does what ModelPsfMatchTask of the Rubin pipelines is for, with the full linear convolution in place of the inner
    pixels of the stamps, and any solver in place of a sum of Gaussians.

    Parameters
    ----------
    exposure
        The exposure; its `psf` is a PSF, or one that varies (`AbstractPSFField`).
    reference_psf
        PSF to match: a PSF or stamps, of one band or all.
    config
        Solver, cells, polynomials and masks.
    kernel_sum
        Sum of the kernels, by which images are scaled, too; positive and finite.

    Returns
    -------
    MatchedExposure
        Exposure, kernel, candidates and reference.

    Raises
    ------
    ValueError
        If the sum of the kernels is not positive and finite; if the exposure has no PSF; if PSFs are no PSFs, or lose
        more than 1e-3 of their flux where they are cropped; if the kernel is larger than the PSFs or the image, or
        would deconvolve and may not; if there are too few good candidates.

    Examples
    --------
    >>> import numpy as np
    >>> import jaxdeblend as jd
    >>> star = np.pad(jd.GaussianPSF(1.5).stamp(21), ((0, 0), (30, 30), (30, 30)))
    >>> exposure = jd.Exposure(star, [1.0], jd.GaussianPSF(1.5), bands=["r"])
    >>> matched = jd.match_exposure(exposure, jd.GaussianPSF(2.0)).exposure
    >>> bool(np.allclose(matched.images[:, 30:51, 30:51], jd.GaussianPSF(2.0).stamp(21), atol=1e-3))
    True
    """
    check_kernel_sum(kernel_sum)
    config = MatchConfig() if config is None else config
    if exposure.psf is None:
        raise ValueError("exposure: it has no PSF; give it one, see read_psf and read_psf_field.")
    field = as_field(exposure.psf)
    box = Box((0, 0), (exposure.images.shape[-2], exposure.images.shape[-1]))
    if config.kernel_edge is not None:
        check_within("kernel_edge", config.kernel_edge, box.shape)
    constant = isinstance(field, ConstantPSFField)
    order = 0 if constant else config.order
    positions, cells = grid_of_cells(box, config.cell, order, single=constant)
    source, target = _pairs(field, reference_psf, positions, len(exposure.bands), config)
    kernel, candidates = _solve(source, target, positions, cells, box, order, config)
    narrower = bool((ImagePSF(target).fwhm() < NARROWER * ImagePSF(source[0]).fwhm()).any())
    used = jax.tree.map(lambda figure: np.where(candidates.good, figure, 0), candidates.own)
    check_quality(used, allow_deconvolution=config.allow_deconvolution, narrower=narrower)
    units = units_of(exposure)
    own = multiplied(exposure, 1 / units)
    convolved = convolved_exposure(own, kernel.with_sum(1.0), MatchedPSFField(field, kernel), config.mask_share)
    return MatchedExposure(
        multiplied(convolved, units * kernel_sum),
        kernel.with_sum(kernel_sum),
        candidates,
        ImagePSF(target.astype(default_dtype())),
    )


def grid_of_cells(
    box: Box, size: int, order: int, *, single: bool = False
) -> tuple[Float[np.ndarray, "candidate 2"], Int[np.ndarray, "candidate 2"]]:
    """Position of each candidate, row and column of its cell, see `MatchConfig.cell`.

    Examples
    --------
    >>> import jaxdeblend as jd
    >>> from jaxdeblend.psf_match.exposure import grid_of_cells
    >>> grid_of_cells(jd.Box((0, 0), (101, 201)), 100, 0)[0][:, 1].round(1).tolist()[:3]
    [13.4, 100.0, 186.6]
    """
    counts = [1 if single else max(-(-edge // size), order + 2) for edge in box.shape]
    nodes = [-np.cos(np.pi * (np.arange(n) + 0.5) / n) for n in counts]
    unit = np.stack(np.meshgrid(*nodes, indexing="ij"), axis=-1).reshape(-1, 2)
    positions = np.asarray(box.center) + unit * (np.asarray(box.shape) - 1) / 2
    cells = np.stack(np.meshgrid(*map(np.arange, counts), indexing="ij"), axis=-1).reshape(-1, 2)
    return positions, cells


def _pairs(
    field: AbstractPSFField, reference: object, positions: np.ndarray, n_bands: int, config: MatchConfig
) -> tuple[Float[np.ndarray, "candidate band n n"], Float[np.ndarray, "band n n"]]:
    """PSFs of all cells and the reference, on stamps of one edge; a cell without PSF is NaN."""
    target = reference if isinstance(reference, AbstractPSF) else ImagePSF(reference)
    for name, bands in (("reference_psf", target.n_bands), ("exposure", field.n_bands)):
        if bands not in (1, n_bands):
            raise ValueError(f"{name}: got a PSF of {bands} bands for images of {n_bands}; give one, or one per band.")
    edge = max(field.edge, target.edge) if config.psf_edge is None else config.psf_edge
    source = _checked_fit("exposure", np.asarray(field.stamps(positions), np.float64), edge)
    wanted = _checked_fit("reference_psf", np.asarray(target.stamp(target.edge), np.float64), edge)
    return (
        np.broadcast_to(source, (len(positions), n_bands, edge, edge)),
        np.broadcast_to(wanted, (n_bands, edge, edge)),
    )


def _checked_fit(name: str, stamps: Float[np.ndarray, "*batch n n"], edge: int) -> Float[np.ndarray, "*batch m m"]:
    """Stamps of another edge and of unit sum, if little flux is lost."""
    fitting = np.asarray(resized(stamps, edge))
    total, kept = (array.sum(axis=(-2, -1)) for array in (stamps, fitting))
    lost = float(np.nanmax(1 - kept / total))
    if lost > CLIPPED_FLUX:
        raise ValueError(
            f"psf_edge: cropping the PSF of `{name}` from {stamps.shape[-1]} to {edge} pixels loses {lost:.2%} of its "
            "flux; choose a larger one."
        )
    return fitting / fitting.sum(axis=(-2, -1), keepdims=True)


def _solve(
    source: Float[np.ndarray, "candidate band n n"],
    target: Float[np.ndarray, "band n n"],
    positions: Float[np.ndarray, "candidate 2"],
    cells: Int[np.ndarray, "candidate 2"],
    box: Box,
    order: int,
    config: MatchConfig,
) -> tuple[SpatialKernel, KernelCandidates]:
    """Kernels of all cells, and the polynomials through them."""
    finite = np.asarray(np.isfinite(source).all(axis=(-2, -1)))
    filled = np.where(finite[..., None, None], source, target)  # of no effect: such candidates are not good
    check_psfs(filled, target, recentered=config.recenter)
    pair = (recentered(filled), recentered(target)) if config.recenter else (filled, target)
    kernels, own = _kernels(*pair, _kernel_edge(config, source.shape[-1], box), config)
    good = finite & (np.ones_like(finite) if config.max_l2 is None else np.asarray(own.l2) <= config.max_l2)
    for _ in range(MAX_ROUNDS):
        kernel = fit_spatial_kernel(positions, kernels, box, good=good, order=order, kind=config.polynomial)
        spatial = _spatial_quality(kernel, positions, *pair)
        kept = good if config.clip is None else good & ~_outliers(np.asarray(spatial.l2), good, config.clip)
        if (kept == good).all():
            break
        good = kept
    wanted = np.broadcast_to(pair[1], source.shape)
    return kernel, KernelCandidates(positions, cells, pair[0], wanted, kernels, own, spatial, good)


def _kernel_edge(config: MatchConfig, psf_edge: int, box: Box) -> int:
    """Edge of the kernels: the one that was asked for, or the largest odd one that PSFs and image allow."""
    if config.kernel_edge is None:
        return min(psf_edge, (min(box.shape) - 1) | 1)
    check_odd("kernel_edge", config.kernel_edge, psf_edge, "the edge of the PSFs")
    return config.kernel_edge


def _kernels(
    source: Float[np.ndarray, "candidate band n n"],
    target: Float[np.ndarray, "band n n"],
    edge: int,
    config: MatchConfig,
) -> tuple[Float[np.ndarray, "candidate band k k"], KernelQuality]:
    """Kernel of each candidate alone, in double precision."""
    shape = source.shape[:2]
    flat = source.reshape(-1, *source.shape[-2:])
    with jax.enable_x64(True):
        wanted = np.broadcast_to(target, source.shape).reshape(flat.shape)
        kernels, quality, _ = find_kernels(flat, wanted, solver_of(config.solver), edge, 1.0)
    unflat = jax.tree.map(lambda array: np.asarray(array).reshape(*shape, *array.shape[1:]), (kernels, quality))
    return unflat


def _spatial_quality(
    kernel: SpatialKernel,
    positions: Float[np.ndarray, "candidate 2"],
    source: Float[np.ndarray, "candidate band n n"],
    target: Float[np.ndarray, "band n n"],
) -> KernelQuality:
    """How good the spatial kernel is where the candidates are."""
    arrays = (jnp.asarray(values, dtype=float) for values in (source, np.broadcast_to(target, source.shape)))
    return jax.tree.map(np.asarray, kernel_qualities(kernel.at(positions), *arrays))


def _outliers(error: Float[np.ndarray, "candidate band"], good: np.ndarray, clip: float) -> np.ndarray:
    """Candidates whose error is far above that of the others of their band."""
    known = np.where(good, error, np.nan)
    middle = np.nanmedian(known, axis=0)
    spread = 1.4826 * np.nanmedian(np.abs(known - middle), axis=0)
    return error > middle + clip * np.maximum(spread, 0.1 * middle)
