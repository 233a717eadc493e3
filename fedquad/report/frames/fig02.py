"""Frames of Fig. 2: cost and accuracy of LoRA at different positions."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from fedquad.config import InputError
from fedquad.cost.accounting import StepCost
from fedquad.report.frames.costs import assemble, percent_of
from fedquad.report.frames.runs import accuracy_rows, lora_runs
from fedquad.report.paper import reported_value
from fedquad.runs.results import format_layers

# The paper relates memory to all layers and latency to the shallow ones.
BASELINES = {"accounting": "A", "flops": "S", "measured": "S"}


def position_cost_frame(
    costs: Mapping[str, StepCost],
    groups: Mapping[str, tuple[int, ...]],
    *,
    model: str,
    batch_size: int,
    length: int,
    profile: str,
    measured: pd.DataFrame | None = None,
    from_record: bool = False,
) -> pd.DataFrame:
    """Fig. 2(a): memory against Layers-A and latency against Layers-S.

    Parameters
    ----------
    costs : mapping
        Group (``A``, ``S``, ``M``, ``D``, ``MD``) -> cost of one step of ``model``.
    groups : mapping
        Group -> its trained layers in ``model``.
    measured : DataFrame or None
        See `fedquad.report.frames.costs.measured_rows`; groups in column ``group``.

    Returns
    -------
    DataFrame
        Rows of source ``accounting`` (bytes), ``flops`` and ``measured``
        (seconds); ``percent`` is relative to ``baseline`` of the same source.
    """
    frame = assemble(
        "group",
        costs,
        measured,
        model=model,
        batch_size=batch_size,
        length=length,
        profile=profile,
        from_record=from_record,
        with_memory=True,
    )
    counted = frame["source"] != "measured"
    frame["layers"] = frame["group"].map(lambda group: format_layers(groups[group])).where(counted)
    frame["baseline"] = frame["source"].map(BASELINES)
    frame["percent"] = percent_of(frame, "group", BASELINES)
    paper = _paper_percent()
    pairs = zip(frame["baseline"], frame["group"], strict=True)
    frame["paper_percent"] = [paper.get(pair, float("nan")) for pair in pairs]
    return frame


def _paper_percent() -> dict[tuple[str, str], float]:
    """(baseline, group) -> the paper's percentage of that baseline."""
    return {
        ("A", "A"): 100.0,
        **{("A", group): reported_value(f"fig02a-mem-{group}") for group in "SMD"},
        ("S", "S"): 100.0,
        **{("S", group): 100 / reported_value(f"fig02a-lat-S{group}") for group in "MD"},
    }


def position_accuracy_frame(
    results: pd.DataFrame, groups: Mapping[str, tuple[int, ...]], *, profile: str
) -> pd.DataFrame:
    """Fig. 2(b): one row per position group and run.

    Parameters
    ----------
    results : DataFrame
        As `fedquad.runs.finetune.results_frame` makes it; runs whose layers
        are no group's are left out, so the depth runs may be among them.
    groups : mapping
        Group -> its trained layers.

    Raises
    ------
    InputError
        When a group has no run.
    """
    names = {layers: group for group, layers in groups.items()}
    runs = lora_runs(results)
    runs = runs.assign(group=[names.get(layers) for layers in runs["trained"]])
    frame = accuracy_rows(runs[runs["group"].notna()], "group", profile=profile)
    missing = [name for name in groups if name not in set(frame["group"])]
    if missing:
        raise InputError("groups without a run", missing, "none")
    order = list(groups)
    frame = frame.sort_values("group", key=lambda c: c.map(order.index), kind="stable")
    frame["paper_percent"] = frame["group"].map(lambda name: reported_value(f"fig02b-acc-{name}"))
    return frame.reset_index(drop=True)
