import numpy as np
import pytest
from scipy.special import ndtr

import jaxdeblend as jd
from jaxdeblend.catalog import compare_with_truth, deblend_catalog
from jaxdeblend.catalog.plan import NO_PARENT
from jaxdeblend.instrument.psf_field import FunctionPSFField
from jaxdeblend.io import Exposure
from tests import star_field
from tests.star_field import BANDS, FLUX, STARS


@pytest.fixture(scope="module")
def exposure():
    return star_field.exposure()


@pytest.fixture(scope="module")
def detected(exposure):
    return deblend_catalog(exposure)


@pytest.fixture(scope="module")
def given_centers():
    lost = np.array([[-3.0, 10.0], [np.nan, 5.0], [10.0, 87.6]])
    return np.insert(STARS, [0, 3, len(STARS)], lost, axis=0)


@pytest.fixture(scope="module")
def given(exposure, given_centers):
    return deblend_catalog(exposure, given_centers)


def test_every_peak_becomes_a_row(detected):
    table, peaks = detected.table, detected.detection.peaks
    assert len(table) == len(peaks) == len(STARS)
    np.testing.assert_array_equal(table["id"], np.arange(len(table)))
    offsets = np.hypot(table["x"].value - np.asarray(peaks["x"]), table["y"].value - np.asarray(peaks["y"]))
    assert np.max(offsets) < 1.5
    names = [
        "id",
        "parent",
        "x",
        "y",
        "ra",
        "dec",
        "flux_g",
        "flux_err_g",
        "snr_g",
        "blendedness_g",
        "data_coverage_g",
        "peak_flux_g",
        "flux_i",
    ]
    assert table.colnames[: len(names)] == names and detected.n_failed == 0


def test_sky_positions_belong_to_the_pixels(detected, exposure):
    ra, dec = exposure.wcs.pixel_to_world_values(detected.table["x"].value, detected.table["y"].value)
    np.testing.assert_allclose(detected.table["ra"].to_value("deg"), ra)
    np.testing.assert_allclose(detected.table["dec"].to_value("deg"), dec)


def test_the_model_is_the_sum_of_its_sources(detected, exposure):
    rebuilt = np.zeros_like(detected.model)
    for source in detected.sources:
        rebuilt[(slice(None), *source.box.slices)] += source.image
    rms = np.asarray(exposure.observation().background_rms)[:, None, None]
    assert np.max(np.abs(rebuilt - detected.model) / rms) < 0.1
    assert [source.id for source in detected.sources] == list(range(len(detected.table)))


def test_the_residual_is_noise(detected, exposure):
    np.testing.assert_array_equal(np.isnan(detected.residual), exposure.mask)
    used = ~exposure.mask
    np.testing.assert_allclose(detected.residual[used], (exposure.images - detected.model)[used], rtol=1e-5)
    chi2 = np.mean(detected.residual[used] ** 2 / exposure.variance[used])
    empty = np.mean(exposure.images[used] ** 2 / exposure.variance[used])
    assert 0.9 < chi2 < 1.1 < 2 < empty


def test_fluxes_agree_with_the_truth(detected):
    summary = compare_with_truth(detected.table, star_field.truth(), BANDS)
    assert summary["found"] == summary["matched"] == len(STARS) and summary["completeness"] == 1.0
    assert all(error < 0.05 for error in summary["flux_error"].values())


def test_given_positions_agree_with_the_truth(given):
    kept = np.setdiff1d(np.arange(len(given.table)), [0, 4, len(given.table) - 1])
    for number, band in enumerate(BANDS):
        flux, error = (given.table[f"{name}_{band}"].to_value("nJy")[kept] for name in ("flux", "flux_err"))
        assert np.all(np.abs(flux - FLUX[:, number]) < 6 * error + 0.05 * FLUX[:, number])


def test_parents(detected):
    parents = detected.parents
    assert parents.colnames[:8] == ["id", "y0", "x0", "ny", "nx", "n_sources", "n_steps", "status"]
    assert np.sum(parents["n_sources"]) == len(detected.table)
    np.testing.assert_array_equal(np.bincount(detected.table["parent"]), parents["n_sources"])
    x, y = detected.table["x"].value, detected.table["y"].value
    of = parents[np.asarray(detected.table["parent"])]
    assert np.all((x >= of["x0"] - 1) & (x <= of["x0"] + of["nx"]) & (y >= of["y0"] - 1) & (y <= of["y0"] + of["ny"]))
    assert set(parents["status"]) <= {"converged", "max_steps"}


def test_no_given_position_is_lost(given, given_centers):
    table = given.table
    assert len(table) == len(given_centers)
    lost = np.array([0, 4, len(table) - 1])
    np.testing.assert_array_equal(np.flatnonzero(table["parent"] == NO_PARENT), lost)
    np.testing.assert_array_equal(table["flags"][lost], int(jd.Flag.OUTSIDE_IMAGE))
    for band in BANDS:
        assert np.isnan(table[f"flux_{band}"][lost]).all()
        assert np.isfinite(np.delete(np.asarray(table[f"flux_{band}"]), lost)).all()
    assert given.n_failed == 3
    np.testing.assert_array_equal(table["x"].value[lost], given_centers[lost, 1])
    np.testing.assert_array_equal(table["y"].value[lost], given_centers[lost, 0])
    kept = np.delete(np.arange(len(table)), lost)
    moved = np.hypot(table["x"].value - given_centers[:, 1], table["y"].value - given_centers[:, 0])
    assert np.max(moved[kept]) < 1.5
    assert [source.id for source in given.sources] == kept.tolist()


def test_other_footprints_do_not_matter(exposure, detected):
    """A blend comes out the same when everything else is taken out of the image."""
    parent = detected.parents[int(np.argmin(np.asarray(detected.parents["n_sources"])))]
    rows = np.flatnonzero(detected.table["parent"] == parent["id"])
    labels = detected.detection.labels
    window = (
        slice(None),
        slice(parent["y0"], parent["y0"] + parent["ny"]),
        slice(parent["x0"], parent["x0"] + parent["nx"]),
    )
    first = detected.detection.peaks[rows[0]]
    own = labels[round(float(first["y"])), round(float(first["x"]))]
    mask = exposure.mask | ((labels != own) & (labels != 0))
    cut = Exposure(exposure.images[window], exposure.variance[window], exposure.psf, bands=BANDS, mask=mask[window])
    centers = detected.detection.centers[rows] - [parent["y0"], parent["x0"]]
    errors = np.asarray(detected.detection.peaks["error"])[rows]
    table = jd.deblend(cut.observation(), centers, center_error=errors).table()
    np.testing.assert_allclose(table["flux_i"], detected.table["flux_i"].to_value("nJy")[rows], rtol=1e-3)


def test_progress_counts_parents(exposure):
    calls = []
    result = deblend_catalog(
        exposure, np.array([[20.0, 20.0], [70.0, 80.0]]), progress=lambda *numbers: calls.append(numbers)
    )
    assert sum(done for done, _ in calls) == len(result.parents)
    assert {total for _, total in calls} == {len(result.parents)}


@pytest.mark.parametrize("centers", [None, np.zeros((0, 2)), []])
def test_an_empty_sky(centers):
    noise = np.random.default_rng(1).normal(0, 1, (2, 40, 40))
    exposure = Exposure(noise, [1.0, 1.0], jd.GaussianPSF(1.5), bands=BANDS)
    result = deblend_catalog(exposure, centers)
    assert len(result.table) == len(result.parents) == len(result.sources) == result.n_failed == 0
    assert "flux_g" in result.table.colnames and "parent" in result.table.colnames
    np.testing.assert_array_equal(result.model, 0)


def test_only_lost_positions():
    exposure = Exposure(np.zeros((2, 40, 40)), [1.0, 1.0], jd.GaussianPSF(1.5), bands=BANDS)
    result = deblend_catalog(exposure, np.array([[-5.0, 3.0]]))
    assert len(result.table) == 1 and result.n_failed == 1 and len(result.parents) == 0


def test_a_dead_exposure():
    exposure = Exposure(np.full((2, 40, 40), np.nan), [1.0, 1.0], jd.GaussianPSF(1.5), bands=BANDS)
    result = deblend_catalog(exposure, np.array([[5.0, 3.0], [30.0, 35.0]]))
    assert len(result.table) == result.n_failed == 2 and (result.table["flags"] & jd.Flag.NO_DATA).all()
    assert np.isfinite(result.model).all() and np.isnan(result.residual).all()


def test_centers_must_be_pairs(exposure):
    with pytest.raises(ValueError, match=r"centers: got shape \(3,\); give \(source, 2\)"):
        deblend_catalog(exposure, np.ones(3))


def stars_of_varying_width(shape, centers, flux):
    """Gaussian stars, integrated over the pixels, whose FWHM grows from 3.2 to 4.8 pixels from left to right."""

    def profile(shape, y, x, column):
        sigma = (3.2 + 1.6 * column / 127) / (2 * np.sqrt(2 * np.log(2)))
        along = [np.diff(ndtr((np.arange(n + 1) - 0.5 - c) / sigma)) for n, c in zip(shape, (y, x), strict=True)]
        return np.outer(*along)

    image = sum(amount * profile(shape, y, x, x) for (y, x), amount in zip(centers, flux, strict=True))
    psf = FunctionPSFField(lambda *place: profile((21, 21), 10, 10, place[1])[None], 21, 1)
    noise = np.random.default_rng(1).normal(0, 1, (2, *shape))
    return noise + image, psf


def test_each_parent_has_the_psf_at_its_place():
    centers = np.array([[20.3, 14.8], [44.0, 39.5], [18.6, 66.2], [45.2, 90.7], [19.9, 113.1]])
    flux = np.array([3000.0, 2000.0, 4000.0, 2500.0, 5000.0])
    images, field = stars_of_varying_width((64, 128), centers, flux)
    stars = jd.Initialization(point_below=np.inf)
    error = {}
    for name, psf in (("local", field), ("central", field.at((31.5, 63.5)))):
        result = deblend_catalog(Exposure(images, [1.0, 1.0], psf, bands=BANDS), centers, options=stars)
        assert len(result.parents) == len(centers)
        error[name] = np.abs(np.asarray(result.table["flux_g"]) / flux - 1)
    assert (error["local"] < 0.01).all()
    assert (error["central"][[0, 4]] > 0.05).all() and error["central"][2] < 0.01
