"""Point spread functions: what a point of light looks like on the pixels of each band.

Every PSF renders a unit-sum stamp per band, integrated over the pixels. Profiles are written for one band and
lifted over bands; a PSF with one band is shared by all.
"""

import abc
import functools
import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from ..runtime.host import AnyArray, device_array, host_or_device
from ..runtime.inputs import plain_numbers
from . import profiles
from .profiles import check_edge, normalized

SIGMA_TO_FWHM = 2 * math.sqrt(2 * math.log(2))
"""FWHM of a Gaussian of σ = 1."""


class AbstractPSF(eqx.Module):
    """A PSF of one or more bands.

    To add a PSF, subclass this.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import jaxdeblend as jd
    >>> class SechPSF(jd.AbstractPSF):  # a separable PSF with exponential wings, the same in every band
    ...     edge: int = 21
    ...     n_bands = 1
    ...
    ...     def stamp(self, edge):
    ...         profile = 1 / jnp.cosh(jnp.arange(edge, dtype=float) - edge // 2)
    ...         stamp = profile[:, None] * profile[None, :]
    ...         return (stamp / stamp.sum())[None]
    ...
    ...     def fwhm(self):
    ...         return jnp.full(1, 2.634)
    >>> images = jnp.zeros((2, 32, 32))
    >>> obs = jd.Observation(images, jnp.ones((2, 32, 32)), SechPSF(), bands=("g", "r"))
    >>> blend = jd.Blend.of([jd.PointSource((15, 16), jnp.array([3.0, 5.0]))], frame=(32, 32))
    >>> [round(float(band.sum()), 2) for band in jd.render(blend, obs)]
    [3.0, 5.0]
    """

    edge: eqx.AbstractVar[int]
    """Natural odd edge of the stamp in pixels."""

    @property
    @abc.abstractmethod
    def n_bands(self) -> int:
        """Number of bands; 1 means that every band shares the PSF."""

    @abc.abstractmethod
    def stamp(self, edge: int) -> Float[AnyArray, "band edge edge"]:
        """Pixel-integrated stamp of odd edge, centred on its middle pixel, unit sum in each band.

        Raises
        ------
        ValueError
            If the edge is not odd.
        """

    @abc.abstractmethod
    def fwhm(self) -> Float[Array, " band"]:
        """Full width at half maximum in pixels (for elliptical profiles: geometric mean of the axes)."""


class GaussianPSF(AbstractPSF):
    """Gaussian PSF, exp(-r² / 2σ²) integrated over the pixels.

    The circular profile is integrated exactly (error functions), the elliptical one by 6 x 6 Gauss–Legendre nodes
    in each pixel.

    Parameters
    ----------
    sigma
        σ in pixels, one number or one per band. For an elliptical profile σ² = ab, the product of the semi-axes.
    ellipticity
        (e1, e2) with |e| = (1 - q²) / (1 + q²) for the axis ratio q; shape (2,) or (band, 2). None: circular.

    Raises
    ------
    ValueError
        If a σ is not positive or an ellipticity is not below 1.

    Examples
    --------
    >>> import jaxdeblend as jd
    >>> psf = jd.GaussianPSF([1.5, 2.0])
    >>> psf.stamp(15).shape, round(float(psf.fwhm()[1]), 2)
    ((2, 15, 15), 4.71)
    """

    sigma: Float[Array, " band"]
    ellipticity: Float[Array, "band 2"] | None
    edge: int = eqx.field(static=True)

    def __init__(self, sigma: object, ellipticity: object | None = None):
        self.sigma = _per_band("sigma", sigma)
        self.ellipticity = _ellipticity(ellipticity, self.sigma.shape[0])
        self.edge = _odd(10 * _largest(self.sigma))

    @property
    def n_bands(self) -> int:
        """Number of bands."""
        return self.sigma.shape[0]

    def stamp(self, edge: int) -> Float[AnyArray, "band edge edge"]:
        """Unit-sum stamp of odd edge."""
        return profiles.gaussian(self.sigma, self.ellipticity, edge)

    def fwhm(self) -> Float[Array, " band"]:
        """FWHM = 2 √(2 ln 2) σ of the profile before the pixel."""
        return SIGMA_TO_FWHM * self.sigma


class MoffatPSF(AbstractPSF):
    """Moffat PSF, (1 + r² / α²)^-β, integrated over the pixels (Moffat 1969, A&A 3, 455).

    Parameters
    ----------
    fwhm
        FWHM = 2 α √(2^(1/β) - 1) in pixels, one number or one per band.
    beta
        Exponent β > 1, one number or one per band.
    ellipticity
        As for `GaussianPSF`.

    Raises
    ------
    ValueError
        If a FWHM is not positive, a β not above 1, or an ellipticity not below 1.

    Examples
    --------
    >>> import jaxdeblend as jd
    >>> round(float(jd.MoffatPSF(4.0, 3.0).stamp(41).sum()), 5)
    1.0
    """

    width: Float[Array, " band"]
    beta: Float[Array, " band"]
    ellipticity: Float[Array, "band 2"] | None
    edge: int = eqx.field(static=True)

    def __init__(self, fwhm: object, beta: object = 3.0, ellipticity: object | None = None):
        width, slope = _per_band("fwhm", fwhm), _per_band("beta", beta, minimum=1.0)
        self.width, self.beta = _broadcast_bands("fwhm", width, "beta", slope)
        self.ellipticity = _ellipticity(ellipticity, self.width.shape[0])
        self.edge = _odd(max(15.0, 8 * _largest(self.width)))

    @property
    def n_bands(self) -> int:
        """Number of bands."""
        return self.width.shape[0]

    def stamp(self, edge: int) -> Float[AnyArray, "band edge edge"]:
        """Unit-sum stamp of odd edge."""
        return profiles.moffat(self.width, self.beta, self.ellipticity, edge)

    def fwhm(self) -> Float[Array, " band"]:
        """FWHM of the profile before the pixel."""
        return self.width


class DoubleGaussianPSF(AbstractPSF):
    """Sum of a core and a wing Gaussian, (1 - w) G(σ₁) + w G(σ₂), integrated over the pixels.

    Parameters
    ----------
    sigma_core, sigma_wing
        σ₁ < σ₂ in pixels, one number or one per band.
    wing_fraction
        Share w of the flux in the wing, 0 <= w < 1, one number or one per band.

    Raises
    ------
    ValueError
        If a σ is not positive or w is not in [0, 1).

    Examples
    --------
    >>> import jaxdeblend as jd
    >>> psf = jd.DoubleGaussianPSF(1.4, 3.0, 0.1)
    >>> bool(psf.fwhm()[0] > 3.29)
    True
    """

    sigma_core: Float[Array, " band"]
    sigma_wing: Float[Array, " band"]
    wing_fraction: Float[Array, " band"]
    edge: int = eqx.field(static=True)

    def __init__(self, sigma_core: object, sigma_wing: object, wing_fraction: object):
        core, wing = _per_band("sigma_core", sigma_core), _per_band("sigma_wing", sigma_wing)
        share = _per_band("wing_fraction", wing_fraction, minimum=None)
        if not _concretely(lambda: bool(((np.asarray(share) >= 0) & (np.asarray(share) < 1)).all())):
            raise ValueError(f"wing_fraction: got {wing_fraction}; give the wing's share of the flux in [0, 1).")
        core, wing = _broadcast_bands("sigma_core", core, "sigma_wing", wing)
        core, share = _broadcast_bands("sigma_core", core, "wing_fraction", share)
        self.sigma_core, self.wing_fraction = core, share
        self.sigma_wing = jnp.broadcast_to(wing, core.shape)
        self.edge = _odd(10 * _largest(self.sigma_wing))

    @property
    def n_bands(self) -> int:
        """Number of bands."""
        return self.sigma_core.shape[0]

    def stamp(self, edge: int) -> Float[AnyArray, "band edge edge"]:
        """Unit-sum stamp of odd edge."""
        return profiles.double_gaussian(self.sigma_core, self.sigma_wing, self.wing_fraction, edge)

    def fwhm(self) -> Float[Array, " band"]:
        """FWHM of the profile before the pixel, by bisection of the half-light level."""
        return profiles.double_gaussian_width(self.sigma_core, self.sigma_wing, self.wing_fraction)


class ImagePSF(AbstractPSF):
    """PSF given as image stamps, normalised to unit sum.

    Stamps are taken as they are, pixels included; their centre is the middle pixel. Rectangular stamps are
    padded with zeros to a square.

    Parameters
    ----------
    stamps
        Stamps (band, y, x) or one stamp (y, x), with odd edges, finite, of positive sum.

    Raises
    ------
    ValueError
        If the stamps have the wrong number of axes, an even edge, a NaN, or a sum that is not positive.

    Examples
    --------
    >>> import numpy as np
    >>> import jaxdeblend as jd
    >>> jd.ImagePSF(np.ones((3, 5, 5))).stamp(7).shape
    (3, 7, 7)
    """

    stamps: Float[AnyArray, "band edge edge"]
    edge: int = eqx.field(static=True)

    def __init__(self, stamps: object):
        array = host_or_device(_of_usual_size(stamps), "stamps")
        _check_stamps(array)
        self.edge = max(array.shape[-2:])
        square = _resized(array[None] if array.ndim == 2 else array, self.edge)
        self.stamps = normalized(square)

    @property
    def n_bands(self) -> int:
        """Number of bands."""
        return self.stamps.shape[0]

    def stamp(self, edge: int) -> Float[AnyArray, "band edge edge"]:
        """Unit-sum stamp of odd edge: padded with zeros, or cropped and normalised again."""
        return normalized(_resized(self.stamps, edge))

    def fwhm(self) -> Float[Array, " band"]:
        """FWHM of the circle whose area is that of the region above half of the maximum.

        The area is counted on the stamp interpolated cubically to quarter pixels.
        """
        xp = jnp if isinstance(self.stamps, jax.Array) else np
        finer = xp.asarray(_finer(self.edge), self.stamps.dtype)[None]
        fine = finer @ self.stamps @ finer.mT
        area = (fine > 0.5 * fine.max(axis=(-2, -1), keepdims=True)).sum(axis=(-2, -1)) / 16
        return jnp.asarray(2 * xp.sqrt(area / np.pi), dtype=float)


@functools.lru_cache(maxsize=32)
def _finer(edge: int) -> Float[np.ndarray, "fine edge"]:
    """Matrix that interpolates cubically to quarter pixels (Keys 1981, IEEE Trans. ASSP 29, 1153; a = -1/2)."""
    x = np.abs((np.arange(4 * edge) + 0.5)[:, None] / 4 - 0.5 - np.arange(edge)[None, :])
    near, far = (1.5 * x - 2.5) * x**2 + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    weights = np.where(x < 1, near, np.where(x < 2, far, 0.0))
    return weights / weights.sum(axis=1, keepdims=True)


def _resized(stamps: Float[AnyArray, "band y x"], edge: int) -> Float[AnyArray, "band edge edge"]:
    """Pad with zeros or crop about the middle pixel to an odd square."""
    check_edge(edge)
    xp = jnp if isinstance(stamps, jax.Array) else np
    margins = [(edge - have) // 2 for have in stamps.shape[-2:]]
    cut = tuple(
        slice(-margin, have + margin) if margin < 0 else slice(None)
        for margin, have in zip(margins, stamps.shape[-2:], strict=True)
    )
    padding = [(0, 0)] + [(max(margin, 0),) * 2 for margin in margins]
    return xp.pad(stamps[:, *cut], padding)


def _of_usual_size(stamps: object) -> object:
    """Stamps on the host, divided by their maximum if single precision would lose their wings or their sum."""
    if isinstance(stamps, jax.Array):
        return stamps
    array = plain_numbers(stamps, "stamps")
    if not np.issubdtype(array.dtype, np.floating) or array.size == 0:
        return array
    largest = float(np.abs(array).max())
    usual = 1e-10 <= largest <= 1e10 or largest == 0 or not np.isfinite(largest)
    return array if usual else array.astype(np.float64) / largest


def _check_stamps(stamps: AnyArray) -> None:
    if stamps.ndim not in (2, 3):
        raise ValueError(f"psf: got an array of shape {stamps.shape}; give stamps (band, y, x) or one stamp (y, x).")
    if any(edge % 2 == 0 for edge in stamps.shape[-2:]):
        raise ValueError(
            f"psf: got stamps of even edge, shape {stamps.shape}; the centre must be a pixel. Crop or resample them "
            "to odd edges (photutils.psf.matching.resize_psf or scipy.ndimage.shift can do that)."
        )
    if isinstance(stamps, Tracer):
        return
    if not np.isfinite(np.asarray(stamps)).all():
        raise ValueError(f"psf: got {np.sum(~np.isfinite(np.asarray(stamps)))} pixels that are NaN or infinite.")
    sums = np.asarray(stamps).sum(axis=(-2, -1))
    if not (sums > 0).all():
        raise ValueError(f"psf: got stamps of sum {np.round(sums, 6)}; every band's PSF must have a positive sum.")


def _per_band(name: str, value: object, minimum: float | None = 0.0) -> Float[Array, " band"]:
    array = device_array(value, float)
    array = array[None] if array.ndim == 0 else array
    if array.ndim != 1:
        raise ValueError(f"{name}: got shape {array.shape}; give one number, or one per band.")
    if minimum is not None and not _concretely(lambda: bool((np.asarray(array) > minimum).all())):
        raise ValueError(f"{name}: got {value}; every value must be above {minimum:g}.")
    return array


def _ellipticity(value: object | None, n_bands: int) -> Float[Array, "band 2"] | None:
    if value is None:
        return None
    array = device_array(value, float)
    if array.shape not in ((2,), (n_bands, 2)):
        raise ValueError(
            f"ellipticity: got shape {array.shape}; give (e1, e2), or one pair for each of {n_bands} bands."
        )
    if not _concretely(lambda: bool((np.hypot(*np.moveaxis(np.asarray(array), -1, 0)) < 1).all())):
        raise ValueError(f"ellipticity: got {value}; |e| must be below 1.")
    return jnp.broadcast_to(array, (n_bands, 2))


def _broadcast_bands(name_a: str, a: Array, name_b: str, b: Array) -> tuple[Array, Array]:
    if 1 not in (a.shape[0], b.shape[0]) and a.shape != b.shape:
        raise ValueError(f"{name_b}: got {b.shape[0]} values for {a.shape[0]} of {name_a}; give one, or one per band.")
    shape = (max(a.shape[0], b.shape[0]),)
    return jnp.broadcast_to(a, shape), jnp.broadcast_to(b, shape)


def _concretely(check: Callable[[], bool]) -> bool:
    """Result of a check on values, or True while they are traced."""
    try:
        return check()
    except jax.errors.TracerArrayConversionError:
        return True


def _largest(values: Array) -> float:
    """Largest value, or a generous 5 px while it is traced (only a default size depends on it)."""
    try:
        return float(np.asarray(values).max())
    except jax.errors.TracerArrayConversionError:
        return 5.0


def _odd(size: float) -> int:
    return int(math.ceil(size)) | 1
