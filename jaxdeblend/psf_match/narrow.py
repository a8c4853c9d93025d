"""Kernels narrower than a pixel: what smoothness has to leave alone.

A penalty on the roughness of a kernel is right where the kernel is sampled well. Between two PSFs of nearly the same
width the kernel is a delta function, or nearly so, which is as rough as can be: penalised, it rings. There the penalty
is put on the difference to the Gaussian between the two widths, integrated over the pixels, a delta for equal widths.
"""

import jax
import jax.numpy as jnp
from jax.scipy.special import erf
from jaxtyping import Array, Float

from ..instrument.psf import SIGMA_TO_FWHM, ImagePSF

SAMPLED = (0.7, 1.0)
"""σ in pixels of a Gaussian kernel: up to the first it is not sampled, from the second on it is (aliases below 1 %)."""

DECONVOLVING = (0.95, 0.98)
"""Ratio of FWHM, target to source: down from the first the kernel deconvolves; from the second on widths are equal."""

SAME = 1e-6
"""Relative difference of two stamps that are the same PSF, but for rounding."""


def narrow_kernel(source: Float[Array, "n n"], target: Float[Array, "n n"], edge: int) -> Float[Array, "k k"]:
    """The Gaussian of σ² = σ_T² - σ_S² where pixels do not sample it, faded out to zero where they do.

    Examples
    --------
    >>> import jaxdeblend as jd
    >>> from jaxdeblend.psf_match.narrow import narrow_kernel
    >>> psf, wide = (jd.GaussianPSF(sigma).stamp(21)[0] for sigma in (1.5, 2.5))
    >>> narrow_kernel(psf, psf, 3).tolist(), float(narrow_kernel(psf, wide, 3).sum())
    ([[0.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]], 0.0)
    """
    fwhm = jax.lax.stop_gradient(ImagePSF(jnp.stack([source, target])).fwhm()).astype(source.dtype)
    sigma = jnp.sqrt(jnp.maximum(fwhm[1] ** 2 - fwhm[0] ** 2, 0.0)) / SIGMA_TO_FWHM
    unsampled = (SAMPLED[1] - sigma) / (SAMPLED[1] - SAMPLED[0])
    blurring = (fwhm[1] / fwhm[0] - DECONVOLVING[0]) / (DECONVOLVING[1] - DECONVOLVING[0])
    weight = jnp.clip(unsampled, 0.0, 1.0) * jnp.clip(blurring, 0.0, 1.0)
    border = (jnp.arange(edge, dtype=source.dtype) - edge // 2)[:, None] + jnp.asarray([-0.5, 0.5], source.dtype)[None]
    # a σ of 0 has the same values on the borders of pixels as a very small one
    integral = erf(border / (jnp.sqrt(2.0).astype(source.dtype) * jnp.maximum(sigma, 1e-3)))
    profile = 0.5 * (integral[:, 1] - integral[:, 0])
    return weight * profile[:, None] * profile[None, :]


def one_if_same(
    kernel: Float[Array, "k k"], source: Float[Array, "n n"], target: Float[Array, "n n"]
) -> Float[Array, "k k"]:
    """The kernel of a solver, or exactly 1 in the middle where both PSFs are the same."""
    same = jnp.linalg.norm(source - target) <= SAME * jnp.linalg.norm(target)
    middle = kernel.shape[-1] // 2
    return jnp.where(same, jnp.zeros_like(kernel).at[middle, middle].set(1.0), kernel)
