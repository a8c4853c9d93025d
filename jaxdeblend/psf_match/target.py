"""Targets of PSF matching: profiles fitted to PSFs, and what is derived from them.

To deblend, bands are brought to a narrower PSF than any of theirs. The default PSF of model space, the Gaussian of
`jaxdeblend.instrument.observation.MODEL_SIGMA`, needs no fit; `fit_target_psf` is the alternative that follows the
data. To coadd or to measure colours, they are brought to a broader one, `coadd_target`.
"""

import contextlib
import dataclasses
import functools
import math
import warnings
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.scipy.special import erf
from jaxtyping import Array, Bool, Float, Int

from ..instrument.profiles import NODES, WEIGHTS, elliptical_radius2
from ..instrument.psf import SIGMA_TO_FWHM, AbstractPSF, DoubleGaussianPSF, GaussianPSF, ImagePSF, MoffatPSF
from ..runtime.host import AnyArray, default_dtype

ITERATIONS = 50
"""Largest number of steps of a fit; real PSFs need 6 for a Moffat profile and 20 for a double Gaussian."""

TOLERANCE = 1e-6
"""A fit ends with a step that moves no parameter (pixels, logarithms of widths) by more; coarser in float32."""

SMALLEST_EDGE = 5
"""Edge of the smallest stamp that holds more pixels than a profile has parameters, by a margin."""

NARROWEST_TARGET = 1.0
"""FWHM in pixels below which a target is too badly sampled to be of use."""

_FLATTEST = 0.99  # largest |e|, safely below 1 in single precision


class FittedPSF(eqx.Module):
    """A profile fitted to the PSF of every band.

    Attributes
    ----------
    psf
        The profiles, centred: a `GaussianPSF`, `MoffatPSF` or `DoubleGaussianPSF` of all bands.
    center
        Where they lie on the stamps, (y, x) in pixels from the middle pixel.
    amplitude
        Total flux of the profile, to infinity, in units of the stamp's; above 1 if its wings leave the stamp.
    rms
        ‖residual‖ / ‖stamp‖.

    Examples
    --------
    >>> import jaxdeblend as jd
    >>> fitted = fit_profile(jd.MoffatPSF([3.0, 4.0], 2.5).stamp(31))
    >>> [round(float(fwhm), 2) for fwhm in fitted.psf.fwhm()], bool((fitted.rms < 1e-4).all())
    ([3.0, 4.0], True)
    """

    psf: AbstractPSF
    center: Float[AnyArray, "band 2"]
    amplitude: Float[AnyArray, " band"]
    rms: Float[AnyArray, " band"]


def fit_profile(psf: AbstractPSF | object, profile: str = "moffat", *, elliptical: bool = False) -> FittedPSF:
    """Fit a profile to the PSF of each band: the minimum of Σ_p (P_p - A ∫_p f(x - c) dx)² over the pixels p.

    All pixels weigh the same. The centre c is free, the profile f is integrated over each pixel, and its flux A follows
    from the rest (variable projection). Found by the method of Levenberg and Marquardt (Marquardt 1963, J. SIAM 11,
    431), in double precision, whatever JAX's default; inside a transformation (`jax.jit`, `jax.vmap`), in that of the
    arrays.

    Parameters
    ----------
    psf
        PSF, or stamps (band, y, x) or (y, x) of odd edge. Rectangular stamps are padded with zeros, and these are
        fitted too.
    profile
        ``"moffat"``, ``"gaussian"`` or ``"double_gaussian"``. The β of a Moffat is kept within 1.05 and 100, where it
        is all but a Gaussian.
    elliptical
        Whether the ellipticity is free as well; not for the double Gaussian.

    Returns
    -------
    FittedPSF
        Profiles, centres, fluxes and residuals.

    Raises
    ------
    ValueError
        If the profile is unknown or cannot be elliptical, or if the stamps are smaller than 5 pixels, have an even
        edge, a NaN or a sum that is not positive.

    Examples
    --------
    >>> import jaxdeblend as jd
    >>> fitted = fit_profile(jd.GaussianPSF(1.5, (0.2, 0.0)).stamp(21), "gaussian", elliptical=True)
    >>> round(float(fitted.psf.sigma[0]), 3), round(float(fitted.psf.ellipticity[0, 0]), 3)
    (1.5, 0.2)
    """
    psf = psf if isinstance(psf, AbstractPSF) else ImagePSF(psf)
    _check_options(psf, profile, elliptical)
    stamps = psf.stamp(psf.edge)
    concrete = not isinstance(stamps, Tracer)
    with jax.enable_x64(True) if concrete else contextlib.nullcontext():
        fits = _fits(np.asarray(stamps, np.float64) if concrete else stamps, profile, elliptical)
    if concrete:
        fits = jax.tree.map(lambda array: jnp.asarray(np.asarray(array), default_dtype()), fits)
    return FittedPSF(_PROFILES[profile].psf(*fits.values, *fits.ellipticity), fits.center, fits.amplitude, fits.rms)


def fit_target_psf(
    psfs: AbstractPSF | object, profile: str = "moffat", *, shrink: float = 0.6, steepen: float = 1.4
) -> AbstractPSF:
    """Fit a target for deblending: a profile narrower than the PSF of every band, shared by all.

    Circular profiles are fitted to all bands (`fit_profile`). Then, as for the partial deconvolution of scarlet
    (Melchior et al. 2018, A&C 24, 129) and with its factors,

    - Moffat: α = shrink · min α, β = steepen · max β;
    - Gaussian: σ = shrink · min σ;
    - double Gaussian: σ₁ = shrink · min σ₁, σ₂ = shrink · min σ₂, and the smallest wing fraction, as every band can be
      given a stronger wing by convolution, but none a weaker one.

    Parameters
    ----------
    psfs
        PSF, or stamps (band, y, x) or (y, x), of odd edge.
    profile
        ``"moffat"``, ``"gaussian"`` or ``"double_gaussian"``.
    shrink
        Factor of the widths, in (0, 1].
    steepen
        Factor of β, at least 1; the other profiles have no use for it.

    Returns
    -------
    AbstractPSF
        Target, one band.

    Raises
    ------
    ValueError
        As for `fit_profile`, and for factors out of their range.

    Warns
    -----
    UserWarning
        If the target has a FWHM below 1 pixel. This happens where α of one band is combined with β of another that is
        almost a Gaussian: then choose ``profile="gaussian"``.

    Examples
    --------
    >>> import jaxdeblend as jd
    >>> target = fit_target_psf(jd.GaussianPSF([2.0, 2.5]).stamp(31), "gaussian")
    >>> target.n_bands, round(float(target.sigma[0]), 3)
    (1, 1.2)
    """
    if not 0 < shrink <= 1:
        raise ValueError(f"shrink: got {shrink}; give a factor above 0 and up to 1.")
    if not steepen >= 1:
        raise ValueError(f"steepen: got {steepen}; give a factor of 1 or more.")
    fitted = fit_profile(psfs, profile).psf
    target = _PROFILES[profile].narrower(fitted, shrink, steepen)
    width = target.fwhm()[0]
    if not isinstance(width, Tracer) and width < NARROWEST_TARGET:
        warnings.warn(
            f"fit_target_psf: the target has a FWHM of {float(width):.2f} pixels and is badly sampled; a larger "
            "shrink, a smaller steepen or another profile would do better.",
            stacklevel=2,
        )
    return target


def coadd_target(psfs: AbstractPSF | object, *, broaden: float = 1.1, beta: float | None = 3.0) -> AbstractPSF:
    """Target for coadds and colours: a circular profile broader than the PSF of every band.

    Its FWHM is broaden · max FWHM over the bands, each of the Gaussian that fits the PSF best (`fit_profile`). This
    feels the wings: HSC's g band has a Gaussian of 4.9 pixels and is 4.3 wide at half of its maximum; with a target of
    1.1 times the first it needs a kernel with W₋ = 0.1, with 1.1 times the second one of 0.35. Elliptical PSFs may want
    a larger factor, as one FWHM stands for both axes.

    Parameters
    ----------
    psfs
        PSF, or stamps (band, y, x) or (y, x), of odd edge.
    broaden
        Factor of the largest FWHM, at least 1.
    beta
        Exponent of the Moffat profile, above 1; None: a Gaussian.

    Returns
    -------
    AbstractPSF
        A `MoffatPSF` or `GaussianPSF` of one band.

    Raises
    ------
    ValueError
        If a factor or β is out of its range, or if stamps have an even edge, a NaN or a sum that is not positive.

    Examples
    --------
    >>> import jaxdeblend as jd
    >>> round(float(coadd_target(jd.GaussianPSF([1.6, 2.0])).fwhm()[0]), 2)
    5.18
    """
    if not broaden >= 1:
        raise ValueError(f"broaden: got {broaden}; give a factor of 1 or more.")
    width = broaden * fit_profile(psfs, "gaussian").psf.fwhm().max()
    return GaussianPSF(width / SIGMA_TO_FWHM) if beta is None else MoffatPSF(width, beta)


def _check_options(psf: AbstractPSF, profile: str, elliptical: bool) -> None:
    if profile not in _PROFILES:
        raise ValueError(f"profile: got {profile!r}; give one of {', '.join(map(repr, _PROFILES))}.")
    if elliptical and profile == "double_gaussian":
        raise ValueError('elliptical: the double Gaussian is circular; give profile="moffat" or "gaussian".')
    if psf.edge < SMALLEST_EDGE:
        raise ValueError(f"psf: got stamps of edge {psf.edge}; a profile needs {SMALLEST_EDGE} pixels or more.")


# ------------------------------------------------------------------------------------------------------------ the fit


class _Fits(eqx.Module):
    """All numbers of a fit; those of the profile as its PSF takes them."""

    values: tuple[Float[Array, "*band"], ...]
    ellipticity: tuple[Float[Array, "*band 2"], ...]  # one or none
    center: Float[Array, "*band 2"]
    amplitude: Float[Array, "*band"]
    rms: Float[Array, "*band"]


@eqx.filter_jit
def _fits(stamps: Float[AnyArray, "band n n"], profile: str, elliptical: bool) -> _Fits:
    """Fit every band for itself."""
    stamps = jnp.asarray(stamps)
    stamps = stamps / stamps.sum(axis=(-2, -1), keepdims=True)
    one = functools.partial(_fit, _PROFILES[profile], elliptical)
    return jax.vmap(one)(stamps, ImagePSF(stamps).fwhm())


def _fit(kind: "_Profile", elliptical: bool, stamp: Float[Array, "n n"], width: Float[Array, ""]) -> _Fits:
    """Fit one stamp; the parameters are the centre, those of the profile, and two for an ellipticity."""
    last = 3 + len(kind.start)

    def unpacked(p: Array) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
        return kind.values(*p[2:last]), (_ellipticity(p[last:]),) if elliptical else ()

    def model(p: Array) -> tuple[Array, Array]:
        values, shape = unpacked(p)
        unit = kind.stamp(p[:2], stamp.shape[-1], *values, *shape)
        amplitude = jnp.vdot(unit, stamp) / jnp.vdot(unit, unit)
        return amplitude * unit, amplitude

    bounds = _bounds(kind, elliptical, stamp.shape[-1], stamp.dtype)
    best = _minimum(lambda p: (model(p)[0] - stamp).reshape(-1), _start(kind, elliptical, stamp, width), *bounds)
    fitted, amplitude = model(best)
    rms = jnp.linalg.norm(fitted - stamp) / jnp.linalg.norm(stamp)
    return _Fits(*unpacked(best), best[:2], amplitude, rms)


def _start(
    kind: "_Profile", elliptical: bool, stamp: Float[Array, "n n"], width: Float[Array, ""]
) -> Float[Array, " n_parameters"]:
    """A round profile of the stamp's own width on its brightest pixel."""
    peak = jnp.stack(jnp.unravel_index(jnp.argmax(stamp), stamp.shape)) - stamp.shape[-1] // 2
    rest = jnp.asarray(kind.start + (0.0, 0.0) * elliptical, stamp.dtype)
    return jnp.concatenate([peak.astype(stamp.dtype), jnp.log(width)[None], rest])


def _bounds(
    kind: "_Profile", elliptical: bool, edge: int, dtype: np.dtype
) -> tuple[Float[Array, " n_parameters"], Float[Array, " n_parameters"]]:
    """Limits that no PSF comes near to; they keep what has no minimum, a flat stamp, from running away."""
    half, shape = edge / 2, (10.0, 10.0) * elliptical
    low = (-half, -half, math.log(0.3), *kind.lowest, *(-value for value in shape))
    high = (half, half, math.log(2 * edge), *kind.highest, *shape)
    return jnp.asarray(low, dtype), jnp.asarray(high, dtype)


class _Search(eqx.Module):
    """Where the search for a minimum stands: at a place, with what was found there, and with a place to try next."""

    place: Float[Array, " n"]
    residual: Float[Array, " pixel"]
    jacobian: Float[Array, "pixel n"]
    damping: Float[Array, ""]
    trial: Float[Array, " n"]
    steps: Int[Array, ""]


def _minimum(
    residual: Callable[[Array], Array], start: Float[Array, " n"], low: Float[Array, " n"], high: Float[Array, " n"]
) -> Float[Array, " n"]:
    """Minimum of Σ residual² between bounds, by Levenberg–Marquardt; a step that does not help is not taken."""
    derivative = jax.jacfwd(lambda p: (residual(p),) * 2, has_aux=True)
    smallest = max(TOLERANCE, float(jnp.finfo(start.dtype).eps) ** 0.5)

    def step(at: _Search) -> _Search:
        slopes, left = derivative(at.trial)
        better = jnp.vdot(left, left) < jnp.vdot(at.residual, at.residual)
        taken = (at.trial, left, slopes, jnp.maximum(0.1 * at.damping, 1e-12))
        refused = (at.place, at.residual, at.jacobian, 10 * at.damping)
        place, left, slopes, damping = (jnp.where(better, *pair) for pair in zip(taken, refused, strict=True))
        gradient = left @ slopes
        held = ((place <= low) & (gradient > 0)) | ((place >= high) & (gradient < 0))
        change = _damped_step(jnp.where(held[None, :], 0.0, slopes), jnp.where(held, 0.0, gradient), damping)
        return _Search(place, left, slopes, damping, jnp.clip(place - change, low, high), at.steps + 1)

    def unfinished(at: _Search) -> Bool[Array, ""]:
        return (jnp.abs(at.trial - at.place).max() > smallest) & (at.steps < ITERATIONS)

    shape = jax.eval_shape(residual, start).shape
    nowhere = (jnp.full(start.shape, jnp.inf, start.dtype), jnp.full(shape, jnp.inf, start.dtype))
    slopes = jnp.zeros(shape + start.shape, start.dtype)
    first = _Search(*nowhere, slopes, jnp.asarray(0.1, start.dtype), start, jnp.zeros((), int))
    return jax.lax.while_loop(unfinished, step, first).place


def _damped_step(
    jacobian: Float[Array, "pixel n"], gradient: Float[Array, " n"], damping: Float[Array, ""]
) -> Float[Array, " n"]:
    """The step (JᵀJ + μ diag JᵀJ)⁻¹ g; 0 for parameters without any slope."""
    normal = jacobian.T @ jacobian
    scale = jnp.where(jnp.diag(normal) > 0, jnp.diag(normal), 1.0)
    return jnp.linalg.solve(normal + jnp.diag(damping * scale), gradient)


# ------------------------------------------------------------------------------------------------------- the profiles


@dataclasses.dataclass(frozen=True)
class _Profile:
    """A profile as the fit sees it: the logarithm of the FWHM of its core, then numbers near 0."""

    psf: Callable[..., AbstractPSF]
    values: Callable[..., tuple[Array, ...]]  # what the PSF takes, from these numbers
    stamp: Callable[..., Array]  # (center, edge, *values, ellipticity), unit flux to infinity
    narrower: Callable[..., AbstractPSF]  # (psf, shrink, steepen)
    start: tuple[float, ...] = ()
    lowest: tuple[float, ...] = ()
    highest: tuple[float, ...] = ()


def _gaussian_values(width: Array) -> tuple[Array]:
    return (jnp.exp(width) / SIGMA_TO_FWHM,)


def _moffat_values(width: Array, slope: Array) -> tuple[Array, Array]:
    return jnp.exp(width), 1 + jnp.exp(slope)


def _double_gaussian_values(width: Array, excess: Array, share: Array) -> tuple[Array, Array, Array]:
    """The wing is broader than the core by a factor above 1, so that the two cannot change places."""
    (core,) = _gaussian_values(width)
    return core, core * (1 + jnp.exp(excess)), jax.nn.sigmoid(share)


def _ellipticity(free: Float[Array, "2"]) -> Float[Array, "2"]:
    """Map the plane smoothly onto |e| < 0.99."""
    return _FLATTEST * free / jnp.sqrt(1 + jnp.sum(free**2))


def _gaussian_stamp(
    center: Float[Array, "2"], edge: int, sigma: Array, ellipticity: Array | None = None
) -> Float[Array, "edge edge"]:
    if ellipticity is not None:
        return _integrated(
            lambda r2: jnp.exp(-0.5 * r2 / sigma**2) / (2 * jnp.pi * sigma**2), center, edge, ellipticity
        )
    offset = jnp.arange(edge, dtype=sigma.dtype) - edge // 2
    border = (offset[None, :] - center[:, None]) / (math.sqrt(2) * sigma)
    half = 0.5 / (math.sqrt(2) * sigma)
    y, x = 0.5 * (erf(border + half) - erf(border - half))
    return y[:, None] * x[None, :]


def _moffat_stamp(
    center: Float[Array, "2"], edge: int, width: Array, beta: Array, ellipticity: Array | None = None
) -> Float[Array, "edge edge"]:
    alpha2 = (width / _width_of_alpha(beta)) ** 2
    peak = (beta - 1) / (jnp.pi * alpha2)
    return _integrated(lambda r2: peak * (1 + r2 / alpha2) ** -beta, center, edge, ellipticity)


def _double_gaussian_stamp(
    center: Float[Array, "2"], edge: int, core: Array, wing: Array, share: Array
) -> Float[Array, "edge edge"]:
    return (1 - share) * _gaussian_stamp(center, edge, core) + share * _gaussian_stamp(center, edge, wing)


def _integrated(
    profile: Callable[[Array], Array], center: Float[Array, "2"], edge: int, ellipticity: Float[Array, "2"] | None
) -> Float[Array, "edge edge"]:
    """Integrate profile(r²) about a centre over the pixels, by 6 x 6 Gauss–Legendre nodes in each."""
    nodes, weights = (jnp.asarray(values, center.dtype) for values in (NODES, WEIGHTS))
    offset = (jnp.arange(edge, dtype=center.dtype)[:, None] - edge // 2 + nodes[None, :]).reshape(-1)
    y, x = offset[:, None] - center[0], offset[None, :] - center[1]
    samples = profile(y**2 + x**2 if ellipticity is None else elliptical_radius2(y, x, ellipticity))
    return jnp.einsum("ymxn,m,n->yx", samples.reshape(edge, nodes.size, edge, nodes.size), weights, weights)


def _width_of_alpha(beta: Array) -> Array:
    """FWHM / α of a Moffat profile."""
    return 2 * jnp.sqrt(jnp.expm1(math.log(2) / beta))


def _narrower_gaussian(psf: GaussianPSF, shrink: float, _: float) -> GaussianPSF:
    return GaussianPSF(shrink * psf.sigma.min())


def _narrower_moffat(psf: MoffatPSF, shrink: float, steepen: float) -> MoffatPSF:
    alpha, beta = shrink * (psf.width / _width_of_alpha(psf.beta)).min(), steepen * psf.beta.max()
    return MoffatPSF(alpha * _width_of_alpha(beta), beta)


def _narrower_double_gaussian(psf: DoubleGaussianPSF, shrink: float, _: float) -> DoubleGaussianPSF:
    return DoubleGaussianPSF(shrink * psf.sigma_core.min(), shrink * psf.sigma_wing.min(), psf.wing_fraction.min())


_PROFILES = {
    "moffat": _Profile(
        psf=MoffatPSF,
        values=_moffat_values,
        stamp=_moffat_stamp,
        narrower=_narrower_moffat,
        start=(math.log(2.0),),  # β of 3, between 1.05 and 100
        lowest=(math.log(0.05),),
        highest=(math.log(99.0),),
    ),
    "gaussian": _Profile(
        psf=GaussianPSF,
        values=_gaussian_values,
        stamp=_gaussian_stamp,
        narrower=_narrower_gaussian,
    ),
    "double_gaussian": _Profile(
        psf=DoubleGaussianPSF,
        values=_double_gaussian_values,
        stamp=_double_gaussian_stamp,
        narrower=_narrower_double_gaussian,
        start=(0.0, -1.0),  # a wing of twice the core's width, between 1.05 and 21 times, with a quarter of the flux
        lowest=(-3.0, -10.0),
        highest=(3.0, 10.0),
    ),
}
