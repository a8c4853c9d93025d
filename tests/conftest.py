"""What tests share."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

PROJECT = Path(__file__).resolve().parents[1]
SHARED_DATA = PROJECT.parent / "shared" / "data"


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
