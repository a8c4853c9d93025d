"""Products of a store made by hand: pieces of one parent, its neighbour, a star at the corner, and what is missing."""

import dataclasses

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import ndtr

import jaxdeblend as jd
from jaxdeblend.instrument.psf_field import FunctionPSFField
from tests import star_field

pytest.importorskip("h5py")

BANDS = ("g", "r")
SIGMA = (1.5, 1.2)
SHAPE = (60, 72)
BOXES = {
    0: jd.Box((4, 4), (28, 28)),  # two pieces of parent 0, which overlap
    1: jd.Box((8, 20), (28, 30)),
    2: jd.Box((24, 10), (30, 32)),  # parent 1, whose window overlaps with both
    3: jd.Box((32, 42), (28, 30)),  # parent 2, at the corner
    4: jd.Box((0, 52), (24, 20)),  # parent 3, skipped
    5: jd.Box((0, 0), SHAPE),  # no parent: off the image
    6: jd.Box((30, 4), (20, 20)),  # parent 0 again: a piece that failed
}
PARENT = {0: 0, 1: 0, 2: 1, 3: 2, 4: 3, 5: -1, 6: 0}
ROWS = {0: [0, 4], 1: [1], 2: [2, 8], 3: [3], 4: [5], 5: [6], 6: [7]}
REASONS = {4: "skipped: max_number_of_peaks: 9 > 1", 5: "skipped: outside the image", 6: "failed: ValueError: no luck"}
STARS = {
    0: (17.3, 18.8, (900.0, 1500.0)),
    1: (18.6, 27.4, (600.0, 300.0)),
    2: (34.0, 22.2, (800.0, 400.0)),
    3: (58.9, 70.6, (500.0, 700.0)),
    4: (12.0, 12.5, (100.0, 50.0)),
    8: (40.0, 30.0, (0.0, 0.0)),
}
"""Position in the exposure and fluxes of each row that was fitted; the last is dark."""

ROUNDING = 1e-3
"""Difference by transforms of other sizes in single precision, at a maximum of 170."""
GALAXY = 2
"""The row that is extended."""


def observed(row):
    """A star as observed, integrated over pixels."""
    y, x, flux = STARS[row]
    planes = []
    for total, sigma in zip(flux, SIGMA, strict=True):
        edges = [np.arange(n + 1) - 0.5 for n in SHAPE]
        rows, columns = (np.diff(ndtr((edge - at) / sigma)) for edge, at in zip(edges, (y, x), strict=True))
        planes.append(total * rows[:, None] * columns)
    return np.stack(planes)


def source(row, box):
    """A point, or a round shape of some pixels."""
    y, x, flux = STARS[row]
    center = (y - box.start[0], x - box.start[1])
    if row != GALAXY:
        return jd.PointSource(center, np.array(flux))
    radius = np.hypot(*(np.indices((9, 9)) - 4.0))
    morphology = jd.ImageMorphology(jnp.exp(jnp.asarray(-radius / 2)))
    return jd.Source(center, (jd.FactorizedComponent(jd.FreeSpectrum(jnp.array(flux) / 20), morphology),))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "models.h5"
    header = jd.StoreHeader(bands=BANDS, wcs=star_field.wcs().to_header_string(relax=True))
    with jd.StoreWriter.create(path, header) as writer:
        for number, box in BOXES.items():
            fit = None
            if number not in REASONS:
                blend = jd.Blend.of([source(row, box) for row in ROWS[number]], frame=box.shape)
                fit = jd.FitResult(blend, loss=np.array([1.0]), n_steps=np.array(1), status=np.array(0))
            reason = REASONS.get(number, "")
            writer.append(jd.StoredBlend(number, PARENT[number], box, np.array(ROWS[number]), fit, reason=reason))
    with jd.ModelStore(path) as opened:
        yield opened


@pytest.fixture(scope="module")
def exposure():
    """Noise of σ = 1, a dead column through a star, a pixel that is NaN."""
    images = np.random.default_rng(3).normal(0, 1, (2, *SHAPE))
    images += sum(observed(row) for row in STARS)
    images[0, 35, 23] = np.nan
    mask = np.zeros((2, *SHAPE), bool)
    mask[1, :, 19] = True
    psf = jd.GaussianPSF(SIGMA)
    return jd.Exposure(images, [1.0, 1.0], psf, bands=BANDS, mask=mask, wcs=star_field.wcs(), unit="nJy")


@pytest.fixture(scope="module")
def truth(store, exposure):
    """Each row as `jd.render_sources` shows its blend, on the whole exposure."""
    found = {}
    render_sources = eqx.filter_jit(jd.render_sources)
    for record in store.records():
        if record.fit is None:
            continue
        cubes = render_sources(record.blend, exposure.observation(record.box))
        for row, cube in zip(record.rows, cubes, strict=True):
            found[int(row)] = np.zeros((2, *SHAPE), np.float32)
            found[int(row)][(slice(None), *record.box.slices)] = cube
    return found


def framed(footprint):
    """A footprint's pixels and spans on the whole exposure."""
    image, spans = np.zeros(SHAPE, np.float32), np.zeros(SHAPE, bool)
    if footprint.area:
        image[footprint.box.slices], spans[footprint.box.slices] = footprint.image, footprint.spans
    return image, spans


def test_the_image_is_the_sum_of_all_sources(store, exposure, truth):
    model = jd.render_image(store, exposure)
    np.testing.assert_allclose(model, sum(truth.values()), rtol=1e-5, atol=ROUNDING)
    stars = jd.render_image(store, exposure, [0, 1])
    near = np.s_[:, 8:28, 10:38]  # windows end beyond
    np.testing.assert_allclose(stars[near], (observed(0) + observed(1))[near], atol=0.5)  # of 170
    np.testing.assert_allclose(stars.sum(axis=(1, 2)), [1500, 1800], rtol=2e-3)
    assert not jd.render_image(store, exposure, [5, 6, 7, 8]).any() and not jd.render_image(store, exposure, []).any()


def test_bands_and_windows_are_parts_of_the_image(store, exposure):
    model, box = jd.render_image(store, exposure), jd.Box((10, 12), (25, 19))
    part = jd.render_image(store, exposure, bands=("r",), box=box)
    np.testing.assert_allclose(part, model[(slice(1, 2), *box.slices)], atol=2e-4)
    both = jd.render_image(store, exposure, bands=("r", "g"), box=box)
    np.testing.assert_allclose(both, model[(slice(None, None, -1), *box.slices)], atol=2e-4)


def test_the_residual_is_nan_where_a_pixel_is_unusable(store, exposure):
    residual = jd.residual_image(store, exposure)
    np.testing.assert_array_equal(np.isnan(residual), exposure.mask)
    expected = exposure.images - jd.render_image(store, exposure)
    np.testing.assert_allclose(residual[~exposure.mask], expected[~exposure.mask], atol=1e-4)


def test_the_psf_is_that_at_each_blend(store, exposure):
    def gaussian(_, x):
        axis = np.arange(21) - 10.0
        sigma = 1.2 + x / 100
        stamp = np.exp(-0.5 * (axis[:, None] ** 2 + axis[None, :] ** 2) / sigma**2)
        return np.stack([stamp, stamp])

    varying = dataclasses.replace(exposure, psf=FunctionPSFField(gaussian, edge=21, n_bands=2))
    record = store.record(3)
    model = jd.render_image(store, varying, record.rows, box=record.box)
    expected = eqx.filter_jit(jd.render)(record.blend, varying.observation(record.box))
    np.testing.assert_allclose(model, expected, atol=2e-4)


@pytest.mark.parametrize("band", BANDS)
def test_footprints_are_the_models(band, store, exposure, truth):
    seen = []
    for parent in jd.update_footprints(store, exposure, band=band):
        assert parent.unassigned is None
        for footprint in parent.sources:
            seen.append(footprint.id)
            image, spans = framed(footprint)
            if footprint.area:
                expected = truth[footprint.id][BANDS.index(band)]
                np.testing.assert_allclose(image, np.where(spans, expected, 0), rtol=1e-5, atol=ROUNDING)
                level = max(0.01, 1e-6 * expected.max())
                clear = abs(expected - level) > 1e-3
                np.testing.assert_array_equal(spans[clear], (expected > level)[clear])
                assert footprint.spans.any(axis=0)[[0, -1]].all() and footprint.spans.any(axis=1)[[0, -1]].all()
    assert sorted(seen) == list(range(9))


def test_no_row_is_lost(store, exposure):
    parents = list(jd.update_footprints(store, exposure, band="g", redistribute_image=True))
    assert [parent.parent for parent in parents] == [0, 1, 2, 3, -1]
    assert [[source.id for source in parent.sources] for parent in parents] == [[0, 1, 4, 7], [2, 8], [3], [5], [6]]
    reasons = {source.id: source.reason for parent in parents for source in parent.sources if not source.area}
    lost = {ROWS[number][0]: reason for number, reason in REASONS.items()}
    assert reasons == lost | {8: "no pixel of its model is above the threshold"}
    np.testing.assert_array_equal(parents[3].unassigned, exposure.images[(0, *BOXES[4].slices)])
    assert parents[4].unassigned is None


@pytest.mark.parametrize("band", [0, 1])
def test_parents_divide_the_image(band, store, exposure, truth):
    """All pieces of a parent together; what several windows share is given out once."""
    everything = np.zeros(SHAPE)
    given = np.zeros(SHAPE, int)
    for parent in jd.update_footprints(store, exposure, band=BANDS[band], redistribute_image=True):
        if parent.unassigned is None:
            continue
        image, mask = (array[(band, *parent.box.slices)] for array in (exposure.images, exposure.mask))
        np.testing.assert_allclose(parent.summed() + parent.unassigned, image, rtol=1e-6, atol=1e-6)
        assert not parent.summed()[mask].any()
        np.testing.assert_array_equal(parent.unassigned[mask], image[mask])
        seen = [source for source in parent.sources if source.area]
        total = sum(framed(source)[1] * truth[source.id][band].astype(float) for source in seen)
        for source in seen:
            found, spans = framed(source)
            spans &= ~exposure.mask[band]
            expected = truth[source.id][band][spans] / total[spans] * exposure.images[band][spans]
            np.testing.assert_allclose(found[spans], expected, rtol=2e-3, atol=2e-3)
            everything += found
        given[parent.box.slices] += parent.summed() != 0
    assert given.max() == 1
    covered = (sum(cube[band] for cube in truth.values()) > 0.2) & ~exposure.mask[band]
    np.testing.assert_allclose(everything[covered], exposure.images[band][covered], rtol=1e-5, atol=1e-5)


def test_noiseless_sources_get_their_own_light(store, exposure, truth):
    scene = sum(truth.values())[0]
    clean = dataclasses.replace(exposure, images=np.stack([scene, scene]), mask=np.zeros((2, *SHAPE), bool))
    (parent,) = jd.update_footprints(store, clean, band="g", redistribute_image=scene, parents=[0])
    for source in parent.sources[:2]:
        assert source.flux == pytest.approx(STARS[source.id][2][0], rel=5e-3)


def test_a_cutout(store, exposure, truth):
    cut = jd.cutout(store, exposure, 1)
    window = (slice(None), *cut.box.slices)
    np.testing.assert_allclose(cut.model, truth[1][window], atol=ROUNDING)
    np.testing.assert_allclose(cut.others, (sum(truth.values()) - truth[1])[window], atol=ROUNDING)
    np.testing.assert_array_equal(cut.image, exposure.images[window])
    used = ~cut.mask
    np.testing.assert_allclose(cut.cleaned[used], (cut.model + cut.residual)[used], atol=1e-3)
    assert np.isnan(cut.residual[cut.mask]).all() and cut.bands == BANDS
    y, x, _ = STARS[1]
    sky = exposure.wcs.pixel_to_world_values(x, y)
    np.testing.assert_allclose(cut.wcs.pixel_to_world_values(x - cut.box.start[1], y - cut.box.start[0]), sky)
    for number, band in enumerate(BANDS):
        (parent,) = jd.update_footprints(store, exposure, band=band, redistribute_image=True, parents=[0])
        np.testing.assert_allclose(cut.apportioned[number], framed(parent.sources[1])[0][cut.box.slices], atol=1e-5)


def test_cutouts_stay_on_the_exposure(store, exposure):
    assert jd.cutout(store, exposure, 3).box.stop == SHAPE
    dark = jd.cutout(store, exposure, 8)
    assert dark.box == jd.Box((36, 26), (9, 9)) and not dark.model.any() and not dark.apportioned.any()
    given = jd.Box((50, 60), (8, 9))
    assert jd.cutout(store, exposure, 3, box=given, bands=("r",)).image.shape == (1, 8, 9)


def test_overlap(store, exposure, truth):
    table = jd.overlap_metrics(store, exposure)
    np.testing.assert_array_equal(table["id"], np.arange(9))
    np.testing.assert_array_equal(table["parent"], [0, 0, 1, 2, 0, 3, -1, 0, 1])
    others = {0: [1, 4], 1: [0, 4], 4: [0, 1]}
    for b, band in enumerate(BANDS):
        for row, rest in others.items():
            light = sum(truth[other][b].astype(float) for other in rest)
            box = BOXES[0] if row in ROWS[0] else BOXES[1]
            spans = np.any(truth[row] > 0.01, axis=0)
            light = np.where(spans, light, 0)[box.slices]
            np.testing.assert_allclose(table[f"max_overlap_{band}"][row], light.max(), rtol=1e-3)
            np.testing.assert_allclose(table[f"flux_overlap_{band}"][row], light.sum(), rtol=1e-2)
            fraction = light.sum() / truth[row][b].sum()
            np.testing.assert_allclose(table[f"flux_overlap_fraction_{band}"][row], fraction, rtol=1e-2)
        np.testing.assert_allclose(table[f"flux_overlap_{band}"][[3, 8]], 0, atol=1e-3)
        assert np.isnan(table[f"max_overlap_{band}"][[5, 6, 7]]).all()
        assert np.isnan(table[f"flux_overlap_fraction_{band}"][8])


def test_not_deblended(store, exposure):
    marked = jd.mask_not_deblended(store, exposure)
    expected = np.zeros(SHAPE, bool)
    for number in (4, 6):
        expected[BOXES[number].slices] = True
    np.testing.assert_array_equal(marked.plane("NOT_DEBLENDED"), np.stack([expected, expected]))
    np.testing.assert_array_equal(marked.mask, exposure.mask)
    np.testing.assert_array_equal(marked.images, exposure.images)


def test_footprints_of_others_are_deblended(store, exposure):
    """Parent 0 failed in part, and parent 1 has a footprint in the same window."""
    labels = np.zeros(SHAPE, np.int32)
    labels[10:32, 8:40], labels[33:40, 15:35] = 1, 2
    found = dataclasses.replace(jd.detect(exposure.observation()), labels=labels)
    plane = jd.mask_not_deblended(store, exposure, detection=found).plane("NOT_DEBLENDED")[0]
    assert plane[30:32, 10:20].all() and not plane[34:39, 16:23].any() and plane[41, 10]


def test_masks_are_written(store, exposure, tmp_path):
    marked = jd.mask_not_deblended(store, exposure)
    files = jd.write_exposure(tmp_path / "sky.fits", exposure), jd.write_mask(tmp_path / "mask.fits", marked)
    again = jd.read_exposure(files[0], bands=BANDS, psf=exposure.psf, mask=files[1])
    np.testing.assert_array_equal(again.plane("NOT_DEBLENDED"), marked.plane("NOT_DEBLENDED"))
    np.testing.assert_array_equal(again.mask, exposure.mask)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda *data: jd.render_image(*data, [99]), "ids: got 99, but .* has no such row"),
        (lambda *data: jd.render_image(*data, bands=["z"]), "bands: got 'z'; give some of g, r"),
        (lambda *data: jd.render_image(*data, box=jd.Box((50, 0), (20, 20))), "box: got .* reaches beyond"),
        (lambda *data: jd.update_footprints(*data, band="z"), "bands: got 'z'"),
        (lambda *data: jd.update_footprints(*data, band="g", parents=[9]), "parents: got 9"),
        (
            lambda *data: jd.update_footprints(*data, band="g", redistribute_image=np.zeros((3, 3))),
            r"redistribute_image: got shape \(3, 3\) for the exposure of shape \(60, 72\)",
        ),
        (lambda *data: jd.cutout(*data, 99), "id: got 99"),
        (lambda *data: jd.cutout(*data, 5), "id: source 5 has no model.*max_number_of_peaks"),
        (lambda store, sky: jd.render_image(store, sky.window(jd.Box((0, 0), (40, 40)))), "but blend 1 of the store"),
        (lambda store, sky: jd.mask_not_deblended(store, sky.window(jd.Box((0, 0), (40, 40)))), "but blend 1 of"),
    ],
)
def test_bad_input(call, message, store, exposure):
    with pytest.raises(ValueError, match=message):
        call(store, exposure)
