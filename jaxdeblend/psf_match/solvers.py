"""Solvers: kernels K with K * S = T for one pair of PSFs, to be lifted over bands and positions.

All speak of true convolution, (K * S)(p) = Σ_q K(q) S(p - q), with the kernel's centre on its middle pixel.
"""

import abc
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..instrument.kernel import DEFAULT_REGULARIZATION, regularized_division
from ..runtime.host import AnyArray
from .narrow import narrow_kernel
from .normal import NormalEquations

SAFE_LOBE = 0.3
"""Weight of the negative pixels up to which a kernel is very safe (Aniano et al. 2011): what ``"auto"`` keeps to."""

STRENGTHS = (-12.0, 0.0)
"""Range of log λ for ``"auto"``."""


class Solution(eqx.Module):
    """What a solver found.

    Attributes
    ----------
    kernel
        Kernel K of unit sum.
    regularization
        Strength λ of its regularization, 0 for a solver without.

    Examples
    --------
    >>> import jaxdeblend as jd
    >>> narrow, wide = (jd.GaussianPSF(sigma).stamp(21)[0] for sigma in (1.2, 1.6))
    >>> jd.LeastSquares().solve(narrow, wide, 15).kernel.shape
    (15, 15)
    """

    kernel: Float[AnyArray, "k k"]
    regularization: Float[AnyArray, ""]


class AbstractSolver(eqx.Module):
    """A way to find the kernel between two PSFs.

    To add a solver, subclass this; `match_psf` takes it as its `method`, for all bands, with the same checks and the
    same figures of quality.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import jaxdeblend as jd
    >>> from jaxdeblend.psf_match import Solution
    >>> class Quadrature(jd.AbstractSolver):  # what has to be done to widths, were both PSFs Gaussian
    ...     def solve(self, source, target, edge):
    ...         offset = jnp.arange(source.shape[-1], dtype=source.dtype) - source.shape[-1] // 2
    ...         variance = [(psf.sum(0) * offset**2).sum() for psf in (source, target)]
    ...         sigma = jnp.sqrt(variance[1] - variance[0])
    ...         return Solution(jd.GaussianPSF(sigma).stamp(edge)[0], jnp.zeros_like(sigma))
    >>> matched = jd.match_psf(jd.GaussianPSF(1.5), jd.GaussianPSF(2.5), method=Quadrature())
    >>> bool(matched.quality.l2[0] < 0.01)
    True
    """

    @abc.abstractmethod
    def solve(self, source: Float[Array, "n n"], target: Float[Array, "n n"], edge: int) -> Solution:
        """Find the kernel of one pair.

        Parameters
        ----------
        source, target
            PSFs S and T of unit sum on stamps of the same odd edge.
        edge
            Odd edge k of the kernel.

        Returns
        -------
        Solution
            The kernel, of unit sum.
        """


class LeastSquares(AbstractSolver):
    """Every pixel of the kernel is free: the minimum of ‖K * S - T‖² + λ ‖∇²K‖² with ΣK = 1.

    Where the kernel is narrower than about a pixel, the penalty is on its difference to the Gaussian between the two
    widths (`jaxdeblend.psf_match.narrow`): a target of the same width gives a kernel of 1 in the middle pixel.

    The convolution is the full linear one, and ∇² is the five-point Laplacian of the kernel continued by zeros: were
    its border free, the noiseless kernel between two Gaussians would fit to 1e-6 and be useless (W₋ of 190). Solved by
    conjugate gradients that begin where `Fourier` stops, see `NormalEquations`; a Lagrange multiplier keeps the sum.

    Parameters
    ----------
    regularization
        λ; ``"auto"``: the smallest that keeps the weight of the negative pixels at 0.3 or less.

    Raises
    ------
    ValueError
        If λ is not positive.

    Examples
    --------
    >>> import jaxdeblend as jd
    >>> matched = jd.match_psf(jd.GaussianPSF(1.5), jd.GaussianPSF(2.5), method=jd.LeastSquares(1e-8))
    >>> bool(matched.quality.l2[0] < 1e-4)
    True
    """

    regularization: float | str = eqx.field(static=True, default=DEFAULT_REGULARIZATION)

    def __check_init__(self) -> None:
        _check_strength(self.regularization)

    def solve(self, source: Float[Array, "n n"], target: Float[Array, "n n"], edge: int) -> Solution:
        """Kernel by conjugate gradients."""
        return _with_strength(self.regularization, source, lambda x: least_squares(source, target, edge, x))


class Fourier(AbstractSolver):
    """The same minimum on a periodic grid, K̂ = T̂ Ŝ* / (|Ŝ|² + λ |L̂|²), cropped to the kernel's edge.

    One division; as good as `LeastSquares` where the kernel is as large as the PSFs, and several times worse where it
    is cropped (r to g of HSC at 21 pixels: an error of 1.2e-2 for 2.6e-3).

    Parameters
    ----------
    regularization
        As for `LeastSquares`.
    order
        Power of the Laplacian L̂: 0 makes it a Wiener filter, 2 the biharmonic one.
    taper
        Number of pixels at the border of the stamps over which both PSFs are brought down to zero, by a cosine: a PSF
        that is cut off while it still shines rings. Its flux there is lost, and made up for by the unit sum. By default
        an eighth of the edge.

    Raises
    ------
    ValueError
        If λ is not positive, or the order or the taper negative.

    Examples
    --------
    >>> import jaxdeblend as jd
    >>> matched = jd.match_psf(jd.GaussianPSF(1.5), jd.GaussianPSF(2.5), method=jd.Fourier(1e-8))
    >>> bool(matched.quality.l2[0] < 1e-2)
    True
    """

    regularization: float | str = eqx.field(static=True, default=DEFAULT_REGULARIZATION)
    order: int = eqx.field(static=True, default=1)
    taper: int | None = eqx.field(static=True, default=None)

    def __check_init__(self) -> None:
        _check_strength(self.regularization)
        if self.order < 0:
            raise ValueError(f"order: got {self.order}; give 0 (Wiener), 1 (Laplacian) or 2 (biharmonic).")
        if self.taper is not None and self.taper < 0:
            raise ValueError(f"taper: got {self.taper}; give a number of pixels, 0 for none.")

    def solve(self, source: Float[Array, "n n"], target: Float[Array, "n n"], edge: int) -> Solution:
        """Kernel by division."""
        taper = source.shape[-1] // 8 if self.taper is None else self.taper
        s, t = (_tapered(psf, taper)[None] for psf in (source, target))
        rough = narrow_kernel(source, target, edge)[None]
        return _with_strength(
            self.regularization, source, lambda x: regularized_division(s, t, edge, x, self.order, rough)[0]
        )


def least_squares(
    source: Float[Array, "n n"],
    target: Float[Array, "n n"],
    edge: int,
    regularization: Float[Array, ""] | float,
) -> Float[Array, "k k"]:
    """The kernel of `LeastSquares`, a pure function of arrays.

    Parameters
    ----------
    source, target
        PSFs S and T on stamps of the same odd edge.
    edge
        Odd edge k of the kernel.
    regularization
        λ.

    Returns
    -------
    Float[Array, "k k"]
        The kernel.

    Examples
    --------
    >>> import jaxdeblend as jd
    >>> narrow, wide = (jd.GaussianPSF(sigma).stamp(21)[0] for sigma in (1.2, 1.6))
    >>> round(float(least_squares(narrow, wide, 15, 1e-6).sum()), 5)
    1.0
    """
    system = NormalEquations.of(source, target, edge, regularization)
    return system.constrained(jnp.ones((edge, edge), bool))


def _with_strength(strength: float | str, like: Array, solve: Callable[[Array], Array]) -> Solution:
    """Solution with a λ that is given, or found."""
    chosen = _smallest_safe(solve, like) if isinstance(strength, str) else jnp.asarray(strength, like.dtype)
    return Solution(solve(chosen), chosen)


def _smallest_safe(solve: Callable[[Array], Array], like: Array) -> Float[Array, ""]:
    """The smallest λ with W₋ <= `SAFE_LOBE`, within a few per cent, by bisection of its logarithm."""

    def halve(_: Array, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = 0.5 * (low + high)
        kernel = solve(10**middle)
        safe = 0.5 * (jnp.abs(kernel).sum() - kernel.sum()) <= SAFE_LOBE
        return jnp.where(safe, low, middle), jnp.where(safe, middle, high)

    low, high = (jnp.asarray(value, like.dtype) for value in STRENGTHS)
    return 10 ** jax.lax.fori_loop(0, 10, halve, (low, high))[1]


def _tapered(psf: Float[Array, "n n"], width: int) -> Float[Array, "n n"]:
    """PSF times a cosine from 1 to 0 over the outermost pixels, of unit sum."""
    if width == 0:
        return psf
    edge = psf.shape[-1]
    from_border = jnp.minimum(jnp.arange(edge), jnp.arange(edge)[::-1]).astype(psf.dtype)
    window = 0.5 - 0.5 * jnp.cos(jnp.pi * jnp.minimum((from_border + 1) / (width + 1), 1.0))
    tapered = psf * window[:, None] * window[None, :]
    return tapered / tapered.sum()


def _check_strength(strength: float | str) -> None:
    if strength != "auto" and (isinstance(strength, str) or not 0 < strength < float("inf")):
        raise ValueError(f'regularization: got {strength!r}; give a positive number, or "auto".')
