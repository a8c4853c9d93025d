"""Stores of models: what is read is what was written, whatever happened in between."""

import dataclasses
import errno
import filecmp
import resource
import signal
import subprocess
import sys
import textwrap

import equinox as eqx
import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Float, Int

import jaxdeblend as jd
from jaxdeblend.catalog import STORED_CLASSES
from jaxdeblend.catalog.store.layout import MIGRATIONS, SCHEMA_VERSION, Migration
from jaxdeblend.catalog.store.merge import partial_folder
from jaxdeblend.model.parameter import parameters
from tests import stored_blends
from tests.conformance.families import members
from tests.stored_blends import HEADER, assert_same_bits, assert_same_record, record

NUMBERS = (7, 3, 12, 5, 9, 4, 30)


def write(path, numbers=NUMBERS, header=HEADER, **options):
    with jd.StoreWriter.create(path, header, **options) as writer:
        for number in numbers:
            writer.append(record(number))
    return path


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write(tmp_path_factory.mktemp("store") / "models.h5", batch=3)


@pytest.fixture
def copy(path, tmp_path):
    """A store that a test may damage."""
    other = tmp_path / "copy.h5"
    other.write_bytes(path.read_bytes())
    return other


# ---------------------------------------------------------------------------------------------------------- round trip


def test_every_blend_comes_back_bit_by_bit(path):
    with jd.ModelStore(path) as store:
        assert store.ids.tolist() == sorted(NUMBERS) and len(store) == len(NUMBERS)
        assert 12 in store and 13 not in store and 31 not in store
        for number in NUMBERS:
            assert_same_record(store.record(number), record(number))
            assert_same_bits(store.blend(number), record(number).fit.blend)
        for one, number in zip(store.records(), sorted(NUMBERS), strict=True):
            assert_same_record(one, record(number))


def test_the_header_comes_back(path, tmp_path):
    with jd.ModelStore(path) as store:
        assert store.header.disagreements(HEADER) == [] and store.header.software == f"jaxdeblend {jd.__version__}"
        assert store.header.config == "threshold = 5.0\n" and store.header.bands == stored_blends.BANDS
        assert store.header.celestial_wcs().wcs.crpix[0] == 3.0 and store.header.model_psf is None
    psf = np.asarray(jd.GaussianPSF(0.8).stamp(15)[0])
    header = dataclasses.replace(HEADER, model_psf=psf, wcs="", config="µ = 'π'")
    with jd.ModelStore(write(tmp_path / "other.h5", (), header)) as store:
        assert_same_bits(store.header.model_psf, psf)
        assert store.header.config == "µ = 'π'" and store.header.celestial_wcs() is None and len(store) == 0
        assert list(store.records()) == [] and len(store.table("sources")) == 0
    assert HEADER.disagreements(header) == ["config", "wcs", "model_psf"]


def test_a_blend_is_fitted_further_as_before(tmp_path):
    shape = np.exp(-np.hypot(*np.ogrid[-3:4, -3:4]))
    galaxy = jd.ExtendedSource((5.3, 4.8), [5.0], shape, constraints=(jd.Positive(),), priors=(), center_error=0.1)
    blend = jax.tree.map(np.asarray, jd.Blend.of([galaxy], frame=(11, 11)))
    obs = jd.Observation(np.full((1, 11, 11), 0.3), np.ones(1), jd.GaussianPSF(1.0), bands=("g",))
    few = jd.ProximalAdam(max_steps=3)
    first = jax.tree.map(np.asarray, jd.fit(blend, obs, few))
    with jd.StoreWriter.create(tmp_path / "fit.h5", jd.StoreHeader(bands=obs.bands)) as writer:
        writer.append(jd.StoredBlend(1, 1, jd.Box((0, 0), (11, 11)), np.arange(1), first))
    with jd.ModelStore(tmp_path / "fit.h5") as store:
        again = store.blend(1)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(again))
    assert_same_bits(again, first.blend)
    assert_same_bits(jd.fit(again, obs, few), jd.fit(first.blend, obs, few))


def test_a_blend_without_sources_keeps_its_stacks(tmp_path):
    one = record(7)
    stacks = tuple(jax.tree.map(lambda array: array[:0], stack) for stack in one.blend.stacks)
    none = np.zeros((0, 2), np.float32)
    prior = jd.CenterPrior(none, none[:, 0])
    empty = jd.Blend(centers=none, center_prior=prior, stacks=stacks, active=none[:, 0] > 0, frame=(21, 24))
    fit = jd.FitResult(empty, one.fit.loss, one.fit.n_steps, one.fit.status)
    with jd.StoreWriter.create(tmp_path / "empty.h5", HEADER) as writer:
        writer.append(jd.StoredBlend(1, 1, one.box, one.rows[:0], fit))
    with jd.ModelStore(tmp_path / "empty.h5") as store:
        assert_same_bits(store.blend(1), empty)


def test_tables_hold_what_was_measured(path):
    with jd.ModelStore(path) as store:
        blends, sources, components = (store.table(name) for name in ("blends", "sources", "components"))
        with pytest.raises(ValueError, match="name: got 'pixels'; give 'blends'"):
            store.table("pixels")
        assert store.blends_of(1) == [3, 4, 5] and store.blends_of(99) == []
    records = [record(number) for number in sorted(NUMBERS)]
    assert blends["id"].tolist() == sorted(NUMBERS) and blends["parent"].tolist() == [r.parent for r in records]
    assert blends["status"].tolist() == [r.status for r in records] and blends["measured"].all()
    np.testing.assert_array_equal(sources["flux"], np.concatenate([r.measurements.flux for r in records]))
    np.testing.assert_array_equal(sources["row"], np.concatenate([r.rows for r in records]))
    np.testing.assert_array_equal(sources["blend"], np.repeat(sorted(NUMBERS), [len(r.rows) for r in records]))
    assert sources["flux"].description == "total flux of the model, in image units"
    assert len(components) == sum(len(stack.source) for r in records for stack in r.blend.stacks)


def test_others_can_read_the_file_without_jaxdeblend(path):
    """As the documentation says: spectra and pixels of a component are found by its first pixel and its kind."""
    stack = record(9).blend.stacks[0]
    with h5py.File(path) as file:
        number = list(file["blends/id"]).index(9)
        component = file["blends/first_component"][number]
        first = file["components/first_pixel"][component]
        pixels = file["pixels/value"][first : first + 15 * 15].reshape(15, 15)
        np.testing.assert_array_equal(pixels, stack.component.morphology.pixels[0])
        np.testing.assert_array_equal(file["components/spectrum"][component], stack.component.spectrum.amplitude[0])
        assert file["pixels/value"].dtype == np.float32 and file["pixels/value"].compression == "gzip"
        assert file.attrs["schema_version"] == SCHEMA_VERSION


def test_a_blend_that_was_not_fitted_is_kept_with_its_reason(tmp_path):
    lost = jd.StoredBlend(4, 2, jd.Box((-3, 5), (9, 8)), np.array([5, 6]), reason="zu groß")
    with jd.StoreWriter.create(tmp_path / "lost.h5", HEADER) as writer:
        writer.append(lost)
    with jd.ModelStore(tmp_path / "lost.h5") as store:
        back = store.record(4)
        assert (back.reason, back.status, back.fit, back.measurements) == ("zu groß", -1, None, None)
        assert back.rows.tolist() == back.source_ids.tolist() == [5, 6]
        assert np.isnan(store.table("sources")["flux"]).all() and store.table("blends")["status"][0] == -1
        with pytest.raises(ValueError, match=r"blend 4 has no model: it was not fitted \(zu groß\)"):
            store.blend(4)
        with pytest.raises(ValueError, match=r"lost.h5: it has no blend 5"):
            store.blend(5)


def test_double_precision_is_kept_or_refused(tmp_path):
    one = record(3)
    precise = jax.tree.map(lambda leaf: leaf / np.float64(3) if leaf.dtype == np.float32 else leaf, one.fit.blend)
    fit = jd.FitResult(precise, one.fit.loss, one.fit.n_steps, one.fit.status)
    double = jd.StoredBlend(3, 1, one.box, one.rows, fit)
    with jd.StoreWriter.create(tmp_path / "double.h5", dataclasses.replace(HEADER, dtype="float64")) as writer:
        writer.append(double)
    with jd.ModelStore(tmp_path / "double.h5") as store:
        assert_same_bits(store.blend(3), precise)
    with (
        pytest.raises(ValueError, match="float64 does not fit into float32; make the store with dtype='float64'"),
        jd.StoreWriter.create(tmp_path / "single.h5", HEADER) as writer,
    ):
        writer.append(double)


# ------------------------------------------------------------------------------------------------------------- classes


def test_every_class_of_the_package_has_a_name():
    families = (jd.AbstractComponent, jd.AbstractSpectrum, jd.AbstractMorphology, jd.AbstractConstraint)
    known = {cls for family in (*families, jd.AbstractPrior) for cls in members(family)}
    assert set(STORED_CLASSES.values()) == known


class Disk(jd.AbstractMorphology):
    """A class of a user's, with static fields."""

    sigma: Float[Array, ""]
    order: Int[Array, " term"]
    mode: tuple[str, int | None] = eqx.field(static=True, default=("round", None))

    def image(self):
        offset = jnp.arange(15, dtype=self.sigma.dtype) - 7
        return jnp.exp(-0.5 * (offset[:, None] ** 2 + offset[None, :] ** 2) / self.sigma**2)

    def project(self, noise):
        return self, jnp.ones_like(noise)

    def log_prior(self, noise):
        return jnp.zeros_like(noise)

    def step_sizes(self):
        return parameters(self, sigma=0.05)


class Network(jd.AbstractPrior):
    """A prior of a user's, too large to be kept with each component."""

    weights: Float[Array, "a b"]

    def log_prob(self, image, noise):
        return 0.0 * image.sum() * noise


def record_of(component):
    """A blend of two such components."""
    one, rng = record(7, n_sources=2), np.random.default_rng(1)
    blend = stored_blends.blend(rng, (stored_blends.stack(rng, [component, component], 2),), 2)
    return jd.StoredBlend(1, 1, one.box, one.rows, jd.FitResult(blend, one.fit.loss, one.fit.n_steps, one.fit.status))


def test_classes_of_a_user_are_stored_under_a_name(tmp_path):
    disk = Disk(jnp.asarray(1.7, jnp.float32), jnp.arange(3), ("flat", 2))
    one = record_of(jd.FactorizedComponent(jd.FreeSpectrum(jnp.ones(3)), disk))
    classes = STORED_CLASSES | {"disk": Disk}
    with jd.StoreWriter.create(tmp_path / "disk.h5", HEADER, classes=classes) as writer:
        writer.append(one)
    with jd.ModelStore(tmp_path / "disk.h5", classes=classes) as store:
        assert_same_bits(store.blend(1), one.blend)
    with pytest.raises(ValueError, match="the store holds a 'disk'; give classes=STORED_CLASSES"):
        jd.ModelStore(tmp_path / "disk.h5")
    with (
        pytest.raises(ValueError, match=r"Disk \(morphology\) has no name in a store; give classes="),
        jd.StoreWriter.create(tmp_path / "none.h5", HEADER) as writer,
    ):
        writer.append(one)


def test_a_module_may_be_given_instead_of_stored(tmp_path):
    network = Network(jnp.asarray(np.random.default_rng(2).normal(size=(50, 60)), jnp.float32))
    image = jd.ImageMorphology(jnp.ones((9, 9)), (), (network, *stored_blends.PRIORS, network))
    one = record_of(jd.FactorizedComponent(jd.FreeSpectrum(jnp.ones(3)), image))
    classes = STORED_CLASSES | {"network": network}
    with jd.StoreWriter.create(tmp_path / "network.h5", HEADER, classes=classes) as writer:
        writer.append(one)
    with jd.ModelStore(tmp_path / "network.h5", classes=classes) as store:
        assert_same_bits(store.blend(1), one.blend)
    with h5py.File(tmp_path / "network.h5") as file:
        assert len(file["pixels/value"]) == 2 * 81
    other = STORED_CLASSES | {"network": Network(network.weights + 1)}
    with (
        pytest.raises(ValueError, match="the module given as 'network' is not that of the fit"),
        jd.StoreWriter.create(tmp_path / "other.h5", HEADER, classes=other) as writer,
    ):
        writer.append(one)


# -------------------------------------------------------------------------------------------------- order, runs, shards


def test_any_order_and_any_pieces_give_the_same_file(path, tmp_path):
    for number, (order, batch) in enumerate([(sorted(NUMBERS), 256), (NUMBERS[::-1], 1), (NUMBERS, 2)]):
        other = write(tmp_path / f"{number}.h5", order, batch=batch)
        assert filecmp.cmp(path, other, shallow=False)
    changed = write(tmp_path / "changed.h5", NUMBERS[:-1])
    digests = [jd.ModelStore(each).digest() for each in (path, other, changed)]
    assert digests[0] == digests[1] != digests[2] and len(digests[0]) == 64


def test_shards_give_the_file_of_one_run(path, tmp_path):
    shards = [write(tmp_path / f"{k}.h5", NUMBERS[k::3], batch=2) for k in range(3)]
    for order in (shards, shards[::-1]):
        jd.merge_stores(order, tmp_path / "all.h5", overwrite=True)
        assert filecmp.cmp(path, tmp_path / "all.h5", shallow=False)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["0.h5", "1.h5", "2.h5", "all.h5"]
    with pytest.raises(FileExistsError, match="all.h5: exists already"):
        jd.merge_stores(shards, tmp_path / "all.h5")
    with pytest.raises(ValueError, match=r"blend 5 is in more than one store: .*0.h5, .*all.h5"):
        jd.merge_stores([shards[0], tmp_path / "all.h5"], tmp_path / "twice.h5")
    with pytest.raises(ValueError, match="paths: got none"):
        jd.merge_stores([], tmp_path / "none.h5")
    other = write(tmp_path / "other.h5", (99,), dataclasses.replace(HEADER, config="threshold = 6.0"))
    with pytest.raises(ValueError, match=r"other.h5: differs in config from .*0.h5; both must be of one run"):
        jd.merge_stores([shards[0], other], tmp_path / "mixed.h5")
    assert not (tmp_path / "mixed.h5").exists() and not (tmp_path / "twice.h5").exists()


def test_blocks_of_a_merge_do_not_show(path, tmp_path, monkeypatch):
    monkeypatch.setattr("jaxdeblend.catalog.store.merge.BLOCK", 1500)
    assert filecmp.cmp(write(tmp_path / "one.h5"), write(tmp_path / "two.h5", NUMBERS[::-1], batch=2), shallow=False)
    with jd.ModelStore(path) as store, jd.ModelStore(write(tmp_path / "small.h5")) as small:
        assert [one.id for one in store.records()] == sorted(NUMBERS)
        assert store.digest() == small.digest()


def test_a_run_that_was_killed_goes_on(path, tmp_path):
    target = tmp_path / "models.h5"
    writer = jd.StoreWriter.create(target, HEADER, batch=3)
    for number in NUMBERS[:4]:
        writer.append(record(number))
    assert writer.finished == {*NUMBERS[:3]}  # the fourth is in memory, and lost with it
    del writer
    with pytest.raises(FileNotFoundError, match=r"models.h5: not finished; StoreWriter.resume goes on"):
        jd.ModelStore(target)
    with jd.ModelStore(partial_folder(target)) as store:
        assert store.ids.tolist() == sorted(NUMBERS[:3])
        assert_same_record(store.record(12), record(12))
    with pytest.raises(FileExistsError, match=r"models.h5.partial: exists already; resume it"):
        jd.StoreWriter.create(target, HEADER)
    with pytest.raises(ValueError, match="made with another config; finish it with that"):
        jd.StoreWriter.resume(target, dataclasses.replace(HEADER, config="other"))
    with jd.StoreWriter.resume(target, HEADER) as writer:
        for number in set(NUMBERS) - writer.finished:
            writer.append(record(number))
    assert filecmp.cmp(path, target, shallow=False) and [target] == list(tmp_path.iterdir())


def test_a_finished_store_can_grow(path, tmp_path):
    target = write(tmp_path / "models.h5", NUMBERS[:5])
    with jd.StoreWriter.resume(target, HEADER) as writer:
        with pytest.raises(ValueError, match="id: the store has a blend 7 already"):
            writer.append(record(7))
        for number in NUMBERS[5:]:
            writer.append(record(number))
        with pytest.raises(ValueError, match=f"id: the store has a blend {NUMBERS[-1]} already"):
            writer.append(record(NUMBERS[-1]))
    assert filecmp.cmp(path, target, shallow=False)
    with pytest.raises(ValueError, match="is closed; resume it to add blends"):
        writer.append(record(99))
    with pytest.raises(FileExistsError, match=r"models.h5: exists already"):
        jd.StoreWriter.create(target, HEADER)
    with pytest.raises(FileNotFoundError, match="none.h5: no such store; create it"):
        jd.StoreWriter.resume(tmp_path / "none.h5")


def test_a_run_that_was_killed_while_it_was_closed(path, tmp_path):
    """The file is there, and the pieces that it was made of still are."""
    target = tmp_path / "models.h5"
    writer = jd.StoreWriter.create(target, HEADER, batch=2)
    for number in NUMBERS:
        writer.append(record(number))
    writer.suspend()
    target.write_bytes(path.read_bytes())
    assert len(jd.ModelStore(target)) == len(NUMBERS)
    jd.StoreWriter.resume(target).close()
    assert filecmp.cmp(path, target, shallow=False) and [target] == list(tmp_path.iterdir())


def test_an_error_leaves_the_store_unfinished_and_nothing_lost(path, tmp_path, caplog):
    target = tmp_path / "models.h5"
    with pytest.raises(KeyboardInterrupt), jd.StoreWriter.create(target, HEADER) as writer:
        writer.append(record(NUMBERS[0]))
        raise KeyboardInterrupt
    assert "models.h5 is unfinished: 1 blends are in" in caplog.text and not target.exists()
    with jd.StoreWriter.resume(target) as writer:
        assert writer.finished == {NUMBERS[0]}
        for number in NUMBERS[1:]:
            writer.append(record(number))
    assert filecmp.cmp(path, target, shallow=False)


KILLED = """
    import os, signal, sys
    import jaxdeblend as jd
    from tests.stored_blends import HEADER, record
    writer = jd.StoreWriter.create(sys.argv[1], HEADER, batch=2)
    for number in (7, 3, 12, 5, 9):
        writer.append(record(number))
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_kill_nine(path, tmp_path):
    target = tmp_path / "models.h5"
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(KILLED), str(target)], timeout=300)
    assert done.returncode == -signal.SIGKILL
    with jd.StoreWriter.resume(target) as writer:
        assert writer.finished == {7, 3, 12, 5}
        for number in set(NUMBERS) - writer.finished:
            writer.append(record(number))
    assert filecmp.cmp(path, target, shallow=False)


# ------------------------------------------------------------------------------------------------------------ bad input


def full_disk(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_loses_nothing(path, tmp_path, monkeypatch):
    target = tmp_path / "models.h5"
    writer = jd.StoreWriter.create(target, HEADER, batch=3)
    for number in NUMBERS[:5]:
        writer.append(record(number))
    with monkeypatch.context() as full:
        full.setattr("os.fsync", full_disk)
        with pytest.raises(OSError, match=r"could not be written \(No space left on device\)") as caught:
            writer.append(record(NUMBERS[5]))
        assert caught.value.errno == errno.ENOSPC and writer.finished == {*NUMBERS[:3]}
        with pytest.raises(OSError, match="could not be written"):
            writer.close()
    assert jd.ModelStore(partial_folder(target)).ids.tolist() == sorted(NUMBERS[:3])
    writer.append(record(NUMBERS[6]))
    writer.close()
    assert filecmp.cmp(path, target, shallow=False)


def test_a_file_that_hdf5_cannot_finish(path, tmp_path):
    """The system itself refuses to let a file grow, in the middle of it."""
    target, limits = tmp_path / "models.h5", resource.getrlimit(resource.RLIMIT_FSIZE)
    writer = jd.StoreWriter.create(target, HEADER, batch=3)
    for number in NUMBERS:
        writer.append(record(number))
    writer.flush()
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"could not be written \(File too large\)"):
            writer.close()
        assert not target.exists()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    writer.close()
    assert filecmp.cmp(path, target, shallow=False) and [target] == list(tmp_path.iterdir())


PER_BAND = ("flux", "flux_err", "blendedness", "data_coverage", "peak_flux")


def test_what_does_not_fit_together_is_refused(tmp_path):
    one = record(12)
    writer = jd.StoreWriter.create(tmp_path / "models.h5", HEADER)

    def refused(match, **changes):
        with pytest.raises(ValueError, match=match):
            writer.append(dataclasses.replace(one, **changes))

    n = len(one.rows)
    refused(rf"rows: got {n + 1} for the {n} sources of blend 12", rows=np.arange(n + 1), source_ids=None)
    refused(rf"source_ids: got {n + 1} for {n} rows of blend 12", source_ids=np.arange(n + 1))
    refused(r"box: got Box\(.*\) for blend 12 of the frame \(21, 24\)", box=jd.Box((0, 0), (21, 25)))
    refused(r"reason: got 'masked'; give one if, and only if, blend 12 was not fitted", reason="masked")
    refused(r"reason: got ''; give one", fit=None)
    fewer = {name: getattr(one.measurements, name)[:, :2] for name in PER_BAND}
    wrong = dataclasses.replace(one.measurements, **fewer)
    refused(rf"measurements: got fluxes of shape \({n}, 2\) for the {n} sources of blend 12", measurements=wrong)
    writer.append(one)
    assert jd.ModelStore(writer.close()).ids.tolist() == [12]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "float16"}, "dtype: got 'float16'; give 'float32' or 'float64'"),
        ({"bands": ()}, r"bands: got \(\); give at least one name"),
        ({"bands": ("g", "g")}, r"bands: got \('g', 'g'\); give at least one name, each once"),
    ],
)
def test_headers_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        jd.StoreHeader(**({"bands": ("g",)} | options))


def read_all(path):
    with jd.ModelStore(path) as store:
        return list(store.records())


def test_damaged_files_are_refused(copy, tmp_path):
    whole = copy.read_bytes()
    for size in (0, 100, len(whole) // 2, len(whole) - 1):
        copy.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"copy.h5: not a readable store of models \(.*\)\.$"):
            jd.ModelStore(copy)
    with h5py.File(tmp_path / "copy.h5", "w"):
        pass
    with pytest.raises(ValueError, match="it was not written by jaxdeblend"):
        jd.ModelStore(copy)
    copy.write_text("id,x,y\n")
    with pytest.raises(ValueError, match="not a readable store of models"):
        jd.ModelStore(copy)
    with pytest.raises(FileNotFoundError, match="none.h5: no such file"):
        jd.ModelStore(tmp_path / "none.h5")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match="folder: not a store of models, but a folder"):
        jd.ModelStore(tmp_path / "folder")


def test_flipped_bits_are_found(copy):
    with h5py.File(copy) as file:
        chunk = file["pixels/value"].id.get_chunk_info(0)
    data = bytearray(copy.read_bytes())
    data[chunk.byte_offset + chunk.size // 2] ^= 0x55
    copy.write_bytes(data)
    with pytest.raises(ValueError, match="copy.h5: not a readable store of models"):
        read_all(copy)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("blends/id", lambda ids: ids[::-1], "blends are not in order"),
        ("blends/first_pixel", lambda first: first + 1, "the rows of pixels do not follow one another"),
        ("blends/n_sources", lambda counts: counts[::-1], "the rows of sources do not follow one another"),
        ("pixels/value", lambda pixels: pixels[:-1], "pixels/value has .* rows, not"),
        ("stacks/kind", lambda kinds: kinds + 99, "a component is of none of its"),
        ("sources/flux", None, "sources/flux"),
        ("about/kinds", lambda _: '["nonsense"]', "not a kind of component|JSON|object"),
    ],
)
def test_stores_that_do_not_add_up_are_refused(copy, name, change, message):
    with h5py.File(copy, "a") as file:
        values = file[name][()]
        del file[name]
        if change is not None:
            file[name] = change(values)
    with pytest.raises(ValueError, match=message):
        read_all(copy)


def test_h5py_is_named_when_it_is_missing(tmp_path, monkeypatch, path):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match=r"stores of models need h5py: pip install 'jaxdeblend\[store\]'"):
        jd.ModelStore(path)
    with pytest.raises(ImportError, match=r"pip install 'jaxdeblend\[store\]'"):
        jd.StoreWriter.create(tmp_path / "models.h5", HEADER)
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------------------- versions


NEW_IN_2 = ("sources/data_coverage", "sources/peak_flux", "about/unit")


def old_rows(rows):
    """In the made-up version 0, fluxes were magnitudes' worth of a hundred, and nothing was flagged."""
    rows = rows | {"sources/flux": 100 * rows["sources/counts"]}
    del rows["sources/counts"]
    return rows | {"sources/flags": np.zeros(len(rows["sources/id"]), np.int32)}


OLD = MIGRATIONS | {
    0: Migration(
        header=lambda header: header | {"wcs": header["wcs"].replace("CRPX", "CRPIX")},
        kinds=lambda kinds: tuple(text.replace('"pixelated"', '"image"') for text in kinds),
        rows=old_rows,
    )
}


@pytest.fixture
def old(copy):
    """A store of a version that never was."""
    with h5py.File(copy, "a") as file:
        file.attrs["schema_version"] = 0
        file["sources/counts"] = file["sources/flux"][:] / np.float32(100)
        kinds, wcs = file["about/kinds"][()].decode(), file["about/wcs"][()].decode()
        for name in ("sources/flux", "sources/flags", "about/kinds", "about/wcs", *NEW_IN_2):
            del file[name]
        file["about/kinds"], file["about/wcs"] = kinds.replace('"image"', '"pixelated"'), wcs.replace("CRPIX", "CRPX")
    return copy


def test_older_versions_are_migrated_as_they_are_read(old, path, tmp_path):
    with jd.ModelStore(old, migrations=OLD) as store:
        assert store.header.disagreements(HEADER) == [] and not store.table("sources")["flags"].any()
        for number in NUMBERS:
            assert_same_bits(store.blend(number), record(number).blend)
            flux = store.record(number).measurements.flux
            np.testing.assert_allclose(flux, record(number).measurements.flux, rtol=1e-6)
    jd.merge_stores([old], tmp_path / "new.h5", migrations=OLD)
    with jd.ModelStore(tmp_path / "new.h5") as new, jd.ModelStore(old, migrations=OLD) as store:
        assert new.digest() == store.digest()


@pytest.fixture
def first_version(copy):
    """A store of version 1: without what came with version 2."""
    with h5py.File(copy, "a") as file:
        file.attrs["schema_version"] = 1
        for name in NEW_IN_2:
            del file[name]
    return copy


def assert_unknown(store, numbers=NUMBERS):
    """All that version 1 knew is there, the rest is NaN."""
    for number in numbers:
        there, back = record(number), store.record(number)
        assert_same_bits(back.blend, there.blend)
        np.testing.assert_array_equal(back.measurements.flux, there.measurements.flux)
        np.testing.assert_array_equal(back.measurements.flags, there.measurements.flags)
        assert back.measurements.data_coverage.shape == there.measurements.flux.shape
        assert np.isnan(back.measurements.data_coverage).all() and np.isnan(back.measurements.peak_flux).all()


def test_version_1_is_read_and_exported(first_version, tmp_path):
    with jd.ModelStore(first_version) as store:
        assert store.header.unit == "" and store.header.disagreements(HEADER) == []
        assert_unknown(store)
        assert "data_coverage" in store.table("sources").colnames and len(store.table("blends")) == len(NUMBERS)
        digest = store.digest()
    jd.store_from_fits(jd.store_to_fits(first_version, tmp_path / "models.fits"), tmp_path / "models.h5")
    with jd.ModelStore(tmp_path / "models.h5") as store:
        assert store.digest() == digest
    with h5py.File(tmp_path / "models.h5") as file:
        assert file.attrs["schema_version"] == 2


def test_version_1_is_gone_on_with(first_version):
    with jd.StoreWriter.resume(first_version, dataclasses.replace(HEADER, unit="nJy")) as writer:
        assert writer.finished == set(NUMBERS)
        writer.append(record(1))
    with h5py.File(first_version) as file:
        assert file.attrs["schema_version"] == 2
    with jd.ModelStore(first_version) as store:
        assert store.header.unit == "nJy"  # the run that goes on knows it
        assert_unknown(store)
        assert_same_record(store.record(1), record(1))


def test_stores_of_two_units_do_not_agree(tmp_path):
    one, two = (dataclasses.replace(HEADER, unit=unit) for unit in ("nJy", "uJy"))
    assert one.disagreements(two) == ["unit"] and one.disagreements(HEADER) == []
    paths = [write(tmp_path / f"{header.unit}.h5", (k,), header) for k, header in enumerate((one, two))]
    with pytest.raises(ValueError, match=r"uJy.h5: differs in unit from .*nJy.h5"):
        jd.merge_stores(paths, tmp_path / "all.h5")


def test_unknown_versions_are_refused(old, copy):
    with pytest.raises(ValueError, match=r"version 0 of the layout, which jaxdeblend .* cannot read any more"):
        jd.ModelStore(old)
    with h5py.File(copy, "a") as file:
        file.attrs["schema_version"] = SCHEMA_VERSION + 1
    message = (
        rf"written in version {SCHEMA_VERSION + 1} of the layout; jaxdeblend .* knows those up to {SCHEMA_VERSION}"
    )
    with pytest.raises(ValueError, match=message):
        jd.ModelStore(copy)
    with pytest.raises(ValueError, match=message):
        jd.StoreWriter.resume(copy)
