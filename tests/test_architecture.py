"""The rules of the house that no linter knows."""

import abc
import ast
import dataclasses
import importlib
import inspect
import pkgutil
import textwrap
from collections.abc import Set
from pathlib import Path
from types import ModuleType

import equinox as eqx
import pytest

import jaxdeblend

PACKAGE = Path(jaxdeblend.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
MAX_LINES = 500
LATE = {"detection/chi2.py": {"scipy"}, "measurement/table.py": {"astropy"}}
"""Packages that a file may import inside functions, as few who load it need them, or only later."""
OPTIONAL = ("click", "dask", "distributed", "h5py", "matplotlib", "pandas", "pyarrow", "threadpoolctl", "tqdm")


def modules() -> list[ModuleType]:
    """Every module of the package."""
    names = [info.name for info in pkgutil.walk_packages([str(PACKAGE)], "jaxdeblend.")]
    return [importlib.import_module(name) for name in names]


def module_classes() -> list[type]:
    """Every equinox Module of the package."""
    found = [
        value
        for module in modules()
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, eqx.Module) and value.__module__ == module.__name__
    ]
    return sorted(set(found), key=lambda cls: (cls.__module__, cls.__qualname__))


def public_imports() -> list[ast.alias]:
    """The names that jaxdeblend/__init__.py re-exports, as type checkers see them."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    return [alias for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level for alias in node.names]


CLASSES = module_classes()
PUBLIC = sorted({alias.asname or alias.name for alias in public_imports()} - {"__version__"})


def own_bases(cls: type) -> list[type]:
    return [base for base in cls.__mro__[1:] if base in CLASSES]


def is_abstract(cls: type) -> bool:
    return bool(cls.__abstractmethods__ or getattr(cls, "__abstractvars__", None))


def class_id(cls: type) -> str:
    return f"{cls.__module__.removeprefix('jaxdeblend.')}.{cls.__qualname__}"


def file_id(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


class AbstractShape(eqx.Module):
    @abc.abstractmethod
    def area(self): ...


def test_is_abstract_tells_the_two_kinds_apart():
    class Square(AbstractShape):
        def area(self):
            return 1.0

    class AbstractField(eqx.Module):
        size: eqx.AbstractVar[int]

    assert is_abstract(AbstractShape) and is_abstract(AbstractField) and not is_abstract(Square)


@pytest.mark.parametrize("cls", CLASSES, ids=class_id)
def test_modules_are_abstract_or_final(cls):
    assert is_abstract(cls) == cls.__name__.lstrip("_").startswith("Abstract"), (
        f"{cls.__qualname__}: abstract classes, and only they, are called Abstract…"
    )
    heirs = [other.__qualname__ for other in CLASSES if cls in other.__mro__[1:]]
    assert is_abstract(cls) or not heirs, f"{cls.__qualname__} is final, but {heirs} inherit from it"


@pytest.mark.parametrize("cls", CLASSES, ids=class_id)
def test_nothing_concrete_is_overridden(cls):
    overridden = [
        f"{base.__qualname__}.{name}"
        for base in own_bases(cls)
        for name in vars(cls).keys() & vars(base).keys() - base.__abstractmethods__
        if not name.startswith(("__", "_abc_"))
    ]
    assert not overridden


@pytest.mark.parametrize("cls", CLASSES, ids=class_id)
def test_fields_and_init_stand_in_one_class(cls):
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    has_init = any(isinstance(node, ast.FunctionDef) and node.name == "__init__" for node in definition.body)
    assert not has_init or not [base.__qualname__ for base in own_bases(cls) if dataclasses.fields(base)]


@pytest.mark.parametrize("path", FILES, ids=file_id)
def test_files_are_short(path):
    lines = len(path.read_text().splitlines())
    assert lines <= MAX_LINES, f"{lines} lines: split it by subject"


@pytest.mark.parametrize("path", FILES, ids=file_id)
def test_files_keep_the_rules(path):
    late = LATE.get(path.relative_to(PACKAGE).as_posix(), set())
    broken = [rule for node in ast.walk(ast.parse(path.read_text())) for rule in broken_rules(node, late)]
    assert not broken


def broken_rules(node: ast.AST, may_be_late: Set[str] = frozenset()) -> list[str]:
    """What one node of a file does that no file may."""
    match node:
        case ast.ImportFrom(module="__future__") if "annotations" in [alias.name for alias in node.names]:
            return [f"line {node.lineno}: postponed annotations defeat the run-time checks of shapes"]
        case ast.Call(func=ast.Name(id="print")):
            return [f"line {node.lineno}: the library logs or returns, it never prints"]
        case ast.Call(func=ast.Name(id="eval" | "exec")):
            return [f"line {node.lineno}: no eval"]
        case ast.Import() | ast.ImportFrom() if "pickle" in imported(node):
            return [f"line {node.lineno}: no pickle"]
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            excused = {name for inner in ast.walk(node) for name in excused_imports(inner)}
            late = {name for inner in ast.walk(node) for name in imported(inner)} - {*OPTIONAL} - excused - may_be_late
            return [f"line {node.lineno}: {name} is imported inside {node.name}" for name in sorted(late)]
    return []


def excused_imports(node: ast.AST) -> set[str]:
    """What is imported in one `try` with an optional package, which it needs itself."""
    if isinstance(node, ast.Try) and "ImportError" in [ast.unparse(h.type) for h in node.handlers if h.type]:
        names = {name for inner in node.body for name in imported(inner)}
        return names if names & {*OPTIONAL} else set()
    return set()


def imported(node: ast.AST) -> set[str]:
    """Top-level names of the packages that a statement imports; '' for this package."""
    match node:
        case ast.Import():
            return {alias.name.split(".")[0] for alias in node.names}
        case ast.ImportFrom():
            return {"" if node.level else (node.module or "").split(".")[0]}
    return set()


@pytest.mark.parametrize(
    ("source", "word"),
    [
        ("from __future__ import annotations", "postponed"),
        ("def f():\n    print(1)", "prints"),
        ("eval('1')", "no eval"),
        ("import pickle", "no pickle"),
        ("def f():\n    import scipy.ndimage", "scipy is imported inside f"),
        (
            "def f():\n    try:\n        import scipy\n    except ImportError:\n        pass",
            "scipy is imported",
        ),
    ],
)
def test_broken_rules_are_found(source, word):
    assert any(word in rule for node in ast.walk(ast.parse(source)) for rule in broken_rules(node))


@pytest.mark.parametrize(
    "body",
    [
        "from matplotlib.figure import Figure",
        "try:\n        import click\n        from .commands import group\n    except ImportError: ...",
    ],
)
def test_optional_packages_may_be_imported_late(body):
    assert not broken_rules(ast.parse(f"def f():\n    {body}").body[0])


def test_public_names_are_explicit():
    for alias in public_imports():
        assert alias.asname == alias.name, f"write `import {alias.name} as {alias.name}`"
        assert hasattr(jaxdeblend, alias.name)
    assert len({alias.name for alias in public_imports()}) == len(public_imports())
    assert set(jaxdeblend.__all__) - {"__version__"} == {*PUBLIC}


def test_public_families_are_complete():
    families = [cls for cls in CLASSES if cls.__name__ in PUBLIC and is_abstract(cls)]
    missing = [
        class_id(cls)
        for cls in CLASSES
        if any(family in cls.__mro__ for family in families) and not cls.__name__.startswith("_")
        if cls.__name__ not in PUBLIC
    ]
    assert families and not missing


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_have_an_example(name):
    value = getattr(jaxdeblend, name)
    own = [value] if not inspect.isclass(value) else [value, *vars(value).values()]
    documents = [inspect.getdoc(getattr(item, "__func__", item)) or "" for item in own]
    assert documents[0], "has no docstring"
    assert any("Examples\n--------\n>>> " in document for document in documents), "has no Examples section"
