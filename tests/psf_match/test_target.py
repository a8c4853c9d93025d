"""Profiles against GalSim, fits against SciPy, targets against the recipe of the tutorial."""

import galsim
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.special

import jaxdeblend as jd
from jaxdeblend.psf_match.target import coadd_target, fit_profile, fit_target_psf

EDGE = 43
ACCURATE = galsim.GSParams(folding_threshold=1e-5, maxk_threshold=1e-6, kvalue_accuracy=1e-8, maximum_fft_size=16384)
CENTERS = [(0.0, 0.0), (0.4, -0.25), (-0.13, 0.37)]


def drawn(profile, center=(0.0, 0.0)):
    y, x = center
    return profile.drawImage(nx=EDGE, ny=EDGE, scale=1, offset=(x, y), dtype=float).array


def moffat(fwhm, beta):
    return galsim.Moffat(beta=beta, fwhm=fwhm, gsparams=ACCURATE)


def gaussian(sigma):
    return galsim.Gaussian(sigma=sigma, gsparams=ACCURATE)


def stamps_of(profiles):
    return np.stack([drawn(profile, center) for profile, center in zip(profiles, CENTERS, strict=True)])


@pytest.mark.parametrize("x64", [False, True])
def test_moffats_are_recovered(x64):
    widths, betas = [3.0, 3.8, 5.2], [2.5, 3.0, 4.5]
    stamps = stamps_of([moffat(*pair) for pair in zip(widths, betas, strict=True)])
    with jax.enable_x64(x64):
        fitted = fit_profile(stamps)
        assert fitted.psf.width.dtype == fitted.center.dtype == jnp.zeros(1).dtype
    np.testing.assert_allclose(fitted.center, CENTERS, atol=1e-3)
    np.testing.assert_allclose(fitted.psf.fwhm(), widths, rtol=1e-3)
    np.testing.assert_allclose(fitted.psf.beta, betas, atol=1e-2)
    np.testing.assert_allclose(np.asarray(fitted.amplitude) * stamps.sum(axis=(1, 2)), 1.0, rtol=1e-3)
    assert np.asarray(fitted.rms).max() < 1e-3


def test_gaussians_are_recovered():
    sigmas = [0.8, 1.5, 2.6]
    fitted = fit_profile(stamps_of([gaussian(sigma) for sigma in sigmas]), "gaussian")
    np.testing.assert_allclose(fitted.center, CENTERS, atol=1e-3)
    np.testing.assert_allclose(fitted.psf.sigma, sigmas, rtol=1e-3)
    np.testing.assert_allclose(fitted.amplitude, 1.0, rtol=1e-3)


def test_double_gaussians_are_recovered():
    cores, wings, shares = [1.2, 1.6, 2.0], [2.6, 3.0, 4.4], [0.15, 0.4, 0.25]
    profiles = [
        (1 - share) * gaussian(core) + share * gaussian(wing)
        for core, wing, share in zip(cores, wings, shares, strict=True)
    ]
    fitted = fit_profile(stamps_of(profiles), "double_gaussian")
    np.testing.assert_allclose(fitted.center, CENTERS, atol=1e-3)
    np.testing.assert_allclose(fitted.psf.sigma_core, cores, rtol=1e-3)
    np.testing.assert_allclose(fitted.psf.sigma_wing, wings, rtol=1e-3)
    np.testing.assert_allclose(fitted.psf.wing_fraction, shares, rtol=5e-3)


@pytest.mark.parametrize("profile", ["moffat", "gaussian"])
def test_ellipticities_are_recovered(profile):
    shapes = [(0.3, 0.0), (-0.05, 0.2), (0.35, -0.4)]
    round_one = moffat(4.0, 3.0) if profile == "moffat" else gaussian(1.7)
    fitted = fit_profile(stamps_of([round_one.shear(e1=e1, e2=e2) for e1, e2 in shapes]), profile, elliptical=True)
    np.testing.assert_allclose(fitted.center, CENTERS, atol=1e-3)
    np.testing.assert_allclose(fitted.psf.ellipticity, shapes, atol=1e-3)
    np.testing.assert_allclose(fitted.psf.fwhm(), round_one.fwhm, rtol=1e-3)


def test_noise_moves_the_fit_by_its_errors():
    """24 noisy stamps: means within their errors, which are those of the Fisher matrix of a Gaussian."""
    rng, sigma, noise = np.random.default_rng(3), 2.0, 1e-4
    noisy = stamps_of([gaussian(sigma)] * 3)[None] + rng.normal(0, noise, (8, 3, EDGE, EDGE))
    fits = [fit_profile(stamps, "gaussian") for stamps in noisy]
    # of the centre and of σ where the flux is free: √(8π) σ² n / F (as Condon 1997, PASP 109, 166), without the pixel
    error = np.sqrt(8 * np.pi) * sigma**2 * noise
    for values in ([fit.center - np.array(CENTERS) for fit in fits], [fit.psf.sigma - np.array(sigma) for fit in fits]):
        pulls = np.concatenate([np.asarray(value) for value in values]) / error
        assert np.abs(pulls.mean(axis=0)).max() < 4 / np.sqrt(24)
        assert 0.6 < pulls.std() < 1.5


def test_the_centred_profile_is_the_stamp():
    psf = jd.MoffatPSF([3.0, 4.0, 5.2], [2.2, 3.0, 2.6], (0.1, -0.2))
    assert psf.edge == EDGE
    fitted = fit_profile(psf, elliptical=True)
    np.testing.assert_allclose(fitted.psf.stamp(EDGE), psf.stamp(EDGE), atol=1e-6)
    np.testing.assert_allclose(fitted.center, 0.0, atol=1e-5)


def test_bands_are_fitted_each_for_itself():
    stamps = stamps_of([moffat(3.0, 2.5), moffat(4.0, 3.5), gaussian(1.5)])
    there, back = fit_profile(stamps), fit_profile(stamps[::-1])
    for one, other in zip(jax.tree.leaves(there), jax.tree.leaves(back), strict=True):
        np.testing.assert_allclose(one, other[::-1], rtol=1e-5, atol=1e-6)


def test_single_precision_agrees_with_double():
    """Inside a transformation everything is computed in the precision of the arrays."""
    stamps = stamps_of([moffat(3.0, 2.5), moffat(4.0, 3.5), moffat(5.0, 3.0)])
    with jax.enable_x64(False):
        single = jax.jit(fit_profile)(jnp.asarray(stamps, dtype=float))
    assert single.rms.dtype == np.float32
    double = fit_profile(stamps)
    np.testing.assert_allclose(single.psf.fwhm(), double.psf.fwhm(), rtol=1e-3)
    np.testing.assert_allclose(single.psf.beta, double.psf.beta, rtol=5e-3)
    np.testing.assert_allclose(single.center, double.center, atol=1e-3)


@pytest.mark.parametrize("profile", ["moffat", "gaussian", "double_gaussian"])
def test_what_has_no_minimum_stays_finite(profile):
    """A Gaussian is the limit of the others, the delta function that of all; a flat stamp has no width."""
    delta = np.pad(np.ones((1, 1)), EDGE // 2)
    stamps = np.stack([drawn(gaussian(1.3)), delta, np.ones((EDGE, EDGE))])
    fitted = fit_profile(stamps, profile)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(fitted))
    assert float(fitted.rms[0]) < 5e-3 and float(fitted.rms[1]) < 1e-3


def circular_moffat(parameters, nodes=8):
    """Stamp of a Moffat profile, by the midpoint rule in 8 x 8 parts of each pixel."""
    y, x, flux, alpha, beta = parameters
    offset = (np.arange(EDGE * nodes) + 0.5) / nodes - EDGE / 2
    r2 = (offset[:, None] - y) ** 2 + (offset[None, :] - x) ** 2
    fine = flux * (beta - 1) / (np.pi * alpha**2) * (1 + r2 / alpha**2) ** -beta
    return fine.reshape(EDGE, nodes, EDGE, nodes).mean(axis=(1, 3))


def double_gaussian(parameters):
    y, x, flux, core, wing, share = parameters
    edges = np.arange(EDGE + 1) - EDGE / 2

    def one(sigma):
        y_part, x_part = (np.diff(scipy.special.ndtr((edges - c) / sigma)) for c in (y, x))
        return np.outer(y_part, x_part)

    return flux * ((1 - share) * one(core) + share * one(wing))


REAL = [
    ("moffat", circular_moffat, (0.1, -0.1, 0.9, 3.0, 3.0), 0.032),
    ("double_gaussian", double_gaussian, (0.1, -0.1, 0.9, 1.3, 2.6, 0.3), 0.041),
]


@pytest.mark.parametrize(("profile", "model", "start", "largest"), REAL, ids=[row[0] for row in REAL])
def test_real_psfs_reach_the_minimum_of_scipy(shared_data, profile, model, start, largest):
    stamps = np.load(shared_data("hsc_cosmos_35.npz"))["psfs"][[0, 3, 4]].astype(float)
    stamps /= stamps.sum(axis=(1, 2), keepdims=True)
    fitted = fit_profile(stamps, profile)
    assert np.asarray(fitted.rms).max() < largest
    for band in (0, 1):  # the broadest, and the worst fitted

        def residual(parameters, band=band):
            return (model(parameters) - stamps[band]).reshape(-1) / np.linalg.norm(stamps[band])

        best = scipy.optimize.least_squares(residual, start, x_scale="jac", xtol=1e-10)
        np.testing.assert_allclose(fitted.rms[band], np.sqrt(2 * best.cost), rtol=1e-3)
        np.testing.assert_allclose(fitted.center[band], best.x[:2], atol=1e-4)
        np.testing.assert_allclose(fitted.amplitude[band], best.x[2], rtol=2e-3)
        np.testing.assert_allclose(fitted.psf.fwhm()[band], width_of(profile, best.x), rtol=2e-3)


def width_of(profile, parameters):
    if profile == "moffat":
        return 2 * parameters[3] * np.sqrt(2 ** (1 / parameters[4]) - 1)
    core, wing, share = parameters[3:]

    def excess(r):
        def light(r):
            return (1 - share) / core**2 * np.exp(-0.5 * (r / core) ** 2) + share / wing**2 * np.exp(
                -0.5 * (r / wing) ** 2
            )

        return light(r) - 0.5 * light(0)

    return 2 * scipy.optimize.brentq(excess, 0, 10)


def test_the_target_follows_the_recipe_of_the_tutorial():
    """α = 0.6 min α and β = 1.4 max β, α and β of different bands."""
    alphas, betas = np.array([3.0, 2.6, 3.4]), np.array([3.0, 2.2, 2.6])
    stamps = stamps_of(
        [galsim.Moffat(beta=b, scale_radius=a, gsparams=ACCURATE) for a, b in zip(alphas, betas, strict=True)]
    )
    target = fit_target_psf(stamps)
    assert target.n_bands == 1 and target.ellipticity is None
    np.testing.assert_allclose(target.beta, 1.4 * 3.0, rtol=5e-3)
    np.testing.assert_allclose(target.fwhm(), 2 * 0.6 * 2.6 * np.sqrt(2 ** (1 / 4.2) - 1), rtol=3e-3)
    other = fit_target_psf(stamps, shrink=0.8, steepen=1.0)
    np.testing.assert_allclose(other.fwhm(), 2 * 0.8 * 2.6 * np.sqrt(2 ** (1 / 3.0) - 1), rtol=3e-3)


def test_gaussian_targets():
    sigma = fit_target_psf(jd.GaussianPSF([2.0, 2.5, 4.2]), "gaussian").sigma
    np.testing.assert_allclose(sigma, [1.2], rtol=1e-4)
    psf = jd.DoubleGaussianPSF([1.5, 1.8, 1.6], [4.2, 3.4, 3.8], [0.2, 0.4, 0.3])
    target = fit_target_psf(psf, "double_gaussian")
    found = [float(value[0]) for value in (target.sigma_core, target.sigma_wing, target.wing_fraction)]
    np.testing.assert_allclose(found, [0.9, 2.04, 0.2], rtol=3e-3)


@pytest.mark.parametrize("profile", ["moffat", "gaussian", "double_gaussian"])
def test_real_psfs_are_reached_from_the_target_without_deconvolution(shared_data, profile):
    psfs = np.load(shared_data("hsc_cosmos_35.npz"))["psfs"][[0, 3, 4]]
    gain, lobe = gain_and_lobe(fit_target_psf(psfs, profile), jd.ImagePSF(psfs))
    assert gain < 1.01 and lobe < 0.1


def gain_and_lobe(source, target):
    """Largest Fourier component of the kernels, and weight of their negative pixels."""
    kernels = np.asarray(jd.DifferenceKernel.between(source, target, edge=EDGE).image)
    return np.abs(np.fft.fft2(kernels, s=(96, 96))).max(), -np.where(kernels < 0, kernels, 0).sum(axis=(1, 2)).min()


def test_a_target_that_is_badly_sampled_warns():
    """α of the Moffat and β of the Gaussian do not belong together."""
    stamps = stamps_of([moffat(2.6, 2.0), gaussian(2.0), gaussian(2.2)])
    with pytest.warns(UserWarning, match="fit_target_psf: the target has a FWHM of 0.* a larger shrink"):
        fit_target_psf(stamps)


def test_coadd_target_is_broader_than_all():
    psf = jd.GaussianPSF([1.4, 1.7])
    target = coadd_target(psf, broaden=1.2, beta=2.8)
    assert target.n_bands == 1
    width = 1.7 * np.sqrt(8 * np.log(2))
    np.testing.assert_allclose([target.fwhm()[0], target.beta[0]], [1.2 * width, 2.8], rtol=1e-3)
    np.testing.assert_allclose(coadd_target(psf, beta=None).sigma, 1.1 * 1.7, rtol=1e-3)


def test_coadd_target_feels_wings():
    """A Gaussian fitted to a Moffat profile is broader than that is at half of its maximum."""
    assert float(coadd_target(drawn(moffat(4.0, 2.5)), broaden=1.0).fwhm()[0]) > 4.2


def test_real_psfs_reach_the_coadd_target(shared_data):
    psfs = np.load(shared_data("hsc_cosmos_35.npz"))["psfs"]
    target = coadd_target(psfs)
    np.testing.assert_allclose(target.fwhm(), 1.1 * 4.88, rtol=0.02)  # as others quote the seeing of these stamps
    gain, lobe = gain_and_lobe(jd.ImagePSF(psfs[:1]), jd.ImagePSF(target.stamp(EDGE)))
    assert gain < 1.05 and lobe < 0.15


STAMP = np.asarray(jd.GaussianPSF(1.5).stamp(11))
BAD = [
    (fit_profile, dict(profile="airy"), "profile: got 'airy'; give one of 'moffat', 'gaussian', 'double_gaussian'"),
    (fit_profile, dict(profile="double_gaussian", elliptical=True), "elliptical: the double Gaussian is circular"),
    (fit_profile, dict(psf=np.full((5, 5), np.nan)), "psf: got 25 pixels that are NaN or infinite"),
    (fit_profile, dict(psf=np.ones((6, 6))), "psf: got stamps of even edge"),
    (fit_profile, dict(psf=-STAMP), "psf: got stamps of sum"),
    (fit_profile, dict(psf=np.ones((3, 3))), "psf: got stamps of edge 3; a profile needs 5 pixels or more"),
    (fit_target_psf, dict(profile="airy"), "profile: got 'airy'"),
    (fit_target_psf, dict(shrink=-0.6), "shrink: got -0.6; give a factor above 0 and up to 1"),
    (fit_target_psf, dict(shrink=np.nan), "shrink: got nan"),
    (fit_target_psf, dict(steepen=0.5), "steepen: got 0.5; give a factor of 1 or more"),
    (fit_target_psf, dict(psf=np.full((5, 5), np.nan)), "psf: got 25 pixels that are NaN or infinite"),
    (coadd_target, dict(broaden=0.9), "broaden: got 0.9; give a factor of 1 or more"),
    (coadd_target, dict(beta=1.0), "beta: got 1.0; every value must be above 1"),
    (coadd_target, dict(psf=np.full((5, 5), np.nan)), "psf: got 25 pixels that are NaN or infinite"),
]


@pytest.mark.parametrize(("function", "options", "message"), BAD, ids=[f"{f.__name__}-{m[:16]}" for f, _, m in BAD])
def test_bad_input(function, options, message):
    options = dict(options)
    with pytest.raises(ValueError, match=message):
        function(options.pop("psf", STAMP), **options)
