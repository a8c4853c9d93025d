import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdeblend as jd
from jaxdeblend.fitting.loop import fit_arrays
from jaxdeblend.measurement.photometry import measure_arrays
from tests.scenes import PSF_SIGMA, gaussian, observe

SHAPE = (25, 25)
RMS = np.array([0.5, 2.0])
MODEL_VARIANCE = 0.8**2 + 1 / 12
"""Second moment of the PSF of model space: a Gaussian of 0.8 px, integrated over pixels."""

measured = eqx.filter_jit(lambda *arguments: measure_arrays(*arguments)[0])
rendered = eqx.filter_jit(jd.render_sources)
PAIR = np.array([(12.2, 9.7), (12.9, 12.4)])


def noise_of(shape=SHAPE):
    return jd.Observation(np.zeros((2, *shape)), RMS**2, jd.GaussianPSF(PSF_SIGMA), bands=("g", "r"))


def stars(centers, fluxes):
    return jd.Blend.of([jd.PointSource(c, f) for c, f in zip(centers, fluxes, strict=True)], frame=SHAPE)


@pytest.fixture(scope="module")
def pair():
    return measured(stars(PAIR, [[100.0, 300.0], [50.0, 75.0]]), noise_of())


def test_fluxes_are_the_totals_of_the_models(pair):
    np.testing.assert_allclose(pair.flux, [[100.0, 300.0], [50.0, 75.0]], rtol=1e-5)
    assert pair.n_components.tolist() == [1, 1]
    np.testing.assert_allclose(pair.center, PAIR, rtol=1e-6)


def test_error_of_an_isolated_star_is_that_of_the_matched_filter():
    star = measured(stars([(11.7, 12.4)], [[30.0, 40.0]]), noise_of())
    expected = RMS / np.sqrt((gaussian(SHAPE, (11.7, 12.4), PSF_SIGMA) ** 2).sum())
    np.testing.assert_allclose(star.flux_err[0], expected, rtol=5e-3)


def test_errors_of_overlapping_stars_hold_their_covariance(pair):
    profiles = np.array([gaussian(SHAPE, center, PSF_SIGMA).ravel() for center in PAIR])
    fisher = profiles @ profiles.T
    expected = np.sqrt(np.diag(np.linalg.inv(fisher)))[:, None] * RMS[None]
    np.testing.assert_allclose(pair.flux_err, expected, rtol=1e-2)
    alone = RMS / np.sqrt(fisher[0, 0])
    assert (np.asarray(pair.flux_err) > 1.05 * alone).all()


def test_blendedness_of_two_gaussians(pair):
    """1 - 1 / (1 + r exp(-d² / 4σ²)) for a neighbour r times as bright at the distance d."""
    overlap = np.exp(-((PAIR[0] - PAIR[1]) ** 2).sum() / 4 / (PSF_SIGMA**2 + 1 / 12))
    ratio = np.array([[0.5, 0.25], [2.0, 4.0]])
    np.testing.assert_allclose(pair.blendedness, 1 - 1 / (1 + ratio * overlap), rtol=1e-2)


def test_pulls_of_a_star_have_unit_width():
    """Noise realisations as lanes of one program: (flux - truth) / error of a fitted star is a normal deviate."""
    truth, n_noise = 400.0, 60
    noise = np.random.default_rng(3).normal(size=(n_noise, 1, 17, 17))
    images = truth * gaussian((17, 17), (8.0, 8.0), PSF_SIGMA) + 3.0 * noise
    start = jd.Blend.of([jd.PointSource((8.0, 8.0), [0.9 * truth])], frame=(17, 17))
    optimizer = jd.ProximalAdam(max_steps=60, learning_rate=2.0)

    def one(image):
        obs = jd.Observation(image, jnp.full(1, 9.0), jd.GaussianPSF(PSF_SIGMA), bands=("r",))
        values, _ = measure_arrays(fit_arrays(start, obs, optimizer).blend, obs)
        return (values.flux - truth) / values.flux_err

    pull = np.asarray(jax.jit(jax.vmap(one))(jnp.asarray(images, dtype=float))).ravel()
    assert abs(pull.mean()) < 3.5 / np.sqrt(n_noise)
    assert 0.8 < pull.std() < 1.2


@pytest.mark.parametrize("q", [(3.0, 0.0, 3.0), (6.0, 0.0, 2.0), (4.0, -1.5, 5.0)], ids=["round", "tall", "tilted"])
def test_shapes_of_gaussian_galaxies(q):
    q_yy, q_yx, q_xx = q
    y, x = np.mgrid[-12:13, -12:13]
    inverse = np.linalg.inv([[q_yy + MODEL_VARIANCE, q_yx], [q_yx, q_xx + MODEL_VARIANCE]])
    stamp = np.exp(-0.5 * (inverse[0, 0] * y**2 + 2 * inverse[0, 1] * y * x + inverse[1, 1] * x**2))
    galaxy = jd.Blend.of([jd.ExtendedSource((12.0, 12.0), [2.0, 3.0], stamp)], frame=SHAPE)
    table = jd.measure(galaxy, noise_of())
    trace = q_yy + q_xx
    assert table["size"].value[0] == pytest.approx(np.sqrt(trace / 2), rel=1e-2)
    assert table["e1"][0] == pytest.approx((q_xx - q_yy) / trace, abs=5e-3)
    assert table["e2"][0] == pytest.approx(2 * q_yx / trace, abs=5e-3)
    np.testing.assert_allclose(table["flux_r"][0], 3.0 * stamp.sum(), rtol=1e-5)


def test_a_point_has_no_size(pair):
    np.testing.assert_allclose(pair.moments, 0.0, atol=1e-3)


def test_shapes_of_two_components_are_weighted_by_flux():
    sigmas = np.array([1.2, 2.4])
    stamps = np.array([gaussian((25, 25), (12, 12), sigma) for sigma in sigmas])
    spectra = np.array([[3.0, 1.0], [2.0, 4.0]]) * stamps.max(axis=(1, 2))[:, None]
    galaxy = jd.ExtendedSource((12.0, 12.0), spectra, stamps / stamps.max(axis=(1, 2), keepdims=True))
    values = measured(jd.Blend.of([galaxy], frame=SHAPE), noise_of())
    expected = (0.4 * sigmas[0] ** 2 + 0.6 * sigmas[1] ** 2) + 1 / 12 - MODEL_VARIANCE
    np.testing.assert_allclose(values.moments[0], [expected, 0, expected], rtol=1e-2, atol=1e-3)
    np.testing.assert_allclose(values.flux[0], [5.0, 5.0], rtol=1e-4)
    assert values.n_components.tolist() == [2]


def test_a_band_without_data_has_infinite_errors():
    mask = np.zeros((2, *SHAPE), dtype=bool)
    mask[1] = True
    obs = jd.Observation(np.zeros((2, *SHAPE)), RMS**2, jd.GaussianPSF(PSF_SIGMA), bands=("g", "r"), mask=mask)
    values = measured(stars(PAIR, [[100.0, 300.0], [50.0, 75.0]]), obs)
    assert np.isfinite(values.flux_err[:, 0]).all() and np.isposinf(values.flux_err[:, 1]).all()


# Coverage, and the image at the peak


def test_coverage_is_the_light_on_usable_pixels():
    """A star in the middle and one at the border; a hole in g, and half of r without data."""
    centers, mask = np.array([(12.2, 9.7), (0.3, 20.4)]), np.zeros((2, *SHAPE), bool)
    mask[0, 10:13, 8:14], mask[1, :, :10] = True, True
    obs = jd.Observation(np.zeros((2, *SHAPE)), RMS**2, jd.GaussianPSF(PSF_SIGMA), bands=("g", "r"), mask=mask)
    found = measured(stars(centers, [[100.0, 300.0], [50.0, 0.0]]), obs).data_coverage  # dark in r, but covered
    profiles = np.array([gaussian(SHAPE, center, PSF_SIGMA) for center in centers])
    expected = np.einsum("nyx,byx->nb", profiles, ~mask)
    np.testing.assert_allclose(found, expected, atol=3e-3)
    assert 0.4 < expected[0].min() < expected.max() < 0.75  # no case is trivial


def test_coverage_of_all_and_of_nothing(pair):
    np.testing.assert_allclose(pair.data_coverage, 1, atol=2e-3)
    mask = np.zeros((2, *SHAPE), bool)
    mask[1] = True
    obs = jd.Observation(np.zeros((2, *SHAPE)), RMS**2, jd.GaussianPSF(PSF_SIGMA), bands=("g", "r"), mask=mask)
    values = measured(stars(PAIR, [[100.0, 300.0], [50.0, 75.0]]), obs)
    np.testing.assert_array_equal(values.data_coverage[:, 1], 0)
    lost = measured(stars([PAIR[0], (12.0, 30.0)], [[100.0, 300.0], [50.0, 75.0]]), noise_of())
    np.testing.assert_array_equal(np.isnan(lost.data_coverage), [[False, False], [True, True]])
    np.testing.assert_array_equal(np.isnan(lost.peak_flux), [[False, False], [True, True]])


def test_peak_flux_is_the_pixel_of_the_detected_position():
    """Positions on the corners' pixels count; of two positions, one is on a pixel that is masked in r."""
    images, mask = np.random.default_rng(2).normal(size=(2, *SHAPE)), np.zeros((2, *SHAPE), bool)
    mask[1, 12, 10] = True
    obs = jd.Observation(images, RMS**2, jd.GaussianPSF(PSF_SIGMA), bands=("g", "r"), mask=mask)
    found = measured(stars([(12.2, 9.7), (24.4, -0.4)], np.ones((2, 2))), obs).peak_flux
    np.testing.assert_allclose(found, [[images[0, 12, 10], np.nan], images[:, 24, 0]], rtol=1e-6)


# Re-apportioned flux


@pytest.fixture(scope="module")
def shares():
    blend = stars(PAIR, [[100.0, 300.0], [50.0, 75.0]])
    noise = RMS[:, None, None] * np.random.default_rng(5).normal(size=(2, *SHAPE))
    mask = np.zeros(SHAPE, dtype=bool)
    mask[12, 8:10] = True
    obs = observe(np.asarray(rendered(blend, noise_of()).sum(axis=0)) + noise, mask=mask)
    return blend, obs, mask, jd.apportion_flux(blend, obs)


def test_children_and_rest_are_the_image(shares):
    _, obs, _, parts = shares
    assert parts.children.shape == (2, 2, *SHAPE)
    np.testing.assert_allclose(parts.children.sum(axis=0) + parts.unassigned, obs.images, atol=1e-5)


def test_children_are_in_proportion_to_their_models(shares):
    blend, obs, mask, parts = shares
    models = np.asarray(rendered(blend, obs))
    near = (models.sum(axis=0) > 1.0) & ~mask
    share = models / np.where(near, models.sum(axis=0), 1.0)
    np.testing.assert_allclose(parts.children[:, near], (share * obs.images)[:, near], rtol=1e-3, atol=1e-3)


def test_nothing_is_assigned_where_nothing_is_known(shares):
    _, obs, mask, parts = shares
    assert not np.any(parts.children[:, :, mask])
    far = np.zeros(SHAPE, dtype=bool)
    far[:3], far[:, 21:] = True, True
    assert not np.any(parts.children[:, :, far])
    np.testing.assert_array_equal(parts.unassigned[:, far], obs.images[:, far])


def test_padding_gets_nothing(shares):
    blend, obs, _, _ = shares
    padded = eqx.tree_at(
        lambda b: (b.active, b.stacks[0].active), blend, (jnp.array([True, False]), jnp.array([True, False]))
    )
    parts = jd.apportion_flux(padded, obs)
    assert not np.any(parts.children[1])
    np.testing.assert_allclose(parts.children[0].sum(), np.asarray(obs.images)[:, 8:18, 5:16].sum(), rtol=0.1)


def test_an_empty_blend_leaves_the_whole_image():
    obs = observe(np.ones((2, *SHAPE)))
    parts = jd.apportion_flux(jd.Blend.of([], frame=SHAPE), obs)
    assert parts.children.shape[0] == 0
    np.testing.assert_array_equal(parts.unassigned, obs.images)
