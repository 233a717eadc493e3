"""Build the site: executed notebooks, the gallery and the API reference as static pages.

`make site` calls this. Nothing in the repository is written but ``build/``, and the
pages need no network.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import cyclopts
import nbformat

import fedquad
import fedquad.kernels
from fedquad import paths
from fedquad.notebook_registry import NOTEBOOKS, Notebook
from fedquad.notebook_runner import NotebookError, execute_notebook

DOCS = Path(__file__).resolve().parent
REPOSITORY = DOCS.parent
# Commands are described by `--help`; what begins with an underscore is nobody's business. Modules
# of the Flower app need that extra, which need not be installed.
NOT_IN_THE_REFERENCE = r"^fedquad\.(cli|benchmarks|flower\.)|\._"
# The order in which data flows; a room imports from those before it alone.
FLOW = (
    "config",
    "tasks",
    "model",
    "training",
    "cost",
    "fleet",
    "methods",
    "runs",
    "federation",
    "report",
)
FLOW_TEXT = (
    "Data flows through these rooms in their order; each imports from those before it alone."
)


def build(
    *,
    output: Path = REPOSITORY / "build" / "site",
    executed: Path | None = None,
    profile: str = "reference",
) -> None:
    """Build the site into ``output/html``.

    Parameters
    ----------
    output
        Folder for the pages and for what they are made from; made anew.
    executed
        Folder with every notebook executed already. Default: execute them here.
    profile
        Profile in which notebooks are executed; of federated runs only those on record
        are shown.
    """
    source = output / "source"
    shutil.rmtree(output, ignore_errors=True)
    (source / "notebooks").mkdir(parents=True)
    for name in ("conf.py", "index.md", "static"):
        copy = shutil.copytree if (DOCS / name).is_dir() else shutil.copy2
        copy(DOCS / name, source / name)
    for stem, entry in NOTEBOOKS.items():
        target = source / "notebooks" / f"{stem}.ipynb"
        if executed is None:
            print(f"executing {stem}", flush=True)
            _execute(stem, entry, target, profile)
        else:
            shutil.copy2(executed / f"{stem}.ipynb", target)
        _without_own_paths(target)
    shutil.copytree(
        REPOSITORY / "figures",
        source / "figures",
        ignore=shutil.ignore_patterns("smoke", "embedded", "notebooks"),
    )
    _write_reference(source / "api")
    command = [sys.executable, "-m", "sphinx", "--builder", "html", "--quiet"]
    command += ["--fail-on-warning", "--keep-going", "--doctree-dir", str(output / "doctrees")]
    result = subprocess.run([*command, str(source), str(output / "html")], check=False)
    if result.returncode:
        sys.exit(result.returncode)
    print(output / "html" / "index.html")


def _execute(stem: str, entry: Notebook, target: Path, profile: str) -> None:
    """Run a notebook; its figures are in its cells, and the files it writes are not kept."""
    parameters = {"profile": profile, "output": "files"}
    if entry.federated is not Notebook.federated:
        parameters["recorded_only"] = True
    notebook = paths.notebooks_dir() / f"{stem}.ipynb"
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "files").mkdir()
        try:
            execute_notebook(notebook, target, parameters, cwd=Path(scratch))
        except NotebookError as error:
            if ": InputError: runs = " not in str(error):
                raise
            # Its runs are not on record, or not yet: the page says so, and shows the source.
            print(error, flush=True)
            shown = nbformat.read(notebook, as_version=4)
            note = f"**Not executed: its runs are not on record.** {error}"
            shown.cells.insert(1, nbformat.v4.new_markdown_cell(note, id="not-executed"))
            nbformat.write(shown, target)


def _without_own_paths(path: Path) -> None:
    """Leave out what speaks of the machine: folders of the run, papermill's own notes."""
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata.pop("papermill", None)
    notebook.metadata.pop("widgets", None)  # the state of sliders that a page has no kernel for
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
        if "injected-parameters" in cell.metadata.get("tags", []):
            lines = cell.source.splitlines()
            cell.source = "\n".join(line for line in lines if not line.startswith("output = "))
    nbformat.write(notebook, path)


def _write_reference(folder: Path) -> None:
    """One page a room: its modules, the package itself first."""
    folder.mkdir()
    rooms: dict[str, list[str]] = {}
    for module in _modules():
        rooms.setdefault(".".join(module.split(".")[:2]), []).append(module)
    for room, modules in rooms.items():
        parts = [_heading(room, "=")]
        for module in modules:
            heading = "" if module == room else _heading(module, "-")
            parts.append(f"{heading}.. automodule:: {module}\n")
        (folder / f"{room}.rst").write_text("\n".join(parts), encoding="utf-8")
    flow = [f"fedquad.{room}" for room in FLOW]
    ordered = [*flow, *sorted(set(rooms) - set(flow))]
    toctree = "\n".join(f"   {room}" for room in ordered)
    text = f"{_heading('The library, room by room', '=')}{FLOW_TEXT}\n\n.. toctree::\n\n{toctree}\n"
    (folder / "index.rst").write_text(text, encoding="utf-8")


def _modules() -> Iterator[str]:
    """Names of the modules to describe, packages before what is in them."""
    for package in (fedquad, fedquad.kernels):
        yield package.__name__
        # Not `__path__`: in a checkout that of the library holds the whole repository.
        folder = str(Path(package.__file__).parent)
        for found in pkgutil.walk_packages([folder], prefix=f"{package.__name__}."):
            if not re.search(NOT_IN_THE_REFERENCE, found.name):
                importlib.import_module(found.name)  # fails here, and not inside of Sphinx
                yield found.name


def _heading(text: str, mark: str) -> str:
    return f"{text}\n{mark * len(text)}\n\n"


if __name__ == "__main__":
    cyclopts.run(build)
