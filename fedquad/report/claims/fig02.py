"""Claims on Fig. 2: where the trained layers stand decides cost and accuracy."""

from __future__ import annotations

from fedquad.report.claims.evidence import Evidence, Predicate, measured_setting, total_of
from fedquad.report.claims.verdict import (
    Answer,
    Finding,
    above,
    at_most,
    between,
    both,
    in_the_mean,
    within,
)
from fedquad.report.intervals import Estimate
from fedquad.report.paper import reported_value

MODEL = "roberta-base"
COST = "fig02a_layer_position_cost"
ACCURACY = "fig02b_layer_position_accuracy"


def memory_percent(evidence: Evidence, group: str) -> float:
    """Memory of a group as a percentage of Layers-A."""
    rows = evidence.counted(COST, "accounting", MODEL)
    return 100 * total_of(rows, "group", group) / total_of(rows, "group", "A")


def _memory(group: str) -> Predicate:
    def predicate(evidence: Evidence) -> Finding:
        percent = Estimate.exact(memory_percent(evidence, group), "percent")
        paper = reported_value(f"fig02a-mem-{group}")
        return Finding(
            f"memory of Layers-{group} against Layers-A",
            percent,
            reproduced=within(percent, paper, 6),
            qualitative=_memory_order(evidence, group, percent),
            paper=paper,
        )

    return predicate


def _memory_order(evidence: Evidence, group: str, percent: Estimate) -> Answer:
    """The second condition: S over 85 %, M between S and D, D least of all."""
    if group == "S":
        return above(percent, 85)
    if group == "M":
        shallow, deep = (memory_percent(evidence, name) for name in "SD")
        return deep < percent.value < shallow
    rows = evidence.counted(COST, "accounting", MODEL)
    others = rows.loc[rows["group"] != "D", "total"]
    return bool((total_of(rows, "group", "D") < others).all())


def latency_ratio(rows: object, other: str) -> float:
    """Work of a step of Layers-S over that of another group."""
    return total_of(rows, "group", "S") / total_of(rows, "group", other)


def _latency(other: str, low: float, high: float) -> Predicate:
    """Layers-S over another group: FLOPs decide, seconds are shown."""

    def predicate(evidence: Evidence) -> Finding:
        remark = "by FLOPs"
        measured = evidence.measured(COST)
        if len(measured):
            seconds = latency_ratio(measured, other)
            remark += f"; measured {seconds:.2f}x ({measured_setting(measured)})"
        flops = evidence.counted(COST, "flops", MODEL)
        ratio = Estimate.exact(latency_ratio(flops, other), "x")
        return Finding(
            f"work of Layers-S over Layers-{other}",
            ratio,
            reproduced=between(ratio, low, high),
            qualitative=above(ratio, 1),
            paper=reported_value(f"fig02a-lat-S{other}"),
            remark=remark,
        )

    return predicate


def shallow_worst(evidence: Evidence) -> Finding:
    """Layers-S below Layers-M and Layers-D; shown is the smaller of the two leads."""
    bootstrap = evidence.bootstrap(ACCURACY, "group")
    over = {group: bootstrap.contrast({group: 1, "S": -1}) for group in "MD"}
    group = min(over, key=lambda name: over[name].value)
    lead_of_mean = bootstrap.contrast({"M": 0.5, "D": 0.5, "S": -1})
    papers = {name: _paper_gap(name, "S") for name in "MD"}
    return Finding(
        f"lead over Layers-S of the nearer one, Layers-{group}",
        over[group],
        reproduced=both(*(above(lead, 0) for lead in over.values())),
        qualitative=above(lead_of_mean, 0),
        paper=papers[group],
        remark="; ".join(f"{n} - S: {over[n].value:+.1f} (paper {papers[n]:+.1f})" for n in "MD"),
    )


def last_two_thirds_near_all(evidence: Evidence) -> Finding:
    """Layers-A minus Layers-M+D.

    The first condition speaks of the estimate (at most 1 point) and of the
    interval's upper end (at most 2). It fails throughout when even the lower
    end is above 1 point.
    """
    bootstrap = evidence.bootstrap(ACCURACY, "group")
    gap = bootstrap.contrast({"A": 1, "MD": -1})
    beyond_a_quarter = bootstrap.contrast({"A": 0.75, "MD": -1, "S": 0.25})
    holds = gap.value <= 1 and gap.high <= 2
    return Finding(
        "gap between Layers-A and Layers-M+D",
        gap,
        reproduced=True if holds else (False if gap.low > 1 else None),
        qualitative=at_most(beyond_a_quarter, 0),
        paper=_paper_gap("A", "MD"),
        remark=f"A - S: {bootstrap.contrast({'A': 1, 'S': -1}).value:+.1f} points",
    )


def middle_over_deep(evidence: Evidence) -> Finding:
    """Layers-M minus Layers-D."""
    lead = evidence.bootstrap(ACCURACY, "group").contrast({"M": 1, "D": -1})
    return Finding(
        "lead of Layers-M over Layers-D",
        lead,
        reproduced=above(lead, 0),
        qualitative=in_the_mean(lead.value > 0),
        paper=_paper_gap("M", "D"),
    )


def _paper_gap(group: str, other: str) -> float:
    return reported_value(f"fig02b-acc-{group}") - reported_value(f"fig02b-acc-{other}")


PREDICATES: dict[str, Predicate] = {
    "pos-mem-S": _memory("S"),
    "pos-mem-M": _memory("M"),
    "pos-mem-D": _memory("D"),
    "pos-lat-SM": _latency("M", 1.15, 1.6),
    "pos-lat-SD": _latency("D", 1.4, 2.3),
    "pos-acc-S-worst": shallow_worst,
    "pos-acc-MD-near-A": last_two_thirds_near_all,
    "pos-acc-M-over-D": middle_over_deep,
}
