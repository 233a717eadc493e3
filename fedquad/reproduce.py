"""Figures from notebooks: which notebook makes which files, and the runner that sees to it.

A figure is made in four steps: the runs it needs are computed or read from the
store, papermill executes its notebook into a staging folder, what was written
is held against the registry below, and only then the files replace the old ones.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fedquad import paths
from fedquad.config import FederatedConfig, FineTuneConfig, InputError, Profile, get_profile
from fedquad.notebook_runner import make_figures

if TYPE_CHECKING:
    from fedquad.runs.latencies import LatencyConfig


def _planned(module: str, function: str, settings: Profile, *options: str) -> list[Any]:
    """What a plan asks for, such as ``runs.plans``; imported late, since it loads torch."""
    return getattr(import_module(f"fedquad.{module}"), function)(settings, *options)


def _planned_together(module: str, functions: tuple[str, ...], settings: Profile) -> list[Any]:
    """What several plans of a module ask for."""
    return [one for function in functions for one in _planned(module, function, settings)]


def _nothing(settings: Profile, *options: str) -> list[Any]:
    return []


@dataclass(frozen=True, kw_only=True)
class Notebook:
    """One notebook: the names it answers to, what it needs, what it writes.

    Parameters
    ----------
    items : tuple of str
        Names accepted on the command line, as ``fig01``.
    figures, tables : tuple of str
        Names of its figures and tables, each of which is several files.
    runs, federated, latencies : callable
        From a profile (and, for ``latencies``, a torch device) to the fine-tuning
        runs, the federated runs and the step times it shows; all are there before
        it starts.
    minutes : dict of str to float
        Minutes it takes on two CPU cores from an empty store, by profile.
    """

    items: tuple[str, ...]
    figures: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()
    runs: Callable[[Profile], list[FineTuneConfig]] = _nothing
    federated: Callable[[Profile], list[FederatedConfig]] = _nothing
    latencies: Callable[[Profile, str], list[LatencyConfig]] = _nothing
    minutes: dict[str, float]

    @property
    def files(self) -> tuple[str, ...]:
        """Every file it must write, and no other."""
        from fedquad.report.saving import FIGURE_SUFFIXES
        from fedquad.report.tables import TABLE_SUFFIXES

        figures = [name + suffix for name in self.figures for suffix in FIGURE_SUFFIXES]
        tables = [name + suffix for name in self.tables for suffix in TABLE_SUFFIXES]
        return tuple(sorted(figures + tables))


FEDERATION_PLANS = "federation.plans"

NOTEBOOKS: dict[str, Notebook] = {
    "00_start_here": Notebook(
        items=("start", "tab02"),
        tables=("tab02_datasets", "tab_hyperparameters"),
        minutes={"smoke": 0.5, "embedded": 0.5, "reference": 0.5, "glue": 0.5},
    ),
    "01_resource_bottlenecks": Notebook(
        items=("fig01",),
        figures=("fig01a_communication", "fig01b_memory", "fig01c_latency"),
        tables=("claims_fig01",),
        latencies=partial(_planned, "runs.latencies", "fig01_latencies"),
        minutes={"smoke": 0.5, "embedded": 0.5, "reference": 0.5, "glue": 1},
    ),
    "02_layer_position": Notebook(
        items=("fig02",),
        figures=("fig02a_layer_position_cost", "fig02b_layer_position_accuracy"),
        tables=("claims_fig02",),
        runs=partial(_planned, "runs.plans", "fig02_configs"),
        latencies=partial(_planned, "runs.latencies", "fig02_latencies"),
        minutes={"smoke": 0.5, "embedded": 2, "reference": 10, "glue": 16},
    ),
    "03_depth_scaling": Notebook(
        items=("fig03",),
        figures=("fig03a_depth_accuracy", "fig03b_depth_cost"),
        tables=("claims_fig03",),
        runs=partial(_planned, "runs.plans", "fig03_configs"),
        latencies=partial(_planned, "runs.latencies", "fig03_latencies"),
        minutes={"smoke": 0.5, "embedded": 4, "reference": 24, "glue": 20},
    ),
    "04_quantization_synergy": Notebook(
        items=("fig04",),
        figures=(
            "fig04a_quantization_memory",
            "fig04a_quantization_accuracy",
            "fig04b_synergy_accuracy",
            "fig04b_synergy_cost",
        ),
        tables=("tab_fig04_checkpointing", "claims_fig04"),
        runs=partial(_planned, "runs.plans", "fig04_configs"),
        latencies=partial(_planned, "runs.latencies", "fig04_latencies"),
        minutes={"smoke": 1, "embedded": 3, "reference": 18, "glue": 25},
    ),
    "05_configuration_selection": Notebook(
        items=("fig05", "fig06", "alg01"),
        figures=(
            "fig05_workflow",
            "fig06_selection_example",
            "fig06_configurations",
            "fig06_predictions",
        ),
        tables=("tab01_jetsons", "claims_alg01", "claims_fig06"),
        federated=partial(
            _planned_together, FEDERATION_PLANS, ("selection_configs", "throughput_configs")
        ),
        minutes={"smoke": 1, "embedded": 2, "reference": 30, "glue": 30},
    ),
    "06_main_results": Notebook(
        items=("fig07", "fig08", "tab03"),
        figures=(
            "fig07_accuracy_curves",
            "fig08_time_to_accuracy",
            "fig08_speedup_against_target",
        ),
        tables=("tab03_models", "tab_throughput_models", "claims_fig08", "claims_tab03"),
        federated=partial(
            _planned_together,
            FEDERATION_PLANS,
            (
                "main_configs",
                "backbone_configs",
                "heterogeneity_configs",
                "throughput_configs",
            ),
        ),
        minutes={"smoke": 2, "embedded": 6, "reference": 300, "glue": 60},
    ),
    "07_heterogeneity": Notebook(
        items=("fig09", "tab04"),
        figures=("fig09_waiting_time", "tab04_curves"),
        tables=("tab04_heterogeneity", "claims_fig09", "claims_tab04"),
        federated=partial(
            _planned_together,
            FEDERATION_PLANS,
            ("main_configs", "heterogeneity_configs", "throughput_configs"),
        ),
        minutes={"smoke": 2, "embedded": 5, "reference": 300, "glue": 60},
    ),
    "08_ablation": Notebook(
        items=("fig10",),
        figures=("fig10_ablation",),
        tables=("claims_fig10",),
        federated=partial(_planned, FEDERATION_PLANS, "ablation_configs"),
        minutes={"smoke": 1, "embedded": 2, "reference": 60, "glue": 30},
    ),
    "09_sensitivity": Notebook(
        items=("sensitivity",),
        figures=("fig_sensitivity", "fig_yardstick"),
        tables=("tab_budget_policies", "tab_sensitivity"),
        federated=partial(
            _planned_together, FEDERATION_PLANS, ("sensitivity_configs", "throughput_configs")
        ),
        minutes={"smoke": 2, "embedded": 4, "reference": 60, "glue": 30},
    ),
    "walkthrough_activation_quantization": Notebook(
        items=("walkthrough_quantization",),
        figures=(
            "walkthrough_kept_bytes",
            "walkthrough_heat_map",
            "walkthrough_rounding_error",
            "walkthrough_block_size",
            "walkthrough_gradient_error",
        ),
        minutes={"smoke": 0.5, "embedded": 0.5, "reference": 0.5, "glue": 1},
    ),
    "walkthrough_algorithm_1": Notebook(
        items=("walkthrough_algorithm",),
        minutes={"smoke": 0.5, "embedded": 0.5, "reference": 0.5, "glue": 0.5},
    ),
    "walkthrough_lora_depth": Notebook(
        items=("walkthrough_depth",),
        minutes={"smoke": 0.5, "embedded": 0.5, "reference": 0.5, "glue": 0.5},
    ),
    "walkthrough_one_round": Notebook(
        items=("walkthrough_round",),
        minutes={"smoke": 0.5, "embedded": 0.5, "reference": 0.5, "glue": 1},
    ),
    "walkthrough_own_method": Notebook(
        items=("walkthrough_method",),
        minutes={"smoke": 1, "embedded": 1, "reference": 1, "glue": 2},
    ),
}


def select_notebooks(items: Iterable[str]) -> dict[str, Notebook]:
    """The notebooks that make ``items``, in the paper's order; all of them for none.

    Raises
    ------
    InputError
        If a name is neither an item nor the stem of a notebook.
    """
    wanted = list(items)
    known = {item: stem for stem, entry in NOTEBOOKS.items() for item in (*entry.items, stem)}
    for item in wanted:
        if item not in known:
            names = [item for entry in NOTEBOOKS.values() for item in entry.items]
            raise InputError("figure", item, "one of " + ", ".join(names))
    stems = {known[item] for item in wanted} or set(NOTEBOOKS)
    return {stem: entry for stem, entry in NOTEBOOKS.items() if stem in stems}


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
