"""What every test runs under: checked shapes and types, no silent broadcasting or promotion."""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import hypothesis
import jax
import numpy as np
import pytest
from jaxtyping import install_import_hook

import tests.typecheck  # noqa: F401  (the hook looks it up by name)

# a machine that is busy for a moment must not make a test fail
hypothesis.settings.register_profile("jaxdeblend", deadline=None)
hypothesis.settings.load_profile("jaxdeblend")

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")

with install_import_hook("jaxdeblend", "tests.typecheck.checked"):
    import jaxdeblend
    from jaxdeblend.runtime.host import share_of_mappings

    for name in jaxdeblend.__all__:  # loaded here, while the hook is there
        getattr(jaxdeblend, name)

PROJECT = Path(__file__).resolve().parents[1]
SHARED_DATA = PROJECT.parent / "shared" / "data"


def pytest_configure(config: pytest.Config) -> None:
    """Processes of a run share a folder of compiled programs: what many files need is compiled once."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        folder = tempfile.mkdtemp(prefix="jaxdeblend-programs-")
        os.environ["JAX_COMPILATION_CACHE_DIR"] = folder  # processes that are started later find it
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
    jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


@pytest.fixture(scope="module", autouse=True)
def compiled_programs_are_released():
    """Hundreds of compiled programs exceed the memory maps that Linux allows a process (65530): XLA then crashes."""
    yield
    if share_of_mappings() > 0.4:
        jax.clear_caches()


@pytest.fixture
def rng() -> np.random.Generator:
    """Random numbers, the same in every run."""
    return np.random.default_rng(20240229)


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """Path of a file of the data that lie beside the project; the test is skipped where there are none."""

    def path(name: str) -> Path:
        if not (SHARED_DATA / name).is_file():
            pytest.skip(f"needs ../shared/data/{name} beside the project")
        return SHARED_DATA / name

    return path
