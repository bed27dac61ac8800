"""The notebook runs from its first cell to its last, at reduced size, and is committed with its pictures."""

from pathlib import Path

import nbformat
import pytest

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "01_adpo_storybook.ipynb"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the Jupyter client's own
def test_the_notebook_runs(tmp_path):
    client = pytest.importorskip("nbclient")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    install, settings = (cell for cell in notebook.cells[:3] if cell.cell_type == "code")
    install.source = f"from pathlib import Path\nROOT = Path({str(NOTEBOOK.parents[1])!r})"  # installed already
    assert 'VARIANT = ""' in settings.source
    settings.source = settings.source.replace('VARIANT = ""', 'VARIANT = "tiny"')
    client.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": tmp_path}}).execute()
    assert (tmp_path / "runs" / "notebook" / "report.html").exists()


def test_it_is_committed_with_pictures():
    cells = [cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"]
    pictures = [output for cell in cells for output in cell.outputs if "image/png" in output.get("data", {})]
    assert len(pictures) >= 5
    assert not [output for cell in cells for output in cell.outputs if output.output_type == "error"]
