import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdeblend as jd
from jaxdeblend.single_band import (
    SingleBandConfig,
    SingleBandFlag,
    deblend_single_band,
    deblend_single_band_batch,
)
from jaxdeblend.single_band.deblend import run_beside
from jaxdeblend.single_band.pack import Bucket, Item

PSF = jd.MoffatPSF(4.0)
EDGE = 32
CENTERS = np.array([(15.3, 9.8), (16.6, 20.2)])


def galaxy(center, width=2.6):
    y, x = np.mgrid[:EDGE, :EDGE]
    return np.exp(-0.5 * ((y - center[0]) ** 2 + 1.5 * (x - center[1]) ** 2) / width**2)


def scene(levels=(100.0, 60.0), noise=0.1):
    image = sum(level * galaxy(center) for level, center in zip(levels, CENTERS, strict=True))
    return image + np.random.default_rng(0).normal(0, noise, (EDGE, EDGE))


def has(result, flag):
    return (result.flags & SingleBandFlag[flag]) != 0


def assert_conserved(result, image, good=None):
    expected = np.where(result.footprint if good is None else result.footprint & good, image, 0)
    total = result.children.astype(np.float64).sum(axis=0) + result.unassigned
    assert np.isfinite(total).all()
    assert np.abs(total - expected).max() <= 1e-6 * max(np.abs(expected).max(), 1e-30)


@pytest.fixture(scope="module")
def deblended():
    return deblend_single_band(scene(), 0.01, PSF, CENTERS)


def test_fluxes_of_two_galaxies(deblended):
    truth = [level * galaxy(center).sum() for level, center in zip((100, 60), CENTERS, strict=True)]
    np.testing.assert_allclose(deblended.children.sum(axis=(1, 2)), truth, rtol=0.03)
    assert deblended.children.shape == (2, EDGE, EDGE)
    assert not has(deblended, "SKIPPED").any()
    assert_conserved(deblended, scene().astype(deblended.children.dtype))


def test_a_row_for_each_peak_in_their_order(deblended):
    table = deblended.table()
    assert len(table) == 2
    np.testing.assert_allclose(table["x"], CENTERS[:, 1])
    np.testing.assert_allclose(table["flux"], deblended.children.sum(axis=(1, 2)), rtol=1e-6)
    assert (table["n_children"] == 2).all()
    assert (table["flux_err"] > 0).all()


def test_a_point_source_gets_the_psf():
    stamp = np.asarray(PSF.stamp(33)[0], float)
    image = 1000 * stamp[:EDGE, :EDGE] + 80 * galaxy((16.0, 26.0), 1.5)
    result = deblend_single_band(image, 0.5, PSF, [(16, 16), (16.0, 26.0)])
    assert has(result, "DEBLENDED_AS_PSF").tolist()[0]
    assert result.table()["psf_flux"][0] == pytest.approx(1000, rel=0.02)
    np.testing.assert_allclose(result.psf_centers[0], (16, 16), atol=0.1)
    np.testing.assert_allclose(result.templates[0], 1000 * stamp[:EDGE, :EDGE], atol=1.0)


@pytest.mark.parametrize(
    "center, flag",
    [((-5.0, 3.0), "OUT_OF_BOUNDS"), ((np.nan, 3.0), "OUT_OF_BOUNDS"), ((1e30, 3.0), "OUT_OF_BOUNDS"),
     ((30.0, 30.0), "OUT_OF_BOUNDS"), (tuple(CENTERS[0]), "SHARED_PIXEL")],
)  # fmt: skip
def test_a_bad_peak_is_flagged_and_costs_nobody_a_row(center, flag):
    footprint = np.zeros((EDGE, EDGE), bool)
    footprint[2:28, 2:28] = True
    result = deblend_single_band(scene(), 0.01, PSF, [CENTERS[0], center, CENTERS[1]], footprint=footprint)
    assert has(result, flag)[1]
    assert has(result, "SKIPPED").tolist() == [False, flag == "OUT_OF_BOUNDS", False]
    assert len(result.table()) == 3
    assert_conserved(result, scene().astype(result.children.dtype))


def test_peaks_on_bad_pixels_are_deblended_from_what_is_around_them():
    image, mask = scene(), np.zeros((EDGE, EDGE), bool)
    mask[15, 10] = True
    image[20, 20] = np.nan
    result = deblend_single_band(image, 0.01, PSF, CENTERS, mask=mask)
    assert has(result, "MASKED_PEAK").tolist() == [True, False]
    assert (result.children[:, mask] == 0).all()
    assert result.children[0].sum() > 0
    assert_conserved(result, np.nan_to_num(image).astype(result.children.dtype), ~mask & np.isfinite(image))


@pytest.mark.parametrize("case", ["one pixel", "all masked", "empty", "all NaN", "variance 0"])
def test_a_blend_without_room_or_data_has_rows_too(case):
    image, variance = scene(), np.full((EDGE, EDGE), 0.01)
    footprint, mask = np.ones((EDGE, EDGE), bool), np.zeros((EDGE, EDGE), bool)
    if case in ("one pixel", "empty"):
        footprint[:] = False
        footprint[15, 10] = case == "one pixel"
    if case == "all masked":
        mask[:] = True
    if case == "all NaN":
        image[:] = np.nan
    if case == "variance 0":
        variance[:] = 0
    result = deblend_single_band(image, variance, PSF, CENTERS, footprint=footprint, mask=mask)
    assert has(result, "SKIPPED").all()
    assert (result.children == 0).all()
    assert len(result.table()) == 2
    good = ~mask & np.isfinite(image) & (variance > 0)
    assert_conserved(result, np.nan_to_num(image).astype(result.children.dtype), good)


def test_no_peaks_are_no_rows():
    result = deblend_single_band(scene(), 0.01, PSF, [])
    assert len(result.table()) == 0
    assert_conserved(result, scene().astype(result.children.dtype))


def test_a_psf_wider_than_the_footprint():
    footprint = np.zeros((EDGE, EDGE), bool)
    footprint[14:18, 8:13] = True
    result = deblend_single_band(scene(), 0.01, PSF, CENTERS, footprint=footprint)
    assert has(result, "OUT_OF_BOUNDS").tolist() == [False, True]
    assert_conserved(result, scene().astype(result.children.dtype))


@pytest.mark.parametrize(
    "options, flag",
    [({"max_footprint_area": 500}, "PARENT_TOO_BIG"), ({"max_footprint_size": 20}, "PARENT_TOO_BIG"),
     ({"min_footprint_axis_ratio": 0.9}, "PARENT_TOO_BIG")],
)  # fmt: skip
def test_blends_beyond_the_limits_are_left_alone(options, flag):
    footprint = np.zeros((EDGE, EDGE), bool)
    footprint[4:28, 2:30] = True
    footprint[4:8, 2:30] = options != {"min_footprint_axis_ratio": 0.9}
    item = Item.of(scene(), 0.01, PSF, CENTERS, footprint, None, SingleBandConfig(**options))
    assert (item.flags & SingleBandFlag[flag]).all()
    assert not item.active.any()
    free = Item.of(scene(), 0.01, PSF, CENTERS, footprint, None, SingleBandConfig())
    assert free.active.all()


def test_of_too_many_peaks_the_brightest_are_deblended():
    item = Item.of(scene((60.0, 100.0)), 0.01, PSF, CENTERS, None, None, SingleBandConfig(max_peaks=1))
    assert ((item.flags & SingleBandFlag.TOO_MANY_PEAKS) != 0).tolist() == [True, False]


def ragged(shapes, seed, psf_edge):
    """Blends of these shapes, with 1 to 5 peaks and a PSF that has been cut out to an edge."""
    rng = np.random.default_rng(seed)
    image, stamp = scene() + rng.normal(0, 0.1, (EDGE, EDGE)), np.asarray(PSF.stamp(psf_edge)[0])
    peaks = [np.concatenate([CENTERS[:1], rng.uniform(4, 20, (k % 5, 2))]) for k in range(len(shapes))]
    return [(image[:h, :w], 0.01, stamp, centers) for (h, w), centers in zip(shapes, peaks, strict=True)]


@pytest.fixture(scope="module")
def together():
    """Ragged blends, and what a batch makes of them."""
    blends = ragged([(32, 32), (30, 25), (26, 31), (32, 28), (29, 30)], 1, 33)
    return blends, deblend_single_band_batch(blends)


def compilations(caplog):
    return [record for record in caplog.records if record.getMessage().startswith("Finished XLA compilation")]


def test_another_batch_compiles_nothing(together, caplog):
    others = ragged([(27, 29), (31, 24), (25, 32), (28, 28), (32, 30), (24, 27), (30, 31)], 2, 29)
    with jax.log_compiles(), caplog.at_level(logging.WARNING, logger="jax"):
        results = deblend_single_band_batch(others)
        assert not compilations(caplog)
        jax.jit(lambda x: x + 1)(jnp.zeros(3))
        assert compilations(caplog), "what counts compilations must see one"
    assert [result.children.shape for result in results] == [(len(blend[3]), *blend[0].shape) for blend in others]
    assert all(np.isfinite(result.children).all() and result.children.any() for result in results)


def test_company_and_order_do_not_matter_to_the_last_bit(together):
    blends, results = together
    backwards = deblend_single_band_batch(blends[::-1])[::-1]
    alone = [deblend_single_band(*blend) for blend in blends]
    for others in (backwards, alone):
        for result, other in zip(results, others, strict=True):
            for name in ("children", "templates", "unassigned", "psf_chisq", "flags"):
                np.testing.assert_array_equal(getattr(result, name), getattr(other, name))


def test_lanes_of_an_accelerator_are_filled_up_and_change_nothing(together, monkeypatch):
    blends, results = together
    monkeypatch.setattr(Bucket, "lanes", 4)
    compiled = run_beside.n_compiled
    for result, other in zip(results, deblend_single_band_batch(blends), strict=True):
        assert other.children.shape == result.children.shape
        np.testing.assert_allclose(other.children, result.children, atol=1e-3)
        np.testing.assert_array_equal(other.flags, result.flags)
    assert run_beside.n_compiled == compiled + 1, "four and one are one program"


def test_crowded_blends_have_all_cores_one_after_the_other(together):
    """Calls on all cores must not be made side by side: they would wait for each other."""
    peaks = np.stack(np.meshgrid(np.arange(3, 22, 4.5), np.arange(4, 21, 5.0)), axis=-1).reshape(-1, 2)
    crowded = [(np.roll(scene(), k, axis=0), 0.01, PSF, peaks) for k in range(4)]
    assert not Item.of(*crowded[0], None, None, SingleBandConfig()).bucket.side_by_side
    results = deblend_single_band_batch([*crowded, together[0][0]])
    for image, result in zip([blend[0] for blend in crowded], results, strict=False):
        np.testing.assert_allclose(result.children.sum(axis=0) + result.unassigned, image, atol=1e-6 * image.max())
    np.testing.assert_array_equal(results[-1].children, together[1][0].children)


@pytest.mark.parametrize(
    "change, message",
    [({"image": np.zeros((2, 3, 4))}, "image: got shape"), ({"variance": np.ones((3, 3))}, "variance: got shape"),
     ({"centers": [(1, 2, 3)]}, "centers: got shape"), ({"psf": np.ones((4, 4))}, "psf: got stamps of even edge"),
     ({"psf": jd.GaussianPSF([1.0, 2.0])}, "psf: got 2 bands"), ({"mask": np.zeros((3, 3), bool)}, "mask: got shape"),
     ({"footprint": np.ones((EDGE, EDGE))}, "footprint: got dtype")],
)  # fmt: skip
def test_what_does_not_fit_together_is_refused(change, message):
    blend = {"image": scene(), "variance": 0.01, "psf": PSF, "centers": CENTERS} | change
    with pytest.raises(ValueError, match=message):
        deblend_single_band(**blend)


def test_a_batch_tells_which_blend_is_wrong():
    good = (scene(), 0.01, PSF, CENTERS)
    with pytest.raises(ValueError, match="blend 1: image"):
        deblend_single_band_batch([good, (np.zeros(3), *good[1:])])
    with pytest.raises(ValueError, match="masks: got 1 for 2"):
        deblend_single_band_batch([good, good], masks=[None])


@pytest.mark.parametrize(
    "options, message",
    [({"symmetry": "none"}, "symmetry: got 'none'"), ({"tiny_footprint": 1}, "tiny_footprint: got 1"),
     ({"max_masked_fraction": 1.5}, "max_masked_fraction: got 1.5"), ({"psf_chisq": -1.0}, "psf_chisq: got -1.0")],
)  # fmt: skip
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SingleBandConfig(**options)


def test_with_every_step_that_is_off_by_default():
    options = SingleBandConfig(
        symmetry="half",
        edges="patch",
        smoothing="on",
        monotonic="wedge",
        weight_templates=True,
        remove_degenerate=True,
        stray_flux="r-to-footprint",
        fit_psf=False,
    )
    near_the_border = (15.0, 29.0)
    image = scene() + 40 * galaxy(near_the_border)
    centers = [*CENTERS, near_the_border, CENTERS[0]]
    result = deblend_single_band(image, 0.01, PSF, centers, config=options)
    assert (has(result, "DEGENERATE") == has(result, "SKIPPED")).all()
    assert has(result, "DEGENERATE")[[0, 3]].sum() == 1
    assert has(result, "PATCHED_TEMPLATE")[2]
    assert has(result, "HAS_STRAY_FLUX").any()
    assert 0.5 < result.weights[1] < 2
    assert_conserved(result, image.astype(result.children.dtype))


def test_in_double_precision():
    with jax.enable_x64(True):
        result = deblend_single_band(scene(), 0.01, PSF, CENTERS)
    assert result.children.dtype == np.float64
    assert_conserved(result, scene())


@pytest.mark.parametrize("unit", [1e-30, 1e-21, 1e-9, 1e21, 1e30])
def test_the_unit_of_the_image_does_not_matter(unit):
    """A star beside a galaxy, in any unit: children, templates, fluxes and variances scale, all else stays."""
    psf = jd.GaussianPSF(1.5)
    stamp = np.asarray(psf.stamp(21)[0], float)
    image = np.random.default_rng(2).normal(size=(32, 40))
    image[5:26, 5:26] += 3000 * stamp
    image[5:26, 13:34] += 2000 * stamp
    usual, other = (
        jd.deblend_single_band(image * c, np.full(image.shape, c**2), psf, [(15, 15), (15, 23)]) for c in (1.0, unit)
    )
    for name in ("children", "templates", "unassigned", "psf_flux", "stray_flux"):
        expected = np.asarray(getattr(usual, name), float)
        np.testing.assert_allclose(getattr(other, name) / unit, expected, atol=1e-4, rtol=1e-5)
    np.testing.assert_allclose(other.variances / unit**2, usual.variances, atol=1e-5)
    np.testing.assert_allclose(other.psf_chisq, usual.psf_chisq, rtol=1e-4)
    np.testing.assert_array_equal(other.flags, usual.flags)
