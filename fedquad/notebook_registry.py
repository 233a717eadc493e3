"""Which notebook answers to which names, needs which runs, and makes which files."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from fedquad.config import FederatedConfig, FineTuneConfig, InputError, Profile

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
