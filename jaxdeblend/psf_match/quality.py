"""How well a kernel takes one PSF to another."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..ops import fft
from ..runtime.host import AnyArray


class KernelQuality(eqx.Module):
    """Figures of a kernel K that should take S to T, with the residual R = K * S - T on the stamp of T.

    Attributes
    ----------
    l2
        ‖R‖ / ‖T‖.
    linf
        Largest absolute R, relative to the maximum of T.
    encircled_energy
        Largest absolute sum of R within any radius: the error of an aperture flux.
    difference
        D = Σ |R| (Aniano et al. 2011, PASP 123, 1218).
    negative_lobe
        W₋ = ½ (Σ |K| - ΣK), the weight of the negative pixels (ibid., who call 0.3 very safe and 1 aggressive).
    noise_gain
        √(ΣK²), by which the kernel multiplies uncorrelated noise.
    largest_gain
        Largest absolute Fourier component of K; above 1 some frequencies are amplified: deconvolved.
    sum_error
        ΣK - 1.

    Examples
    --------
    >>> import jaxdeblend as jd
    >>> jd.match_psf(jd.GaussianPSF(1.5), jd.GaussianPSF(2.0)).quality.l2.shape
    (1,)
    """

    l2: Float[AnyArray, "*band"]
    linf: Float[AnyArray, "*band"]
    encircled_energy: Float[AnyArray, "*band"]
    difference: Float[AnyArray, "*band"]
    negative_lobe: Float[AnyArray, "*band"]
    noise_gain: Float[AnyArray, "*band"]
    largest_gain: Float[AnyArray, "*band"]
    sum_error: Float[AnyArray, "*band"]


def kernel_quality(
    kernel: Float[Array, "k k"],
    source: Float[Array, "n n"],
    target: Float[Array, "n n"],
) -> KernelQuality:
    """Quality of one kernel, a pure function of arrays.

    Parameters
    ----------
    kernel
        Kernel K, odd edge.
    source, target
        PSFs S and T on stamps of the same odd edge.

    Returns
    -------
    KernelQuality
        The figures.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> psf = jnp.zeros((5, 5)).at[2, 2].set(1.0)
    >>> bool(kernel_quality(jnp.ones((1, 1)), psf, psf).l2 < 1e-6)
    True
    """
    residual = convolved(kernel, source) - target
    offset = jnp.arange(target.shape[-1], dtype=target.dtype) - target.shape[-1] // 2
    radius = jnp.hypot(offset[:, None], offset[None, :])
    radii = jnp.arange(1, target.shape[-1] // 2 + 1, dtype=target.dtype)
    enclosed = jnp.sum(jnp.where(radius[None] <= radii[:, None, None], residual[None], 0.0), axis=(-2, -1))
    total, size = kernel.sum(), fft.good_size(2 * kernel.shape[-1])
    return KernelQuality(
        l2=jnp.linalg.norm(residual) / jnp.linalg.norm(target),
        linf=jnp.abs(residual).max() / target.max(),
        encircled_energy=jnp.abs(enclosed).max(initial=0.0),
        difference=jnp.abs(residual).sum(),
        negative_lobe=0.5 * (jnp.abs(kernel).sum() - total),
        noise_gain=jnp.linalg.norm(kernel),
        largest_gain=jnp.abs(jnp.fft.rfft2(kernel, s=(size, size))).max(),
        sum_error=total - 1,
    )


@jax.jit
def kernel_qualities(
    kernels: Float[Array, "candidate band k k"],
    source: Float[Array, "candidate band n n"],
    target: Float[Array, "candidate band n n"],
) -> KernelQuality:
    """Quality of the kernels of many candidates in all bands, see `kernel_quality`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> psfs = jnp.zeros((4, 2, 5, 5)).at[:, :, 2, 2].set(1.0)
    >>> kernel_qualities(jnp.ones((4, 2, 1, 1)), psfs, psfs).l2.shape
    (4, 2)
    """
    return jax.vmap(jax.vmap(kernel_quality))(kernels, source, target)


def convolved(kernel: Float[Array, "k k"], source: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """The full linear convolution K * S on the stamp of S.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> delta = jnp.zeros((3, 3)).at[1, 1].set(1.0)
    >>> bool(jnp.allclose(convolved(delta, jnp.eye(5)), jnp.eye(5), atol=1e-6))
    True
    """
    (n, _), (k, _) = source.shape, kernel.shape
    shape = fft.same_shape((n, n), (k, k))
    return fft.convolve(source, fft.kernel_transform(kernel, (n, n), shape), shape)
