"""From two PSFs to the kernels between them, checked."""

import contextlib
import warnings
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from ..instrument.host import AnyArray, default_dtype
from ..instrument.kernel import DEFAULT_REGULARIZATION, DifferenceKernel
from ..instrument.psf import AbstractPSF, ImagePSF
from .quality import KernelQuality, kernel_quality
from .solvers import SOLVERS

LARGEST_GAIN = 1.5
"""Largest Fourier component of a kernel above which it is said to deconvolve."""

LARGEST_LOBE = 1.0
"""Weight of its negative pixels from which on it is said to."""

SAFE_LOBE = 0.3
"""The same up to which a kernel is very safe (Aniano et al. 2011): what ``regularization="auto"`` keeps to."""

STRENGTHS = (-12.0, 0.0)
"""Range of log λ for ``regularization="auto"``."""


class MatchedKernels(eqx.Module):
    """Kernels from one PSF to another, and how good they are.

    Attributes
    ----------
    kernel
        The kernels; an `Observation` takes them as they are.
    quality
        Figures of each band, for the kernel of unit sum.
    regularization
        λ of each band.

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


def match_psf(
    source: AbstractPSF | object,
    target: AbstractPSF | object,
    *,
    method: str = "lsq",
    edge: int | None = None,
    regularization: float | str = DEFAULT_REGULARIZATION,
    kernel_sum: float = 1.0,
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
        ``"lsq"``, `jaxdeblend.psf_match.solvers.least_squares`, or ``"fourier"``.
    edge
        Odd edge of the kernels; by default that of the larger stamp, and at most that.
    regularization
        λ; ``"auto"``: the smallest that keeps the weight of the negative pixels at 0.3 or less.
    kernel_sum
        Sum of each kernel, K * source = kernel_sum · target.
    allow_deconvolution
        Whether a kernel may amplify noise, as from a wider PSF to a narrower one.

    Returns
    -------
    MatchedKernels
        Kernels and their quality.

    Raises
    ------
    ValueError
        If PSFs have an even edge, a NaN, a sum that is not positive or other numbers of bands; if the kernel is larger
        than the PSFs; if it deconvolves and may not.

    Examples
    --------
    >>> import jaxdeblend as jd
    >>> matched = jd.match_psf(jd.GaussianPSF(1.5), jd.GaussianPSF(2.5), regularization=1e-8)
    >>> round(float(jd.ImagePSF(matched.kernel.image).fwhm()[0]) / 2.355, 1)
    2.0
    """
    psfs = [psf if isinstance(psf, AbstractPSF) else ImagePSF(psf) for psf in (source, target)]
    edge = _check_options(psfs, method, edge, regularization)
    stamps = [_stamps(psf, max(p.edge for p in psfs)) for psf in psfs]
    concrete = not any(isinstance(stamp, Tracer) for stamp in stamps)
    with jax.enable_x64(True) if concrete else contextlib.nullcontext():
        if concrete:
            stamps = [np.asarray(stamp, np.float64) for stamp in stamps]
            stamps = [stamp / stamp.sum(axis=(-2, -1), keepdims=True) for stamp in stamps]
        matched = _matched(stamps[0], stamps[1], method, edge, regularization, kernel_sum)
    if concrete:
        _check_result(matched[1], allow_deconvolution)
        matched = jax.tree.map(lambda array: jnp.asarray(np.asarray(array), default_dtype()), matched)
    image, quality, strength = matched
    return MatchedKernels(DifferenceKernel(image), quality, strength)


@eqx.filter_jit
def _matched(
    source: Float[AnyArray, "#band n n"],
    target: Float[AnyArray, "#band n n"],
    method: str,
    edge: int,
    regularization: float | str,
    kernel_sum: float,
) -> tuple[Float[Array, "_ k k"], KernelQuality, Float[Array, " _"]]:
    """Kernels, their quality and λ, one band after the other: the normal matrix of one is large."""

    def one(pair: tuple[Array, Array]) -> tuple[Array, KernelQuality, Array]:
        s, t = pair

        def solve(strength: Array) -> Array:
            return SOLVERS[method](s, t, edge, strength)

        strength = _smallest_safe(solve) if isinstance(regularization, str) else regularization
        strength = jnp.asarray(strength, s.dtype)
        kernel = solve(strength)
        return kernel_sum * kernel, kernel_quality(kernel, s, t), strength

    return jax.lax.map(one, tuple(jnp.broadcast_arrays(source, target)))


def _smallest_safe(solve: Callable[[Array], Array]) -> Float[Array, ""]:
    """The smallest λ with W₋ <= `SAFE_LOBE`, within a few per cent, by bisection of its logarithm."""

    def halve(_: Array, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = 0.5 * (low + high)
        kernel = solve(10**middle)
        safe = 0.5 * (jnp.abs(kernel).sum() - kernel.sum()) <= SAFE_LOBE
        return jnp.where(safe, low, middle), jnp.where(safe, middle, high)

    bounds = tuple(jnp.asarray(value, dtype=float) for value in STRENGTHS)
    return 10 ** jax.lax.fori_loop(0, 10, halve, bounds)[1]


def _stamps(psf: AbstractPSF, edge: int) -> Float[AnyArray, "band n n"]:
    """Stamps of a common edge, padded with zeros from the natural one."""
    stamps = psf.stamp(psf.edge)
    margin = (edge - psf.edge) // 2
    xp = jnp if isinstance(stamps, jax.Array) else np
    return xp.pad(stamps, ((0, 0), (margin, margin), (margin, margin)))


def _check_options(psfs: list[AbstractPSF], method: str, edge: int | None, regularization: float | str) -> int:
    """The edge of the kernel, if all is well."""
    if method not in SOLVERS:
        raise ValueError(f"method: got {method!r}; give one of {', '.join(map(repr, SOLVERS))}.")
    if regularization != "auto" and (isinstance(regularization, str) or not regularization > 0):
        raise ValueError(f'regularization: got {regularization!r}; give a positive number, or "auto".')
    bands = {psf.n_bands for psf in psfs} - {1}
    if len(bands) > 1:
        raise ValueError(f"target: got {psfs[1].n_bands} bands for a source of {psfs[0].n_bands}; give as many, or 1.")
    largest = max(psf.edge for psf in psfs)
    edge = largest if edge is None else edge
    if edge < 1 or edge % 2 == 0 or edge > largest:
        raise ValueError(f"edge: got {edge}; give an odd number of pixels up to {largest}, the edge of the PSFs.")
    return edge


def _check_result(quality: KernelQuality, allow_deconvolution: bool) -> None:
    """Refuse kernels that deconvolve, and warn of those that are cut off."""
    gain, lobe, noise = (np.asarray(q) for q in (quality.largest_gain, quality.negative_lobe, quality.noise_gain))
    if not allow_deconvolution and ((gain > LARGEST_GAIN) | (lobe > LARGEST_LOBE)).any():
        raise ValueError(
            f"target: the kernel would deconvolve (largest gain {np.round(gain, 2)}, negative lobe "
            f"{np.round(lobe, 2)}, noise gain {np.round(noise, 2)}); choose a broader target, a larger edge or a "
            "stronger regularization, or pass allow_deconvolution=True."
        )
    error = np.asarray(quality.encircled_energy)
    if (error > 0.01).any():
        warnings.warn(
            f"match_psf: the kernels leave {np.round(error, 3)} of the encircled energy; a larger edge or a weaker "
            "regularization would do better.",
            stacklevel=3,
        )
