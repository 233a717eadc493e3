"""Figures from notebooks: the runner that sees to it that they are made, and whole.

A figure is made in four steps: the runs it needs are computed or read from the
store, papermill executes its notebook into a staging folder, what was written
is held against `fedquad.notebook_registry`, and only then the files replace the
old ones.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from fedquad import paths
from fedquad.config import Profile, get_profile
from fedquad.notebook_registry import Notebook, select_notebooks
from fedquad.notebook_runner import make_figures


def reproduce(
    items: Iterable[str] = (),
    profile: str = "embedded",
    *,
    fresh: bool = False,
    workers: int = 2,
    task: str | None = None,
    seeds: tuple[int, ...] | None = None,
    torch_device: str = "cpu",
    recorded_only: bool = False,
) -> Path:
    """Make figures and tables in ``figures/<profile>/``.

    Parameters
    ----------
    items : iterable of str
        ``fig01``, ``tab02``, … or stems of notebooks; all of them if empty.
    profile : str
        Name of one of `fedquad.config.PROFILES`.
    fresh : bool
        Compute again what the store already has.
    workers : int
        Processes that fine-tune side by side.
    task, seeds : str and tuple of int, optional
        Instead of the profile's own. The files then go to
        ``figures/<profile>/<task>/``.
    torch_device : str
        ``cpu`` or ``cuda``: where fine-tuning runs and steps are timed.
    recorded_only : bool
        Draw federated figures from the runs that are stored, without computing
        those that are not: their claims are then not attempted.

    Returns
    -------
    Path
        The folder that the files are in.

    Raises
    ------
    InputError
        For an unknown figure, profile or task, before anything is computed.
    NotebookError
        If a notebook fails or writes other files than the registry lists.
        Files from an earlier time are left as they were.
    """
    entries = select_notebooks(items)
    settings = get_profile(profile, task=task, seeds=seeds)
    target = paths.figures_dir(profile)
    if settings != get_profile(profile):
        target = target / Path(settings.tasks[0]).name
    sources = paths.notebooks_dir()
    _require_task(settings)
    target.mkdir(parents=True, exist_ok=True)
    how = _How(fresh, workers, torch_device, recorded_only)
    computed_now = _compute(entries.values(), settings, how)
    parameters = {
        "profile": profile,
        "workers": workers,
        "torch_device": torch_device,
        "task": task,
        "seeds": list(seeds) if seeds else None,
        "computed_now": computed_now,
    }
    for number, (stem, entry) in enumerate(entries.items(), start=1):
        started = time.monotonic()
        _say(f"[{number}/{len(entries)}] {stem} …", end="")
        # Those with federated figures alone have this parameter.
        extra = {} if entry.federated is Notebook.federated else {"recorded_only": recorded_only}
        make_figures(sources / f"{stem}.ipynb", entry.files, target, parameters | extra)
        _say(f" {time.monotonic() - started:.0f} s, {len(entry.files)} files")
    if settings.committed:
        _refresh_gallery()
    _say(f"written to {target}")
    return target


def _require_task(settings: Profile) -> None:
    """Raise `InputError` for an unknown task before hours are spent on a known one."""
    from fedquad.tasks.task import task_identity

    for task in settings.tasks:
        task_identity(task)


class _How(NamedTuple):
    """How runs are computed."""

    fresh: bool
    workers: int
    torch_device: str
    recorded_only: bool


def _compute(entries: Iterable[Notebook], settings: Profile, how: _How) -> list[str]:
    """Fill the store with what the notebooks will read; names what was not there before."""
    from fedquad.runs.finetune import load_or_run
    from fedquad.runs.latencies import load_or_measure
    from fedquad.runs.store import RunStore

    entries = list(entries)
    root = paths.runs_dir(settings.name)
    options = {"workers": how.workers, "fresh": how.fresh, "torch_device": how.torch_device}
    configs = list(dict.fromkeys(run for entry in entries for run in entry.runs(settings)))
    results: list[Any] = []
    if configs:
        _say(f"{len(configs)} fine-tuning runs of profile {settings.name}, stored in {root}")
        results += load_or_run(configs, RunStore(root), **options)
    federated = list(dict.fromkeys(run for entry in entries for run in entry.federated(settings)))
    if federated and not how.recorded_only:
        from fedquad.federation.runs import load_or_federate

        _say(f"{len(federated)} federated runs of profile {settings.name}, stored in {root}")
        results += load_or_federate(federated, RunStore(root), **options)
    computed = [result.run_id for result in results if not result.from_record]
    for entry in entries:
        for config in entry.latencies(settings, how.torch_device):
            if not load_or_measure(config, root, fresh=how.fresh).from_record:
                computed.append(config.name)
                _say(f"step times of {config.name} measured")
    return computed


def _refresh_gallery() -> None:
    """Pages that show the committed figures follow them."""
    from fedquad.report.gallery import CLAIMS_BEGIN, update_readme, write_gallery

    figures_root = paths.project_root() / "figures"
    _say(f"gallery: {write_gallery(figures_root)}")
    readme = paths.project_root() / "README.md"
    if readme.is_file() and CLAIMS_BEGIN in readme.read_text(encoding="utf-8"):
        update_readme(readme, figures_root)


def _say(text: str, *, end: str = "\n") -> None:
    print(text, end=end, file=sys.stderr, flush=True)
