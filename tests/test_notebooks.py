"""The notebooks run as they stand, hold no outputs, and each ends in a picture."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(path.name for path in FOLDER.glob("*.ipynb"))


def test_they_are_numbered_from_one():
    assert [int(name[:2]) for name in NOTEBOOKS] == list(range(1, len(NOTEBOOKS) + 1))


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_code_host_shows_the_picture_that_a_notebook_ends_in(name):
    """Outputs are stripped, so the first cell shows a stored picture: `make notebooks` writes it."""
    picture = f"pictures/{Path(name).stem}.png"
    first = nbformat.read(FOLDER / name, as_version=4).cells[0]
    assert first.cell_type == "markdown"
    assert f"]({picture})" in first.source
    assert (FOLDER / picture).read_bytes().startswith(b"\x89PNG")


def linked(notebook):
    """The stored pictures that its cells show."""
    text = "".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    return re.findall(r"\]\(pictures/(.*?)\)", text)


def test_the_pictures_are_small_and_each_is_shown_by_a_notebook():
    pictures = list((FOLDER / "pictures").iterdir())
    shown = [name for path in FOLDER.glob("*.ipynb") for name in linked(nbformat.read(path, as_version=4))]
    assert sorted(path.name for path in pictures) == sorted(shown)
    assert sum(path.stat().st_size for path in pictures) < 1_000_000


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs_and_ends_in_a_picture(name, tmp_path, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    notebook = nbformat.read(FOLDER / name, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code), "strip the outputs before it is committed"
    NotebookClient(notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    shown = [["image/png" in output.get("data", {}) for output in cell.outputs] for cell in code]
    assert any(shown[-1])
    assert sum(map(sum, shown)) == len(linked(notebook)), "make notebooks, and show each picture in the cell above it"
