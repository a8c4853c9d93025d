"""Many processes compute what one does, whatever becomes of them on the way."""

import dataclasses
import os
import pickle
import re
import signal
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache.compilation_cache import reset_cache

import jaxdeblend as jd
from jaxdeblend import DeblendConfig, deblend_catalog
from jaxdeblend.catalog import distribute
from jaxdeblend.catalog.distribute import Job, chunks, connected, fit_chunk, local_workers, prepare_worker, sent
from jaxdeblend.catalog.plan import WorkUnit
from jaxdeblend.catalog.running import Cutter
from jaxdeblend.runtime.host import MACHINE_CORES, on_all_cores
from tests import star_field
from tests.star_field import BANDS, STARS

pytest.importorskip("h5py")
distributed = pytest.importorskip("distributed")

CONFIG = DeblendConfig(max_iter=15, max_components=1, symmetry=False)
CENTERS = np.vstack([STARS, [[-4.0, 3.0]]])
N_FITS = 5
"""Two of the stars are one blend."""


@pytest.fixture(scope="module")
def exposure():
    return star_field.exposure()


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """A folder of compiled programs, so that one process alone waits for the compiler."""
    folder, before = tmp_path_factory.mktemp("programs"), jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(folder))
    reset_cache()
    yield folder
    jax.config.update("jax_compilation_cache_dir", before)
    reset_cache()


@pytest.fixture(scope="module")
def alone(exposure, tmp_path_factory):
    """The catalog as one process makes it."""
    return deblend_catalog(exposure, CENTERS, config=CONFIG, store=tmp_path_factory.mktemp("alone") / "models.h5")


@pytest.fixture(scope="module")
def client(alone):
    """Two processes under the settings of the tests, so that they find the program of this one in the cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_NUMPY_RANK_PROMOTION", "raise")
        patch.setenv("JAX_NUMPY_DTYPE_PROMOTION", "strict")
        with local_workers(2) as client:
            yield client


def same(one, two):
    assert one.path.read_bytes() == two.path.read_bytes()
    for name in one.table.colnames:
        np.testing.assert_array_equal(np.asarray(one.table[name]), np.asarray(two.table[name]), err_msg=name)


def test_two_processes_compute_what_one_does(exposure, alone, client, tmp_path):
    calls = []
    found = deblend_catalog(
        exposure,
        CENTERS,
        config=CONFIG,
        store=tmp_path / "models.h5",
        workers=client,
        chunk=2,
        progress=lambda *numbers: calls.append(numbers),
    )
    same(found, alone)
    assert calls == [(1, N_FITS)] * N_FITS


def test_workers_share_the_machine(client, cache):
    def share():
        return sorted(os.sched_getaffinity(0)), jax.config.jax_compilation_cache_dir

    cores, folders = zip(*client.run(share).values(), strict=True)
    assert set(folders) == {str(cache)} and any(cache.iterdir())
    assert {*cores[0], *cores[1]} == os.sched_getaffinity(0)
    assert len(os.sched_getaffinity(0)) == 1 or not {*cores[0]} & {*cores[1]}


def test_workers_compile_what_one_process_does(client):
    """XLA divides large loops by the number of cores, which changes the last bits of sums."""

    def parts():
        function = jax.jit(lambda x: jnp.sin(x) * x)
        with on_all_cores():
            text = function.lower(jax.ShapeDtypeStruct((3000, 4000), jnp.float32)).compile().as_text()
        return re.findall(r'"outer_dimension_partitions":\[.*?\]', text)

    expected = parts()
    assert all(found == expected for found in client.run(parts).values())


def test_a_stopped_run_goes_on(exposure, alone, client, tmp_path):
    given = {"config": CONFIG, "store": tmp_path / "models.h5", "workers": client, "chunk": 1, "resume": True}

    def interrupt(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        deblend_catalog(exposure, CENTERS, **given, progress=interrupt)
    calls = []
    found = deblend_catalog(exposure, CENTERS, **given, progress=lambda *numbers: calls.append(numbers))
    assert calls == [(1, N_FITS - 1)] * (N_FITS - 1)
    same(found, alone)


def test_a_worker_is_killed(exposure, alone, client, tmp_path):
    process = client.run(os.getpid)
    killed = []

    def kill(*_):
        if not killed:
            busy = client.processing()
            killed.append(max(busy, key=lambda address: len(busy[address])))
            os.kill(process[killed[0]], signal.SIGKILL)

    found = deblend_catalog(
        exposure, CENTERS, config=CONFIG, store=tmp_path / "models.h5", workers=client, chunk=1, progress=kill
    )
    assert killed and sorted(found.table["id"]) == list(range(len(CENTERS)))
    same(found, alone)


def deadly(unit_id, blow):
    """Fits chunks, but for a unit of which the worker dies."""

    def fit(cutouts, job):
        from jaxdeblend.catalog.distribute import fit_chunk  # that of the worker

        if any(one.unit.id == unit_id for one in cutouts):
            blow()
        return fit_chunk(cutouts, job)

    return fit


def check_the_culprit_alone_is_lost(found, alone):
    lost = np.asarray(found.table["blend"]) == 1
    reasons = np.asarray(found.table["skip_reason"])
    assert lost.sum() == 2 and set(reasons[lost]) == {"failed: its workers died, each time that it was tried alone"}
    for name in ("flux_g", "flux_err_i", "x", "skip_reason"):
        np.testing.assert_array_equal(np.asarray(found.table[name])[~lost], np.asarray(alone.table[name])[~lost])
    assert np.isnan(found.table["flux_g"][lost]).all()


def test_a_blend_that_kills_is_found_among_the_others(exposure, alone, client, tmp_path, monkeypatch):
    def blow():
        raise distributed.KilledWorker("fit", SimpleNamespace(address="there"), 1)  # as the scheduler says it

    monkeypatch.setattr(distribute, "fit_chunk", deadly(1, blow))
    given = {"store": tmp_path / "models.h5", "workers": client, "chunk": 3}
    found = deblend_catalog(exposure, CENTERS, config=CONFIG, **given)
    check_the_culprit_alone_is_lost(found, alone)
    given["store"] = tmp_path / "other.h5"
    with pytest.raises(RuntimeError, match="blend 1: its workers died"):
        deblend_catalog(exposure, CENTERS, config=dataclasses.replace(CONFIG, catch_failures=False), **given)
    assert 1 not in jd.ModelStore(f"{given['store']}.partial")


@pytest.mark.slow
def test_workers_die_of_a_blend(exposure, alone, client, tmp_path, monkeypatch):
    def blow():
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(distribute, "fit_chunk", deadly(1, blow))
    found = deblend_catalog(exposure, CENTERS, config=CONFIG, store=tmp_path / "models.h5", workers=client, chunk=3)
    check_the_culprit_alone_is_lost(found, alone)


def units(edges):
    return [WorkUnit(k, k, np.array([k]), 1, jd.Box((0, 0), (edge, edge))) for k, edge in enumerate(edges)]


def test_the_plan_alone_cuts_chunks(rng):
    some = units(rng.integers(20, 400, 300).tolist())
    cut = list(chunks(some, 16))
    assert cut == list(chunks(some[::-1], 16))
    assert sorted(unit.id for chunk in cut for unit in chunk) == list(range(300))
    assert max(map(len, cut)) <= 16
    limit = 16 * 64**2 * 4
    assert all(len(chunk) == 1 or sum(unit.cost for unit in chunk) <= limit for chunk in cut)
    costs = [unit.cost for chunk in cut for unit in chunk]
    assert costs == sorted(costs, reverse=True)


def leaves_on_device(tree):
    return [leaf for leaf in jax.tree.leaves(tree) if isinstance(leaf, jax.Array)]


@pytest.mark.parametrize("psf", [star_field.psf(), jd.GaussianPSF([1.5, 1.3]), jd.ImagePSF(star_field.psf().stamps)])
def test_what_travels_is_numpy_and_comes_back_the_same(psf, exposure):
    plain = jd.Exposure(exposure.images, [1.0, 1.0], psf, bands=BANDS)
    unit = WorkUnit(3, 1, np.array([2]), 1, jd.Box((40, 20), (24, 24)), np.zeros((24, 24), bool))
    cutout = Cutter(plain, CENTERS, np.full(len(CENTERS), 0.1)).cut(unit)
    travelling = pickle.loads(pickle.dumps(sent(cutout)))
    assert leaves_on_device(cutout.obs) and not leaves_on_device(travelling.obs)
    arrived = distribute._received(travelling).obs
    assert jax.tree.structure(arrived) == jax.tree.structure(cutout.obs)
    for one, two in zip(jax.tree.leaves(arrived), jax.tree.leaves(cutout.obs), strict=True):
        assert type(one) is type(two) and one.dtype == two.dtype
        np.testing.assert_array_equal(one, two)
    edge = cutout.obs.psf.edge
    np.testing.assert_array_equal(arrived.psf.stamp(edge), cutout.obs.psf.stamp(edge))


def test_records_are_numpy(exposure):
    unit = WorkUnit(3, 1, np.array([2]), 1, jd.Box((40, 20), (24, 24)))
    cutout = sent(Cutter(exposure, CENTERS, np.full(len(CENTERS), 0.1)).cut(unit))
    (record,) = fit_chunk([cutout], Job.of(CONFIG, catch=True))
    assert record.id == 3 and record.fit is not None
    assert not leaves_on_device((record.fit, record.measurements))


def test_workers_must_have_the_same_software():
    with pytest.raises(RuntimeError, match="is to compute as jaxdeblend 0: install the same"):
        fit_chunk([], Job(CONFIG, True, False, "jaxdeblend 0"))


def test_what_cannot_be_cut_out_is_told_of(exposure, alone, client, tmp_path, monkeypatch):
    cut = Cutter.cut

    def cut_or_fail(self, unit):
        if unit.id == 1:
            raise ValueError("no luck")
        return cut(self, unit)

    monkeypatch.setattr(Cutter, "cut", cut_or_fail)
    found = deblend_catalog(exposure, CENTERS, config=CONFIG, store=tmp_path / "models.h5", workers=client)
    assert found.parents["error"].tolist()[1] == "ValueError: no luck" and found.parents["failed"].sum() == 1
    with pytest.raises(ValueError, match="no luck"):
        deblend_catalog(exposure, CENTERS, store=tmp_path / "other.h5", workers=client)


def test_a_worker_gets_its_share(monkeypatch):
    bound = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3, 8})
    monkeypatch.setattr(os, "sched_setaffinity", lambda _, cores: bound.append(cores))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "true")
    monkeypatch.setenv(MACHINE_CORES, "")
    monkeypatch.setenv("NPROC", "")  # so that it is as before in the end
    del os.environ["NPROC"]
    for index, device in enumerate(["4", "6", "4"]):
        prepare_worker(SimpleNamespace(name=index), count=3, devices=("4", "6"))
        assert os.environ["CUDA_VISIBLE_DEVICES"] == device
    assert bound == [[0, 3], [1, 8], [2]]
    assert os.environ[MACHINE_CORES] == "0,1,2,3,8" and os.environ["NPROC"] == "5"
    bound.clear()
    for index in range(7):
        prepare_worker(SimpleNamespace(name=index), count=7)
    assert bound == [[0], [1], [2], [3], [8], [0], [1]]


def test_bad_workers(exposure, tmp_path, monkeypatch):
    path = tmp_path / "models.h5"
    with pytest.raises(ValueError, match="workers: they fit for a store only"):
        deblend_catalog(exposure, CENTERS, workers=2)
    with pytest.raises(ValueError, match="chunk: got 0"):
        deblend_catalog(exposure, CENTERS, store=path, workers=2, chunk=0)
    for workers in (0, 1.5):
        with pytest.raises(ValueError, match=f"workers: got {workers}; give a number"), connected(workers):
            pass
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ImportError, match=r"pip install 'jaxdeblend\[distributed\]'"), connected(2):
        pass
