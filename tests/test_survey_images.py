"""Survey images with more than noise: sky, stars outside of the frame, holes, undersampled PSFs, deep bands.

Fluxes are compared with the truth or with the least-squares flux of the exact PSF at the true position. All blends have
one shape, so that one program is compiled.
"""

import numpy as np
import pytest

import jaxdeblend as jd
from tests.scenes import gaussian

SHAPE = (48, 48)
BANDS = ("g", "r", "i")
SIGMAS = (1.7, 1.5, 1.4)
STAR, GALAXY = (23.3, 22.8), (32.0, 14.0)
STAR_FLUX = np.array([600.0, 720.0, 540.0])
GALAXY_FLUX = np.array([800.0, 800.0, 800.0])


def star(center, flux, sigmas=SIGMAS):
    return np.stack([f * gaussian(SHAPE, center, sigma) for f, sigma in zip(flux, sigmas, strict=True)])


def galaxy(center, flux, size):
    return star(center, flux, np.hypot(SIGMAS, size))


def psfs(sigmas=SIGMAS):
    return np.stack([gaussian((25, 25), (12, 12), sigma) for sigma in sigmas])


def noise(seed=100):
    return np.random.default_rng(seed).normal(size=(3, *SHAPE))


def least_squares(images, variance, center, sigmas=SIGMAS):
    """Flux of the exact PSF at the true position, and its error."""
    model, weights = (
        star(center, np.ones(3), sigmas),
        np.where(variance > 0, 1 / np.where(variance > 0, variance, 1), 0),
    )
    power = (weights * model**2).sum(axis=(1, 2))
    return (weights * model * images).sum(axis=(1, 2)) / power, power**-0.5


def flags_of(result):
    return [jd.Flag(int(value)) for value in result.measurements.flags]


PAIR = star(STAR, STAR_FLUX) + galaxy(GALAXY, GALAXY_FLUX, 2.5)


@pytest.mark.parametrize("level", [0.0, 0.25, 0.5, -0.5, 3.0])
def test_sky_is_taken_out_and_told(level):
    images = PAIR + noise()
    result, dark = (
        jd.deblend(jd.Observation(data, np.ones(3), psfs(), bands=BANDS), [STAR, GALAXY])
        for data in (images + level, images)
    )
    np.testing.assert_allclose(result.sky[:, 0], level, atol=0.05)
    assert all(bool(flag & jd.Flag.UNEXPLAINED_LIGHT) == (level != 0) for flag in flags_of(result))
    error = result.measurements.flux_err
    assert (np.abs(result.measurements.flux - [STAR_FLUX, GALAXY_FLUX]) < 3 * error).all()
    assert (np.abs(result.measurements.flux - dark.measurements.flux) < 2 * error).all()
    measured = jd.measure(result, jd.Observation(images + level, np.ones(3), psfs(), bands=BANDS))
    assert all(bool(bits & jd.Flag.UNEXPLAINED_LIGHT) == (level != 0) for bits in measured["flags"])


def test_a_slope_of_the_sky_is_taken_out():
    y, x = np.indices(SHAPE) - 23.5
    slope = 0.02 * y - 0.01 * x
    result = jd.deblend(jd.Observation(PAIR + slope + noise(), np.ones(3), psfs(), bands=BANDS), [STAR, GALAXY])
    np.testing.assert_allclose(result.sky[:, 1:], [[0.02, -0.01]] * 3, atol=0.005)
    assert (np.abs(result.measurements.flux - [STAR_FLUX, GALAXY_FLUX]) < 3 * result.measurements.flux_err).all()


@pytest.mark.parametrize("place", [(23.0, 49.5), (-2.0, 22.0)])
def test_a_star_outside_is_told(place):
    images = PAIR + star(place, 100 * STAR_FLUX) + noise()
    result = jd.deblend(jd.Observation(images, np.ones(3), psfs(), bands=BANDS), [STAR, GALAXY])
    assert flags_of(result)[0] & jd.Flag.BRIGHT_NEIGHBOR_OUTSIDE


def test_a_large_galaxy_is_no_sky():
    """Its light reaches the border, where it falls outwards: it stays, and is told."""
    images = galaxy(STAR, np.full(3, 3e5), 14.0) + noise()
    result = jd.deblend(jd.Observation(images, np.ones(3), psfs(), bands=BANDS), [STAR])
    assert not result.sky.any()
    assert flags_of(result)[0] & jd.Flag.UNEXPLAINED_LIGHT


@pytest.mark.parametrize(("flux", "masked"), [(1e5, (0, 1, 2)), (1e4, (1,)), (1e4, (0, 2))])
def test_the_psf_fills_a_masked_core(flux, masked):
    images = star(STAR, np.array([flux, 1.2 * flux, 0.9 * flux]))
    variance = 1 + images
    images = images + noise() * np.sqrt(variance)
    y, x = np.indices(SHAPE)
    mask = np.zeros(images.shape, bool)
    mask[list(masked)] = np.hypot(y - STAR[0], x - STAR[1]) < 2.5
    result = jd.deblend(jd.Observation(images, variance, psfs(), bands=BANDS, mask=mask), [STAR])
    expected, error = least_squares(images, np.where(mask, 0, variance), STAR)
    assert (np.abs(result.measurements.flux[0] - expected) < 0.3 * error).all()
    assert flags_of(result)[0] & jd.Flag.MASKED_PIXELS and not flags_of(result)[0] & jd.Flag.REJECTED_PIXELS


@pytest.mark.parametrize("height", [20.0, 100.0, 5000.0])
@pytest.mark.parametrize("place", [(27, 25), (23, 23), (31, 15)])
def test_a_cosmic_ray_in_one_band_changes_no_other(height, place):
    """Three pixels, beside the star, on it and on the galaxy: other bands within half an error, the place told."""
    images = PAIR + noise()
    y, x = place
    images[1, y - 1 : y + 2, x] += height
    clean, hit = (
        jd.deblend(jd.Observation(data, np.ones(3), psfs(), bands=BANDS), [STAR, GALAXY])
        for data in (PAIR + noise(), images)
    )
    nearest = int(np.hypot(y - GALAXY[0], x - GALAXY[1]) < 5)
    assert flags_of(hit)[nearest] & jd.Flag.REJECTED_PIXELS
    pull = (hit.measurements.flux - clean.measurements.flux) / clean.measurements.flux_err
    assert np.abs(pull[:, [0, 2]]).max() < 0.5
    assert np.abs(pull[:, 1]).max() < 2  # fewer pixels, hence more noise
    np.testing.assert_allclose(hit.measurements.center, [STAR, GALAXY], atol=0.3)


@pytest.mark.parametrize("flux", [300.0, 1000.0, 1e4])
def test_undersampled_stars(flux):
    """FWHM of 1.2 to 1.4 pixels: narrower than the PSF of model space."""
    sigmas = (0.51, 0.55, 0.6)
    images = star(STAR, np.array([flux, 1.2 * flux, 0.9 * flux]), sigmas) + noise()
    result = jd.deblend(jd.Observation(images, np.ones(3), psfs(sigmas), bands=BANDS), [STAR])
    expected, error = least_squares(images, np.ones_like(images), STAR, sigmas)
    assert (np.abs(result.measurements.flux[0] - expected) < np.maximum(error, 0.003 * expected)).all()
    assert bool(result.converged) and flags_of(result) == [jd.Flag(0)]


def test_a_bright_galaxy_is_fitted_no_closer_than_the_psf_is_known():
    """S/N 10 000: with an error of the PSF of 1 %, the fit converges, to the right fluxes, with errors that hold it."""
    shape = galaxy(STAR, np.ones(3), 2.5)
    flux = 1e4 / np.sqrt((shape**2).sum(axis=(1, 2)))
    images = flux[:, None, None] * shape + noise()
    sure, unsure = (
        jd.deblend(jd.Observation(images, np.ones(3), psfs(), bands=BANDS, psf_error=error), [STAR])
        for error in (0.0, 0.01)
    )
    assert unsure.converged and sure.converged
    np.testing.assert_allclose(unsure.measurements.flux[0], flux, rtol=0.003)
    assert (unsure.measurements.flux_err[0] > 1.5 * sure.measurements.flux_err[0]).all()
    assert not unsure.measurements.flags[0]


def test_a_deep_band_spoils_no_other():
    """The noise of one band is 100 times smaller."""
    depth = np.array([1.0, 0.01, 1.0])
    images = star(STAR, STAR_FLUX) + noise() * depth[:, None, None]
    variance = np.ones_like(images) * depth[:, None, None] ** 2
    result = jd.deblend(jd.Observation(images, variance, psfs(), bands=BANDS), [STAR])
    expected, error = least_squares(images, variance, STAR)
    assert (np.abs(result.measurements.flux[0] - expected) < np.maximum(error, 0.003 * expected)).all()


@pytest.mark.parametrize("noise_of", ["sky", "photons"])
@pytest.mark.parametrize("flux", [1e5, 1e7, 1e9])
def test_a_bright_star_beside_a_faint_one(flux, noise_of):
    """The faint one, of S/N 30 on its own, lies 1.5 FWHM away. S/N of the bright one: 300 to 10⁸."""
    other = (STAR[0] + 4.2, STAR[1] + 4.2)
    images = star(STAR, np.full(3, flux)) + star(other, np.full(3, 180.0))
    variance = np.ones_like(images) if noise_of == "sky" else 1 + images
    images = images + noise() * np.sqrt(variance)
    result = jd.deblend(jd.Observation(images, variance, psfs(), bands=BANDS), [STAR, other])
    bright, faint = result.measurements.flux
    error = result.measurements.flux_err
    assert (np.abs(bright - flux) < np.maximum(3 * error[0], 1e-4 * flux)).all()
    assert (np.abs(faint - 180) < np.maximum(5 * error[1], 3e-6 * flux)).all()
