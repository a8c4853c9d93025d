"""What bad input does, through the public functions: an error that helps, or a row that says what happened."""

import functools

import numpy as np
import pytest
import scipy.stats

import jaxdeblend as jd

BANDS = ("g", "r", "i")
SHAPE = (32, 32)
PSF = jd.GaussianPSF(1.5)
CENTERS = np.array([(10.3, 9.6), (13.2, 20.7), (23.1, 12.4)])
FLUXES = np.array([(3000.0, 4000.0, 5000.0), (2500.0, 3000.0, 2000.0), (2000.0, 2500.0, 4000.0)])
WIDTHS = (1.5, 2.4, 2.8)
EMPTY_SKY = (28.0, 26.0)
NONE = np.zeros((0, 2))


def sky():
    """Three Gaussian sources in closed form, with noise of 1."""
    images = np.random.default_rng(0).normal(size=(3, *SHAPE))
    for center, flux, sigma in zip(CENTERS, FLUXES, WIDTHS, strict=True):
        profiles = [
            np.diff(scipy.stats.norm.cdf(np.arange(edge + 1) - 0.5, at, sigma))
            for edge, at in zip(SHAPE, center, strict=True)
        ]
        images += flux[:, None, None] * np.outer(*profiles)
    return images


def observe(images=None, variance=None, mask=None, **changes):
    settings = {"psf": PSF, "bands": BANDS, "mask": mask, **changes}
    variance = np.ones(3) if variance is None else variance
    return jd.Observation(sky() if images is None else images, variance, **settings)


def with_pixel(value, y, x, bands=(1,)):
    images = sky()
    images[list(bands), y, x] = value
    return observe(images)


def with_mask(rows=slice(None), columns=slice(None), bands=slice(None)):
    mask = np.zeros((3, *SHAPE), dtype=bool)
    mask[bands, rows, columns] = True
    return observe(mask=mask)


def variance_with(value):
    variance = np.ones((3, *SHAPE))
    variance[:, 10, 9] = value
    return observe(variance=variance)


def plus(*center):
    return np.vstack([CENTERS, center])


CASES = {
    "good": lambda: (observe(), CENTERS),
    "no source": lambda: (observe(), NONE),
    "just outside": lambda: (observe(), plus(-0.6, 10.0)),
    "far outside": lambda: (observe(), plus(1e6, -40.0)),
    "NaN position": lambda: (observe(), plus(np.nan, 5.0)),
    "infinite position": lambda: (observe(), plus(np.inf, -np.inf)),
    "same pixel": lambda: (observe(), plus(*CENTERS[1])),
    "empty sky": lambda: (observe(), plus(*EMPTY_SKY)),
    "under a mask": lambda: (with_mask(slice(21, 26), slice(10, 15)), CENTERS),
    "band without data": lambda: (with_mask(bands=1), CENTERS),
    "no data": lambda: (with_mask(), CENTERS),
    "NaN pixel": lambda: (with_pixel(np.nan, 10, 9, (0, 1, 2)), CENTERS),
    "infinite pixel": lambda: (with_pixel(-np.inf, 10, 9, (0, 1, 2)), CENTERS),
    "zero variance": lambda: (variance_with(0.0), CENTERS),
    "negative variance": lambda: (variance_with(-1.0), CENTERS),
    "infinite variance": lambda: (variance_with(np.inf), CENTERS),
    "no light": lambda: (observe(np.zeros((3, *SHAPE))), CENTERS),
    "negative light": lambda: (observe(-sky()), CENTERS),
    "huge unit": lambda: (observe(sky() * 1e12, np.full(3, 1e24)), CENTERS),
    "tiny unit": lambda: (observe(sky() * 1e-12, np.full(3, 1e-24)), CENTERS),
    "hot sky": lambda: (with_pixel(1e9, 28, 28), CENTERS),
    "cold sky": lambda: (with_pixel(-1e9, 28, 28), CENTERS),
    "hot source": lambda: (with_pixel(1e9, 23, 12), CENTERS),
    "hot between": lambda: (with_pixel(1e9, 16, 16), CENTERS),
}


@functools.cache
def results():
    """All cases, through one compiled program."""
    pairs = [make() for make in CASES.values()]
    return dict(zip(CASES, jd.deblend_batch(pairs), strict=True))


def values(name, column):
    table = results()[name].table()
    return np.stack([np.asarray(table[f"{column}_{band}"]) for band in BANDS], axis=1)


def flags(name):
    return [jd.Flag(int(bits)) for bits in results()[name].table()["flags"]]


def assert_unharmed(name, rows, bands=(0, 1, 2)):
    """Fluxes of these sources are within 5 % or 4σ of those without the offender."""
    error = np.hypot(0.05 * values("good", "flux"), 4 * values("good", "flux_err"))
    change = np.abs(values(name, "flux")[: len(CENTERS)] - values("good", "flux")) / error
    assert (change[np.ix_(rows, bands)] < 1).all(), change.round(2)


def test_the_good_case_is_good():
    np.testing.assert_allclose(values("good", "flux"), FLUXES, rtol=0.05)
    expected = jd.Flag.NOT_CONVERGED
    assert all(bits | expected == expected for bits in flags("good"))


@pytest.mark.parametrize("name", CASES)
def test_every_case_gives_one_row_per_source_and_a_finite_model(name):
    result, centers = results()[name], CASES[name]()[1]
    table = result.table()
    assert len(table) == len(centers) and table["id"].tolist() == list(range(len(centers)))
    assert result.source_models.shape == (len(centers), 3, *SHAPE)
    assert np.isfinite(result.source_models).all()


@pytest.mark.parametrize("name", [name for name in CASES if name not in ("NaN position", "infinite position")])
def test_only_rows_that_say_so_are_nan(name):
    """NaN fluxes are flagged; where a band has no data its error is infinite; nothing else is not finite."""
    lost = jd.Flag.OUTSIDE_IMAGE | jd.Flag.NO_DATA | jd.Flag.NON_FINITE
    told = np.array([bool(bits & lost) for bits in flags(name)], dtype=bool)
    for column in ("flux", "snr", "blendedness"):
        assert np.isfinite(values(name, column)[~told]).all(), column
    missing = np.array([bool(bits & jd.Flag.MISSING_BAND) for bits in flags(name)], dtype=bool)
    assert np.isfinite(values(name, "flux_err")[~told & ~missing]).all()
    assert not np.isnan(values(name, "flux_err")[~told]).any()
    table = results()[name].table()
    for column in ("size", "e1", "e2"):
        assert np.isfinite(np.asarray(table[column])[~told]).all(), column


# ------------------------------------------------------------------------------------------------- sources


def test_no_sources_make_an_empty_table_with_all_columns():
    for table in (results()["no source"].table(), jd.measure(jd.initialize(observe(), []), observe())):
        assert len(table) == 0 and table.colnames == results()["good"].table().colnames
    result = jd.deblend(observe(), [])
    assert result.table().colnames == results()["good"].table().colnames
    assert result.model.shape == (3, *SHAPE) and not result.model.any()
    assert jd.deblend_batch([]) == []


def test_a_blend_without_sources_passes_all_verbs():
    obs = observe()
    blend = jd.initialize(obs, [])
    assert len(jd.fit(blend, obs).blend.sources) == 0
    assert not np.asarray(jd.render(blend, obs)).any()
    assert jd.render_sources(blend, obs).shape == (0, 3, *SHAPE)
    shares = jd.apportion_flux(blend, obs)
    assert shares.children.shape == (0, 3, *SHAPE)
    np.testing.assert_array_equal(shares.unassigned, obs.images)


@pytest.mark.parametrize("name", ["just outside", "far outside"])
def test_a_source_outside_harms_no_other(name):
    assert_unharmed(name, (0, 1, 2))
    assert not any(bits & jd.Flag.OUTSIDE_IMAGE for bits in flags(name)[:3])


@pytest.mark.parametrize("name", ["just outside", "far outside"])
def test_a_source_outside_keeps_its_row(name):
    assert flags(name)[3] & jd.Flag.OUTSIDE_IMAGE
    assert np.isnan(values(name, "flux")[3]).all()
    table, center = results()[name].table(), CASES[name]()[1][3]
    np.testing.assert_allclose((table["y"][3].value, table["x"][3].value), center, rtol=1e-6)


@pytest.mark.parametrize("name", ["NaN position", "infinite position"])
def test_a_source_nowhere_harms_no_other(name):
    assert_unharmed(name, (0, 1, 2))
    assert np.isnan(values(name, "flux")[3]).all() and flags(name)[3] & jd.Flag.OUTSIDE_IMAGE


def test_two_sources_on_one_pixel_share_its_light():
    found = flags("same pixel")
    assert found[1] & jd.Flag.SHARED_POSITION and found[3] & jd.Flag.SHARED_POSITION
    assert not (found[0] | found[2]) & jd.Flag.SHARED_POSITION
    assert_unharmed("same pixel", (0, 2))
    both = values("same pixel", "flux")[[1, 3]]
    assert (both >= 0).all()
    np.testing.assert_allclose(both.sum(axis=0), values("good", "flux")[1], rtol=0.05)
    # how much the errors grow depends on how far the two fitted shapes differ; they must grow clearly
    assert (values("same pixel", "flux_err")[1] > 1.5 * values("good", "flux_err")[1]).all()


def test_a_source_on_empty_sky_is_faint():
    assert_unharmed("empty sky", (0, 1, 2))
    assert (np.abs(values("empty sky", "flux")[3]) < 5 * values("empty sky", "flux_err")[3]).all()


# -------------------------------------------------------------------------------------------------- pixels


def test_a_source_under_a_mask():
    found = flags("under a mask")
    assert found[2] & jd.Flag.MASKED_CENTER and found[2] & jd.Flag.MASKED_PIXELS
    assert not (found[0] | found[1]) & (jd.Flag.MASKED_CENTER | jd.Flag.MASKED_PIXELS)
    assert_unharmed("under a mask", (0, 1))
    assert (values("under a mask", "flux_err")[2] > values("good", "flux_err")[2]).all()


def test_a_band_without_data():
    assert all(bits & jd.Flag.MISSING_BAND for bits in flags("band without data"))
    assert_unharmed("band without data", (0, 1, 2), bands=(0, 2))
    assert np.isinf(values("band without data", "flux_err")[:, 1]).all()
    assert (values("band without data", "snr")[:, 1] == 0).all()


def test_no_data_at_all():
    assert all(bits & jd.Flag.NO_DATA for bits in flags("no data"))
    assert np.isnan(values("no data", "flux")).all()
    assert int(results()["no data"].n_steps) == 0


@pytest.mark.parametrize(
    "name", ["NaN pixel", "infinite pixel", "zero variance", "negative variance", "infinite variance"]
)
def test_pixels_that_cannot_be_used(name):
    found = flags(name)
    assert found[0] & jd.Flag.MASKED_PIXELS and not (found[1] | found[2]) & jd.Flag.MASKED_PIXELS
    assert_unharmed(name, (0, 1, 2))
    np.testing.assert_array_equal(values(name, "flux"), values("NaN pixel", "flux"))


@pytest.mark.parametrize("name", ["no light", "negative light"])
def test_no_light_is_no_flux(name):
    assert all(bits & jd.Flag.NO_FLUX for bits in flags(name))
    assert not values(name, "flux").any()


@pytest.mark.parametrize(("name", "unit"), [("huge unit", 1e12), ("tiny unit", 1e-12)])
def test_the_flux_unit_is_no_matter(name, unit):
    np.testing.assert_allclose(values(name, "flux") / unit, values("good", "flux"), rtol=0.01)
    np.testing.assert_allclose(values(name, "flux_err") / unit, values("good", "flux_err"), rtol=0.01)


@pytest.mark.parametrize("name", ["hot sky", "cold sky", "hot source", "hot between"])
def test_a_hot_pixel_is_flagged(name):
    near = {"hot sky": [], "cold sky": [], "hot source": [2], "hot between": []}[name]
    flagged = [index for index, bits in enumerate(flags(name)) if bits & jd.Flag.REJECTED_PIXELS]
    assert flagged == near


@pytest.mark.parametrize("name", ["hot sky", "cold sky", "hot source", "hot between"])
def test_a_hot_pixel_harms_no_source(name):
    """Not in its own band either: the pixel is left out of the fit."""
    assert_unharmed(name, (0, 1, 2))


@functools.cache
def masked_result(image_value, variance_value):
    """The good sky with a tenth of its pixels masked, and these values under the mask."""
    mask = np.random.default_rng(1).random((3, *SHAPE)) < 0.1
    images = np.where(mask, image_value, sky())
    return jd.deblend(observe(images, np.where(mask, variance_value, 1.0), mask), CENTERS)


@pytest.mark.parametrize(
    ("image_value", "variance_value"),
    [(np.nan, 1.0), (1e30, 1.0), (-np.inf, 1.0), (0.0, np.nan), (0.0, 1e30), (0.0, 0.0), (np.nan, -1.0)],
)
def test_values_under_the_mask_change_no_bit(image_value, variance_value):
    expected, found = masked_result(5.0, 1.0), masked_result(image_value, variance_value)
    for column in expected.table().colnames:
        np.testing.assert_array_equal(np.asarray(found.table()[column]), np.asarray(expected.table()[column]))
    np.testing.assert_array_equal(found.source_models, expected.source_models)
    np.testing.assert_array_equal(found.loss, expected.loss)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (2, 3)])
def test_tiny_images(shape):
    result = jd.deblend(observe(np.ones((3, *shape))), [(0, 0)])
    assert np.isfinite(result.source_models).all() and len(result.table()) == 1
    assert jd.Flag(int(result.table()["flags"][0])) & jd.Flag.EDGE


def test_alone_or_in_company_is_the_same():
    alone = jd.deblend(observe(), CENTERS).table()
    for band in range(3):
        np.testing.assert_allclose(alone[f"flux_{BANDS[band]}"], values("good", "flux")[:, band], rtol=1e-3)


# -------------------------------------------------------------------------------------------------- errors

STAMP = np.asarray(PSF.stamp(9))


def spoiled(value):
    stamps = STAMP.copy()
    stamps[0, 0, 0] = value
    return stamps


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": np.zeros(SHAPE)}, r"images: got shape \(32, 32\) for the 3 bands .*; give \(band, y, x\)"),
        ({"images": np.zeros((3, 0, 5))}, r"images: got shape \(3, 0, 5\).*not empty"),
        ({"bands": ("g", "r")}, r"images: got shape \(3, 32, 32\) for the 2 bands \('g', 'r'\)"),
        ({"variance": np.ones((3, 5, 5))}, r"variance: got shape \(3, 5, 5\) for .*; give the same shape"),
        ({"variance": np.ones(2)}, r"variance: got shape \(2,\)"),
        ({"variance": 1.0}, r"variance: got shape \(\)"),
        ({"mask": np.zeros((5, 5), dtype=bool)}, r"mask: got shape \(5, 5\).*; give \(band, y, x\) or \(y, x\)"),
        ({"mask": np.zeros(SHAPE, dtype=int)}, r"mask: got dtype int64; give booleans"),
        ({"psf": STAMP[:, :8, :8]}, r"psf: got stamps of even edge, shape \(1, 8, 8\).*Crop or resample"),
        ({"psf": spoiled(np.nan)}, r"psf: got 1 pixels that are NaN or infinite"),
        ({"psf": spoiled(np.inf)}, r"psf: got 1 pixels that are NaN or infinite"),
        ({"psf": -STAMP}, r"psf: got stamps of sum \[-1\.\]; every band's PSF must have a positive sum"),
        ({"psf": 0 * STAMP}, r"psf: got stamps of sum \[0\.\]"),
        ({"psf": np.repeat(STAMP, 2, axis=0)}, r"psf: got 2 bands for images of 3; give one PSF, or one per band"),
        ({"psf": jd.GaussianPSF([1.0, 2.0])}, r"psf: got 2 bands for images of 3"),
        ({"psf": STAMP[None]}, r"psf: got an array of shape \(1, 1, 9, 9\); give stamps"),
        ({"psf": None}, r"psf: got an array of shape \(\)"),
    ],
)
def test_observations_that_cannot_be(changes, message):
    with pytest.raises(ValueError, match=message):
        observe(**changes)


def test_bands_have_different_names():
    with pytest.raises(ValueError, match="bands: "):
        observe(bands=("g", "r", "g"))


@pytest.mark.parametrize("sigma", [0.0, -1.0, np.nan, [1.0, -2.0]])
def test_a_psf_has_a_width(sigma):
    with pytest.raises(ValueError, match="sigma: got .*; every value must be above 0"):
        jd.GaussianPSF(sigma)


@pytest.mark.parametrize("verb", [jd.deblend, jd.initialize])
@pytest.mark.parametrize("centers", [[1.0, 2.0, 3.0], np.ones((2, 3)), np.ones((1, 2, 2))])
def test_positions_are_pairs(verb, centers):
    with pytest.raises(ValueError, match=r"centers: got shape .*; give \(source, 2\)"):
        verb(observe(), centers)
    with pytest.raises(ValueError, match=r"centers: got shape .*; give \(source, 2\)"):
        jd.deblend_batch([(observe(), CENTERS), (observe(), centers)])


def test_there_is_one_error_per_blend():
    with pytest.raises(ValueError, match="center_error: got 2 entries for 1 blends; give one per blend"):
        jd.deblend_batch([(observe(), CENTERS)], center_error=[0.1, 0.2])


@pytest.mark.parametrize("error", [[0.1, 0.2], -0.1, np.nan])
def test_errors_of_positions_are_not_negative_one_per_source(error):
    with pytest.raises(ValueError, match="center_error: got"):
        jd.deblend(observe(), CENTERS, center_error=error)


def test_stamps_have_a_centre():
    with pytest.raises(ValueError, match="stamp_edge: got 8; a stamp needs an odd edge"):
        jd.initialize(observe(), CENTERS, stamp_edge=8)


@pytest.mark.parametrize(("bands", "shape"), [(BANDS, (20, 20)), (("g", "r"), SHAPE)])
def test_a_blend_is_measured_on_its_own_observation(bands, shape):
    other = jd.Observation(np.zeros((len(bands), *shape)), np.ones(len(bands)), PSF, bands=bands)
    with pytest.raises(ValueError, match="obs: got"):
        jd.measure(jd.initialize(observe(), CENTERS), other)
