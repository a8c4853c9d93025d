"""Sources that were missed join a catalog: what they touch is fitted again, all else stays as it is."""

import dataclasses

import numpy as np
import pytest

import jaxdeblend as jd
from jaxdeblend import DeblendConfig, Flag, deblend_catalog, restart_catalog
from jaxdeblend.catalog import restart
from jaxdeblend.catalog.extended_plan import extend_plan
from jaxdeblend.catalog.plan import WorkUnit, make_plan
from jaxdeblend.catalog.records import FAILED
from jaxdeblend.catalog.running import Cutter
from jaxdeblend.catalog.store.kinds import Kinds
from jaxdeblend.catalog.store.record import encoded
from tests import star_field
from tests.star_field import BANDS, FLUX, STARS

pytest.importorskip("h5py")

CONFIG = DeblendConfig(split_valley=0.0, max_components=1, mask_limits={"SAT": 0.01}, relative_error=1e-4)
FIRST = [0, 2, 3, 5]
"""Stars of the first run; of the others one overlaps with the first of them, and one is alone."""
FAR, FAR_FLUX = np.array([23.6, 35.6]), 3000.0
"""A brighter star that joins their footprint."""
KNOWN = np.vstack([STARS[FIRST], FAR, [-4.0, 3.0]])
ADDED = np.vstack([STARS[1], STARS[4], [500.0, 3.0], [np.nan, 3.0], STARS[3] + 1.0])
"""A star on a fitted blend, one on its own footprint, two nowhere, and one on a blend that was skipped."""
OVERLAPPING, ALONE, OFF, NOWHERE, ON_SKIPPED = range(6, 11)


@pytest.fixture(scope="module")
def exposure():
    plain = star_field.exposure()
    y, x = np.indices(plain.shape)
    distance = (y - FAR[0]) ** 2 + (x - FAR[1]) ** 2
    width = np.array(star_field.SIGMA)[:, None, None] ** 2
    far = FAR_FLUX * np.exp(-0.5 * distance / width) / (2 * np.pi * width)
    bits = np.zeros(plain.images.shape, int)
    bits[:, 40, 68:73] |= 1
    planes = {"SAT": 0}
    return jd.Exposure(
        plain.images + far.astype(np.float32),
        [1.0, 1.0],
        plain.psf,
        bands=BANDS,
        mask_bits=bits,
        mask_planes=planes,
        mask=plain.mask,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("restart")


@pytest.fixture(scope="module")
def first(exposure, folder):
    return deblend_catalog(exposure, KNOWN, config=CONFIG, store=folder / "first.h5")


@pytest.fixture(scope="module")
def again(exposure, folder, first):
    before = first.path.read_bytes()
    result = restart_catalog(first.path, exposure, ADDED, output=folder / "again.h5", positions=KNOWN)
    assert first.path.read_bytes() == before
    return result


@pytest.fixture(scope="module")
def scratch(exposure, folder):
    positions = np.vstack([KNOWN, ADDED])
    return deblend_catalog(exposure, positions, config=CONFIG, store=folder / "scratch.h5")


def blend_of(result, row):
    return int(result.table["blend"][result.table["id"] == row][0])


def record_of(result, row):
    with jd.ModelStore(result.path) as store:
        return store.record(blend_of(result, row))


def same_records(one, two):
    """Everything that is stored is equal, bit for bit."""
    rows = [encoded(record, Kinds(jd.StoreHeader(bands=BANDS))) for record in (one, two)]
    assert rows[0].keys() == rows[1].keys()
    for name in rows[0]:
        assert rows[0][name].tobytes() == rows[1][name].tobytes(), name


def test_no_row_is_lost(again):
    table = again.table
    assert table["id"].tolist() == list(range(len(KNOWN) + len(ADDED)))
    reasons = table["skip_reason"].tolist()
    assert [reasons[row] for row in (5, OFF, NOWHERE)] == ["skipped: outside the image"] * 3
    assert reasons[ON_SKIPPED] == reasons[2] and reasons[2].startswith("skipped: mask_limits")
    assert table["flags"][OFF] == Flag.OUTSIDE_IMAGE and table["flags"][ON_SKIPPED] == Flag.NOT_DEBLENDED
    assert not any(reasons[row] for row in (0, 1, 3, 4, OVERLAPPING, ALONE))
    np.testing.assert_array_equal(again.positions, np.vstack([KNOWN, ADDED]))


def test_what_is_not_touched_stays_as_it_is(first, again):
    for row in (1, 3, 5):
        assert blend_of(first, row) == blend_of(again, row)
        same_records(record_of(first, row), record_of(again, row))


def test_the_fit_is_as_good_as_one_from_scratch(first, again, scratch):
    before, after, best = (record_of(result, 0) for result in (first, again, scratch))
    assert after.rows.tolist() == [0, 4, OVERLAPPING] == best.rows.tolist()
    assert after.n_dof == best.n_dof
    assert before.chi2 > 1.1 * best.chi2
    assert abs(after.chi2 / best.chi2 - 1) < 0.01
    assert after.status == best.status


def test_fluxes_are_those_of_the_stars(again):
    for band, name in enumerate(BANDS):
        flux = np.asarray(again.table[f"flux_{name}"])[[0, OVERLAPPING, ALONE, 4]]
        np.testing.assert_allclose(flux, [*FLUX[[0, 1, 4], band], FAR_FLUX], rtol=0.1, atol=40)


def test_a_blend_of_its_own_is_that_of_a_run(again, scratch):
    one, two = record_of(again, ALONE), record_of(scratch, ALONE)
    same_records(dataclasses.replace(one, id=0, parent=0), dataclasses.replace(two, id=0, parent=0))


def test_the_batch_engine_adds_sources_to_blends(exposure, first):
    record = record_of(first, 0)
    obs = exposure.observation(record.box)
    entry = (obs, STARS[[1]] - record.box.start, record.blend)
    (alone,) = jd.deblend_batch([entry], options=CONFIG.initialization())
    assert alone.blend.center_prior.mean.shape == (3, 2) and alone.measurements.flux.shape == (3, 2)
    np.testing.assert_allclose(alone.blend.center_prior.mean[:2], record.blend.center_prior.mean)
    np.testing.assert_allclose(alone.blend.center_prior.mean[2], entry[1][0], rtol=1e-6)
    np.testing.assert_allclose(np.asarray(alone.measurements.flux)[2], FLUX[1], rtol=0.2)
    with pytest.raises(ValueError, match="blend: got a blend for the frame"):
        jd.deblend_batch([(exposure.observation(jd.Box((0, 0), (40, 24))), [], record.blend)])


def test_a_restart_can_be_restarted(again, exposure, folder):
    last = restart_catalog(again.path, exposure, [STARS[2] + 2.0], output=folder / "last.h5", positions=again.positions)
    assert len(last.table) == len(again.table) + 1
    assert record_of(last, 1).rows.tolist() == [1, len(again.table)]
    same_records(record_of(last, 0), record_of(again, 0))
    with pytest.raises(FileExistsError, match=r"last.h5: exists already"):
        restart_catalog(again.path, exposure, [STARS[2]], output=folder / "last.h5", positions=again.positions)


def test_a_blend_that_failed_is_fitted_from_scratch(first, again, scratch, exposure, folder):
    with jd.ModelStore(first.path) as store, jd.StoreWriter.create(folder / "failed.h5", store.header) as writer:
        for record in store.records():
            lost = record.id == blend_of(first, 0)
            gone = jd.StoredBlend(record.id, record.parent, record.box, record.rows, reason=FAILED + "no memory")
            writer.append(gone if lost else record)
    mended = restart_catalog(
        folder / "failed.h5", exposure, STARS[[1]], output=folder / "mended.h5", positions=first.positions
    )
    one, two = record_of(mended, 0), record_of(scratch, 0)
    assert one.rows.tolist() == [0, 4, len(KNOWN)] and one.chi2 == two.chi2


def star(y, x, flux):
    return jd.Blend.of([jd.PointSource((y, x), [flux])], frame=(32, 32))


def test_pieces_start_with_the_models_of_their_neighbours(tmp_path, monkeypatch):
    """Two pieces of a parent, each with a star of its own; a third is added where both see it."""
    monkeypatch.setattr(restart, "WORTHWHILE", 1)
    monkeypatch.setattr(restart, "light_extent", lambda significance, _: np.ones(len(significance)))
    boxes, stars = [jd.Box((0, 0), (32, 32)), jd.Box((0, 8), (32, 32))], [(15.2, 10.4, 300.0), (16.1, 29.7, 500.0)]
    psf = jd.GaussianPSF(1.5)
    plan, records, image = [], [], np.zeros((1, 32, 40), np.float32)
    for number, (box, (y, x, flux)) in enumerate(zip(boxes, stars, strict=True)):
        blend = star(y, x - box.start[1], flux)
        obs = jd.Observation(np.zeros((1, 32, 32)), [1.0], psf, bands=["r"])
        image[:, :, box.start[1] : box.stop[1]] += np.asarray(jd.render(blend, obs))
        fit = jd.FitResult(blend, loss=np.array([2.5]), n_steps=np.array(1), status=np.array(0))
        records.append(jd.StoredBlend(number, 0, box, np.array([number]), fit))
        plan.append(WorkUnit(number, 0, np.array([number, 1 - number]), 1, box, np.zeros(box.shape, bool)))
    with jd.StoreWriter.create(tmp_path / "models.h5", jd.StoreHeader(bands=("r",))) as writer:
        for record in records:
            writer.append(record)
    exposure = jd.Exposure(image, [1.0], psf, bands=["r"])
    positions = np.array([[15.2, 10.4], [16.1, 29.7], [16.0, 18.0]])
    units = extend_plan(exposure, jd.detect(exposure.observation()), plan, positions)
    assert [(unit.rows.tolist(), unit.n_own) for unit in units] == [([0, 2, 1], 2), ([1, 0, 2], 1)]
    cutter = Cutter(exposure, positions, np.full(3, 0.1))
    with jd.ModelStore(tmp_path / "models.h5") as store:
        cutouts = [restart.StartCutter(cutter, store, {0: (0, 0), 1: (1, 0)}).cut(unit) for unit in units]
    monkeypatch.setattr(restart, "WORTHWHILE", 3)
    with jd.ModelStore(tmp_path / "models.h5") as store:
        assert restart.StartCutter(cutter, store, {0: (0, 0), 1: (1, 0)}).cut(units[0]).start is None
    for cutout in cutouts:
        assert positions[cutout.unit.rows[cutout.new]].tolist() == [[16.0, 18.0]]
        np.testing.assert_allclose(cutout.centers, [[16.0, 18.0 - cutout.unit.box.start[1]]])
        model = np.asarray(jd.render(cutout.start, cutout.obs))
        np.testing.assert_allclose(model, cutout.obs.images, atol=0.3)  # of 35; wings end with the first windows


def test_other_input_is_refused(first, exposure, folder):
    def refused(reason, store=first.path, exposure=exposure, added=ADDED, output=folder / "none.h5", **options):
        with pytest.raises(ValueError, match=reason):
            restart_catalog(store, exposure, added, output=output, **{"positions": KNOWN} | options)
        assert not (folder / "none.h5").exists()

    other = dataclasses.replace(exposure, images=exposure.images + np.float32(1e-3))
    refused("is of another exposure, of other positions or another margin", exposure=other)
    refused("is of another exposure, of other positions", positions=KNOWN[::-1])
    refused("positions: 4 were given, but .* has 6 rows", positions=KNOWN[:4])
    refused(r"positions: \d+ are detected, but", positions=None)
    refused(r"added: got shape \(3,\)", added=np.ones(3))
    refused("output: got .* which is the store", output=first.path)
    refused("center_error: got -1", center_error=-1.0)
    with jd.StoreWriter.create(folder / "bare.h5", jd.StoreHeader(bands=BANDS)):
        pass
    refused("was not made by deblend_catalog", store=folder / "bare.h5")
    shard = deblend_catalog(exposure, KNOWN[5:], config=CONFIG, store=folder / "part.h5", shard=(2, 2))
    refused("positions: 1 were given, but .* has 0 rows", store=shard.path, positions=KNOWN[5:])


def test_errors_of_the_positions_are_those_of_the_run(exposure, folder):
    """Detected positions have errors of their own; those that were given with some must be given again."""
    lost = DeblendConfig(max_number_of_peaks=1, max_footprint_area=1)  # nothing is fitted
    found = deblend_catalog(exposure, config=lost, store=folder / "found.h5")
    again = restart_catalog(found.path, exposure, [[60.0, 10.0]], output=folder / "found2.h5")
    assert len(again.table) == len(found.table) + 1
    given = deblend_catalog(exposure, KNOWN, config=lost, center_error=0.2, store=folder / "given.h5")
    with pytest.raises(ValueError, match="of another exposure"):
        restart_catalog(given.path, exposure, [], output=folder / "given2.h5", positions=KNOWN)
    same = restart_catalog(given.path, exposure, [], output=folder / "given2.h5", positions=KNOWN, position_error=0.2)
    assert same.table["skip_reason"].tolist() == given.table["skip_reason"].tolist()


def test_a_source_that_is_not_alone_any_more_is_fitted(exposure):
    config, centers = DeblendConfig(process_singles=False), np.array([STARS[0], STARS[1]])
    nothing = jd.detect(exposure.observation())
    plan = make_plan(exposure, nothing, centers[:1], config)
    more = extend_plan(exposure, nothing, plan, centers, config)
    assert plan[0].skip and [(unit.own.tolist(), unit.skip) for unit in more] == [([0, 1], "")]


def test_a_new_unit_leaves_pixels_of_others_to_them():
    """Footprints as squares about given positions; the second is just off the window of the first."""
    exposure = jd.Exposure(np.zeros((1, 64, 64)), [1.0], jd.GaussianPSF(1.5), bands=["r"])
    nothing, centers = jd.detect(exposure.observation()), np.array([[30.0, 20.0], [30.0, 33.0], [30.0, 34.0]])
    plan = make_plan(exposure, nothing, centers[:1])
    more = extend_plan(exposure, nothing, plan, centers)
    assert more[0] is plan[0] and [unit.own.tolist() for unit in more] == [[0], [1, 2]]
    taken = np.zeros(exposure.shape, bool)
    taken[plan[0].box.slices] = plan[0].footprint
    both = taken[more[1].box.slices]
    assert both.any() and more[1].exclude[both].all() and not more[1].footprint[both].any()
