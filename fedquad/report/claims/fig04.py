"""Claims on Fig. 4: quantized layers save memory, cost time, and buy accuracy through depth."""

from __future__ import annotations

import pandas as pd

from fedquad.report.claims.checkpointing import checkpointing_latency, quantization_latency
from fedquad.report.claims.evidence import Evidence, Predicate, line_fit, measured_setting, total_of
from fedquad.report.claims.verdict import (
    Finding,
    NotAttemptedError,
    above,
    at_least,
    at_most,
    below,
    in_the_mean,
)
from fedquad.report.intervals import Bootstrap, Estimate
from fedquad.report.paper import reported_value

MODEL = "roberta-base"
MEMORY = "fig04a_quantization_memory"
ACCURACY = "fig04a_quantization_accuracy"
SYNERGY_ACCURACY = "fig04b_synergy_accuracy"
SYNERGY_COST = "fig04b_synergy_cost"


def counted_memory(evidence: Evidence) -> pd.DataFrame:
    """Rows of the blocks that are really stored, by number of quantized layers."""
    rows = evidence.counted(MEMORY, "accounting", MODEL)
    return rows[rows["saving"] == "counted"].sort_values("quantized")


def memory_cut(evidence: Evidence) -> Finding:
    """Mean cut of what a layer keeps, all layers but the last quantized."""
    rows = counted_memory(evidence)
    cut = Estimate.exact(rows["cut_percent"].iloc[-1], "percent")
    return Finding(
        "cut of what a quantized layer keeps",
        cut,
        reproduced=at_least(cut, 58),
        qualitative=at_least(cut, 40),
        paper=reported_value("fig04a-mem-cut"),
        remark="INT8 codes, fp32 scales, dropout masks as bits, and what is kept as it is",
    )


def memory_linear(evidence: Evidence) -> Finding:
    """R^2 of memory over the number of quantized layers."""
    rows = counted_memory(evidence)
    r_squared = Estimate.exact(line_fit(rows["quantized"], rows["total"])[1], "R^2")
    return Finding(
        "R^2 of memory over the number of quantized layers",
        r_squared,
        reproduced=at_least(r_squared, 0.999),
        qualitative=at_least(r_squared, 0.98),
    )


def gain_at_two_thirds(evidence: Evidence) -> tuple[Estimate, int]:
    """Accuracy with two thirds of the layers quantized minus that with none, and that number.

    `NotAttemptedError` unless both were trained.
    """
    df = evidence.frame(ACCURACY)
    two_thirds = round(2 * int(df["num_layers"].iloc[0]) / 3)
    missing = sorted({0, two_thirds} - set(df["quantized"]))
    if missing:
        raise NotAttemptedError(f"no run with {' or '.join(map(str, missing))} quantized layers")
    bootstrap = evidence.bootstrap(ACCURACY, "quantized")
    return bootstrap.contrast({two_thirds: 1, 0: -1}), two_thirds


def accuracy_harmless(evidence: Evidence) -> Finding:
    """The gain, which may be a small loss."""
    gain, two_thirds = gain_at_two_thirds(evidence)
    return Finding(
        f"gain with {two_thirds} layers quantized over none",
        gain,
        reproduced=above(gain, -0.5),
        qualitative=above(gain, -1.5),
        paper=reported_value("fig04a-acc-gain-8"),
    )


def accuracy_gains(evidence: Evidence) -> Finding:
    """The same gain, held against zero."""
    gain, two_thirds = gain_at_two_thirds(evidence)
    return Finding(
        f"gain with {two_thirds} layers quantized over none",
        gain,
        reproduced=above(gain, 0),
        qualitative=in_the_mean(gain.value > 0),
        paper=reported_value("fig04a-acc-gain-8"),
        remark="rounded to nearest: nothing stochastic is added",
    )


def synergy(evidence: Evidence) -> tuple[Bootstrap, list[str]]:
    """The bootstrap over the configurations of Fig. 4(b), and their names by position."""
    df = evidence.frame(SYNERGY_ACCURACY)
    names = df.drop_duplicates("position").set_index("position")["point"]
    if sorted(names.index) != [0, 1, 2]:
        raise NotAttemptedError(f"{len(names)} of the three configurations")
    return evidence.bootstrap(SYNERGY_ACCURACY, "position"), list(names.sort_index())


def synergy_gains(evidence: Evidence) -> Finding:
    """Gain from the first configuration to the second."""
    bootstrap, names = synergy(evidence)
    gain = bootstrap.contrast({1: 1, 0: -1})
    return Finding(
        f"gain from {names[0]} to {names[1]}",
        gain,
        reproduced=above(gain, 0),
        qualitative=in_the_mean(gain.value > 0),
        paper=reported_value("fig04b-gain-8-5"),
    )


def synergy_saturates(evidence: Evidence) -> Finding:
    """Second gain as a percentage of the first.

    Judged as "second gain - share * first gain <= 0", which is the same wherever
    the first gain is positive and stays defined where it is not.
    """
    bootstrap, names = synergy(evidence)
    second, first = {2: 1.0, 1: -1.0}, {1: 1.0, 0: -1.0}

    def excess(share: float) -> Estimate:
        return bootstrap.contrast({2: 1.0, 1: -1.0 - share, 0: share})

    gains = [bootstrap.contrast(weights).value for weights in (second, first)]
    remark = f"{gains[0]:+.1f} after {gains[1]:+.1f} points"
    if gains[1] <= 0:
        remark += "; the first is no gain, so nothing can saturate"
    return Finding(
        f"gain from {names[1]} to {names[2]} against that from {names[0]}",
        bootstrap.ratio(second, first),
        reproduced=at_most(excess(0.25), 0),
        qualitative=below(excess(1.0), 0),
        paper=100 * reported_value("fig04b-gain-10-9") / reported_value("fig04b-gain-8-5"),
        remark=remark,
    )


def synergy_latency(evidence: Evidence) -> Finding:
    """Rise of the work of a step from the second configuration to the third: Eq. 6 decides."""
    remark = "by the FLOPs of Eq. 6 with the paper's price of quantization"
    measured = evidence.measured(SYNERGY_COST)
    if len(measured):
        remark += f"; measured {_rise(measured):+.1f} % ({measured_setting(measured)})"
    rise = Estimate.exact(_rise(evidence.counted(SYNERGY_COST, "flops", MODEL)), "percent")
    return Finding(
        "rise from the second to the third configuration",
        rise,
        reproduced=at_least(rise, 30),
        qualitative=above(rise, 0),
        paper=reported_value("fig04b-lat-8-5-to-10-9"),
        remark=remark,
    )


def _rise(rows: pd.DataFrame) -> float:
    return 100 * (total_of(rows, "position", 2) / total_of(rows, "position", 1) - 1)


PREDICATES: dict[str, Predicate] = {
    "ckpt-latency": checkpointing_latency,
    "quant-latency": quantization_latency,
    "quant-mem-cut": memory_cut,
    "quant-mem-linear": memory_linear,
    "quant-acc-harmless": accuracy_harmless,
    "quant-acc-gain": accuracy_gains,
    "synergy-gain": synergy_gains,
    "synergy-saturates": synergy_saturates,
    "synergy-latency": synergy_latency,
}
