import io

import numpy as np
import pytest
from astropy import units
from astropy.table import QTable
from astropy.wcs import WCS

import jaxdeblend as jd
from jaxdeblend.fitting import loop
from jaxdeblend.measurement.columns import MEASURED_COLUMNS
from jaxdeblend.measurement.table import describe_columns
from tests.scenes import observe

CENTERS = [(6.0, 7.5), (10.25, 12.0)]
PER_BAND = ("flux", "flux_err", "snr", "blendedness", "data_coverage", "peak_flux")


@pytest.fixture(scope="module")
def wcs():
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval, wcs.wcs.crpix = [150.1, 2.2], [9.0, 4.0]
    wcs.wcs.cdelt = [-0.2 / 3600, 0.2 / 3600]
    return wcs


@pytest.fixture(scope="module")
def scene():
    blend = jd.Blend.of([jd.PointSource(center, (40.0, 90.0)) for center in CENTERS], frame=(19, 20))
    return blend, observe(np.zeros((2, 19, 20)), rms=2.0)


def columns(sky=False):
    per_band = [f"{name}_{band}" for band in "gr" for name in PER_BAND]
    return ["id", "x", "y", *(["ra", "dec"] if sky else []), *per_band, "size", "e1", "e2", "n_components", "flags"]


def test_columns(scene):
    table = jd.measure(*scene)
    assert isinstance(table, QTable) and table.colnames == columns()
    assert table["id"].tolist() == [0, 1] and table["n_components"].tolist() == [1, 1]
    np.testing.assert_allclose(np.stack([table["y"].value, table["x"].value], axis=1), CENTERS)
    assert table["x"].unit == table["y"].unit == table["size"].unit == units.pix
    np.testing.assert_allclose(table["flux_g"], 40.0, rtol=1e-5)
    for band in "gr":
        np.testing.assert_allclose(table[f"snr_{band}"], table[f"flux_{band}"] / table[f"flux_err_{band}"])
    np.testing.assert_allclose(table["snr_r"] / table["snr_g"], 90 / 40, rtol=1e-4)


def test_every_column_is_described(scene, wcs):
    table = jd.measure(*scene, wcs=wcs)
    assert not [name for name in table.colnames if not table[name].info.description]
    assert table["flux_g"].description == "total flux of the model in g" and table["flux_g"].unit is None


@pytest.mark.parametrize(
    ("unit", "found", "description"),
    [
        ("nJy", "nJy", "total flux of the model in g"),
        ("nanomaggy", "nmgy", "total flux of the model in g"),
        ("photons of old", None, "total flux of the model in g, in photons of old"),
        (None, None, "total flux of the model in g"),
    ],
)
def test_fluxes_have_the_unit_of_the_image(unit, found, description):
    table = QTable({"flux_g": [1.0], "snr_g": [2.0], "mine": [3.0]})
    describe_columns(table, MEASURED_COLUMNS, ("g", "r"), unit=unit)
    assert table["flux_g"].unit == (found and units.Unit(found)) and table["flux_g"].info.description == description
    assert table["snr_g"].unit is None and table["mine"].info.description is None


def test_sky_positions_are_those_of_astropy(scene, wcs):
    table = jd.measure(*scene, wcs=wcs)
    assert table.colnames == columns(sky=True)
    sky = wcs.pixel_to_world([7.5, 12.0], [6.0, 10.25])
    np.testing.assert_allclose(table["ra"].to_value(units.deg), sky.ra.deg, rtol=1e-12)
    np.testing.assert_allclose(table["dec"].to_value(units.deg), sky.dec.deg, rtol=1e-12)


@pytest.mark.parametrize("sky", [False, True])
def test_a_blend_without_sources_has_the_same_columns(scene, wcs, sky):
    empty = jd.measure(jd.Blend.of([], frame=(19, 20)), scene[1], wcs=wcs if sky else None)
    full = jd.measure(*scene, wcs=wcs if sky else None)
    assert len(empty) == 0 and empty.colnames == full.colnames
    for name in full.colnames:
        assert empty[name].unit == full[name].unit, name
        assert empty[name].dtype.kind == full[name].dtype.kind, name


def test_tables_survive_a_file(scene):
    table = jd.measure(*scene)
    text = io.StringIO()
    table.write(text, format="ascii.ecsv")
    back = QTable.read(text.getvalue(), format="ascii.ecsv")
    assert back.colnames == table.colnames
    np.testing.assert_allclose(back["flux_r"], table["flux_r"], rtol=1e-6)


# ------------------------------------------------------------------------------------------ fits, other observations

FEW_STEPS = jd.ProximalAdam(max_steps=10)


@pytest.fixture(scope="module")
def unfinished(scene):
    """A fit of blank images that ends at its largest number of steps, and its observation."""
    blend, obs = scene
    return jd.fit(blend, obs, FEW_STEPS), obs


def all_flagged(table):
    return bool((table["flags"] & jd.Flag.NOT_CONVERGED).all())


def test_the_status_of_a_fit_is_taken_as_it_is(unfinished):
    result, obs = unfinished
    assert all_flagged(jd.measure(result.blend, obs, status=jd.RESULTS.MAX_STEPS))
    assert not all_flagged(jd.measure(result.blend, obs, status=jd.RESULTS.CONVERGED))


def test_a_fit_and_its_blend_remember_that_it_did_not_converge(unfinished):
    result, obs = unfinished
    assert not result.converged
    assert all_flagged(jd.measure(result, obs)) and all_flagged(jd.measure(result.blend, obs))


def test_a_deblended_blend_and_its_sources_remember_it_too(scene):
    _, obs = scene
    result = jd.deblend(obs, CENTERS, optimizer=FEW_STEPS)
    assert not result.converged
    assert all_flagged(jd.measure(result, obs)) and all_flagged(jd.measure(result.blend, obs))


def test_a_fit_of_a_fitted_blend_compiles_nothing_and_forgets_the_first(unfinished):
    result, obs = unfinished
    before = loop._fit.n_compiled
    again = jd.fit(result.blend, obs, FEW_STEPS)
    assert loop._fit.n_compiled == before
    assert again.blend.record is not None and again.blend.record.status == again.status


def forced(images):
    """Least-squares fluxes (source, band) of the two stars of `scene`, by NumPy, with the PSF as it is sampled."""
    blank = observe(np.zeros_like(images))
    unit = jd.Blend.of([jd.PointSource(center, (1.0, 1.0)) for center in CENTERS], frame=images.shape[1:])
    shapes = np.asarray(jd.render_sources(unit, blank), float)
    return np.stack(
        [np.linalg.lstsq(shapes[:, b].reshape(2, -1).T, images[b].ravel(), rcond=None)[0] for b in range(2)], axis=1
    )


def test_a_blend_is_measured_on_another_observation_with_the_fluxes_of_that(unfinished):
    result, obs = unfinished
    rng = np.random.default_rng(7)
    unit = jd.Blend.of([jd.PointSource(center, (300.0, 700.0)) for center in CENTERS], frame=obs.shape)
    images = np.asarray(jd.render(unit, obs), float) + rng.normal(size=obs.images.shape)
    other = observe(images)
    expected = forced(images)
    for fitted in (result, result.blend):
        table = jd.measure(fitted, other)
        for b, band in enumerate("gr"):
            np.testing.assert_allclose(table[f"flux_{band}"], expected[:, b], rtol=2e-4)
    assert np.abs(np.asarray(jd.measure(result, other, refit_spectra=False)["flux_g"])).max() < 100


def test_a_blend_made_by_hand_is_solved_for_only_if_asked(scene):
    blend, obs = scene
    np.testing.assert_allclose(jd.measure(blend, obs)["flux_g"], 40.0, rtol=1e-5)
    np.testing.assert_allclose(jd.measure(blend, obs, refit_spectra=True)["flux_g"], 0.0, atol=1e-3)


def test_its_own_observation_leaves_a_fit_as_it_is(unfinished):
    result, obs = unfinished
    same = observe(np.zeros((2, 19, 20)), rms=2.0)
    for table in (jd.measure(result, obs), jd.measure(result, same)):
        np.testing.assert_array_equal(table["flux_g"], jd.measure(result, obs, refit_spectra=False)["flux_g"])


def test_the_image_is_divided_by_models_of_the_image(unfinished):
    result, obs = unfinished
    stars = [jd.PointSource(CENTERS[0], (9.0, 1.0)), jd.PointSource(CENTERS[1], (1.0, 9.0))]
    bright = jd.Blend.of(stars, frame=(19, 20))
    other = observe(1000 * np.asarray(jd.render(bright, obs)))
    truth = 1000 * np.asarray(jd.render_sources(bright, obs))
    parts = jd.apportion_flux(result, other)
    np.testing.assert_allclose(parts.children, truth, atol=0.02 * truth.max())


@pytest.mark.parametrize("verb", [jd.measure, jd.apportion_flux])
def test_observations_of_other_pixels_or_bands_are_refused(unfinished, verb):
    result, _ = unfinished
    with pytest.raises(ValueError, match=r"obs: got shape \(20, 20\) for a blend of the frame \(19, 20\)"):
        verb(result, observe(np.zeros((2, 20, 20))))
    with pytest.raises(ValueError, match="obs: got 1 bands for a blend of 2"):
        verb(result, observe(np.zeros((1, 19, 20))))


# ---- what deblend measured already


def galaxies(extra=0.0):
    """Two galaxies on noise, with more light at one pixel."""
    rng = np.random.default_rng(5)
    y, x = np.mgrid[:30, :30]
    images = 40 * np.exp(-0.5 * ((y - 11) ** 2 + (x - 10) ** 2) / 7) + 30 * np.exp(
        -0.5 * ((y - 17) ** 2 + (x - 19) ** 2) / 5
    )
    images = images[None] + rng.normal(size=(1, 30, 30))
    images[0, 25, 4] += extra
    psf = np.asarray(jd.GaussianPSF([1.5]).stamp(15))
    return jd.Observation(images.astype(np.float32), np.ones((1, 30, 30)), psf, bands=["r"])


POSITIONS = [(11.0, 10.0), (17.0, 19.0)]


def test_what_was_measured_is_what_a_new_measurement_gives():
    obs = galaxies()
    result = jd.deblend(obs, POSITIONS)
    assert result.measured_on(obs) is not None
    known, new = jd.measure(result, obs), jd.measure(result.blend, obs)
    for name in known.colnames:
        np.testing.assert_allclose(np.asarray(known[name]), np.asarray(new[name]), rtol=1e-3, atol=1e-4, err_msg=name)
    known, new = jd.apportion_flux(result, obs), jd.apportion_flux(result.blend, obs)
    np.testing.assert_allclose(known.children, new.children, atol=0.02)
    np.testing.assert_allclose(known.children.sum(axis=0) + known.unassigned, obs.images, atol=1e-4)


def test_what_was_measured_is_of_that_observation_alone():
    obs, other = galaxies(), galaxies(extra=3.0)
    result = jd.deblend(obs, POSITIONS)
    assert result.measured_on(other) is None
    assert jd.measure(result, other)["flux_r"][0] != jd.measure(result, obs)["flux_r"][0]


def test_an_observation_that_lost_pixels_is_measured_as_it_is_given():
    """A hit is left out of the fit, and of the measurements of `deblend`; `measure` takes all pixels."""
    obs = galaxies(extra=300.0)
    result = jd.deblend(obs, POSITIONS)
    assert result.measured_on(obs) is None
