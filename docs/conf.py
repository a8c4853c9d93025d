"""Sphinx configuration; the build needs no network."""

import os
import re
from pathlib import Path

from sphinx.util.docutils import SphinxDirective

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # to import the package is all that is needed

ROOT = Path(__file__).resolve().parents[1]

project = "jaxdeblend"
author = "The jaxdeblend developers"
copyright = f"2026, {author}"  # noqa: A001
release = re.search(r'"(.+)"', (ROOT / "jaxdeblend" / "_version.py").read_text().split("__version__")[1])[1]
version = release

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.apidoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build", "api/modules.rst"]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

# one page per room, written at each build
apidoc_modules = [
    {
        "path": "../jaxdeblend",
        "destination": "api",
        "exclude_patterns": ["**/_version.py"],
        "max_depth": 2,
        "module_first": True,
        "no_headings": False,
        "automodule_options": {"members", "show-inheritance"},
    }
]
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
maximum_signature_line_length = 100
numpydoc_show_class_members = False

html_theme = "furo"
html_title = f"jaxdeblend {release}"
html_copy_source = False


def escape(app, what, name, obj, options, lines):
    """Let docstrings write |e| and "*batch y x" as they are: these are no markup."""
    doctest = False
    for number, line in enumerate(lines):
        doctest = line.lstrip().startswith(">>>") or (doctest and bool(line.strip()))
        if not doctest:
            lines[number] = re.sub(r'(`[^`]*`)|(\||(?<=")\*)', lambda m: m[1] or "\\" + m[2], line)


def skip(app, what, name, obj, skipped, options):
    """Leave out foreign names in a module and aliases of types: Sphinx fails on their signatures."""
    foreign = not str(getattr(obj, "__module__", project)).startswith(project)
    return True if what == "module" and foreign else None


class Columns(SphinxDirective):
    """Columns of a table of catalogs, as `jaxdeblend.catalog.columns` knows them."""

    required_arguments = 1

    def run(self):
        from jaxdeblend.catalog import columns

        lines = ["| Column | Unit | What it is |", "|---|---|---|"]
        for name, about in getattr(columns, self.arguments[0]).items():
            name, told = (text.replace("{band}", "<band>") for text in (name, about.description))
            unit = "that of the image" if about.unit == columns.IMAGE_UNIT else about.unit
            lines.append(f"| `{name}` | {unit} | {told.replace('<band>', '`<band>`')} |")
        return self.parse_text_to_nodes("\n".join(lines))


def setup(app):
    app.add_directive("columns", Columns)
    app.connect("autodoc-skip-member", skip)
    app.connect("autodoc-process-docstring", escape, priority=900)  # after numpydoc
