import dataclasses

import numpy as np
import pytest

from jaxdeblend.simulate import simulate_blend
from jaxdeblend.simulate.population import (
    draw_asymmetric_galaxy,
    draw_magnitude,
    draw_smooth_galaxy,
    draw_star,
)
from jaxdeblend.simulate.render import draw
from jaxdeblend.simulate.survey import SKY_VARIANCE, make_survey

BANDS = ("g", "r", "i")


@pytest.fixture(scope="module")
def scene():
    return simulate_blend(4, bands=BANDS, n_sources=4, kind="asymmetric")


def test_shapes(scene):
    n = len(scene.kind)
    assert n == 4
    assert scene.images.shape == scene.variance.shape == (3, 64, 64)
    assert scene.truth.shape == (n, 3, 64, 64) and scene.psf.shape == (3, 51, 51)
    assert scene.centers.shape == (n, 2) and scene.flux.shape == scene.snr.shape == (n, 3)
    assert {array.dtype for array in (scene.images, scene.variance, scene.truth, scene.psf)} == {np.dtype("f4")}


@pytest.mark.parametrize("kind", ["sersic", "asymmetric"])
def test_a_seed_gives_one_scene(kind):
    one, two, other = (simulate_blend(seed, bands=BANDS, n_sources=2, kind=kind) for seed in (3, 3, 5))
    np.testing.assert_array_equal(one.images, two.images)
    np.testing.assert_array_equal(one.truth, two.truth)
    assert not np.array_equal(one.images, other.images)


def test_global_random_state_is_left_alone():
    np.random.seed(1)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    simulate_blend(1, bands=("i",), n_sources=1)
    np.testing.assert_array_equal(before, np.random.get_state()[1])  # noqa: NPY002


def test_a_generator_goes_on():
    rng = np.random.default_rng(1)
    one, two = (simulate_blend(rng, bands=("i",), n_sources=1) for _ in range(2))
    assert not np.array_equal(one.images, two.images)


def test_bands_do_not_change_the_galaxies():
    few, many = (simulate_blend(6, bands=bands, n_sources=3) for bands in (("i",), ("u", "g", "r", "i", "z", "y")))
    np.testing.assert_allclose(few.truth[:, 0], many.truth[:, 3], rtol=1e-4, atol=1e-4)


def test_truth_adds_up_and_noise_is_what_the_variance_says(scene):
    expected = np.sqrt(scene.survey.sky_variance[:, None, None] + scene.noiseless)
    pull = (scene.images - scene.noiseless) / expected
    assert pull.mean() == pytest.approx(0, abs=5 / np.sqrt(pull.size))
    assert pull.std() == pytest.approx(1, abs=5 / np.sqrt(2 * pull.size))
    assert np.all(scene.variance >= scene.survey.sky_variance[:, None, None] * (1 - 1e-6))


def test_flux_is_total_and_within_the_image_less(scene):
    inside = scene.truth.sum((2, 3))
    assert np.all(inside < scene.flux * 1.003)
    assert np.median(inside / scene.flux) > 0.97


def test_sources_are_at_their_centers():
    scene = simulate_blend(8, bands=("i",), n_sources=5, star_fraction=1.0)
    assert set(scene.kind) == {"star"}
    y, x = np.indices(scene.images.shape[1:])
    for image, center in zip(scene.truth[:, 0].astype(float), scene.centers, strict=True):
        near = np.hypot(y - center[0], x - center[1]) < 6
        weight = image[near] / image[near].sum()
        np.testing.assert_allclose([weight @ y[near], weight @ x[near]], center, atol=0.05)


def test_centers_keep_to_the_middle():
    centers = np.concatenate([simulate_blend(s, bands=("i",), n_sources=8, shape=(48, 80)).centers for s in range(5)])
    middle = np.array([23.5, 39.5])
    assert np.all(np.abs(centers - middle) <= 0.3125 * np.array([48, 80]))


def test_signal_to_noise_is_that_of_the_best_filter(scene):
    variance = scene.survey.sky_variance[:, None, None] + scene.truth
    np.testing.assert_allclose(scene.snr, np.sqrt((scene.truth.astype(float) ** 2 / variance).sum((2, 3))))


def test_given_psf_and_sky_are_used():
    psf = make_survey(("g", "i"), psf_fwhm=(5.0, 3.0), psf_edge=31).psf
    scene = simulate_blend(1, bands=("g", "i"), psf=3 * psf, sky={"g": 4.0, "i": 9.0}, n_sources=0)
    np.testing.assert_allclose(scene.psf, psf, rtol=1e-6)
    assert scene.images.std((1, 2)) == pytest.approx([2.0, 3.0], rel=0.05)


def test_no_source_is_a_scene_too():
    scene = simulate_blend(1, bands=BANDS, n_sources=0)
    assert scene.truth.shape == (0, 3, 64, 64) and scene.flux.shape == scene.snr.shape == (0, 3)
    assert np.all(scene.noiseless == 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "round"}, r"`kind` must be one of \['asymmetric', 'sersic'\], got 'round'"),
        ({"bands": ("g", "H")}, r"`bands` must be different names out of ugrizy, got \('g', 'H'\)"),
        ({"bands": ("g", "g")}, "`bands` must be different"),
        ({"bands": ()}, "`bands` must be different"),
        (
            {"n_sources": (3, 2)},
            r"`n_sources` must be a number >= 0 or a \(smallest, largest\) pair, got \(3, 2\)",
        ),
        (
            {"psf": np.ones((3, 30, 31))},
            r"`psf` must be \(band, y, x\) with 3 bands and odd edges, got shape \(3, 30, 31\)",
        ),
        ({"psf": np.ones((2, 31, 31))}, "`psf` must be"),
        ({"psf_fwhm": (3.0, 4.0)}, "`psf_fwhm` must be positive, one number or one for each of"),
        ({"psf_fwhm": -3.0}, "`psf_fwhm` must be positive"),
        ({"sky": {"g": 1.0}}, r"`sky` has no entry for \['r', 'i'\]"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        simulate_blend(1, **{"bands": BANDS, **options})


@pytest.mark.parametrize("drawer", [draw_star, draw_smooth_galaxy, draw_asymmetric_galaxy])
def test_components_add_up_to_the_flux(drawer):
    survey = make_survey(BANDS)
    rng = np.random.default_rng(2)
    for _ in range(10):
        source = drawer(rng, survey, 24.0)
        image = draw(source, np.array([60.0, 60.0]), (121, 121), survey)
        np.testing.assert_allclose(image.sum((1, 2)), source.flux, rtol=0.05)
        assert np.all(image >= 0)


def test_magnitude_is_that_of_the_i_band():
    survey = make_survey(BANDS)
    for drawer in (draw_star, draw_smooth_galaxy):
        source = drawer(np.random.default_rng(2), survey, 22.5)
        assert survey.magnitude(source.flux)[2] == pytest.approx(22.5)


def test_bulges_are_redder_than_disks():
    survey = make_survey(("g", "i"))
    disk, bulge = draw_smooth_galaxy(np.random.default_rng(3), survey, 22.5).components
    assert bulge.flux[0] / bulge.flux[1] < disk.flux[0] / disk.flux[1]


def test_counts_rise_as_they_should():
    rng = np.random.default_rng(1)
    magnitudes = np.array([draw_magnitude(rng, (20.0, 25.0), slope=0.3) for _ in range(4000)])
    assert magnitudes.min() >= 20 and magnitudes.max() <= 25
    brighter = (magnitudes < 24).mean()
    assert brighter == pytest.approx((10**7.2 - 10**6.0) / (10**7.5 - 10**6.0), abs=0.03)


def test_all_kinds_appear_and_look_asymmetric():
    survey = make_survey(("i",))
    rng = np.random.default_rng(5)
    sources = [draw_asymmetric_galaxy(rng, survey, 22.0) for _ in range(60)]
    assert {source.kind for source in sources} == {"lopsided", "clumpy", "spiral", "tidal"}
    images = [draw(source, np.array([40.0, 40.0]), (81, 81), survey)[0] for source in sources]
    index = [np.abs(image - image[::-1, ::-1]).sum() / 2 / image.sum() for image in images]
    assert 0.04 < np.median(index) < 0.2


def test_scene_is_immutable(scene):
    with pytest.raises(dataclasses.FrozenInstanceError):
        scene.images = None


def test_default_sky_is_that_of_the_survey(scene):
    np.testing.assert_allclose(scene.survey.sky_variance, [SKY_VARIANCE[band] for band in BANDS])
