"""Programs that are kept from one process to the next."""

import json
import os
import subprocess
import sys
import threading
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdeblend.fitting.loop import fit_arrays
from jaxdeblend.fitting.optimizer import ProximalAdam
from jaxdeblend.instrument.observation import Observation
from jaxdeblend.instrument.psf import GaussianPSF
from jaxdeblend.model.blend import Blend
from jaxdeblend.model.prior import AbstractPrior
from jaxdeblend.model.source import PointSource
from jaxdeblend.ops.moments import second_moments
from jaxdeblend.runtime import programs, traced
from jaxdeblend.runtime.cache import keep_programs, limit_size
from jaxdeblend.runtime.programs import Program
from jaxdeblend.runtime.structures import NotDescribedError, description_of, tree_of

IMAGE = np.arange(49, dtype=np.float32).reshape(7, 7)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder in which programs are kept."""
    monkeypatch.setattr(programs, "keep_programs", lambda: tmp_path)
    return tmp_path


def stored(folder):
    return sorted(folder.glob("traced/*"))


def forbid_tracing(monkeypatch):
    def fail(*_):
        raise AssertionError("traced again")

    monkeypatch.setattr(programs, "_exported", fail)


def star():
    obs = Observation(np.ones((1, 8, 8)), np.ones((1, 8, 8)), GaussianPSF(1.5), bands=["r"])
    return Blend.of([PointSource((4.0, 4.0), jnp.array([30.0]))], frame=(8, 8)), obs


def test_another_process_need_not_trace_again(folder, monkeypatch):
    """Another `Program` of the function knows as little of the first one as another process does."""
    expected = second_moments(jnp.asarray(IMAGE))
    np.testing.assert_allclose(Program(second_moments)(IMAGE), expected, rtol=1e-6)
    assert len(stored(folder)) == 1
    forbid_tracing(monkeypatch)
    np.testing.assert_allclose(Program(second_moments)(IMAGE), expected, rtol=1e-6)
    with pytest.raises(AssertionError, match="traced again"):
        Program(second_moments)(IMAGE[:5, :5])


def test_programs_depend_on_shapes_alone(folder):
    """Arrays that are tied to a device, as the results of other programs are, must not change a bit of the results."""
    tied = jax.device_put(IMAGE, jax.devices()[0])
    texts = [Program(second_moments).prepared(image)._jitted.lowered.as_text() for image in (IMAGE, tied)]
    assert texts[0] == texts[1]
    assert not stored(folder), "the second was loaded"


def test_results_are_put_together_again(folder, monkeypatch):
    blend, obs = star()
    optimizer = ProximalAdam(max_steps=12)
    first = Program(fit_arrays)(blend, obs, optimizer)
    forbid_tracing(monkeypatch)
    second = Program(fit_arrays)(blend, obs, optimizer)
    assert jax.tree.structure(first) == jax.tree.structure(second)
    assert second.blend.frame == (8, 8)
    for one, two in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("damage", [lambda content: content[:-7], lambda _: b"", lambda _: b"of another program" * 99])
def test_damaged_and_foreign_files_are_ignored(folder, damage):
    expected = Program(second_moments)(IMAGE)
    (path,) = stored(folder)
    path.write_bytes(damage(path.read_bytes()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(Program(second_moments)(IMAGE), expected)
    assert traced._is_whole(path.read_bytes()), "it is written anew"


def test_a_file_of_another_version_of_jax_is_ignored(folder, monkeypatch):
    expected = Program(second_moments)(IMAGE)

    def refuse(_):
        raise ValueError("a version that nobody knows")

    monkeypatch.setattr(traced.export, "deserialize", refuse)
    np.testing.assert_array_equal(Program(second_moments)(IMAGE), expected)


def test_a_folder_that_cannot_be_written(folder):
    (folder / "traced").write_text("this is a file")
    assert Program(second_moments)(IMAGE).shape == (3,)
    assert (folder / "traced").read_text() == "this is a file"


def test_programs_with_classes_of_users_are_not_kept(folder):
    class Mine(AbstractPrior):
        def log_prob(self, image, noise):
            return -image.sum() * noise

    assert traced.digest_of(second_moments, "cpu", (IMAGE,)) is not None
    assert traced.digest_of(second_moments, "cpu", (IMAGE, Mine())) is None
    assert traced.digest_of(second_moments, "cpu", (IMAGE, lambda x: x)) is None
    assert traced.digest_of(lambda x: x, "cpu", (IMAGE,)) is None


def test_digests_tell_programs_apart():
    def digest(*args, function=second_moments, target="cpu"):
        return traced.digest_of(function, target, args)

    psf = GaussianPSF(1.5)
    all_digests = [
        digest(IMAGE),
        digest(IMAGE[1:]),
        digest(IMAGE.astype(np.int32)),
        digest(IMAGE, 1),
        digest(IMAGE, "1"),
        digest(IMAGE, target="cuda"),
        digest(IMAGE, function=fit_arrays),
        digest([IMAGE]),
        digest(psf),
        digest((psf,)),
    ]
    assert len(set(all_digests)) == len(all_digests)
    assert digest(IMAGE) == digest(IMAGE + 1)
    with jax.enable_x64(not jax.config.jax_enable_x64):
        assert digest(IMAGE) != all_digests[0]


def test_a_process_waits_for_the_one_that_compiles(tmp_path):
    order = []
    waits = threading.Event()

    def second():
        waits.set()
        with traced.locked(tmp_path, "digest"):
            order.append("second")

    with traced.locked(tmp_path, "digest"):
        thread = threading.Thread(target=second)
        thread.start()
        assert waits.wait(10)
        thread.join(0.2)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]
    assert not list(tmp_path.glob("traced/*.lock"))


# ---- structures


def test_trees_are_described_and_built_again():
    blend, obs = star()
    for tree in (blend, obs.prepared(), {"b": (1, None), "a": [2.5, "r", IMAGE]}, ProximalAdam().init(blend)):
        description = json.loads(json.dumps(description_of(tree)))
        built = tree_of(description, lambda _: IMAGE)
        assert jax.tree.structure(built) == jax.tree.structure(tree)


@pytest.mark.parametrize("tree", [object(), {1: IMAGE}, {1, 2}, np.dtype(float), lambda: None, 1j])
def test_other_things_have_no_description(tree):
    with pytest.raises(NotDescribedError):
        description_of((tree,))


@pytest.mark.parametrize(
    "description",
    [{"module": "os:PathLike", "fields": {}}, {"named": "jaxdeblend.nowhere:None", "parts": []}, {"tree": 1}, []],
)
def test_descriptions_name_classes_of_this_package_only(description):
    with pytest.raises(NotDescribedError):
        tree_of(description, lambda _: None)


# ---- the folder


def in_another_process(code, **environment):
    """Output of code in a process without a cache folder of its own."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("JAX")}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=inherited | environment, capture_output=True, text=True, check=True).stdout


COMPILE = """
import numpy as np
from jaxdeblend.ops.moments import second_moments
from jaxdeblend.runtime.programs import Program
import jax
print(Program(second_moments)(np.eye(5, dtype=np.float32)).shape, jax.config.jax_compilation_cache_dir)
"""


def test_programs_are_kept_in_the_folder_of_the_user(tmp_path):
    output = in_another_process(COMPILE, XDG_CACHE_HOME=str(tmp_path))
    assert output.startswith(f"(3,) {tmp_path / 'jaxdeblend'}")
    assert len(list(tmp_path.glob("jaxdeblend/*/traced/*"))) == 1


def test_damaged_compiled_programs_are_replaced_in_silence(tmp_path):
    """JAX by itself warns of each in every process."""
    settings = {"JAXDEBLEND_CACHE": str(tmp_path), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    expected = in_another_process(COMPILE, **settings)
    (path,) = tmp_path.glob("*/jit_second_moments-*-cache")
    damaged = path.read_bytes()[:-50]
    path.write_bytes(damaged)
    for _ in range(2):
        assert in_another_process(COMPILE, PYTHONWARNINGS="error::UserWarning", **settings) == expected
        assert path.read_bytes() != damaged


def test_the_folder_can_be_chosen_and_switched_off(tmp_path):
    output = in_another_process(COMPILE, XDG_CACHE_HOME=str(tmp_path / "a"), JAXDEBLEND_CACHE=str(tmp_path / "b"))
    assert str(tmp_path / "b") in output
    output = in_another_process(COMPILE, XDG_CACHE_HOME=str(tmp_path / "c"), JAXDEBLEND_CACHE="off")
    assert output.strip() == "(3,) None"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b"]


def test_settings_of_jax_win(tmp_path):
    output = in_another_process(COMPILE, XDG_CACHE_HOME=str(tmp_path), JAX_COMPILATION_CACHE_DIR=str(tmp_path / "jax"))
    assert output.strip() == f"(3,) {tmp_path / 'jax'}"
    assert len(list(tmp_path.glob("jax/traced/*"))) == 1
    output = in_another_process(COMPILE, XDG_CACHE_HOME=str(tmp_path), JAX_ENABLE_COMPILATION_CACHE="false")
    assert output.strip() == "(3,) None"
    assert not (tmp_path / "jaxdeblend").exists()


def test_a_cache_somewhere_else_is_left_to_jax(monkeypatch):
    before = jax.config.jax_compilation_cache_dir
    try:
        jax.config.update("jax_compilation_cache_dir", "gs://bucket/programs")
        assert keep_programs() is None
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


def test_what_was_not_used_for_the_longest_time_is_deleted(tmp_path):
    for age in range(10):
        path = tmp_path / f"{age} days"
        path.write_bytes(bytes(100))
        os.utime(path, (1e9 - 86400 * age, 1e9 - 86400 * age))
    limit_size(tmp_path, largest=1000)
    assert len(list(tmp_path.iterdir())) == 10
    limit_size(tmp_path, largest=500)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{age} days" for age in range(4)]
