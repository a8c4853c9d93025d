"""From two PSFs to the kernels between them, checked."""

import contextlib

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from ..instrument.kernel import DifferenceKernel
from ..instrument.psf import AbstractPSF, ImagePSF
from ..runtime.host import AnyArray, default_dtype
from .basis import DeltaBasis, GaussianBasis
from .checks import check_psfs, check_quality, recentered
from .narrow import one_if_same
from .options import check_kernel_sum, check_odd
from .quality import KernelQuality, kernel_quality
from .solvers import AbstractSolver, Fourier, LeastSquares, Solution
from .sparse import Sparse

SOLVERS = {
    "lsq": LeastSquares(),
    "fourier": Fourier(),
    "sparse": Sparse(),
    "basis": GaussianBasis(),
    "delta": DeltaBasis(),
}
"""Solvers that have a name, with their default settings."""

NARROWER = 0.98
"""Ratio of a target's FWHM to its source's from which down it is narrower; widths of images are known to 1 %."""


class MatchedKernels(eqx.Module):
    """Kernels from one PSF to another, and how good they are.

    Attributes
    ----------
    kernel
        The kernels; an `Observation` takes them as they are.
    quality
        Figures of each band, for the kernel of unit sum.
    regularization
        λ of each band, 0 for a solver without.
    psf_edges
        Edges of the stamps of source and target, as they came; the smaller ones were padded with zeros.

    Examples
    --------
    >>> import jaxdeblend as jd
    >>> matched = jd.match_psf(jd.GaussianPSF(0.8), jd.GaussianPSF([1.5, 2.0]))
    >>> matched.kernel.image.shape[0], bool((matched.quality.l2 < 1e-3).all())
    (2, True)
    """

    kernel: DifferenceKernel
    quality: KernelQuality
    regularization: Float[AnyArray, " band"]
    psf_edges: tuple[int, int] | None = eqx.field(static=True, default=None)


def match_psf(
    source: AbstractPSF | object,
    target: AbstractPSF | object,
    *,
    method: str | AbstractSolver = "lsq",
    edge: int | None = None,
    kernel_sum: float = 1.0,
    recenter: bool = False,
    allow_deconvolution: bool = False,
) -> MatchedKernels:
    """Find the kernels K with K * source = target, one for each band.

    Computed in double precision, whatever JAX's default; inside a transformation (`jax.jit`, `jax.grad`), in that of
    the arrays, and without the checks of values.

    Parameters
    ----------
    source, target
        PSFs, or stamps (band, y, x) or (y, x) of odd edge; one band stands for all. Smaller stamps are padded with
        zeros.
    method
        A solver such as ``LeastSquares(1e-8)`` or one of your own, or the name of one with its default settings:
        ``"lsq"`` (`LeastSquares`), ``"fourier"`` (`Fourier`), ``"sparse"`` (`Sparse`), ``"basis"`` (`GaussianBasis`) or
        ``"delta"`` (`DeltaBasis`).
    edge
        Odd edge of the kernels; by default that of the larger stamp, and at most that.
    kernel_sum
        Sum of each kernel, K * source = kernel_sum · target; positive and finite.
    recenter
        Whether both PSFs are first moved so that the centroids of their cores are in the middle. Else the kernel takes
        up what they are apart, and a warning tells if that is more than 0.2 pixels.
    allow_deconvolution
        Whether a kernel may amplify noise, as from a wider PSF to a narrower one.

    Returns
    -------
    MatchedKernels
        Kernels and their quality.

    Raises
    ------
    ValueError
        If PSFs have an even edge, a NaN, a sum that is not positive or other numbers of bands; if the kernel's edge is
        even or larger than the PSFs; if its sum is not positive and finite; if it deconvolves and may not.

    Examples
    --------
    >>> import jaxdeblend as jd
    >>> matched = jd.match_psf(jd.GaussianPSF(1.5), jd.GaussianPSF(2.5), method=jd.LeastSquares(1e-8))
    >>> round(float(jd.ImagePSF(matched.kernel.image).fwhm()[0]) / 2.355, 1)
    2.0
    """
    check_kernel_sum(kernel_sum)
    psfs = [psf if isinstance(psf, AbstractPSF) else ImagePSF(psf) for psf in (source, target)]
    solver = solver_of(method)
    edge = _check_options(psfs, edge)
    stamps = [stamps_of(psf, max(p.edge for p in psfs)) for psf in psfs]
    concrete = not any(isinstance(stamp, Tracer) for stamp in stamps)
    with jax.enable_x64(True) if concrete else contextlib.nullcontext():
        if concrete:
            stamps = [_on_host(stamp, recenter) for stamp in stamps]
            check_psfs(*stamps, recentered=recenter)
        matched = find_kernels(stamps[0], stamps[1], solver, edge, kernel_sum)
    if concrete:
        # both as they are sampled: the FWHM that a profile states is that before the pixel
        widths = [np.asarray(ImagePSF(stamp).fwhm()) for stamp in stamps]
        narrower = bool((widths[1] < NARROWER * widths[0]).any())
        check_quality(matched[1], allow_deconvolution=allow_deconvolution, narrower=narrower)
        matched = jax.tree.map(lambda array: jnp.asarray(np.asarray(array), default_dtype()), matched)
    image, quality, strength = matched
    return MatchedKernels(DifferenceKernel(image), quality, strength, (psfs[0].edge, psfs[1].edge))


def _on_host(stamps: AnyArray, recenter: bool) -> Float[np.ndarray, "band n n"]:
    """Stamps in double precision, of unit sum."""
    double = np.asarray(stamps, np.float64)
    double = double / double.sum(axis=(-2, -1), keepdims=True)
    return recentered(double) if recenter else double


@eqx.filter_jit
def find_kernels(
    source: Float[AnyArray, "#band n n"],
    target: Float[AnyArray, "#band n n"],
    solver: AbstractSolver,
    edge: int,
    kernel_sum: float,
) -> tuple[Float[AnyArray, "_ k k"], KernelQuality, Float[AnyArray, " _"]]:
    """Kernels, their quality and λ."""

    def one(source: Array, target: Array) -> tuple[Solution, KernelQuality]:
        solution = solver.solve(source, target, edge)
        kernel = one_if_same(jnp.asarray(solution.kernel), source, target)
        return Solution(kernel, solution.regularization), kernel_quality(kernel, source, target)

    pairs = tuple(jnp.broadcast_arrays(source, target))
    if jax.default_backend() == "cpu":  # one after the other: each fits the caches, and none waits for the slowest
        solutions, quality = jax.lax.map(lambda pair: one(*pair), pairs)
    else:
        solutions, quality = jax.vmap(one)(*pairs)
    return kernel_sum * solutions.kernel, quality, solutions.regularization


def stamps_of(psf: AbstractPSF, edge: int) -> Float[AnyArray, "band n n"]:
    """Stamps of a common edge, padded with zeros from the natural one."""
    stamps = psf.stamp(psf.edge)
    margin = (edge - psf.edge) // 2
    xp = jnp if isinstance(stamps, jax.Array) else np
    return xp.pad(stamps, ((0, 0), (margin, margin), (margin, margin)))


def solver_of(method: str | AbstractSolver, name: str = "method") -> AbstractSolver:
    """The solver of a name, or the solver itself.

    Examples
    --------
    >>> solver_of("lsq").regularization
    1e-06
    """
    if isinstance(method, AbstractSolver):
        return method
    if method not in SOLVERS:
        raise ValueError(f"{name}: got {method!r}; give a solver, or one of {', '.join(map(repr, SOLVERS))}.")
    return SOLVERS[method]


def _check_options(psfs: list[AbstractPSF], edge: int | None) -> int:
    """The edge of the kernel, if all is well."""
    bands = {psf.n_bands for psf in psfs} - {1}
    if len(bands) > 1:
        raise ValueError(f"target: got {psfs[1].n_bands} bands for a source of {psfs[0].n_bands}; give as many, or 1.")
    largest = max(psf.edge for psf in psfs)
    edge = largest if edge is None else edge
    check_odd("edge", edge, largest, "the edge of the PSFs")
    return edge
