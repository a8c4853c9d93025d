"""Noise made white again after an image was convolved and subtracted."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from ..ops import fft
from ..runtime.host import AnyArray
from .options import check_odd


def decorrelation_kernel(
    kernel: Float[AnyArray, "*batch k k"],
    convolved_variance: Float[AnyArray, "*#batch"] | float,
    other_variance: Float[AnyArray, "*#batch"] | float,
    edge: int,
) -> Float[Array, "*batch edge edge"]:
    """Kernel D that makes the noise of J - K * I white, of the variance σ_J² + (ΣK)² σ_I².

    D̂ = √[(σ_J² + K̂(0)² σ_I²) / (σ_J² + |K̂|² σ_I²)],

    cropped and normalised to D̂(0) = 1, which conserves flux (Kaiser 2001; Reiss & Lupton 2016, DMTN-021). The PSF of
    the difference becomes D times that of J.

    Parameters
    ----------
    kernel
        K, odd edge.
    convolved_variance, other_variance
        σ_I² of the image that was convolved, before, and σ_J² of the other.
    edge
        Odd edge of D.

    Returns
    -------
    Float[Array, "*batch edge edge"]
        D, unit sum.

    Raises
    ------
    ValueError
        If an edge is even.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import jaxdeblend as jd
    >>> whitening = decorrelation_kernel(jd.GaussianPSF(1.5).stamp(15), 1.0, 1.0, 15)
    >>> bool(whitening[0, 7, 7] > 1), bool(whitening[0, 7, 8] < 0)
    (True, True)
    """
    check_odd("edge", edge)
    kernel = jnp.asarray(kernel, dtype=float)
    check_odd("kernel", kernel.shape[-1])
    size = fft.good_size(2 * max(edge, kernel.shape[-1]))
    power = jnp.abs(fft.kernel_transform(kernel, (size, size), (size, size))) ** 2
    own, other = (
        jnp.asarray(variance, dtype=float)[..., None, None] for variance in (convolved_variance, other_variance)
    )
    own, other = (variance.reshape((1,) * (power.ndim - variance.ndim) + variance.shape) for variance in (own, other))
    total = kernel.sum(axis=(-2, -1), keepdims=True)
    spectrum = jnp.sqrt((other + total**2 * own) / (other + power * own))
    image = jnp.fft.irfft2(spectrum, s=(size, size))
    cropped = jnp.roll(image, (edge // 2, edge // 2), axis=(-2, -1))[..., :edge, :edge]
    return cropped / cropped.sum(axis=(-2, -1), keepdims=True)
