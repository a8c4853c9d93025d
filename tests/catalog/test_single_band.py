import numpy as np
import pytest
from scipy.special import ndtr

import jaxdeblend as jd
from jaxdeblend.catalog.plan import NO_PARENT
from jaxdeblend.catalog.single_band import CHUNK, _chunks
from jaxdeblend.instrument.psf_field import FunctionPSFField

BANDS = ("g", "i")
SIGMA = 1.5
SHAPE = (64, 80)
STARS = np.array([[12.3, 14.2], [14.6, 17.0], [61.2, 50.4], [33.0, 66.0], [33.0, 14.0], [33.0, 40.0]])
"""Two that overlap, one that the border cuts, and three on dead pixels of g, of i, and of both."""
FLUX = np.array([[600.0, 900.0], [400.0, 300.0], [800.0, 800.0], [700.0, 700.0], [700.0, 700.0], [700.0, 700.0]])
SKY = (10.0, 60.0)
CENTERS = np.vstack([[[-3.0, 10.0]], STARS[:3], [[np.nan, 5.0]], STARS[3:], [SKY]])


def star(center, sigma=SIGMA, shape=SHAPE):
    """Unit-flux Gaussian, integrated over the pixels."""
    rows, columns = (np.diff(ndtr((np.arange(n + 1) - 0.5 - c) / sigma)) for n, c in zip(shape, center, strict=True))
    return np.outer(rows, columns)


@pytest.fixture(scope="module")
def exposure():
    images = np.random.default_rng(1).normal(0, 1, (2, *SHAPE))
    images += np.einsum("nb,nyx->byx", FLUX, [star(center) for center in STARS])
    mask = np.zeros(images.shape, bool)
    for bands, (y, x) in (([0], STARS[3]), ([1], STARS[4]), ([0, 1], STARS[5])):
        mask[bands, int(y) - 9 : int(y) + 10, int(x) - 9 : int(x) + 10] = True
    images[0, 33, 66] = np.nan
    return jd.Exposure(images, [1.0, 1.0], jd.GaussianPSF(SIGMA), bands=BANDS, mask=mask)


@pytest.fixture(scope="module")
def result(exposure):
    done = []
    found = jd.deblend_single_band_exposure(exposure, CENTERS, progress=lambda *count: done.append(count))
    assert sum(count for count, _ in done) == len(found.parents) == done[0][1]
    return found


def has(result, flag, band):
    return (np.asarray(result.table[f"flags_{band}"]) & jd.SingleBandFlag[flag]) != 0


def test_no_position_is_lost(result):
    table = result.table
    assert len(table) == len(CENTERS) and table["id"].tolist() == list(range(len(CENTERS)))
    np.testing.assert_array_equal(np.stack([table["y"].value, table["x"].value], axis=1), CENTERS)
    lost = ~np.isfinite(CENTERS).all(axis=1) | (CENTERS[:, 0] < 0)
    np.testing.assert_array_equal(np.asarray(table["parent"]) == NO_PARENT, lost)
    for band in BANDS:
        np.testing.assert_array_equal(has(result, "OUT_OF_BOUNDS", band), lost)
        np.testing.assert_array_equal(np.isnan(table[f"flux_{band}"]), has(result, "SKIPPED", band))
    assert [child.id for child in result.children] == np.flatnonzero(~lost).tolist()


def test_each_band_has_its_own_mask(result):
    masked = {band: has(result, "PARENT_MASKED", band)[[5, 6, 7]].tolist() for band in BANDS}
    assert masked == {"g": [True, False, True], "i": [False, True, True]}
    assert result.n_failed == 3  # two off the image, one without data in both bands
    union = np.bitwise_or(result.table["flags_g"], result.table["flags_i"])
    np.testing.assert_array_equal(result.table["flags"], union)


def test_fluxes_agree_with_the_truth(result):
    rows = {0: 1, 1: 2, 2: 3, 3: 5, 4: 6}
    for number, band in enumerate(BANDS):
        for of, row in rows.items():
            flux = result.table[f"flux_{band}"].value[row]
            within = FLUX[of, number] * star(STARS[of]).sum()
            assert np.isnan(flux) or flux == pytest.approx(within, rel=0.05, abs=5 * np.sqrt(200))
    assert np.isfinite(result.table["snr_g"][[1, 2, 3]]).all()


def test_positions_are_those_of_the_exposure(result):
    for band in BANDS:
        found = np.stack([result.table[f"psf_{axis}_{band}"].value for axis in "yx"], axis=1)[1:4]
        np.testing.assert_allclose(found, STARS[:3], atol=0.3)


def test_children_and_the_rest_are_the_image(result, exposure):
    total = result.unassigned.astype(np.float64)
    for child in result.children:
        total[(slice(None), *child.box.slices)] += child.image
    np.testing.assert_array_equal(np.isnan(total), exposure.mask)
    good = ~exposure.mask
    assert np.abs(total - exposure.images)[good].max() <= 1e-6 * exposure.images[good].max()


def test_the_model_is_the_sum_of_the_templates(result, exposure):
    total = np.zeros_like(result.model)
    for template in result.templates:
        total[(slice(None), *template.box.slices)] += template.image
    np.testing.assert_allclose(result.model, total, atol=1e-4)
    good = ~exposure.mask
    np.testing.assert_allclose(result.residual[good], (exposure.images - result.model)[good], atol=1e-4)
    assert np.isnan(result.residual[exposure.mask]).all()


def test_parents(result):
    table, parents = result.table, result.parents
    inside = np.asarray(table["parent"]) != NO_PARENT
    np.testing.assert_array_equal(np.bincount(table["parent"][inside]), parents["n_sources"])
    np.testing.assert_array_equal(table["n_peaks"][inside], parents["n_sources"][table["parent"][inside]])
    assert (parents["area"] <= parents["ny"] * parents["nx"]).all() and table["parent"][1] == table["parent"][2]


def test_only_what_the_border_cuts_is_continued(result):
    for band in BANDS:
        assert not np.delete(has(result, "RAMPED_TEMPLATE", band), 3).any()


def test_options_reach_every_blend(exposure):
    config = jd.SingleBandConfig(max_footprint_area=10)
    result = jd.deblend_single_band_exposure(exposure, STARS, config=config)
    assert all(has(result, "PARENT_TOO_BIG", band).all() for band in BANDS)
    assert result.n_failed == len(STARS)
    good = ~exposure.mask
    np.testing.assert_array_equal(result.unassigned[good], exposure.images[good])


def test_each_parent_has_the_psf_at_its_place():
    centers, shape = np.array([[20.3, 14.8], [19.9, 113.1]]), (40, 128)

    def sigma(column):
        return (2.8 + 1.2 * column / 127) / (2 * np.sqrt(2 * np.log(2)))

    image = sum(1500 * star(center, sigma(center[1]), shape) for center in centers)
    field = FunctionPSFField(lambda *place: star((7, 7), sigma(place[1]), (15, 15))[None], 15, 1)
    noisy = image + np.random.default_rng(1).normal(0, 1, (2, *shape))
    for psf, fits in ((field, True), (field.at((20, 64)), False)):
        result = jd.deblend_single_band_exposure(jd.Exposure(noisy, [1.0, 1.0], psf, bands=BANDS), centers)
        assert all((has(result, "DEBLENDED_AS_PSF", band) == fits).all() for band in BANDS)


@pytest.mark.parametrize("centers", [None, [], [[-5.0, 3.0]]])
def test_nothing_to_deblend(centers):
    sky = jd.Exposure(np.zeros((2, 40, 40)), [1.0, 1.0], jd.GaussianPSF(SIGMA), bands=BANDS)
    result = jd.deblend_single_band_exposure(sky, centers)
    n = len(centers or [])
    assert len(result.table) == result.n_failed == n and len(result.parents) == len(result.children) == 0
    assert "flux_g" in result.table.colnames and not result.model.any()


def test_parents_go_in_pieces_that_fit_into_memory(exposure):
    parent = jd.catalog.find_parents(exposure, jd.detect(exposure.observation()), [SKY])[0]
    assert [len(chunk) for chunk in _chunks((parent,) * (2 * CHUNK + 1), 2)] == [CHUNK, CHUNK, 1]
    assert [len(chunk) for chunk in _chunks((parent,) * 3, 10**5)] == [1, 1, 1]


def test_centers_must_be_pairs(exposure):
    with pytest.raises(ValueError, match=r"centers: got shape \(3,\); give \(source, 2\)"):
        jd.deblend_single_band_exposure(exposure, np.ones(3))
