"""Claims on Fig. 8: FedQuad reaches the common target first, and by how much."""

from __future__ import annotations

from fedquad.config.federated import THROUGHPUT_MODELS
from fedquad.report.claims.compared import BASELINES, Comparison, explained, fastest, told
from fedquad.report.claims.conditions import bounds
from fedquad.report.claims.evidence import Evidence, Predicate
from fedquad.report.claims.verdict import (
    Finding,
    NotAttemptedError,
    above,
    between,
    not_attempted,
    verdict,
)
from fedquad.report.frames.federated import PAPER_TASKS
from fedquad.report.frames.fig08 import paper_speedup
from fedquad.report.paper import get_claim
from fedquad.report.style import LOOKS
from fedquad.report.time_to_accuracy import LEVEL, REFERENCE_MODEL, THROUGHPUT_MODEL

CURVES = "fig07_accuracy_curves"
# Judged under every throughput model: the comparison for which there are such runs.
MODELS_TASK = "mnli"


def main_comparison(
    evidence: Evidence,
    key: str,
    *,
    reference_model: str = REFERENCE_MODEL,
    throughput_model: str = THROUGHPUT_MODEL,
) -> Comparison:
    """The five methods on a task at high heterogeneity, from the csv of Fig. 7."""
    return Comparison(
        evidence,
        CURVES,
        key,
        reference_model=reference_model,
        throughput_model=throughput_model,
    )


def first_on(evidence: Evidence, key: str, throughput_model: str = THROUGHPUT_MODEL) -> Finding:
    """FedQuad reaches the target first on a task."""
    comparison = main_comparison(evidence, key, throughput_model=throughput_model)
    papers = [paper_speedup(key, method) for method in BASELINES]
    paper = min(papers) if key in ("mnli", "qqp") else None
    return fastest(comparison, level=LEVEL, quantity="speed-up", paper=paper)


def speedup_on(
    evidence: Evidence, key: str, method: str, throughput_model: str = THROUGHPUT_MODEL
) -> Finding:
    """FedQuad's speed-up over one baseline on a task."""
    comparison = main_comparison(evidence, key, throughput_model=throughput_model)
    speedup = comparison.speedup(method)
    finding = Finding(
        f"speed-up over {LOOKS[method].label}",
        speedup,
        reproduced=between(speedup, *bounds(get_claim(f"main-x-{key}-{method}").reproduced_if)),
        qualitative=above(speedup, 1),
        paper=paper_speedup(key, method),
        remark=f"target {comparison.times.target.value:.1f} %",
    )
    return explained(finding, comparison.told(["fedquad", method]))


def finding_under(evidence: Evidence, id: str, throughput_model: str) -> Finding:
    """The finding of one of Fig. 8's claims under a throughput model."""
    _, kind, key, *method = id.split("-")
    if kind == "fastest":
        return first_on(evidence, key, throughput_model)
    return speedup_on(evidence, key, method[0], throughput_model)


def _predicate(id: str) -> Predicate:
    """Judged under the default throughput model; on MNLI the others are told if they were run."""

    def predicate(evidence: Evidence) -> Finding:
        finding = finding_under(evidence, id, THROUGHPUT_MODEL)
        if f"-{MODELS_TASK}" not in id:
            return finding
        parts = [finding.remark]
        for model in THROUGHPUT_MODELS:
            if model != THROUGHPUT_MODEL:
                try:
                    other = finding_under(evidence, id, model)
                except NotAttemptedError:
                    continue
                parts.append(f"under {model}: {told(other.estimate)}, {verdict(other)}")
        return Finding(**{**vars(finding), "remark": "; ".join(parts)})

    return predicate


def verdict_under(evidence: Evidence, id: str, model: str) -> tuple[Finding | None, str]:
    """Finding and verdict of a claim under a throughput model; no finding without such runs."""
    try:
        finding = finding_under(evidence, id, model)
    except NotAttemptedError as error:
        return None, not_attempted(str(error))
    return finding, verdict(finding)


PREDICATES: dict[str, Predicate] = {
    id: _predicate(id)
    for id in (
        *(f"main-fastest-{key}" for key in PAPER_TASKS),
        *(f"main-x-{key}-{method}" for key in ("mnli", "qqp") for method in BASELINES),
    )
}
