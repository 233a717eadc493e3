"""The notebook runner, on notebooks of a few cells: what it keeps, what it refuses."""

from __future__ import annotations

import os
import re
import sys

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from fedquad.config import InputError
from fedquad.notebook_registry import NOTEBOOKS, select_notebooks
from fedquad.notebook_runner import NotebookError, make_figures

WRITE = "from pathlib import Path\nfor name in names: Path(output, name).write_text('new')"


def make_notebook(folder, *sources, stem="10_tiny"):
    parameters = new_code_cell("names = []\noutput = None", metadata={"tags": ["parameters"]})
    cells = [new_markdown_cell("# Tiny"), parameters, *map(new_code_cell, sources)]
    path = folder / f"{stem}.ipynb"
    nbformat.write(new_notebook(cells=cells), path)
    return path


@pytest.fixture
def target(tmp_path):
    """A folder with a figure from an earlier time."""
    folder = tmp_path / "figures"
    folder.mkdir()
    (folder / "fig.csv").write_text("old")
    return folder


def contents(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_text() for path in files}


def test_listed_files_replace_the_old_ones_and_the_source_stays(tmp_path, target):
    notebook = make_notebook(tmp_path, WRITE, "1 + 1")
    before = notebook.read_bytes()
    make_figures(notebook, ["fig.csv", "fig.md"], target, {"names": ["fig.csv", "fig.md"]})
    assert notebook.read_bytes() == before
    executed = nbformat.read(target / "notebooks" / "10_tiny.ipynb", as_version=4)
    assert executed.cells[-1].outputs[0]["data"]["text/plain"] == "2"
    found = contents(target)
    assert {name: found[name] for name in ("fig.csv", "fig.md")} == {
        "fig.csv": "new",
        "fig.md": "new",
    }
    assert set(found) == {"fig.csv", "fig.md", "notebooks/10_tiny.ipynb"}


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        (["fig.csv"], "did not write fig.md"),
        (["fig.csv", "fig.md", "more.csv"], "wrote more.csv, which the registry does not list"),
        (["fig.csv", "other.md"], "did not write fig.md and wrote other.md"),
    ],
)
def test_other_files_than_listed_fail_and_leave_the_old_ones(tmp_path, target, names, problem):
    notebook = make_notebook(tmp_path, WRITE)
    with pytest.raises(NotebookError, match=problem):
        make_figures(notebook, ["fig.csv", "fig.md"], target, {"names": names})
    assert contents(target) == {"fig.csv": "old"}


def test_a_file_in_the_working_directory_is_unlisted_too(tmp_path, target):
    notebook = make_notebook(tmp_path, "open('stray.txt', 'w').close()")
    with pytest.raises(NotebookError, match=r"wrote stray\.txt"):
        make_figures(notebook, [], target, {})
    assert not (tmp_path / "stray.txt").exists()


def test_an_error_in_a_cell_is_told_in_words_and_leaves_the_old_files(tmp_path, target):
    notebook = make_notebook(tmp_path, WRITE, "fails = {}['seed']")
    with pytest.raises(NotebookError) as caught:
        make_figures(notebook, ["fig.csv"], target, {"names": ["fig.csv"]})
    message = str(caught.value)
    assert "10_tiny" in message
    assert "KeyError: 'seed'" in message
    assert "fails = {}['seed']" in message  # the traceback shows the line
    assert "\x1b" not in message
    assert contents(target) == {"fig.csv": "old"}


def test_an_input_error_in_a_cell_is_one_line(tmp_path, target):
    notebook = make_notebook(
        tmp_path, "from fedquad.config import get_profile", "get_profile('tiny')"
    )
    with pytest.raises(NotebookError) as caught:
        make_figures(notebook, [], target, {})
    message = str(caught.value)
    assert "profile = 'tiny' cannot be used" in message
    assert "\n" not in message


def test_a_kernel_that_dies_is_told_in_words(tmp_path, target):
    notebook = make_notebook(tmp_path, "import os; os._exit(9)")
    with pytest.raises(NotebookError, match="kernel died"):
        make_figures(notebook, [], target, {})
    assert contents(target) == {"fig.csv": "old"}


def test_the_kernel_is_this_interpreter_whatever_is_registered(tmp_path, target, monkeypatch):
    foreign = tmp_path / "jupyter" / "kernels" / "python3"
    foreign.mkdir(parents=True)
    (foreign / "kernel.json").write_text(
        '{"argv": ["/nonexistent/python"], "display_name": "other", "language": "python"}'
    )
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    notebook = make_notebook(
        tmp_path, "import sys\nfrom pathlib import Path\nPath(output, 'x').write_text(sys.prefix)"
    )
    make_figures(notebook, ["x"], target, {})
    assert (target / "x").read_text() == sys.prefix
    assert os.environ["JUPYTER_PATH"] == str(tmp_path / "jupyter")


def test_every_item_selects_its_notebook_and_nothing_selects_all():
    for stem, entry in NOTEBOOKS.items():
        assert re.match(r"0\d_|walkthrough_", stem)
        for item in (*entry.items, stem):
            assert list(select_notebooks([item])) == [stem]
    assert select_notebooks([]) == NOTEBOOKS
    assert list(select_notebooks(["fig03", "fig01"])) == [
        "01_resource_bottlenecks",
        "03_depth_scaling",
    ]


def test_no_file_is_written_by_two_notebooks():
    files = [name for entry in NOTEBOOKS.values() for name in entry.files]
    assert len(files) == len(set(files))


def test_an_unknown_figure_names_the_known_ones():
    with pytest.raises(
        InputError, match=r"figure = 'fig99' .* start, tab02, fig01, fig02, fig03, fig04"
    ):
        select_notebooks(["fig01", "fig99"])
