"""Run one notebook with papermill and keep its files only if they are the ones expected."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class NotebookError(RuntimeError):
    """A notebook failed, or did not write what the registry lists for it."""


def make_figures(
    notebook: Path, files: Iterable[str], target: Path, parameters: dict[str, Any]
) -> None:
    """Execute one notebook and replace its files in ``target`` if all is well.

    Parameters
    ----------
    notebook : Path
        The source; it stays as it is.
    files : iterable of str
        Names that the notebook must write into its ``output`` folder.
    target : Path
        Existing folder that gets the files, and the executed notebook under
        ``notebooks/``.
    parameters : dict
        Values for the cell tagged ``parameters``; ``output`` is added.

    Raises
    ------
    NotebookError
        If a cell raises, or the files are not those listed. ``target`` is then untouched.
    """
    with tempfile.TemporaryDirectory(dir=target, prefix=".staging-") as folder:
        staging, scratch = Path(folder, "files"), Path(folder, "scratch")
        staging.mkdir()
        scratch.mkdir()
        executed = Path(folder, notebook.name)
        execute_notebook(notebook, executed, {**parameters, "output": str(staging)}, cwd=scratch)
        _check_written(notebook.stem, (staging, scratch), set(files))
        (target / "notebooks").mkdir(exist_ok=True)
        for name in sorted(files):
            os.replace(staging / name, target / name)
        os.replace(executed, target / "notebooks" / notebook.name)


def _check_written(stem: str, folders: Iterable[Path], listed: set[str]) -> None:
    written = {
        path.relative_to(folder).as_posix()
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file()
    }
    problems = []
    if missing := sorted(listed - written):
        problems.append(f"did not write {', '.join(missing)}")
    if unlisted := sorted(written - listed):
        problems.append(f"wrote {', '.join(unlisted)}, which the registry does not list")
    if problems:
        raise NotebookError(f"notebook {stem} {' and '.join(problems)}")


def execute_notebook(
    source: Path, executed: Path, parameters: dict[str, Any], *, cwd: Path
) -> None:
    """Run a notebook from its first cell to its last with papermill.

    Raises
    ------
    NotebookError
        With the failing cell and its own error; the traceback is added unless
        the error is an `InputError`, which explains itself.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError

    try:
        with _kernel_environment():
            papermill.execute_notebook(
                source,
                executed,
                parameters=parameters,
                kernel_name="python3",
                language="python",
                progress_bar=False,
                cwd=str(cwd),
            )
    except papermill.PapermillExecutionError as error:
        message = f"notebook {source.stem}, cell {error.cell_index}: {error.ename}: {error.evalue}"
        if error.ename != "InputError":
            message += "\n" + _plain("\n".join(error.traceback))
        raise NotebookError(message) from None
    except DeadKernelError as error:
        raise NotebookError(f"notebook {source.stem}: its kernel died (memory?): {error}") from None


@contextmanager
def _kernel_environment() -> Iterator[None]:
    """Make ``python3`` mean this interpreter, whatever kernels the machine has registered.

    Progress bars stay silent: an executed notebook would keep every update of theirs.
    """
    from ipykernel.kernelspec import write_kernel_spec

    with tempfile.TemporaryDirectory() as folder:
        # Else kernels warn that local connections are not encrypted, and call the interrupt with
        # which they are shut down an error. Errors of cells come as messages, not as logs.
        quiet = ["--log-level=CRITICAL"]
        write_kernel_spec(Path(folder, "kernels", "python3"), extra_arguments=quiet)
        searched = [folder, *filter(None, [os.environ.get("JUPYTER_PATH")])]
        changed = {"JUPYTER_PATH": os.pathsep.join(searched), "TQDM_DISABLE": "1"}
        before = {name: os.environ.get(name) for name in changed}
        os.environ.update(changed)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value


def _plain(text: str) -> str:
    """Text without the terminal's colour codes."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)
