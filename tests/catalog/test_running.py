"""What a configuration changes in a run, that it stops and goes on, and that its parts make a whole."""

import dataclasses

import numpy as np
import pytest
from astropy.table import Table

import jaxdeblend as jd
from jaxdeblend import DeblendConfig, Flag, deblend_catalog
from jaxdeblend.catalog import pipeline, plan, running
from jaxdeblend.catalog.plan import make_plan
from jaxdeblend.detection import detect, detection_of_labels
from tests import star_field
from tests.star_field import BANDS, FLUX, STARS

SHORT = DeblendConfig(max_iter=15, max_components=1, max_window=64)
"""Short fits."""

pytest.importorskip("h5py")

CENTERS = np.vstack([STARS, [[-4.0, 3.0]]])


@pytest.fixture(scope="module")
def exposure():
    plain = star_field.exposure()
    bits = np.where(plain.mask, 1, 0)
    bits[:, 40, 68:73] |= 2
    return jd.Exposure(
        plain.images,
        [1.0, 1.0],
        plain.psf,
        bands=BANDS,
        mask_bits=bits,
        mask_planes={"BAD": 0, "SAT": 1},
        wcs=plain.wcs,
    )


@pytest.fixture(scope="module")
def detection(exposure):
    return detect(exposure.observation())


@pytest.fixture(scope="module")
def whole(exposure):
    return deblend_catalog(exposure, CENTERS, config=SHORT)


def same_tables(one, two):
    assert one.colnames == two.colnames and len(one) == len(two)
    for name in one.colnames:
        assert one[name].dtype == two[name].dtype, name
        np.testing.assert_array_equal(np.asarray(one[name]), np.asarray(two[name]), err_msg=name)


def reasons(plan):
    """Why each row is not fitted."""
    found = {int(row): unit.skip for unit in plan for row in unit.own}
    return [found[row] for row in sorted(found)]


@pytest.mark.parametrize(
    ("changes", "skipped"),
    [
        ({}, []),
        ({"process_singles": False}, [2, 3, 4, 5]),
        ({"max_number_of_peaks": 1}, [0, 1]),
        ({"max_footprint_area": 300}, [0, 1]),
        ({"max_area_times_peaks": 400}, [0, 1]),
        ({"max_footprint_size": 20}, [0, 1]),
        ({"min_footprint_axis_ratio": 0.8}, [0, 1, 5]),
        ({"mask_limits": {"SAT": 0.01}}, [3]),
        ({"mask_limits": {"SAT": 0.5}}, []),
    ],
)
def test_limits_skip(changes, skipped, exposure, detection):
    plan = make_plan(exposure, detection, CENTERS, DeblendConfig(**changes))
    found = reasons(plan)
    assert found[-1] == "outside the image"
    assert [row for row, reason in enumerate(found[:-1]) if reason] == skipped
    assert all(next(iter(changes)) in found[row] for row in skipped)


def test_an_unknown_plane_is_refused(exposure):
    with pytest.raises(ValueError, match="'GHOST', but the exposure has BAD, SAT"):
        deblend_catalog(exposure, CENTERS, config=DeblendConfig(mask_limits={"GHOST": 0.5}))
    with pytest.raises(ValueError, match="bad_mask: got GHOST"):
        deblend_catalog(exposure, CENTERS, config=DeblendConfig(bad_mask=("GHOST",)))


def test_the_budget_cuts_parents(exposure, detection):
    crowd = np.stack(np.meshgrid(np.arange(6, 66, 5.0), np.arange(6, 82, 5.0), indexing="ij"), -1).reshape(-1, 2)
    whole = make_plan(exposure, detection, crowd)
    assert len(whole) == 1 and whole[0].n_own == len(crowd)
    for config in (DeblendConfig(max_sources_per_piece=60), DeblendConfig(max_window=48, max_sources_per_piece=1000)):
        plan = make_plan(exposure, detection, crowd, config)
        assert len(plan) > 1 and max(len(unit.rows) for unit in plan) <= config.max_sources_per_piece
        assert max(max(unit.box.shape) for unit in plan) <= config.max_window
        assert sorted(row for unit in plan for row in unit.own) == list(range(len(crowd)))
        for unit in plan:
            y, x = (crowd[unit.rows] - unit.box.start).astype(int).T
            assert not unit.exclude[y, x].any()


def test_config_reaches_detection_and_fit(exposure, detection, monkeypatch):
    seen = {}

    def found(_, **given):
        seen.update(given)
        return detection

    def nothing(self, _):
        seen.update(vars(self))
        return iter(())

    monkeypatch.setattr(pipeline, "detect", found)
    monkeypatch.setattr(running.Runner, "run", nothing)
    config = DeblendConfig(threshold=50.0, detection="merge", max_iter=9, symmetry=False)
    deblend_catalog(exposure, config=config)
    assert (seen["threshold"], seen["method"]) == (50.0, "merge")
    assert seen["optimizer"].max_steps == 9 and seen["options"].priors == ()
    deblend_catalog(exposure, config=config, threshold=8.0, optimizer=jd.ProximalAdam(max_steps=3))
    assert seen["threshold"] == 8.0 and seen["optimizer"].max_steps == 3


def test_a_segmentation_map_takes_the_place_of_detection(exposure):
    """Segments that touch are one parent, whatever the light says; alone in theirs, sources are skipped here."""
    labels = np.zeros(exposure.shape, int)
    labels[4:12, 4:12], labels[4:12, 12:20], labels[20:28, 4:12] = 3, 5, 9
    found = detection_of_labels(exposure.observation(), labels, [(7.0, 7.0), (24.0, 8.0)])
    alone = DeblendConfig(process_singles=False)
    result = deblend_catalog(exposure, found.centers, detection=found, config=alone)
    assert result.parents["n_sources"].tolist() == [1, 1] and result.parents["skipped"].all()
    plan = make_plan(exposure, found, np.array([(7.0, 7.0), (8.0, 16.0)]), DeblendConfig(split_valley=0.0))
    assert [unit.own.tolist() for unit in plan] == [[0, 1]]
    with pytest.raises(ValueError, match=r"detection: is of images of shape \(8, 9\)"):
        deblend_catalog(exposure, detection=dataclasses.replace(found, labels=np.zeros((8, 9), int)))


def test_bad_planes(exposure):
    window = (slice(None), slice(40, 41), slice(60, 80))
    for planes, count in ((None, 10), ((), 0), (("BAD",), 0), (("SAT",), 10)):
        found = pipeline.with_bad_planes(exposure, planes)
        assert np.sum(found.mask[window]) == count
        np.testing.assert_array_equal(found.mask_bits, exposure.mask_bits)


def test_rows_of_all_kinds(exposure, whole):
    table = Table({"x": CENTERS[:, 1], "y": CENTERS[:, 0], "sky": np.arange(len(CENTERS)) == 4})
    config = dataclasses.replace(SHORT, pseudo_columns=("sky",), max_number_of_peaks=1)
    found = deblend_catalog(exposure, table, config=config)
    assert len(found.table) == len(CENTERS) and found.n_failed == 4
    flags = np.asarray(found.table["flags"])
    np.testing.assert_array_equal(np.flatnonzero(flags & Flag.NOT_DEBLENDED), [0, 1, 4])
    assert flags[-1] == Flag.OUTSIDE_IMAGE
    text = found.table["skip_reason"].tolist()
    assert text[0].startswith("skipped: max_number_of_peaks") and text[4] == "skipped: pseudo source"
    assert found.parents["skipped"].sum() == 1 and found.parents["status"][0] == "skipped"
    kept = [2, 3, 5]
    for name in ("flux_g", "flux_err_i", "x"):
        np.testing.assert_array_equal(found.table[name][kept], whole.table[name][kept])


def test_chi2_is_that_of_the_residual(exposure, whole):
    """Windows hold pixels of other parents besides, which do not count."""
    for parent in whole.parents:
        y, x, height, width = (int(parent[name]) for name in ("y0", "x0", "ny", "nx"))
        every = np.nansum(whole.residual[:, y : y + height, x : x + width] ** 2)
        assert 0.75 < parent["chi2"] / parent["n_dof"] < 1.3 and parent["chi2"] < every * (1 + 1e-5)
        assert parent["n_dof"] < 2 * height * width and not parent["failed"]


def test_pieces_agree_with_the_whole(exposure, whole, monkeypatch):
    """Two stars that overlap, and a dark place beyond them: no piece may hold all three by budget."""
    monkeypatch.setattr(plan, "light_extent", lambda *_: 5.0)  # by their light, all three overlap
    chain = np.vstack([STARS[:2], [[24.5, 30.0]]])
    cut = deblend_catalog(exposure, chain, config=dataclasses.replace(SHORT, max_sources_per_piece=2))
    assert cut.parents["n_pieces"][0] >= 2 and len(cut.parents) == 1 and len(cut.sources) == 3
    for number, band in enumerate(BANDS):
        np.testing.assert_allclose(cut.table[f"flux_{band}"][:2], whole.table[f"flux_{band}"][:2], rtol=0.08)
        np.testing.assert_allclose(cut.table[f"flux_{band}"][:2], FLUX[:2, number], rtol=0.1)


@pytest.mark.parametrize("place", ["cut", "unpack"])
def test_failures_are_caught(place, exposure, whole, monkeypatch):
    cut, stream = running.Cutter.cut, running.deblend_stream

    def cut_or_fail(self, unit):
        if unit.id == 1 and place == "cut":
            raise ValueError("no\nluck")
        return cut(self, unit)

    def deblend_stream(blends, **given):
        for count, one in enumerate(stream(blends, **given)):
            if count == 2 and place == "unpack":
                raise RuntimeError("no luck")
            yield one

    monkeypatch.setattr(running.Cutter, "cut", cut_or_fail)
    monkeypatch.setattr(running, "deblend_stream", deblend_stream)
    found = deblend_catalog(exposure, CENTERS, config=SHORT)
    if place == "cut":
        assert found.parents["error"].tolist()[1] == "ValueError: no luck" and found.parents["failed"].sum() == 1
        failed = np.char.startswith(found.table["skip_reason"].tolist(), "failed")
        np.testing.assert_array_equal(failed, found.table["blend"] == 1)
        assert (found.table["flags"][failed] == Flag.NOT_DEBLENDED).all()
        assert np.isnan(found.table["flux_g"][failed]).all()
        kept = ~failed
        np.testing.assert_array_equal(found.table["flux_g"][kept], whole.table["flux_g"][kept])
    else:
        same_tables(found.table, whole.table)
    with pytest.raises((ValueError, RuntimeError), match=r"no\sluck"):
        deblend_catalog(exposure, CENTERS, config=dataclasses.replace(SHORT, catch_failures=False))


@pytest.fixture(scope="module")
def stored(exposure, tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "models.h5"
    return deblend_catalog(exposure, CENTERS, config=SHORT, store=path)


def test_a_stored_catalog_is_the_same(stored, whole):
    same_tables(stored.parents, whole.parents)
    for name in whole.table.colnames:
        if name not in ("ra", "dec"):
            np.testing.assert_array_equal(np.asarray(stored.table[name]), np.asarray(whole.table[name]))
    np.testing.assert_allclose(stored.table["ra"].value, whole.table["ra"].value, rtol=1e-12)


def test_products_of_pieces(exposure, whole, monkeypatch, tmp_path):
    """A parent in two pieces, of whose pixels no part is lost; the star under bad pixels is skipped."""
    monkeypatch.setattr(plan, "light_extent", lambda *_: 5.0)
    chain = np.vstack([STARS[:2], [[24.5, 30.0]], STARS[3:]])
    config = dataclasses.replace(SHORT, max_sources_per_piece=2, mask_limits={"SAT": 0.01})
    result = deblend_catalog(exposure, chain, config=config, store=tmp_path / "cut.h5")
    with jd.ModelStore(result.path) as store:
        cut = int(result.table["parent"][0])
        assert len(store.blends_of(cut)) > 1
        model = jd.render_image(store, exposure, [3, 4, 5])
        box = jd.Box((30, 50), (42, 38))  # around the star that is skipped
        np.testing.assert_allclose(model[:, 54:, 76:], whole.model[:, 54:, 76:], atol=0.02)
        parents = list(jd.update_footprints(store, exposure, band="i", redistribute_image=True))
        residual = jd.residual_image(store, exposure, box=box)
        marked = jd.mask_not_deblended(store, exposure, detection=result.detection).plane("NOT_DEBLENDED")
    assert sorted(source.id for parent in parents for source in parent.sources) == list(range(len(chain)))
    for parent in parents:
        image, mask = (array[(1, *parent.box.slices)] for array in (exposure.images, exposure.mask))
        np.testing.assert_allclose((parent.summed() + parent.unassigned)[~mask], image[~mask], rtol=1e-6, atol=1e-5)
    first, second = (source.flux for source in parents[cut].sources[:2])
    np.testing.assert_allclose([first, second], FLUX[:2, 1], rtol=0.1)
    (lost,) = (source for parent in parents for source in parent.sources if source.reason.startswith("skipped"))
    assert lost.id == 3 and "SAT" in lost.reason and not lost.area
    assert marked[:, 40, 70].all() and not marked[:, 60, 86].any() and np.nanmax(residual[1]) > 50


def test_an_interrupted_run_goes_on(exposure, stored, tmp_path):
    path = tmp_path / "models.h5"

    def interrupt(*_):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt

    for expected in (2, 4):
        calls = []
        with pytest.raises(KeyboardInterrupt):
            deblend_catalog(exposure, CENTERS, config=SHORT, store=path, resume=True, progress=interrupt)
        assert len(jd.ModelStore(f"{path}.partial")) == expected + 1  # and the position off the image
    fitted = []
    result = deblend_catalog(
        exposure, CENTERS, config=SHORT, store=path, resume=True, progress=lambda *n: fitted.append(n)
    )
    assert fitted == [(1, 1)]
    same_tables(result.table, stored.table)
    same_tables(result.parents, stored.parents)
    with jd.ModelStore(path) as one, jd.ModelStore(stored.path) as two:
        assert one.digest() == two.digest()


def test_shards_make_a_whole(exposure, stored, tmp_path):
    parts = [deblend_catalog(exposure, CENTERS, config=SHORT, store=tmp_path / f"{k}.h5", shard=(k, 2)) for k in (1, 2)]
    rows = np.concatenate([part.table["id"] for part in parts])
    assert sorted(rows) == list(range(len(CENTERS))) and min(len(part.table) for part in parts) >= 2
    jd.merge_stores([part.path for part in parts], tmp_path / "all.h5")
    with jd.ModelStore(tmp_path / "all.h5") as one, jd.ModelStore(stored.path) as two:
        assert one.digest() == two.digest()


def test_another_run_is_refused(exposure, stored):
    for changes in ({"centers": CENTERS[:-1]}, {"config": dataclasses.replace(SHORT, max_iter=16)}):
        given = {"centers": CENTERS, "config": SHORT} | changes
        with pytest.raises(ValueError, match="made with another config"):
            deblend_catalog(exposure, **given, store=stored.path, resume=True)
    with pytest.raises(FileExistsError, match="exists already"):
        deblend_catalog(exposure, CENTERS, config=SHORT, store=stored.path)
    with pytest.raises(ValueError, match="shard: got 3 of 2"):
        deblend_catalog(exposure, CENTERS, config=SHORT, store=stored.path, shard=(3, 2))
    with pytest.raises(ValueError, match="with a store, give them in config"):
        deblend_catalog(exposure, CENTERS, optimizer=jd.ProximalAdam(), store=stored.path)
