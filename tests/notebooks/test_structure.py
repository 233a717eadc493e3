"""What a source notebook looks like, whatever it shows."""

from __future__ import annotations

import ast
import re

import nbformat
import pytest

from fedquad import paths
from fedquad.notebook_registry import NOTEBOOKS, Notebook
from fedquad.report.figures import FIGURES, WALKTHROUGH_FIGURES

SOURCES = sorted(paths.notebooks_dir().glob("*.ipynb"))
PARAMETERS = {
    "profile": "embedded",
    "fresh": False,
    "workers": 2,
    "torch_device": "cpu",
    "task": None,
    "seeds": None,
    "output": None,
    "computed_now": [],
}


def named(path):
    return path.stem


@pytest.fixture(params=SOURCES, ids=named)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_the_registry_and_the_folder_have_the_same_notebooks():
    assert [path.stem for path in SOURCES] == list(NOTEBOOKS)


def test_every_figure_is_some_notebooks():
    figures = {name for entry in NOTEBOOKS.values() for name in entry.figures}
    assert figures == set(FIGURES) | set(WALKTHROUGH_FIGURES)
    for stem, entry in NOTEBOOKS.items():
        known = WALKTHROUGH_FIGURES if stem.startswith("walkthrough_") else FIGURES
        assert set(entry.figures) <= set(known)


def test_it_is_valid_and_says_which_format(notebook):
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    ids = [cell.id for cell in notebook.cells]
    assert len(ids) == len(set(ids))
    # Named by hand: a cell keeps its id when another editor saves the file.
    assert not [id for id in ids if re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f-]+)?", id)]


def test_it_carries_no_output(notebook):
    for cell in code_cells(notebook):
        assert cell.outputs == []
        assert cell.execution_count is None


def test_it_defines_nothing_and_its_cells_are_short(notebook):
    definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
    for cell in code_cells(notebook):
        assert 1 <= len(cell.source.splitlines()) <= 15, cell.id
        assert max(map(len, cell.source.splitlines())) <= 100, cell.id
        found = [node for node in ast.walk(ast.parse(cell.source)) if isinstance(node, definitions)]
        assert not found, cell.id


def test_prose_stands_before_every_code_cell(notebook):
    assert notebook.cells[0].cell_type == "markdown"
    assert notebook.cells[0].source.startswith("# ")
    assert notebook.cells[-1].cell_type == "markdown"
    assert notebook.cells[-1].source.startswith("## What to try")
    for before, cell in zip(notebook.cells, notebook.cells[1:], strict=False):
        if cell.cell_type == "code":
            assert before.cell_type == "markdown", cell.id
            assert len(before.source) > 60, before.id


@pytest.mark.parametrize("path", SOURCES, ids=named)
def test_one_cell_of_plain_literals_is_tagged_parameters(path):
    notebook = nbformat.read(path, as_version=4)
    [cell] = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    values = {}
    for statement in ast.parse(cell.source).body:
        assert isinstance(statement, ast.Assign)
        values[statement.targets[0].id] = ast.literal_eval(statement.value)
    is_federated = NOTEBOOKS[path.stem].federated is not Notebook.federated
    assert values == PARAMETERS | ({"recorded_only": False} if is_federated else {})


def test_the_title_says_how_long_it_takes_on_what(notebook):
    assert "**Minutes and hardware.**" in notebook.cells[0].source
    assert "CPU cores" in notebook.cells[0].source


def test_a_figure_notebook_states_the_claim_and_ends_with_the_paper_against_ours(notebook):
    source = "\n".join(cell.source for cell in notebook.cells)
    if not any(f'"{name}"' in source for name in FIGURES):
        return
    assert "**The paper's claim**" in notebook.cells[0].source
    ids = [cell.id for cell in notebook.cells]
    last = ["check", "comparison-text", "comparison", "claims-text", "claims", "next"]
    assert ids[-len(last) :] == last


def test_a_walkthrough_shows_the_code_it_imports_and_ends_in_exercises():
    for path in SOURCES:
        if not path.stem.startswith("walkthrough_"):
            continue
        notebook = nbformat.read(path, as_version=4)
        source = "\n".join(cell.source for cell in code_cells(notebook))
        [example] = re.findall(r"Code\(filename=(\w+)\.__file__", source)
        assert f"import {example}" in source
        assert (path.parent / "examples" / f"{example}.py").is_file()
        exercises = notebook.cells[-1].source
        count = len(re.findall(r"^\*\*\d+\.\*\*", exercises, re.MULTILINE))
        assert count >= 3
        assert exercises.count("<details><summary>Solution</summary>") == count
        assert exercises.count("</details>") == count
