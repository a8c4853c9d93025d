"""Packages are loaded when something is called that needs them, and not before."""

import ast
import inspect
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import jaxdeblend

OTHERS = {"astropy", "click", "h5py", "matplotlib", "pandas", "scipy"}
VERBS = ("Observation", "deblend", "measure", "apportion_flux", "render_sources", "fit", "initialize")


def loaded(code: str) -> set[str]:
    """Top-level packages that a process of its own has loaded after some code."""
    code += "\nimport sys\nprint(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300)
    return set(done.stderr.split())


def test_the_package_loads_nothing():
    assert not loaded("import jaxdeblend") & {*OTHERS, "equinox", "jax", "numpy", "optax"}


def test_verbs_load_jax_alone():
    names = ", ".join(VERBS)
    found = loaded(f"from jaxdeblend import {names}")
    assert {"equinox", "jax"} <= found and not found & OTHERS


def test_a_room_can_be_loaded_first():
    code = "import jaxdeblend.fitting.loop as loop, jaxdeblend as jd\nassert jd.fit is loop.fit"
    assert not loaded(code) & OTHERS


def test_the_table_of_names_agrees_with_what_type_checkers_see():
    tree = ast.parse(Path(inspect.getfile(jaxdeblend)).read_text())
    (seen,) = [node for node in tree.body if isinstance(node, ast.If)]
    names: dict[str, tuple[str, ...]] = {}
    for node in seen.body:
        assert isinstance(node, ast.ImportFrom) and node.level == 1
        names[node.module] = (*names.get(node.module, ()), *(alias.name for alias in node.names))
    assert names == jaxdeblend._NAMES


def test_every_name_can_be_had():
    code = "from jaxdeblend import *\nimport jaxdeblend\nassert set(jaxdeblend.__all__) <= set(dir())"
    assert "astropy" in loaded(code)
    for module, names in jaxdeblend._NAMES.items():
        for name in names:
            value = getattr(jaxdeblend, name)
            assert value is getattr(sys.modules[f"jaxdeblend.{module}"], name)
            assert pickle.loads(pickle.dumps(value)) is value


def test_names_are_listed_before_they_are_loaded():
    assert {"catalog", "deblend", "io"} <= set(dir(jaxdeblend))
    code = "import jaxdeblend\nassert {*jaxdeblend.__all__, 'catalog', 'instrument'} <= set(dir(jaxdeblend))"
    assert "jax" not in loaded(code)


def test_rooms_are_attributes():
    assert "scipy" in loaded("import jaxdeblend\nassert jaxdeblend.catalog.find_parents")


def test_an_unknown_name_is_refused():
    assert not hasattr(jaxdeblend, "nonsense")
    with pytest.raises(AttributeError, match="module 'jaxdeblend' has no attribute 'nonsense'"):
        jaxdeblend.nonsense()
    with pytest.raises(ImportError, match="cannot import name 'nonsense' from 'jaxdeblend'"):
        from jaxdeblend import nonsense  # noqa: F401


# ---- the command line


@pytest.mark.parametrize("arguments", [[], ["--help"], ["--version"], ["nonsense"]])
def test_commands_are_listed_without_jax(arguments):
    pytest.importorskip("click")
    found = loaded(f"from jaxdeblend.cli import run\nrun({arguments})")
    assert "click" in found and not found & (OTHERS - {"click"} | {"jax", "numpy"})


def test_commands_are_listed_by_the_first_sentence_of_their_help():
    click = pytest.importorskip("click")
    from jaxdeblend.cli.commands import COMMANDS, group

    context = click.Context(group)
    for name, (_, sentence) in COMMANDS.items():
        command = group.get_command(context, name)
        assert command.name == name
        assert " ".join(command.help.split("\n\n")[0].split()) == sentence
