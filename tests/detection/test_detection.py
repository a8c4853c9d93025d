import astropy.units as u
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from photutils.detection import DAOStarFinder
from scipy.optimize import linear_sum_assignment

import jaxdeblend as jd
from jaxdeblend.detection import detect

SIGMA = 1.5
PSF = jd.GaussianPSF(SIGMA)
FWHM = 2.3548 * SIGMA
COLUMNS = ["id", "y", "x", "significance", "error", "footprint"]


def stars(centers, fluxes, shape=(48, 48), sigma=SIGMA):
    """Pixel-integrated Gaussian stars, in closed form; fluxes (star, band)."""
    fluxes = np.atleast_2d(np.asarray(fluxes, dtype=float).T).T
    images = np.zeros((fluxes.shape[1], *shape))
    for (y, x), flux in zip(centers, fluxes, strict=True):
        profile = [
            np.diff(scipy.stats.norm.cdf(np.arange(edge + 1) - 0.5, at, sigma))
            for edge, at in zip(shape, (y, x), strict=True)
        ]
        images += flux[:, None, None] * np.outer(*profile)
    return images


def observe(images, variance=None, mask=None, psf=PSF):
    variance = np.ones(len(images)) if variance is None else variance
    return jd.Observation(images, variance, psf, bands=tuple("ugrizy"[: len(images)]), mask=mask)


def noise(seed, shape):
    return np.random.default_rng(seed).normal(size=shape)


def check_consistent(found, shape):
    """What must hold for every detection."""
    peaks = found.peaks
    assert peaks.colnames == COLUMNS
    assert peaks["id"].tolist() == list(range(len(peaks)))
    assert all(np.isfinite(np.asarray(peaks[name])).all() for name in COLUMNS)
    assert (np.diff(peaks["significance"]) <= 0).all() and (peaks["error"] > 0).all()
    assert found.labels.shape == shape and found.labels.dtype == np.int32
    assert sorted(np.concatenate([np.zeros(0, int), *[f.peaks for f in found.footprints]])) == peaks["id"].tolist()
    for k, footprint in enumerate(found.footprints):
        assert len(footprint.peaks) and (peaks["footprint"][footprint.peaks] == k).all()
        np.testing.assert_array_equal(footprint.mask, found.labels[footprint.box.slices] == k + 1)
        for y, x in found.centers[footprint.peaks]:
            row, column = round(y), round(x)
            assert found.labels[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2].max() == k + 1
    assert found.labels.max(initial=0) == len(found.footprints)


def test_one_star():
    found = detect(observe(stars([(20.3, 25.6)], [[300, 500]])))
    check_consistent(found, (48, 48))
    assert len(found.peaks) == 1 and found.peaks["y"].unit == found.peaks["error"].unit == u.pix
    np.testing.assert_allclose(found.centers, [(20.3, 25.6)], atol=0.01)


def test_significance_is_the_signal_to_noise_ratio():
    rms = 2.0
    images = stars([(24, 24)], [200.0])
    found = detect(observe(images, np.array([rms**2])))
    stamp = np.asarray(PSF.stamp(PSF.edge), dtype=float)
    assert found.peaks["significance"][0] == pytest.approx(200 / rms * np.sqrt(np.sum(stamp**2)), rel=1e-4)


@settings(max_examples=25)
@given(st.floats(-0.5, 0.5), st.floats(-0.5, 0.5), st.sampled_from([0.9, 1.5, 2.5]))
def test_positions_have_no_bias(dy, dx, sigma):
    images = stars([(24 + dy, 24 + dx)], [1000.0], sigma=sigma)
    found = detect(observe(images, psf=jd.GaussianPSF(sigma)))
    np.testing.assert_allclose(found.centers, [(24 + dy, 24 + dx)], atol=0.005)


@pytest.mark.parametrize("ratio", [10, 30, 100])
def test_positions_reach_the_cramer_rao_bound(ratio):
    pitch, per_side = 24, 14
    rng = np.random.default_rng(ratio)
    nodes = (np.stack(np.mgrid[:per_side, :per_side], axis=-1).reshape(-1, 2) + 0.5) * pitch
    centers = nodes + rng.uniform(-0.5, 0.5, nodes.shape)
    edge = pitch * per_side
    flux = ratio * np.sqrt(4 * np.pi) * SIGMA
    images = stars(centers, np.full((len(centers), 1), flux), (edge, edge)) + rng.normal(size=(1, edge, edge))
    found = detect(observe(images))
    assert len(found.peaks) == len(centers) == len(found.footprints)
    gap = found.centers[:, None] - centers[None]
    offset = gap[np.arange(len(gap)), np.hypot(*np.moveaxis(gap, -1, 0)).argmin(axis=1)]
    pixel = np.sqrt(1 / 12)
    bound = np.sqrt(2) * np.hypot(SIGMA, pixel) / ratio
    spread = np.sqrt(np.mean(offset**2))
    # 392 numbers: their rms is known to 3.6 %.
    assert bound * 0.9 < spread < bound * 1.15
    floor = 0.05
    assert np.median(found.peaks["error"]) == pytest.approx(np.hypot(spread, floor), rel=0.15)


@pytest.mark.parametrize("bands", [1, 3, 6])
def test_noise_has_no_peaks_at_five_sigma(bands):
    found = detect(observe(noise(bands, (bands, 300, 300))))
    check_consistent(found, (300, 300))
    assert len(found.peaks) == 0


@pytest.mark.parametrize("bands", [1, 3, 6])
def test_noise_has_the_expected_number_of_peaks(bands):
    edge, threshold = 700, 3.5
    found = detect(observe(noise(bands, (bands, edge, edge))), threshold=threshold)
    # Mean Euler number of the excursions of a smooth Gaussian field with ρ = exp(-r² / 4σ²) (Adler 1981).
    curvature = 1 / (2 * SIGMA**2)
    expected = edge**2 * curvature * threshold * np.exp(-(threshold**2) / 2) / (2 * np.pi) ** 1.5
    assert 0.4 * expected < len(found.peaks) < 2.0 * expected


def test_an_empty_image_has_an_empty_table():
    for variance in (np.ones(2), np.full((2, 48, 48), np.nan)):
        found = detect(observe(np.zeros((2, 48, 48)), variance))
        check_consistent(found, (48, 48))
        assert len(found.peaks) == 0 and found.footprints == () and found.centers.shape == (0, 2)
        assert [found.peaks[name].dtype.kind for name in COLUMNS] == list("iffffi")


def test_a_masked_hot_pixel_is_not_seen():
    images = noise(0, (2, 64, 64))
    images[:, 30, 40] = [1e9, np.nan]
    mask = np.zeros((64, 64), dtype=bool)
    mask[30, 40] = True
    assert len(detect(observe(images, mask=mask)).peaks) == 0


def test_an_unmasked_hot_pixel_hides_only_its_surroundings():
    images = stars([(15, 15), (50, 48)], [[300.0, 200.0], [200.0, 300.0]], (64, 64)) + noise(1, (2, 64, 64))
    expected = detect(observe(images))
    images[0, 15, 50] = 1e9
    found = detect(observe(images))
    check_consistent(found, (64, 64))
    for center in expected.centers:
        assert np.hypot(*(found.centers - center).T).min() < 1e-3


@pytest.mark.parametrize("value", [np.nan, -np.inf, 1e30])
def test_values_under_the_mask_change_nothing(value):
    images = stars([(15, 15), (33, 30)], [[300.0], [200.0]]) + noise(1, (1, 48, 48))
    mask = np.random.default_rng(2).random(images.shape) > 0.9
    expected = detect(observe(images, np.ones_like(images), mask))
    changed = np.where(mask, value, images), np.where(mask, value, 1.0)
    found = detect(observe(*changed, mask))
    assert all((found.peaks[name] == expected.peaks[name]).all() for name in COLUMNS)
    np.testing.assert_array_equal(found.labels, expected.labels)


def test_a_star_is_found_behind_a_mask():
    images = stars([(24.2, 23.7)], [2000.0]) + noise(4, (1, 48, 48))
    mask = np.zeros((48, 48), dtype=bool)
    mask[22:27, 22:27] = True
    found = detect(observe(images, mask=mask))
    assert len(found.peaks) == 1
    assert np.abs(found.centers - (24.2, 23.7)).max() < 2 * found.peaks["error"][0] < 4


def test_a_bleed_trail_does_not_part_a_star():
    images = stars([(24.2, 24.3)], [1e5])
    mask = np.zeros((48, 48), dtype=bool)
    mask[:, 24] = True
    found = detect(observe(images + noise(4, images.shape), mask=mask))
    assert len(found.peaks) == 1
    np.testing.assert_allclose(found.centers, [(24.2, 24.3)], atol=0.05)


@pytest.mark.parametrize("seed", range(5))
def test_scattered_bad_pixels_do_not_part_a_star(seed):
    images = stars([(24.2, 24.3)], [[1e4, 2e4]]) + noise(seed, (2, 48, 48))
    mask = np.random.default_rng(seed).random(images.shape) < 0.05
    found = detect(observe(images, mask=mask))
    assert len(found.peaks) == 1
    assert np.abs(found.centers - (24.2, 24.3)).max() < 2 * found.peaks["error"][0] < 0.3


def test_a_band_without_data_is_as_if_it_were_not_there():
    images = stars([(15, 15), (33, 30)], [[300.0, 0, 10], [200.0, 0, 30]]) + noise(1, (3, 48, 48))
    variance = np.ones_like(images)
    variance[1] = np.inf
    found, expected = detect(observe(images, variance)), detect(observe(images[[0, 2]], variance[[0, 2]]))
    assert len(found.peaks) == 2
    assert all((found.peaks[name] == expected.peaks[name]).all() for name in COLUMNS)


@pytest.mark.parametrize("center", [(0.0, 20.3), (0.4, 20.0), (-0.4, 30.0), (47.3, 47.2), (20.2, -0.3), (0.2, 0.1)])
def test_sources_at_the_border(center):
    found = detect(observe(stars([center], [1000.0])))
    check_consistent(found, (48, 48))
    assert len(found.peaks) == 1
    # Half of a profile is no Gaussian: the error says so.
    assert np.abs(found.centers - center).max() < 2 * found.peaks["error"][0] < 0.8


def test_a_source_beyond_the_border_is_placed_on_it():
    found = detect(observe(stars([(-1.5, 20.0)], [1000.0])))
    assert len(found.peaks) == 1
    np.testing.assert_allclose(found.centers, [(-0.5, 20.0)], atol=0.05)


@pytest.mark.parametrize("separation", [1.1, 1.5, 2.5])
def test_close_pairs_are_two(separation):
    half = separation * FWHM / 2
    centers = np.array([(24, 24 - half), (24, 24 + half)])
    found = detect(observe(stars(centers, [[2000.0, 1000.0], [1000.0, 2000.0]]) + noise(0, (2, 48, 48))))
    assert len(found.peaks) == 2 and len(found.footprints) == 1
    order = np.argsort(found.centers[:, 1])
    np.testing.assert_allclose(found.centers[order], centers, atol=0.35)


@pytest.mark.parametrize("flux", [1e3, 1e4, 1e5, 1e6])
@pytest.mark.parametrize("sigma", [1.3, 1.5, 1.7])
def test_a_bright_star_is_one_even_with_a_wrong_psf(flux, sigma):
    images = stars([(20.4, 20.3)], [[flux, flux / 2]], sigma=SIGMA) + noise(1, (2, 48, 48))
    assert len(detect(observe(images, psf=jd.GaussianPSF(sigma))).peaks) == 1


def test_the_fainter_of_two_close_peaks_is_dropped():
    centers = [(24, 20.0), (24, 27.0)]
    obs = observe(stars(centers, [[3000.0], [2000.0]]))
    assert len(detect(obs).peaks) == 2
    found = detect(obs, min_separation=8.0)
    assert len(found.peaks) == 1 and found.centers[0, 1] == pytest.approx(20, abs=0.2)


def test_contrast_keeps_faint_knots_with_their_galaxy():
    galaxy = stars([(24, 24)], [2e5], sigma=4.0) + stars([(24, 24), (27, 30)], [[2e5], [15000.0]])
    obs = observe(galaxy + noise(0, galaxy.shape))
    assert len(detect(obs).peaks) == 2
    assert len(detect(obs, contrast=0.2).peaks) == 1


def test_thresholds_and_areas():
    obs = observe(stars([(14, 14), (34, 34)], [[100.0], [1000.0]]))
    significance = 100 / (SIGMA * np.sqrt(4 * np.pi))
    assert len(detect(obs, threshold=significance * 0.9).peaks) == 2
    assert len(detect(obs, threshold=significance * 1.1).peaks) == 1
    first, second = sorted(footprint.area for footprint in detect(obs, grow=0).footprints)
    assert len(detect(obs, min_area=first + 1).peaks) == 1
    assert detect(obs, grow=2).footprints[0].area > first
    assert len(detect(obs, min_area=second + 1).peaks) == 0


def test_the_same_stars_as_photutils():
    rng = np.random.default_rng(5)
    nodes = (np.stack(np.mgrid[:8, :8], axis=-1).reshape(-1, 2) + 0.5) * 25
    centers = nodes + rng.uniform(-4, 4, nodes.shape)
    fluxes = rng.uniform(150, 3000, (len(centers), 1))
    images = stars(centers, fluxes, (200, 200)) + rng.normal(size=(1, 200, 200))
    found = detect(observe(images))
    theirs = DAOStarFinder(threshold=0.5, fwhm=FWHM)(images[0])
    names = ("y_centroid", "x_centroid") if "y_centroid" in theirs.colnames else ("ycentroid", "xcentroid")
    positions = np.stack([np.asarray(theirs[name]) for name in names], axis=-1)
    assert len(found.peaks) == len(centers)
    nearest = np.hypot(*np.moveaxis(found.centers[:, None] - positions[None], -1, 0)).argmin(axis=1)
    offset = found.centers - positions[nearest]
    assert np.hypot(*offset.T).max() < 0.5 and np.abs(np.mean(offset, axis=0)).max() < 0.03


@settings(max_examples=20)
@given(st.integers(-14, 14), st.integers(-14, 14))
def test_detection_commutes_with_shifts(dy, dx):
    patch = stars([(12, 10.3), (14.4, 16.6), (20, 20)], [[500.0], [400.0], [300.0]], (32, 32))
    patch += noise(7, patch.shape)
    first, second = (
        observe(np.pad(patch, ((0, 0), (20 + y, 20 - y), (20 + x, 20 - x)))) for y, x in ((0, 0), (dy, dx))
    )
    a, b = detect(first), detect(second)
    assert len(a.peaks) == len(b.peaks) >= 3
    np.testing.assert_allclose(b.centers - a.centers, np.broadcast_to([dy, dx], a.centers.shape), atol=1e-4)
    np.testing.assert_allclose(b.peaks["significance"], a.peaks["significance"], rtol=1e-6)
    np.testing.assert_array_equal(np.roll(a.labels, (dy, dx), axis=(0, 1)), b.labels)


def test_detection_commutes_with_transposition():
    images = stars([(12, 10.3), (14.4, 16.6), (30, 20)], [[500.0], [400.0], [300.0]]) + noise(3, (1, 48, 48))
    a, b = detect(observe(images)), detect(observe(images.swapaxes(1, 2)))
    np.testing.assert_allclose(a.centers, b.centers[:, ::-1], atol=1e-6)
    np.testing.assert_array_equal(a.labels > 0, (b.labels > 0).T)


def test_scaling_the_flux_unit_changes_nothing():
    images = stars([(12, 10.3), (14.4, 16.6)], [[500.0], [400.0]]) + noise(3, (1, 48, 48))
    a, b = detect(observe(images)), detect(observe(images * 1e-6, np.array([1e-12])))
    np.testing.assert_allclose(a.centers, b.centers, atol=1e-4)
    np.testing.assert_allclose(a.peaks["significance"], b.peaks["significance"], rtol=1e-4)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"threshold": 0.0}, "threshold: got 0.0; give a positive"),
        ({"threshold": np.nan}, "threshold: got nan"),
        ({"footprint_threshold": 6.0}, "footprint_threshold: got 6.0; .* not above the threshold of 5.0"),
        ({"footprint_threshold": -1.0}, "footprint_threshold: got -1.0"),
        ({"prominence": -1.0}, "prominence: got -1.0"),
        ({"contrast": 1.5}, "contrast: got 1.5; give a fraction"),
        ({"min_area": 0}, "min_area: got 0; give a whole number of pixels, at least 1"),
        ({"min_separation": -1.0}, "min_separation: got -1.0"),
        ({"grow": -1}, "grow: got -1; give a whole number of pixels, at least 0"),
    ],
)
def test_bad_options(option, message):
    with pytest.raises(ValueError, match=message):
        detect(observe(np.zeros((1, 48, 48))), **option)


def test_a_detection_is_immutable():
    found = detect(observe(np.zeros((1, 48, 48))))
    with pytest.raises(AttributeError, match="cannot assign"):
        found.footprints = ()


def matches(truth, found, limit=3.0):
    if len(found) == 0:
        return 0
    gap = np.hypot(*np.moveaxis(truth[:, None] - found[None], -1, 0))
    return int(np.sum(gap[linear_sum_assignment(gap)] < limit))


def test_more_sources_than_sep_in_simulated_blends(shared_data):
    data = np.load(shared_data("btk_lsst_dev.npz"))
    images = data["blend_q"] * data["blend_step"][:, None, None]
    variance = np.maximum(images, 0) + data["sky_var"][:, None, None]
    counts = np.zeros((2, 2), dtype=int)
    truths = 0
    for k in range(len(images)):
        rows, theirs = data["src_blend"] == k, data["det_blend"] == k
        truth = np.stack([data["src_y"][rows], data["src_x"][rows]], axis=-1)
        ours = detect(observe(images[k], variance[k], psf=data["psf"])).centers
        for row, centers in enumerate((ours, np.stack([data["det_y"][theirs], data["det_x"][theirs]], axis=-1))):
            counts[row] += (matches(truth, centers), len(centers))
        truths += len(truth)
    f1 = 2 * counts[:, 0] / (counts[:, 1] + truths)
    assert f1[0] > 0.88 > f1[1] and counts[0, 0] / counts[0, 1] > 0.99


@pytest.mark.parametrize(("sky", "scale"), [(0.0, 1.0), (30.0, 1.0), (-3.0, 1.0), (0.0, 3.0)])
def test_an_image_with_its_sky_is_told(sky, scale, caplog):
    """Not so where the noise is larger than it is said to be."""
    image = scale * np.random.default_rng(2).normal(size=(1, 64, 64)) + sky
    jd.detect(jd.Observation(image, [1.0], jd.GaussianPSF(1.5), bands=["r"]))
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(told) == (sky != 0) and all("band r: the background is" in message for message in told)
