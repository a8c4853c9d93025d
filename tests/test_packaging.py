"""What is installed is what was meant to be."""

import importlib.metadata
import importlib.util
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import jaxdeblend
from jaxdeblend._version import __version__

PROJECT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((PROJECT / "pyproject.toml").read_text())
EXTRAS = PYPROJECT["project"]["optional-dependencies"]
FOR_DEVELOPERS = {"test", "docs", "dev"}
EXTRAS_OF_USERS = sorted(EXTRAS.keys() - FOR_DEVELOPERS - {"gpu"})


def run(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=300)


def citation(key: str) -> str:
    found = re.search(rf"^{key}: (.+)$", (PROJECT / "CITATION.cff").read_text(), re.MULTILINE)
    assert found, f"CITATION.cff has no {key}"
    return found[1].strip()


def test_version_is_written_in_one_place():
    assert PYPROJECT["tool"]["hatch"]["version"]["path"] == "jaxdeblend/_version.py"
    assert "version" in PYPROJECT["project"]["dynamic"]
    assert jaxdeblend.__version__ == __version__
    files = (PROJECT / "jaxdeblend").rglob("*.py")
    assert [path.name for path in files if f'"{__version__}"' in path.read_text()] == ["_version.py"]


def test_citation_agrees():
    assert citation("version") == __version__
    assert citation("title") == PYPROJECT["project"]["name"]
    assert citation("license") == PYPROJECT["project"]["license"]


def test_changelog_names_the_version():
    heading = "Unreleased" if ".dev" in __version__ else __version__
    assert f"## [{heading}]" in (PROJECT / "CHANGELOG.md").read_text()


def test_installed_version_agrees():
    try:
        assert importlib.metadata.version("jaxdeblend") == __version__
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("jaxdeblend runs from its source tree here")


def test_extra_all_is_complete():
    (everything,) = EXTRAS["all"]
    named = set(re.fullmatch(r"jaxdeblend\[(.*)\]", everything)[1].split(","))
    assert named == EXTRAS.keys() - FOR_DEVELOPERS - {"all", "gpu"}


def test_lower_bounds_are_the_oldest_versions_that_are_tested():
    lines = (PROJECT / ".ci" / "oldest.txt").read_text().splitlines()
    tested = dict(line.split("==") for line in lines if not line.startswith("#"))
    wanted = [*PYPROJECT["project"]["dependencies"], *(text for name in EXTRAS_OF_USERS for text in EXTRAS[name])]
    bounds = dict(text.split(">=") for text in wanted if not text.startswith("jaxdeblend["))
    assert bounds.keys() <= tested.keys() and not any("<" in text for text in wanted)
    for name, bound in bounds.items():
        assert re.fullmatch(rf"{re.escape(bound)}(\.0)*", tested[name]), f"{name}: >={bound}, tested: {tested[name]}"


def test_import_is_light_and_silent():
    heavy = ("click", "h5py", "matplotlib", "pytest", "tqdm")
    code = f"import sys\nfrom jaxdeblend import *\nsys.exit(repr(sys.modules.keys() & set({heavy})))"
    result = run("-W", "error", "-c", code)
    assert result.stderr.strip() == "set()"


def test_wheel_holds_the_package_alone(tmp_path):
    if importlib.util.find_spec("hatchling") is None:
        pytest.skip("needs hatchling, of the extra dev")
    result = run("-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path))
    assert result.returncode == 0, result.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    info = f"jaxdeblend-{__version__}.dist-info"
    assert {name.split("/")[0] for name in names} == {"jaxdeblend", info}
    assert f"{info}/licenses/LICENSE" in names
    assert "jaxdeblend/_version.py" in names
    assert wheel.stat().st_size < 1_000_000
