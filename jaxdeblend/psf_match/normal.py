"""The least-squares problem that all kernels of free pixels solve."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ..instrument.kernel import laplacian_transform
from ..ops import fft
from .narrow import narrow_kernel

MAX_ITERATIONS = 500
"""Of conjugate gradients; real PSFs need some hundred."""


class NormalEquations(eqx.Module):
    """What there is to know of S and T for the minimum of ‖K * S - T‖² + λ ‖∇²(K - G)‖², with G of `narrow_kernel`.

    The matrix S ⋆ S + λ ∇²∇² depends on the difference of two pixels only: it is applied by FFTs, and solved by
    conjugate gradients that are preconditioned with its inverse on a periodic grid.

    Attributes
    ----------
    power
        Transform of the matrix on that grid.
    right
        Right side S ⋆ T + λ ∇²∇²G.
    target
        T on the pixels of the kernel.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import jaxdeblend as jd
    >>> from jaxdeblend.psf_match.normal import NormalEquations
    >>> narrow, wide = (jd.GaussianPSF(sigma).stamp(21)[0] for sigma in (1.2, 1.6))
    >>> system = NormalEquations.of(narrow, wide, 15, 1e-6)
    >>> round(float(system.constrained(jnp.ones((15, 15), bool)).sum()), 5)
    1.0
    """

    power: Float[Array, "ky kx"]
    right: Float[Array, "k k"]
    target: Float[Array, "k k"]

    @classmethod
    def of(
        cls,
        source: Float[Array, "n n"],
        target: Float[Array, "n n"],
        edge: int,
        regularization: Float[Array, ""] | float,
    ) -> "NormalEquations":
        """The system of two PSFs on stamps of the same odd edge, for kernels of another."""
        size = fft.good_size(source.shape[-1] + edge)
        s, t = (fft.kernel_transform(psf, (size, size), (size, size)) for psf in (source, target))
        penalty = regularization * laplacian_transform(size).astype(source.dtype) ** 2
        rough = fft.kernel_transform(narrow_kernel(source, target, edge), (size, size), (size, size))
        power, seen = jnp.abs(s) ** 2 + penalty, t * jnp.conj(s) + penalty.astype(s.dtype) * rough
        right, cropped = (_cropped(jnp.fft.irfft2(x, s=(size, size)), edge) for x in (seen, t))
        return cls(power, right, cropped)

    @property
    def edge(self) -> int:
        """Edge of the kernel."""
        return self.right.shape[-1]

    def gradient(self, kernel: Float[Array, "k k"]) -> Float[Array, "k k"]:
        """Half of the gradient of the sum of squares."""
        return self._times(self.power, kernel) - self.right

    def constrained(self, support: Bool[Array, "k k"]) -> Float[Array, "k k"]:
        """The minimum with ΣK = 1 among the kernels that are zero outside the support."""
        free, constant = (self._solved(jnp.where(support, x, 0.0), support) for x in (self.right, 1.0))
        return free + constant * (1 - free.sum()) / constant.sum()

    def _solved(self, right: Float[Array, "k k"], support: Bool[Array, "k k"]) -> Float[Array, "k k"]:
        def masked(transform: Array) -> Callable[[Array], Array]:
            # The identity outside the support keeps the matrix regular, which derivatives of the solution need.
            return lambda x: jnp.where(support, self._times(transform, jnp.where(support, x, 0.0)), x)

        tolerance = float(jnp.finfo(right.dtype).eps) ** 0.75
        found, _ = jax.scipy.sparse.linalg.cg(
            masked(self.power), right, M=masked(1 / self.power), tol=tolerance, maxiter=MAX_ITERATIONS
        )
        return jnp.where(support, found, 0.0)

    def _times(self, transform: Float[Array, "ky kx"], kernel: Float[Array, "k k"]) -> Float[Array, "k k"]:
        size = transform.shape[0]
        spectrum = fft.kernel_transform(kernel, (size, size), (size, size))
        return _cropped(jnp.fft.irfft2(spectrum * transform.astype(spectrum.dtype), s=(size, size)), self.edge)


def _cropped(image: Float[Array, "n n"], edge: int) -> Float[Array, "k k"]:
    """Square of odd edge about the origin of a periodic image."""
    return jnp.roll(image, (edge // 2, edge // 2), axis=(0, 1))[:edge, :edge]
