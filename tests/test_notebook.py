"""Notebooks run from the first cell to the last, at reduced size, and are committed with their pictures."""

from pathlib import Path

import nbformat
import pytest

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
# What is set in each, and to what instead.
SMALL = {
    "01_adpo_storybook": ('VARIANT = ""', 'VARIANT = "tiny"'),
    "02_uper_storybook": ("= 1000, 80, 60, 64", "= 24, 2, 4, 8"),
}


def test_each_notebook_is_tested():
    assert {path.stem for path in NOTEBOOKS.glob("*.ipynb")} == SMALL.keys()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the Jupyter client's own
@pytest.mark.parametrize("name", SMALL)
def test_the_notebook_runs(name, tmp_path):
    client = pytest.importorskip("nbclient")
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    install, settings = (cell for cell in notebook.cells[:3] if cell.cell_type == "code")
    install.source = f"from pathlib import Path\nROOT = Path({str(NOTEBOOKS.parent)!r})"  # installed already
    usual, small = SMALL[name]
    assert usual in settings.source
    settings.source = settings.source.replace(usual, small)
    client.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": tmp_path}}).execute()
    assert list(tmp_path.glob("runs/*/report.html"))


@pytest.mark.parametrize("name", SMALL)
def test_it_is_committed_with_pictures(name):
    cells = [
        cell for cell in nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4).cells if cell.cell_type == "code"
    ]
    pictures = [output for cell in cells for output in cell.outputs if "image/png" in output.get("data", {})]
    assert len(pictures) >= 5
    assert not [output for cell in cells for output in cell.outputs if output.output_type == "error"]
