"""A spatial kernel applied to an exposure: images, variances, masks and PSF."""

import dataclasses
from typing import Any, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from ..instrument.psf_field import AbstractPSFField
from ..ops import fft
from ..runtime.host import AnyArray
from .quality import convolved
from .spatial import SpatialKernel


@runtime_checkable
class Imaged(Protocol):
    """What an exposure must have; `jaxdeblend.Exposure` is one. A dataclass, so that its copy can have other images."""

    images: Float[np.ndarray, "band y x"]
    variance: Float[np.ndarray, "band y x"]
    mask: Bool[np.ndarray, "band y x"]
    psf: Any
    bands: tuple[str, ...]


E = TypeVar("E", bound=Imaged)


class MatchedPSFField(AbstractPSFField):
    """The PSF that an exposure has after matching: at each position, its kernel times its PSF.

    Parameters
    ----------
    field
        PSF before.
    kernel
        The kernel that was applied.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import jaxdeblend as jd
    >>> wider = jd.SpatialKernel(jd.GaussianPSF(1.2).stamp(13)[:, None], jd.Box((0, 0), (64, 64)), 0)
    >>> field = jd.MatchedPSFField(jd.ConstantPSFField(jd.GaussianPSF(1.6)), wider)
    >>> bool(jnp.allclose(field.at((30, 30)).stamps, jd.GaussianPSF(2.0).stamp(field.edge), atol=2e-3))
    True
    """

    field: AbstractPSFField
    kernel: SpatialKernel

    def __init__(self, field: AbstractPSFField, kernel: SpatialKernel):
        self.field, self.kernel = field, kernel

    @property
    def edge(self) -> int:
        """Edge of the PSF before, or of the kernel if that is larger."""
        return max(self.field.edge, self.kernel.edge)

    @property
    def n_bands(self) -> int:
        """Number of bands."""
        return self.kernel.n_bands

    def stamps(self, positions: Float[AnyArray, "position 2"]) -> Float[AnyArray, "position band edge edge"]:
        """K * S at each position."""
        before = jnp.asarray(resized(jnp.asarray(self.field.stamps(positions)), self.edge))
        kernels = self.kernel.at(positions).astype(before.dtype)
        before = jnp.broadcast_to(before, (*kernels.shape[:2], self.edge, self.edge))
        after = jax.vmap(jax.vmap(convolved))(kernels, before)
        return after / after.sum(axis=(-2, -1), keepdims=True)


def convolved_exposure(exposure: E, kernel: SpatialKernel, psf: AbstractPSFField, share: float) -> E:
    """An exposure, convolved.

    Variances are convolved with K². A pixel is masked where unusable ones, or those beyond the border, carry more than
    a share of its kernel; they count as zero.

    Parameters
    ----------
    exposure
        The exposure.
    kernel
        The kernel.
    psf
        PSF that it has then.
    share
        Largest share of Σ|K| that may fall on unusable pixels.

    Returns
    -------
    E
        The same with other images, variance, mask and PSF.

    Examples
    --------
    >>> import numpy as np
    >>> import jaxdeblend as jd
    >>> from jaxdeblend.psf_match.apply import convolved_exposure
    >>> exposure = jd.Exposure(np.ones((1, 32, 32)), [1.0], jd.GaussianPSF(1.5), bands=["r"])
    >>> kernel = jd.SpatialKernel(np.full((1, 1, 3, 3), 1 / 9), jd.Box((0, 0), (32, 32)), 0)
    >>> smooth = convolved_exposure(exposure, kernel, jd.ConstantPSFField(jd.GaussianPSF(1.7)), 1e-3)
    >>> round(float(smooth.variance[0, 16, 16]), 3), int(smooth.mask.sum())
    (0.111, 124)
    """
    usable = ~exposure.mask
    images = kernel.convolve(np.where(usable, exposure.images, 0.0).astype(exposure.images.dtype))
    variance = kernel.squared().convolve(np.where(usable, exposure.variance, 0.0).astype(exposure.variance.dtype))
    spread = np.asarray(variance)
    mask = _grown(exposure.mask, kernel, share) | ~(spread > 0)
    changes = {"images": np.asarray(images), "variance": spread, "mask": mask, "psf": psf}
    return dataclasses.replace(exposure, **changes)  # type: ignore[type-var]


def _grown(mask: Bool[np.ndarray, "band y x"], kernel: SpatialKernel, share: float) -> Bool[np.ndarray, "band y x"]:
    """Pixels more than a share of whose kernel falls on masked ones, or beyond the border."""
    corners = np.asarray(kernel.box.start) + np.asarray(kernel.box.shape) * np.indices((3, 3)).reshape(2, -1).T / 2
    weight = jnp.abs(kernel.at(corners)).max(axis=0)
    weight = weight / weight.sum(axis=(-2, -1), keepdims=True)
    half = kernel.edge // 2
    padded = np.pad(mask, ((0, 0), (half, half), (half, half)), constant_values=True).astype(weight.dtype)
    covered = _convolved_with(jnp.asarray(padded), weight)[:, half : half + mask.shape[1], half : half + mask.shape[2]]
    return np.asarray(covered > share)


@jax.jit
def _convolved_with(images: Array, kernels: Array) -> Float[Array, "band y x"]:
    frame = (images.shape[1], images.shape[2])
    shape = fft.same_shape(frame, (kernels.shape[1], kernels.shape[2]))
    return fft.convolve(images, fft.kernel_transform(kernels, frame, shape), shape)


def resized(stamps: AnyArray, edge: int) -> AnyArray:
    """Stamps padded with zeros or cropped to another odd edge, about their middle pixels.

    Examples
    --------
    >>> import numpy as np
    >>> from jaxdeblend.psf_match.apply import resized
    >>> resized(np.ones((2, 5, 5)), 3).shape
    (2, 3, 3)
    """
    margin = (edge - stamps.shape[-1]) // 2
    if margin < 0:
        return stamps[..., -margin:margin, -margin:margin]
    xp = jnp if isinstance(stamps, jax.Array) else np
    return xp.pad(stamps, [(0, 0)] * (stamps.ndim - 2) + [(margin, margin)] * 2)
