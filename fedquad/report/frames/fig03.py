"""Frames of Fig. 3: cost and accuracy against LoRA depth."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from fedquad.config import InputError
from fedquad.cost.accounting import StepCost
from fedquad.report.frames.costs import assemble, percent_of
from fedquad.report.frames.runs import accuracy_rows, lora_runs
from fedquad.report.paper import reported_value


def depth_accuracy_frame(results: pd.DataFrame, *, num_layers: int, profile: str) -> pd.DataFrame:
    """Fig. 3(a): one row per LoRA depth and run.

    Parameters
    ----------
    results : DataFrame
        As `fedquad.runs.finetune.results_frame` makes it; runs that do not
        train the last d layers for some d are left out.
    num_layers : int
        L of the trained model.

    Returns
    -------
    DataFrame
        With ``depth`` and ``num_layers``. The paper states accuracy at depths
        4, 8 and 12 of 12 (as Layers-D, Layers-M+D and Layers-A) and the gain
        from depth 1 to 8; they stand at the same share of ``num_layers``.
    """
    runs = lora_runs(results)
    runs = runs.assign(depth=[_depth(layers, num_layers) for layers in runs["trained"]])
    frame = accuracy_rows(runs[runs["depth"] > 0], "depth", profile=profile)
    if frame.empty:
        raise InputError("results", "no run with LoRA on the last layers", "at least one such run")
    frame["num_layers"] = num_layers
    paper = _paper_percent(num_layers)
    frame["paper_percent"] = frame["depth"].map(lambda d: paper.get(d, float("nan")))
    # Tasks stay in the order of the profile: the first one is judged.
    task_order = {task: position for position, task in enumerate(frame["task"].unique())}
    frame["position"] = frame["task"].map(task_order)
    frame = frame.sort_values(["position", "depth", "seed"], kind="stable")
    return frame.drop(columns="position").reset_index(drop=True)


def _depth(layers: tuple[int, ...], num_layers: int) -> int:
    """d if the layers are the last d of ``num_layers``, else 0."""
    depth = len(layers)
    return depth if layers == tuple(range(num_layers - depth, num_layers)) else 0


def _paper_percent(num_layers: int) -> dict[int, float]:
    at_two_thirds = reported_value("fig02b-acc-MD")
    of_twelve = {
        4: reported_value("fig02b-acc-D"),
        8: at_two_thirds,
        12: reported_value("fig02b-acc-A"),
    }
    paper = {1: at_two_thirds - reported_value("fig03-gain-1-8")}
    for depth, accuracy in of_twelve.items():
        if depth * num_layers % 12 == 0:
            paper[depth * num_layers // 12] = accuracy
    return paper


def depth_cost_frame(
    costs: Mapping[int, StepCost],
    *,
    model: str,
    batch_size: int,
    length: int,
    profile: str,
    measured: pd.DataFrame | None = None,
    from_record: bool = False,
) -> pd.DataFrame:
    """Fig. 3(b): memory and latency of a step against LoRA depth.

    Parameters
    ----------
    costs : mapping
        Depth, from 1 to L of ``model`` -> cost of one step.
    measured : DataFrame or None
        See `fedquad.report.frames.costs.measured_rows`; depths in column ``depth``.

    Returns
    -------
    DataFrame
        Rows of source ``accounting`` (bytes), ``flops`` and ``measured``
        (seconds). ``percent`` is relative to the deepest row of the same
        source, ``paper_slope`` is the paper's bytes or seconds per layer.
    """
    frame = assemble(
        "depth",
        costs,
        measured,
        model=model,
        batch_size=batch_size,
        length=length,
        profile=profile,
        from_record=from_record,
        with_memory=True,
    )
    deepest = frame.groupby("source")["depth"].max().to_dict()
    frame["percent"] = percent_of(frame, "depth", deepest)
    slopes = {
        "accounting": reported_value("fig03-mem-slope") * 1e6,
        "measured": reported_value("fig03-lat-slope") * 1e-3,
    }
    frame["paper_slope"] = frame["source"].map(slopes)
    return frame
