"""Claims on Fig. 10: what quantization and the choice of depth are each worth."""

from __future__ import annotations

from fedquad.report.claims.compared import (
    Comparison,
    any_of,
    explained,
    told,
    with_fewest_seeds,
)
from fedquad.report.claims.conditions import bounds
from fedquad.report.claims.evidence import Evidence, Predicate
from fedquad.report.claims.verdict import Finding, above, between, both
from fedquad.report.frames.fig08 import paper_ablation_speedup
from fedquad.report.metrics import ABLATION_METHODS
from fedquad.report.paper import get_claim
from fedquad.report.style import LOOKS
from fedquad.report.time_to_accuracy import LEVEL

CURVES = "fig10_ablation"
TASKS = ("mnli", "qqp")
NO_QUANTIZATION, NO_DEPTH = ABLATION_METHODS[1:]


def ablation(evidence: Evidence, key: str) -> Comparison:
    """FedQuad and its two ablations on a task; they set a target of their own."""
    return Comparison(evidence, CURVES, key, methods=ABLATION_METHODS)


def accuracy_kept(evidence: Evidence) -> Finding:
    """Final accuracy of each ablation minus FedQuad's, on both tasks; shown is the furthest."""
    gaps, overlaps = {}, []
    for key in TASKS:
        times = ablation(evidence, key).times
        full = times.final_accuracy((LEVEL, "fedquad"))
        for method in ABLATION_METHODS[1:]:
            ablated = times.final_accuracy((LEVEL, method))
            overlaps.append(ablated.low <= full.high and full.low <= ablated.high)
            gaps[key, method] = times.final_contrast(
                {(LEVEL, method): 1.0, (LEVEL, "fedquad"): -1.0}
            )
    key, method = furthest = max(gaps, key=lambda at: abs(gaps[at].value))
    near = both(*(between(gap, -1, 1) for gap in gaps.values()))
    return Finding(
        f"final accuracy of {LOOKS[method].label} minus FedQuad's on {key}",
        with_fewest_seeds(gaps[furthest], list(gaps.values())),
        reproduced=both(near, all(overlaps)),
        qualitative=both(*(between(gap, -3, 3) for gap in gaps.values())),
        remark="; ".join(
            f"{key}, {LOOKS[method].label}: {gap.value:+.1f} [{gap.low:.1f}, {gap.high:.1f}]"
            for (key, method), gap in gaps.items()
        ),
    )


def _faster(id: str, method: str) -> Predicate:
    """FedQuad's speed-up over an ablation on both tasks; shown is the smaller one."""

    def predicate(evidence: Evidence) -> Finding:
        comparisons = {key: ablation(evidence, key) for key in TASKS}
        speedups = {key: comparison.speedup(method) for key, comparison in comparisons.items()}
        key = min(speedups, key=lambda name: speedups[name].value)
        low, high = bounds(get_claim(id).reproduced_if)
        finding = Finding(
            f"speed-up over {LOOKS[method].label} on {key}, the smaller one",
            with_fewest_seeds(speedups[key], list(speedups.values())),
            reproduced=both(*(between(speedup, low, high) for speedup in speedups.values())),
            qualitative=both(*(above(speedup, 1) for speedup in speedups.values())),
            paper=paper_ablation_speedup(key, method),
            remark="; ".join(
                f"{name}: {told(speedup)} (paper {paper_ablation_speedup(name, method):.2f}x)"
                for name, speedup in speedups.items()
            ),
        )
        return explained(finding, comparisons[key].told(["fedquad", method]))

    return predicate


def depth_matters_more(evidence: Evidence) -> Finding:
    """Time without the choice of depth over time without quantization, on both tasks."""
    comparisons = {key: ablation(evidence, key) for key in TASKS}
    ratios = {
        key: comparison.times.speedup((LEVEL, NO_DEPTH), fast=(LEVEL, NO_QUANTIZATION))
        for key, comparison in comparisons.items()
    }
    key = min(ratios, key=lambda name: ratios[name].value)
    slower = [above(ratio, 1) for ratio in ratios.values()]
    finding = Finding(
        f"time without choice of depth over that without quantization on {key}, the smaller one",
        with_fewest_seeds(ratios[key], list(ratios.values())),
        reproduced=both(*slower),
        qualitative=any_of(*slower),
        paper=paper_ablation_speedup(key, NO_DEPTH) / paper_ablation_speedup(key, NO_QUANTIZATION),
        remark="; ".join(f"{name}: {told(ratio)}" for name, ratio in ratios.items()),
    )
    return explained(finding, comparisons[key].told([NO_QUANTIZATION, NO_DEPTH]))


PREDICATES: dict[str, Predicate] = {
    "abl-acc": accuracy_kept,
    "abl-noqd": _faster("abl-noqd", NO_QUANTIZATION),
    "abl-nold": _faster("abl-nold", NO_DEPTH),
    "abl-order": depth_matters_more,
}
