"""Difference kernels: from the PSF of model space to the PSF of each band."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float

from ..ops import fft
from ..runtime.host import AnyArray, device_array
from ..runtime.programs import Program
from .psf import AbstractPSF

DEFAULT_REGULARIZATION = 1e-6
"""λ at which real HSC PSFs are matched to 1e-3 (L2) with a negative lobe of 0.1; plain division rings at 3.5."""


class DifferenceKernel(eqx.Module):
    """Kernel K_b with K_b * M = P_b: it takes the model-space PSF M to the PSF P_b of each band.

    `DifferenceKernel.between` finds the Laplacian-regularised minimum of ||K * M - P||² + λ ||∇² K||², in Fourier space

        K̂ = P̂ M̂* / (|M̂|² + λ |L̂|²),

    on a grid large enough for the full linear convolution. L̂(0) = 0, so that ΣK = 1 exactly before it is cropped to
    `edge`, and it is normalised to that again after.

    Attributes
    ----------
    image
        Kernel of each band, unit sum, odd edge.
    """

    image: Float[AnyArray, "band edge edge"]

    @classmethod
    def between(
        cls,
        model_psf: AbstractPSF,
        psf: AbstractPSF,
        *,
        edge: int | None = None,
        regularization: float = DEFAULT_REGULARIZATION,
    ) -> "DifferenceKernel":
        """Kernel from the PSF of model space to an observed PSF.

        Parameters
        ----------
        model_psf
            PSF of model space (one band, or as many as `psf`).
        psf
            PSF of each band.
        edge
            Odd edge of the kernel; by default that of the observed PSF's stamp.
        regularization
            λ, relative to |M̂(0)|² = 1.

        Returns
        -------
        DifferenceKernel
            One kernel per band.

        Examples
        --------
        >>> import jaxdeblend as jd
        >>> kernel = jd.DifferenceKernel.between(jd.GaussianPSF(0.8), jd.GaussianPSF([1.5, 2.0]))
        >>> kernel.image.shape[0], round(float(kernel.image[0].sum()), 5)
        (2, 1.0)
        """
        edge = psf.edge if edge is None else edge
        model, observed = (
            jnp.asarray(p.stamp(n)) for p, n in ((model_psf, min(edge, model_psf.edge)), (psf, psf.edge))
        )
        return cls(_division(model, observed, edge, device_array(regularization, model.dtype)))

    def applied_to(self, psf: AbstractPSF) -> Float[Array, "band edge edge"]:
        """The PSF of each band that the kernel makes of another PSF.

        Examples
        --------
        >>> import jaxdeblend as jd
        >>> model, seen = jd.GaussianPSF(0.8), jd.GaussianPSF(1.5)
        >>> stamp = jd.DifferenceKernel.between(model, seen).applied_to(model)
        >>> round(float(abs(stamp - seen.stamp(stamp.shape[-1])).max()), 3)
        0.0
        """
        edge = self.image.shape[-1]
        shape = fft.same_shape((edge, edge), (edge, edge))
        stamp = fft.convolve(jnp.asarray(psf.stamp(edge)), self.transform((edge, edge)), shape)
        return stamp / stamp.sum(axis=(-2, -1), keepdims=True)

    def transform(self, frame_shape: tuple[int, int]) -> Complex[Array, "band ky kx"]:
        """Transform for wrap-safe convolution of frames of this shape.

        Parameters
        ----------
        frame_shape
            Shape (y, x) of the images that will be convolved.

        Returns
        -------
        Complex[Array, "band ky kx"]
            Transform for `jaxdeblend.ops.fft.convolve` with the FFT shape of `fft_shape`.

        Examples
        --------
        >>> import jaxdeblend as jd
        >>> kernel = jd.DifferenceKernel.between(jd.GaussianPSF(0.8), jd.GaussianPSF(1.5))
        >>> kernel.transform((32, 32)).shape
        (1, 40, 21)
        """
        return fft.kernel_transform(jnp.asarray(self.image), frame_shape, self.fft_shape(frame_shape))

    def fft_shape(self, frame_shape: tuple[int, int]) -> tuple[int, int]:
        """FFT shape for frames of this shape."""
        edge = self.image.shape[-1]
        return fft.same_shape(frame_shape, (edge, edge))


def regularized_division(
    source: Float[AnyArray, "#band n n"],
    target: Float[AnyArray, "#band m m"],
    edge: int,
    regularization: Float[Array, ""] | float,
    order: int = 1,
    rough: Float[AnyArray, "#band k k"] | None = None,
) -> Float[Array, "_ edge edge"]:
    """K̂ = (T̂ Ŝ* + λ |L̂|² Ĝ) / (|Ŝ|² + λ |L̂|²) of stamps S and T, cropped to `edge` and normalised.

    In place of the Laplacian L̂ its power of the given order: 0, a Wiener filter, 2, the biharmonic operator. G is a
    kernel whose roughness is not penalised; none by default.

    Examples
    --------
    >>> import jaxdeblend as jd
    >>> narrow, wide = (jd.GaussianPSF(sigma).stamp(21) for sigma in (1.2, 1.6))
    >>> regularized_division(narrow, wide, 15, 1e-6).shape
    (1, 15, 15)
    """
    size = fft.good_size(target.shape[-1] + edge)
    grid = (size, size)
    s, t = (fft.kernel_transform(jnp.asarray(psf), grid, grid) for psf in (source, target))
    laplacian = laplacian_transform(size).astype(s.real.dtype)
    penalty = regularization * laplacian[None] ** (2 * order)
    right = t * jnp.conj(s)
    if rough is not None:
        right = right + penalty.astype(s.dtype) * fft.kernel_transform(jnp.asarray(rough), grid, grid)
    transform = right / (jnp.abs(s) ** 2 + penalty).astype(s.dtype)
    kernel = jnp.roll(jnp.fft.irfft2(transform, s=grid), (edge // 2, edge // 2), axis=(-2, -1))
    kernel = kernel[..., :edge, :edge]
    return kernel / kernel.sum(axis=(-2, -1), keepdims=True)


_division = Program(regularized_division)


def laplacian_transform(size: int) -> Float[Array, "ky kx"]:
    """Transform of the five-point Laplacian on a square grid, up to its sign.

    L̂ = 4 - 2 cos(2π ky / N) - 2 cos(2π kx / N).

    Examples
    --------
    >>> float(laplacian_transform(8)[0, 0])
    0.0
    """
    y = 2 - 2 * jnp.cos(2 * jnp.pi * jnp.fft.fftfreq(size))
    x = 2 - 2 * jnp.cos(2 * jnp.pi * jnp.fft.rfftfreq(size))
    return y[:, None] + x[None, :]
