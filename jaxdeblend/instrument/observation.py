"""Observation: the pixels, weights and PSFs of one blend in several bands."""

from statistics import NormalDist

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Complex, Float, Int

from ..ops import fft
from ..runtime.host import AnyArray, default_dtype, host_or_device
from ..runtime.inputs import images_and_variance, plain_mask, plain_numbers
from ..runtime.programs import Program
from .kernel import DifferenceKernel
from .point_spread import PointSpread
from .psf import AbstractPSF, GaussianPSF, ImagePSF

MARGIN = 5
"""Pixels by which models reach beyond the images: light from just outside that the PSF brings in is part of them."""

MODEL_SIGMA = 0.8
"""σ in pixels of the circular Gaussian PSF of model space, unless a PSF is nearly as narrow."""

NARROWER = 0.9
"""Largest σ of model space in units of that of the narrowest PSF, as difference kernels have to broaden."""

SMALLEST_SIGMA = 0.55
"""Smallest σ of model space in pixels: stamps of what is still narrower cannot be moved by fractions of a pixel."""

HIGHEST = 0.99
"""Largest maximum of a PSF whose σ is asked for."""

USUAL_VARIANCE = (1e-20, 1e20)
"""Range of typical variances of images that are held in single precision, whose limits are 1e-38 and 1e38."""


class Observation(eqx.Module):
    """Multi-band images of one blend, with what is needed to compare a model with them.

    Unusable pixels (masked, NaN or infinite, or of a variance that is not positive and finite) get weight 0 *and* value
    0, so that nothing can depend on what lies under them.

    Images may be in any flux unit. Where single precision cannot hold their weights (CGS units, for example), images
    and weights stay in double precision on the host; see `jaxdeblend.instrument.noise_units`.

    Parameters
    ----------
    images
        Images (band, y, x) on one pixel grid, sky subtracted, in any flux unit. Masked pixels of masked arrays are
        unusable.
    variance
        Variance of each pixel, in the squared unit; (band, y, x) or one number per band. A quantity is converted to
        the squared unit of the images.
    psf
        A PSF, or stamps (band, y, x).
    bands
        Name of each band.
    mask
        True where a pixel is unusable; (band, y, x) or (y, x).
    model_psf
        PSF of model space; by default a circular Gaussian of σ = 0.8 px, or of .9 of the narrowest PSF's σ (but not
        less than .55 px).
    kernel
        Difference kernel, if not the one that `DifferenceKernel.between` finds from `model_psf` to `psf`.
    extent
        Number of rows and columns that are real; more than these are padding, where models are zero. None: all.
    psf_error
        Error of the PSF as a fraction ε of the light of a pixel, one number or one per band: pixels have the variance
        σ² + (ε max(I, 0))². Sources of S/N above 1 / ε are otherwise fitted more closely than the PSF is known. That of
        a survey's PSF is .003 to .01 of the core.

    Attributes
    ----------
    weights
        1 / (variance + (psf_error · images)²), 0 where unusable.
    transform
        Transform of the difference kernel, once `prepared`.
    points
        How points of light are drawn, once `prepared`.
    unit
        Unit of images that were quantities, else None.

    Raises
    ------
    ValueError
        If shapes, bands, units or PSFs do not agree, or numbers are complex.

    Examples
    --------
    >>> import numpy as np
    >>> import jaxdeblend as jd
    >>> images = np.zeros((2, 32, 32))
    >>> obs = jd.Observation(images, np.ones_like(images), jd.GaussianPSF(1.5), bands=("g", "r"))
    >>> obs.shape, obs.bands
    ((32, 32), ('g', 'r'))
    """

    images: Float[AnyArray, "band y x"]
    weights: Float[AnyArray, "band y x"]
    psf: AbstractPSF
    model_psf: AbstractPSF
    kernel: DifferenceKernel | None
    transform: Complex[Array, "band ky kx"] | None
    points: PointSpread | None
    extent: Int[AnyArray, "2"]
    psf_error: Float[AnyArray, " band"]
    bands: tuple[str, ...] = eqx.field(static=True)
    unit: str | None = eqx.field(static=True)

    def __init__(
        self,
        images: object,
        variance: object,
        psf: object,
        *,
        bands: tuple[str, ...] | list[str],
        mask: object | None = None,
        model_psf: AbstractPSF | None = None,
        kernel: DifferenceKernel | None = None,
        extent: Int[AnyArray, "2"] | None = None,
        psf_error: object = 0.0,
    ):
        self.bands = tuple(str(band) for band in bands)
        if len(set(self.bands)) < len(self.bands):
            raise ValueError(f"bands: got {self.bands}; every band needs a name of its own.")
        images, variance, unit = images_and_variance(images, variance)
        self.unit = None if unit is None else str(unit)
        self.psf_error = check_psf_error(psf_error, len(self.bands))
        self.images, self.weights = _clean(images, variance, mask, self.bands)
        if self.psf_error.any():
            self.weights = self._with_psf_error()
        self.psf = _check_psf(psf, len(self.bands))
        self.model_psf = _default_model_psf(self.psf) if model_psf is None else model_psf
        self.kernel = kernel
        self.transform = None
        self.points = None
        self.extent = np.asarray(self.shape, np.int32) if extent is None else extent

    def _with_psf_error(self) -> Float[AnyArray, "band y x"]:
        """Weights less than those of the noise alone where there is light."""
        xp = np if isinstance(self.images, np.ndarray) else jnp
        error = self.psf_error.astype(self.images.dtype)[:, None, None] * xp.maximum(self.images, 0.0)
        return self.weights / (1 + self.weights * error**2)

    @property
    def shape(self) -> tuple[int, int]:
        """Shape (y, x) of the images."""
        return (self.images.shape[-2], self.images.shape[-1])

    def contains(self, positions: Float[Array, "source 2"]) -> Bool[Array, " source"]:
        """Whether positions (y, x) lie on a pixel of the images, not of padding; False for one that is not finite.

        Examples
        --------
        >>> import jax.numpy as jnp
        >>> obs = Observation(jnp.ones((1, 8, 8)), jnp.ones((1, 8, 8)), GaussianPSF(1.5), bands=["r"])
        >>> obs.contains(jnp.array([[0.0, 7.4], [7.5, 0.0], [jnp.nan, 3.0]])).tolist()
        [True, False, False]
        """
        end = jnp.asarray(self.extent, positions.dtype)[None, :] - 0.5
        return jnp.all((positions >= -0.5) & (positions < end), axis=-1)

    @property
    def background_rms(self) -> Float[Array, " band"]:
        """Typical 1σ noise of a usable pixel: 1 / √(mean weight); 0 for a band without data."""
        return jnp.asarray(background_rms(self.weights), dtype=float)

    @property
    def margin(self) -> int:
        """Number of pixels by which a model must reach beyond the images on each side."""
        edge = self.psf.edge if self.kernel is None else self.kernel.image.shape[-1]
        return min(MARGIN, edge // 2)

    def prepared(self, psf_edge: Int[Array, ""] | None = None) -> "Observation":
        """Observation with its difference kernel, that kernel's transform, and its drawing of points.

        Parameters
        ----------
        psf_edge
            Edge of the PSF stamps before they were padded; None: as they are.
        """
        if self.transform is not None:
            return self
        added = _kernels(self.psf, self.model_psf, self.kernel, self._reach, psf_edge)
        return eqx.tree_at(
            lambda obs: (obs.kernel, obs.transform, obs.points), self, added, is_leaf=lambda node: node is None
        )

    def convolve(self, cube: Float[Array, "*batch #band y x"]) -> Float[Array, "*batch band h w"]:
        """Bring a model from model space to the PSF of each band.

        The model covers the images, or `margin` pixels more on each side; what comes back covers the images.
        """
        convolved = fft.convolve(cube, *self._filter(cube.ndim))
        inside = (slice((have - n) // 2, (have + n) // 2) for have, n in zip(cube.shape[-2:], self.shape, strict=True))
        return convolved[(..., *inside)]

    def draw_points(
        self, centers: Float[Array, "source 2"], flux: Float[Array, "source band"]
    ) -> Float[Array, "band y x"]:
        """Points of light at sub-pixel positions, as seen through the PSF of each band; 0 on padding."""
        obs = self.prepared()
        assert obs.points is not None  # that is what `prepared` means
        height, width = jnp.asarray(obs.extent)
        y, x = (jnp.arange(n, dtype=height.dtype) for n in obs.shape)
        real = (y < height)[:, None] & (x < width)[None, :]
        return jnp.where(real, obs.points.draw(centers, flux, obs.shape), 0.0)

    def correlate(self, cube: Float[Array, "*batch #band y x"]) -> Float[Array, "*batch band y x"]:
        """The adjoint of `convolve` of models that cover the images alone."""
        return fft.correlate(cube, *self._filter(cube.ndim))

    @property
    def _reach(self) -> tuple[int, int]:
        """Shape of a frame as wide as the furthest that a pixel of a model is from one of the images."""
        return (self.shape[0] + self.margin, self.shape[1] + self.margin)

    def _filter(self, ndim: int) -> tuple[Complex[Array, "*one band ky kx"], tuple[int, int]]:
        """The difference kernel's transform with as many axes as the cube, and the FFT shape."""
        obs = self.prepared()
        assert obs.kernel is not None and obs.transform is not None  # that is what `prepared` means
        return jnp.expand_dims(obs.transform, range(ndim - 3)), obs.kernel.fft_shape(self._reach)


@Program
def _kernels(
    psf: AbstractPSF,
    model_psf: AbstractPSF,
    given: DifferenceKernel | None,
    reach: tuple[int, int],
    psf_edge: Int[Array, ""] | None,
) -> tuple[DifferenceKernel, Complex[Array, "_ ky kx"], PointSpread]:
    """Difference kernel, its transform, and the drawing of points."""
    kernel = DifferenceKernel.between(model_psf, psf) if given is None else given
    if given is None or psf_edge is not None:
        seen = jnp.asarray(psf.stamp(psf.edge))
    else:  # the kernel is the user's, and what points look like is up to it
        seen = kernel.applied_to(model_psf)
    points = PointSpread.of(seen, reach, known_edge=psf_edge)
    return kernel, kernel.transform(reach), points


def background_rms(weights: Float[AnyArray, "band y x"]) -> Float[AnyArray, " band"]:
    """Typical 1σ noise of a usable pixel of each band, 1 / √(mean weight), 0 for a band without data."""
    used = weights > 0
    if isinstance(weights, np.ndarray):
        mean = weights.sum(axis=(-2, -1)) / np.maximum(used.sum(axis=(-2, -1)), 1)
        return np.where(mean > 0, 1 / np.sqrt(np.where(mean > 0, mean, 1)), 0).astype(weights.dtype)
    mean = weights.sum(axis=(-2, -1)) / jnp.maximum(used.sum(axis=(-2, -1), dtype=weights.dtype), 1)
    return jnp.where(mean > 0, jax.lax.rsqrt(jnp.where(mean > 0, mean, 1.0)), 0.0)


def _clean(
    images: object, variance: object, mask: object | None, bands: tuple[str, ...]
) -> tuple[Float[AnyArray, "band y x"], Float[AnyArray, "band y x"]]:
    """Images and weights, both 0 where a pixel is unusable."""
    given = images, variance
    if beyond_single(variance):
        image, spread = (np.asarray(plain_numbers(jax.device_get(value)), np.float64) for value in given)
        xp = np
    else:
        image, spread = (host_or_device(value, name) for value, name in zip(given, ("images", "variance"), strict=True))
        xp = jnp if any(isinstance(value, jax.Array) for value in (*given, mask)) else np
    if image.ndim != 3 or image.shape[0] != len(bands) or min(image.shape) == 0:
        raise ValueError(
            f"images: got shape {image.shape} for the {len(bands)} bands {bands}; give (band, y, x), not empty, "
            "with one image per band."
        )
    if spread.shape == (len(bands),):
        spread = spread[:, None, None] * xp.ones_like(image)
    elif spread.shape != image.shape:
        raise ValueError(
            f"variance: got shape {spread.shape} for images of shape {image.shape}; give the same shape, or one "
            f"number for each of the {len(bands)} bands."
        )
    good = xp.isfinite(image) & xp.isfinite(spread) & (spread > 0) & ~_as_mask(mask, image.shape)
    with np.errstate(over="ignore"):  # 1 / variance may be infinite
        weights = xp.where(good, 1 / xp.where(good, spread, 1.0), 0.0)
    good = good & xp.isfinite(weights) & (weights > 0)
    return xp.where(good, image, 0.0), xp.where(good, weights, 0.0)


def beyond_single(variance: object) -> bool:
    """Whether variances are typically too small or too large for the squares of single precision."""
    if isinstance(variance, Tracer) or default_dtype() == np.float64:
        return False
    values = np.asarray(plain_numbers(jax.device_get(variance), "variance"))
    least, largest = USUAL_VARIANCE
    known = values[(values > 0) & np.isfinite(values)]
    if not known.size or (known.min() > least and known.max() < largest):
        return False
    return not least < float(np.median(known)) < largest


def _as_mask(mask: object | None, shape: tuple[int, ...]) -> Bool[AnyArray, "..."]:
    if mask is None:
        return np.zeros(shape, dtype=bool)
    array = plain_mask(mask)
    if array.shape not in (shape, shape[1:]):
        raise ValueError(f"mask: got shape {array.shape} for images of shape {shape}; give (band, y, x) or (y, x).")
    if array.dtype != bool:
        raise ValueError(
            f"mask: got dtype {array.dtype}; give booleans, True where a pixel is unusable. Bit planes must be "
            "reduced first, for example (mask & bad_bits) != 0."
        )
    return array if array.ndim == 3 else array[None]


def _default_model_psf(psf: AbstractPSF) -> GaussianPSF:
    """A Gaussian of the usual width, or a narrower one if a PSF is nearly as narrow."""
    traced = any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(psf))
    sigma = MODEL_SIGMA if traced else NARROWER * narrowest_sigma(psf)
    return GaussianPSF(min(max(sigma, SMALLEST_SIGMA), MODEL_SIGMA))


def narrowest_sigma(psf: AbstractPSF) -> float:
    """σ of a Gaussian as high as the highest PSF of all bands, before the pixel."""
    if isinstance(psf, GaussianPSF) and psf.ellipticity is None:
        return float(np.asarray(psf.sigma).min())
    highest = min(float(psf.stamp(psf.edge).max()), HIGHEST)
    # the middle pixel of a Gaussian holds (2 Φ(1 / 2σ) - 1)², with the cumulative normal distribution Φ
    return 0.5 / NormalDist().inv_cdf((1 + highest**0.5) / 2)


def check_psf_error(psf_error: object, n_bands: int) -> Float[np.ndarray, " band"]:
    """Errors of the PSF, one for each band."""
    error = np.asarray(psf_error, default_dtype())
    if error.shape not in ((), (1,), (n_bands,)):
        raise ValueError(f"psf_error: got shape {error.shape} for {n_bands} bands; give one number, or one per band.")
    if not ((error >= 0) & (error < 1)).all():
        raise ValueError(f"psf_error: got {psf_error}; give fractions of the light, from 0 to 1, for example 0.005.")
    return np.array(np.broadcast_to(error, n_bands))


def _check_psf(psf: object, n_bands: int) -> AbstractPSF:
    checked = psf if isinstance(psf, AbstractPSF) else ImagePSF(psf)
    if checked.n_bands not in (1, n_bands):
        raise ValueError(f"psf: got {checked.n_bands} bands for images of {n_bands}; give one PSF, or one per band.")
    return checked
