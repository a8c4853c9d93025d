"""Exposures brought to one PSF: stars of known flux, variances of known noise, masks counted by hand."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
import scipy.ndimage
from astropy.wcs import WCS

import jaxdeblend as jd
from jaxdeblend.psf_match import fit_profile
from jaxdeblend.psf_match.apply import convolved_exposure

SIZE, EDGE, FLUX = 200, 31, 1e5
TARGET = jd.MoffatPSF(4.7, 3.2)
STARS = np.array([(y, x) for y in (40, 75, 120, 160) for x in (38, 90, 125, 161)])


@jax.jit
def stamps_at(y, x):
    """Moffat profiles, broader to the lower right, and elliptical."""
    y, x = (y - 100) / 100, (x - 100) / 100
    shape = jnp.stack([0.05 * x + 0.03 * y**2, 0.04 * x * y - 0.03 * y])
    widths = jnp.stack([3.4 + 0.3 * x - 0.2 * y + 0.1 * x * y, 3.9 - 0.2 * x])
    return jd.MoffatPSF(widths, 3.2, jnp.stack([shape, -shape])).stamp(EDGE)


FIELD = jd.FunctionPSFField(stamps_at, EDGE, 2)


def star_field():
    images = np.zeros((2, SIZE, SIZE))
    for (y, x), stamp in zip(STARS, np.asarray(FIELD.stamps(STARS.astype(float))), strict=True):
        images[:, y - EDGE // 2 : y + EDGE // 2 + 1, x - EDGE // 2 : x + EDGE // 2 + 1] += FLUX * stamp
    return images


def exposure(images=None, **changes):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.cdelt = ["RA---TAN", "DEC--TAN"], [-5e-5, 5e-5]
    settings = dict(bands=("g", "r"), wcs=wcs, unit="nJy", zero_point=[31.4, 31.0]) | changes
    images = star_field() if images is None else images
    return jd.Exposure(images, settings.pop("variance", [4.0, 9.0]), settings.pop("psf", FIELD), **settings)


@pytest.fixture(scope="module")
def matched():
    return jd.match_exposure(exposure(), TARGET)


def cutouts(images):
    half = EDGE // 2
    return np.stack([images[:, y - half : y + half + 1, x - half : x + half + 1] for y, x in STARS])


def test_all_stars_have_the_reference_psf(matched):
    stars = cutouts(matched.exposure.images) / FLUX
    expected = np.asarray(TARGET.stamp(EDGE))[0]
    error = np.linalg.norm(stars - expected, axis=(2, 3)) / np.linalg.norm(expected)
    before = np.linalg.norm(cutouts(star_field()) / FLUX - expected, axis=(2, 3)) / np.linalg.norm(expected)
    assert error.max() < 5e-3 and before.min() > 0.1
    fitted = fit_profile(stars[:, 0], elliptical=True).psf
    np.testing.assert_allclose(fitted.fwhm(), 4.7, atol=0.03)
    np.testing.assert_allclose(fitted.ellipticity, 0.0, atol=4e-3)


def test_flux_is_kept(matched):
    np.testing.assert_allclose(
        matched.exposure.images.sum(axis=(1, 2), dtype=float), star_field().sum(axis=(1, 2)), rtol=1e-4
    )


def test_the_psf_that_was_achieved_is_that_of_the_stars(matched):
    stamps = np.asarray(matched.exposure.psf.stamps(STARS.astype(float)))
    margin = (stamps.shape[-1] - EDGE) // 2
    stars = cutouts(matched.exposure.images) / FLUX
    inner = stamps[..., margin : margin + EDGE, margin : margin + EDGE]
    np.testing.assert_allclose(inner, stars, atol=2e-3 * stars.max())


def test_everything_else_stays(matched):
    before, after = exposure(), matched.exposure
    assert type(after) is jd.Exposure and after.shape == before.shape
    assert (after.bands, after.unit) == (before.bands, before.unit)
    np.testing.assert_array_equal(after.zero_point, before.zero_point)
    assert after.wcs.wcs.compare(before.wcs.wcs)


def test_pulls_of_the_noise_have_unit_width():
    variance = np.broadcast_to(np.linspace(1, 9, SIZE)[None, None], (2, SIZE, SIZE))
    noise = np.random.default_rng(3).normal(size=variance.shape) * np.sqrt(variance)
    after = jd.match_exposure(exposure(noise, variance=variance), TARGET).exposure
    pulls = (after.images / np.sqrt(after.variance))[~after.mask]
    assert abs(pulls.std() - 1) < 0.03 and abs(pulls.mean()) < 0.05
    assert (after.variance < variance)[~after.mask].all()


def test_pixels_are_masked_where_kernels_meet_masked_ones():
    """A kernel of 5 pixels, all alike: the dilation of the mask, and a border of 2."""
    kernel = jd.SpatialKernel(np.full((2, 1, 5, 5), 0.04, np.float32), jd.Box((0, 0), (60, 50)), 0)
    mask = np.zeros((2, 60, 50), bool)
    mask[0, 30, 20:23] = mask[1, 10, 3] = True
    images = np.ones((2, 60, 50))
    images[mask] = np.nan
    after = convolved_exposure(exposure(images, mask=mask, wcs=None), kernel, FIELD, 1e-3)
    expected = np.stack([scipy.ndimage.binary_dilation(band, np.ones((5, 5)), border_value=0) for band in mask])
    expected[:, :2] = expected[:, -2:] = expected[:, :, :2] = expected[:, :, -2:] = True
    np.testing.assert_array_equal(after.mask, expected)
    assert np.isfinite(after.images).all()
    np.testing.assert_allclose(after.images[~after.mask], 1.0, rtol=1e-5)
    np.testing.assert_allclose(after.variance[0][~after.mask[0]], 4.0 / 25, rtol=1e-4)


def test_a_constant_psf_needs_one_candidate():
    before = exposure(psf=jd.GaussianPSF([1.5, 1.7]))
    matched = jd.match_exposure(before, jd.GaussianPSF(2.0), jd.MatchConfig(solver=jd.LeastSquares(1e-8)))
    assert len(matched.candidates.positions) == 1 and matched.kernel.order == 0
    direct = jd.match_psf(before.psf, jd.GaussianPSF(2.0), method=jd.LeastSquares(1e-8)).kernel.image
    np.testing.assert_allclose(matched.kernel.images[:, 0], direct, atol=1e-6)


def test_kernels_are_scaled_and_not_changed(matched):
    double = jd.match_exposure(exposure(), TARGET, kernel_sum=2.0)
    np.testing.assert_allclose(double.kernel.images, 2 * np.asarray(matched.kernel.images), atol=1e-6)
    np.testing.assert_allclose(double.exposure.images, 2 * matched.exposure.images, atol=1e-2)
    np.testing.assert_allclose(double.exposure.variance, 4 * matched.exposure.variance, rtol=1e-3, atol=1e-5)


class Broken(jd.AbstractPSFField):
    """The field, with a PSF that is far too narrow in one corner, and none in another."""

    nowhere: bool
    edge: int = EDGE
    n_bands: int = 2

    def stamps(self, positions):
        stamps = np.array(FIELD.stamps(positions))
        corner = (np.asarray(positions) < 40).all(axis=1)
        other = (np.asarray(positions) > 160).all(axis=1)
        stamps[corner] = np.asarray(jd.GaussianPSF(1.0).stamp(EDGE))
        stamps[other] = np.nan if self.nowhere else stamps[other]
        return stamps


@pytest.mark.parametrize("nowhere", [False, True])
def test_candidates_are_rejected(nowhere):
    config = jd.MatchConfig(clip=10.0, order=2, cell=40)
    candidates = jd.match_exposure(exposure(psf=Broken(nowhere)), TARGET, config).candidates
    at = np.asarray(candidates.positions)
    bad = (at < 40).all(axis=1) | ((at > 160).all(axis=1) & nowhere)
    assert bad.sum() == 1 + nowhere
    np.testing.assert_array_equal(np.asarray(candidates.good), np.stack([~bad, ~bad], axis=1))
    table = candidates.table(("g", "r"))
    assert len(table) == 25 and not table["good_g"][bad].any() and table["spatial_l2_r"][~bad].max() < 0.05


def test_candidates_with_a_large_error_of_their_own_are_rejected():
    config = jd.MatchConfig(max_l2=1e-3, order=0, kernel_edge=11, solver=jd.LeastSquares(1e-4))
    with pytest.raises(ValueError, match="order: 0 good candidates cannot determine the 1 terms of order 0"):
        jd.match_exposure(exposure(), TARGET, config)


def test_every_solver_serves():
    config = jd.MatchConfig(solver=jd.Fourier(1e-6), order=1)
    stars = cutouts(jd.match_exposure(exposure(), TARGET, config).exposure.images) / FLUX
    expected = np.asarray(TARGET.stamp(EDGE))[0]
    assert (np.linalg.norm(stars - expected, axis=(2, 3)) / np.linalg.norm(expected)).max() < 0.02


BAD = [
    (dict(reference=jd.MoffatPSF(2.5, 3.2)), "would deconvolve: the target is narrower .* noise gain"),
    (dict(reference=jd.MoffatPSF([4.7, 5.0, 5.2], 3.2)), "reference_psf: got a PSF of 3 bands for images of 2"),
    (dict(reference=np.ones((4, 4))), "psf: got stamps of even edge"),
    (dict(reference=np.full((5, 5), np.nan)), "psf: got 25 pixels that are NaN"),
    (dict(config=jd.MatchConfig(kernel_edge=99)), "kernel_edge: got 99; give an odd number of pixels up to 39"),
    (dict(config=jd.MatchConfig(psf_edge=11)), r"psf_edge: cropping the PSF .* loses .*% of its flux"),
]


@pytest.mark.parametrize(("changes", "message"), BAD, ids=[message[:20] for _, message in BAD])
def test_bad_input(changes, message):
    with pytest.raises(ValueError, match=message):
        jd.match_exposure(exposure(), changes.get("reference", TARGET), changes.get("config"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(cell=0), "cell: got 0; give the size of a cell"),
        (dict(order=-1), "order: got -1; give the degree"),
        (dict(order=1.5), "order: got 1.5; give the degree"),
        (dict(kernel_edge=20), "kernel_edge: got 20; give an odd number"),
        (dict(polynomial="legendre"), "polynomial: got 'legendre'; give one of"),
        (dict(solver="magic"), "solver: got 'magic'; give a solver"),
        (dict(clip=np.nan), "clip: got nan; give a number of σ"),
        (dict(max_l2=-1.0), "max_l2: got -1.0; give the largest error"),
        (dict(psf_edge=10), "psf_edge: got 10; give an odd number"),
        (dict(mask_share=0.0), "mask_share: got 0.0; give a share"),
    ],
)
def test_bad_settings(settings, message, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # users have no checks of types
    with pytest.raises(ValueError, match=message):
        jd.MatchConfig(**settings)


def test_an_exposure_without_psf():
    with pytest.raises(ValueError, match="psf: got None; an exposure needs a PSF"):
        exposure(psf=None)


def test_centroids_that_differ_warn_or_are_moved():
    psf = np.roll(np.asarray(jd.GaussianPSF(1.5).stamp(21)), 1, axis=2)
    star = np.zeros((1, 61, 61))
    star[:, 20:41, 20:41] = psf
    before = jd.Exposure(star, [1.0], psf, bands=["r"])
    with pytest.warns(UserWarning, match="target: its centroid is up to 1.00 pixels from that of the source"):
        moved = jd.match_exposure(before, jd.GaussianPSF(2.0)).exposure.images[0]
    kept = jd.match_exposure(before, jd.GaussianPSF(2.0), jd.MatchConfig(recenter=True)).exposure.images[0]
    axis = np.arange(61)
    np.testing.assert_allclose([(moved * axis).sum(), (kept * axis).sum()], [30.0, 31.0], atol=0.02)


BAD_SUMS = [0.0, -1.0, np.nan, np.inf, -np.inf]


@pytest.mark.parametrize("total", BAD_SUMS)
def test_sums_of_kernels_that_make_no_image_are_refused(total):
    small = jd.Exposure(np.ones((1, 32, 32)), [1.0], jd.GaussianPSF(1.5), bands=["r"])
    kernel = jd.SpatialKernel(np.full((1, 1, 3, 3), 1 / 9), jd.Box((0, 0), (32, 32)), 0)
    for work in (
        lambda: jd.match_exposure(small, jd.GaussianPSF(2.0), kernel_sum=total),
        lambda: jd.match_psf(jd.GaussianPSF(1.5), jd.GaussianPSF(2.0), kernel_sum=total),
        lambda: kernel.with_sum(total),
    ):
        with pytest.raises(ValueError, match="kernel_sum: got .*; give one positive, finite number"):
            work()


def test_kernels_that_are_larger_than_the_image():
    small = jd.Exposure(np.ones((1, 32, 13)), [1.0], jd.GaussianPSF(1.5), bands=["r"])
    with pytest.raises(ValueError, match=r"kernel_edge: got 15 pixels for images of shape \(32, 13\); give at most 13"):
        jd.match_exposure(small, jd.GaussianPSF(2.0), jd.MatchConfig(kernel_edge=15))
    assert jd.match_exposure(small, jd.GaussianPSF(2.0)).kernel.edge == 13


def test_an_exposure_matched_to_its_own_psf_stays_as_it_is():
    images = np.random.default_rng(3).normal(size=(1, 64, 64)).astype(np.float32)
    before = jd.Exposure(images, [4.0], jd.GaussianPSF(1.5), bands=["r"])
    after = jd.match_exposure(before, jd.GaussianPSF(1.5)).exposure
    inner = (slice(None), slice(8, -8), slice(8, -8))
    np.testing.assert_allclose(after.images[inner], images[inner], atol=1e-5)
    np.testing.assert_allclose(after.variance[inner], 4.0, rtol=1e-5)


@pytest.mark.parametrize("unit", [1e-30, 1e-21, 1e21, 1e30])
def test_the_unit_of_the_images_does_not_matter(unit):
    images = 50 + np.random.default_rng(3).normal(size=(1, 48, 48))
    usual, other = (
        jd.match_exposure(
            jd.Exposure(images * c, [4.0 * c**2], jd.GaussianPSF(1.5), bands=["r"]), jd.GaussianPSF(2.0), kernel_sum=2.0
        ).exposure
        for c in (1.0, unit)
    )
    np.testing.assert_array_equal(other.mask, usual.mask)
    np.testing.assert_allclose(other.images / unit, usual.images, rtol=1e-5)
    np.testing.assert_allclose(other.variance / unit**2, usual.variance, rtol=1e-5)
