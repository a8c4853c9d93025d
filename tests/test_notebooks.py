"""Every notebook runs from its first cell to its last."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.py")), ids=lambda path: path.stem)
def test_runs_as_a_script(path, tmp_path):
    environment = os.environ | {"MPLBACKEND": "Agg"}
    command = [sys.executable, "-W", "error::UserWarning", str(path)]
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900)
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert not list(tmp_path.iterdir())  # leaves nothing behind


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.py")), ids=lambda path: path.stem)
def test_is_a_notebook_in_percent_format(path):
    text = path.read_text(encoding="utf-8")
    cells = text.split("\n# %%")
    assert "format_name: percent" in cells[0] and len(cells) > 2
    prose = [cell for cell in cells if cell.startswith(" [markdown]")]
    assert prose[0].startswith(" [markdown]\n# # ")  # begins with a title
    assert all(line.startswith("#") for cell in prose for line in cell.strip().splitlines()[1:])
