"""Claims on Fig. 3: cost grows linearly with LoRA depth, accuracy with shrinking gains."""

from __future__ import annotations

import pandas as pd

from fedquad.report.claims.evidence import Evidence, Predicate, line_fit, measured_setting
from fedquad.report.claims.verdict import (
    Finding,
    NotAttemptedError,
    above,
    at_least,
    at_most,
    in_the_mean,
    within,
)
from fedquad.report.intervals import Bootstrap, Estimate
from fedquad.report.paper import reported_value

MODEL = "roberta-base"
ACCURACY = "fig03a_depth_accuracy"
COST = "fig03b_depth_cost"


def memory_line(evidence: Evidence) -> tuple[float, float]:
    """Bytes per layer and R^2 of memory over depth 2 … L."""
    rows = evidence.counted(COST, "accounting", MODEL)
    rows = rows[rows["depth"] >= 2]
    return line_fit(rows["depth"], rows["total"])


def memory_linear(evidence: Evidence) -> Finding:
    """R^2 of memory over depth 2 … L."""
    r_squared = Estimate.exact(memory_line(evidence)[1], "R^2")
    return Finding(
        "R^2 of memory over depth 2 to L",
        r_squared,
        reproduced=at_least(r_squared, 0.999),
        qualitative=at_least(r_squared, 0.98),
    )


def memory_slope(evidence: Evidence) -> Finding:
    """Megabytes that one more LoRA layer keeps."""
    slope = Estimate.exact(memory_line(evidence)[0] / 1e6, "MB")
    paper = reported_value("fig03-mem-slope")
    return Finding(
        "memory of one more LoRA layer",
        slope,
        reproduced=within(slope, paper, 6),
        qualitative=within(slope, paper, 25),
        paper=paper,
    )


def latency_linear(evidence: Evidence) -> Finding:
    """R^2 of the work of a step over depth: FLOPs decide, seconds are shown."""
    remark = "by FLOPs"
    measured = evidence.measured(COST)
    if len(measured):
        fit = line_fit(measured["depth"], measured["total"])[1]
        remark += f"; measured R^2 {fit:.4f} ({measured_setting(measured)})"
    flops = evidence.counted(COST, "flops", MODEL)
    r_squared = Estimate.exact(line_fit(flops["depth"], flops["total"])[1], "R^2")
    return Finding(
        "R^2 of the work of a step over depth",
        r_squared,
        reproduced=at_least(r_squared, 0.999),
        qualitative=at_least(r_squared, 0.9),
        remark=remark,
    )


def accuracy_by_depth(evidence: Evidence) -> tuple[Bootstrap, int, int]:
    """The bootstrap over depths, two thirds of L (rounded) and L.

    `NotAttemptedError` unless depth 1, two thirds of L and L were all trained.
    """
    df: pd.DataFrame = evidence.frame(ACCURACY)
    num_layers = int(df["num_layers"].iloc[0])
    two_thirds = round(2 * num_layers / 3)
    missing = sorted({1, two_thirds, num_layers} - set(df["depth"]))
    if missing:
        raise NotAttemptedError("no run at depth " + ", ".join(map(str, missing)))
    return evidence.bootstrap(ACCURACY, "depth"), two_thirds, num_layers


def accuracy_rises(evidence: Evidence) -> Finding:
    """Accuracy at two thirds of L minus accuracy at depth 1."""
    bootstrap, two_thirds, _ = accuracy_by_depth(evidence)
    gain = bootstrap.contrast({two_thirds: 1, 1: -1})
    return Finding(
        f"gain from depth 1 to {two_thirds}",
        gain,
        reproduced=above(gain, 0),
        qualitative=in_the_mean(gain.value > 0),
        paper=reported_value("fig03-gain-1-8"),
    )


def gains_shrink(evidence: Evidence) -> Finding:
    """Gain over the last third as a percentage of the gain over the first two thirds.

    Judged as "last gain - share * first gain <= 0", which is the same wherever
    the first gain is positive and stays defined where it is not.
    """
    bootstrap, two_thirds, num_layers = accuracy_by_depth(evidence)
    last = {num_layers: 1.0, two_thirds: -1.0}
    first = {two_thirds: 1.0, 1: -1.0}

    def excess(share: float) -> Estimate:
        return bootstrap.contrast({num_layers: 1.0, two_thirds: -1.0 - share, 1: share})

    paper = 100 * reported_value("fig03-gain-8-12") / reported_value("fig03-gain-1-8")
    gains = [bootstrap.contrast(weights).value for weights in (first, last)]
    return Finding(
        "gain over the last third against the first two thirds",
        bootstrap.ratio(last, first),
        reproduced=at_most(excess(0.15), 0),
        qualitative=at_most(excess(0.5), 0),
        paper=paper,
        remark=f"{gains[1]:+.1f} after {gains[0]:+.1f} points",
    )


PREDICATES: dict[str, Predicate] = {
    "depth-mem-linear": memory_linear,
    "depth-mem-slope": memory_slope,
    "depth-lat-linear": latency_linear,
    "depth-acc-rises": accuracy_rises,
    "depth-diminishing": gains_shrink,
}
