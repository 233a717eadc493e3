"""Claims on Table IV: time and final accuracy as devices differ more and more."""

from __future__ import annotations

from itertools import pairwise

from fedquad.config.federated import HETEROGENEITY_LEVELS as LEVELS
from fedquad.report.claims.compared import BASELINES, Comparison, explained, fastest
from fedquad.report.claims.evidence import Evidence, Predicate
from fedquad.report.claims.verdict import Answer, Finding, above, at_least, both
from fedquad.report.frames.federated import PAPER_METHODS
from fedquad.report.intervals import Estimate
from fedquad.report.paper import reported_value
from fedquad.report.style import LOOKS

CURVES = "tab04_curves"
TASK = "mnli"
MOST = len(PAPER_METHODS) // 2 + 1


def at_levels(evidence: Evidence, *levels: str) -> Comparison:
    """The five methods on MNLI; the target spans all levels that are there."""
    return Comparison(evidence, CURVES, TASK, levels=("high", *levels))


def paper_time(level: str, method: str) -> float:
    """Table IV's time, in 10^3 s."""
    return reported_value(f"tab04-{level}-{method}-time")


def paper_level_speedup(level: str, method: str) -> float:
    """The paper's speed-up of FedQuad over a baseline at a level, from Table IV's times."""
    return paper_time(level, method) / paper_time(level, "fedquad")


def _fastest(level: str) -> Predicate:
    def predicate(evidence: Evidence) -> Finding:
        paper = min(paper_level_speedup(level, method) for method in BASELINES)
        comparison = at_levels(evidence, level)
        return fastest(comparison, level=level, quantity="speed-up", paper=paper)

    return predicate


def _most_accurate(level: str) -> Predicate:
    """Final accuracy over the best baseline's: every lead above 0, or above -0.5 points."""

    def predicate(evidence: Evidence) -> Finding:
        times = at_levels(evidence, level).times
        leads = {
            method: times.final_contrast({(level, "fedquad"): 1.0, (level, method): -1.0})
            for method in BASELINES
        }
        best = min(leads, key=lambda method: leads[method].value)
        paper = reported_value(f"tab04-{level}-fedquad-acc")
        finals = {method: times.final_accuracy((level, method)).value for method in PAPER_METHODS}
        return Finding(
            f"lead in final accuracy over the best baseline, {LOOKS[best].label}",
            leads[best],
            reproduced=both(*(above(lead, 0) for lead in leads.values())),
            qualitative=both(*(at_least(lead, -0.5) for lead in leads.values())),
            paper=paper - max(reported_value(f"tab04-{level}-{m}-acc") for m in BASELINES),
            remark=", ".join(f"{LOOKS[m].label} {final:.1f} %" for m, final in finals.items()),
        )

    return predicate


def slower_with_heterogeneity(evidence: Evidence) -> Finding:
    """Time to the target from low to medium and from medium to high, method by method.

    Shown is the smallest of the ten steps. "Most methods" are three of the five.
    """
    comparison = at_levels(evidence, *LEVELS)
    steps: dict[tuple[str, str, str], Estimate] = {
        (method, early, late): comparison.times.speedup((late, method), fast=(early, method))
        for method in PAPER_METHODS
        for early, late in pairwise(LEVELS)
    }
    rises = {
        method: both(*(above(step, 1) for key, step in steps.items() if key[0] == method))
        for method in PAPER_METHODS
    }
    method, early, late = key = min(steps, key=lambda at: steps[at].value)
    finding = Finding(
        f"smallest rise in time, {LOOKS[method].label} from {early} to {late}",
        steps[key],
        reproduced=both(*rises.values()),
        qualitative=_for_most(list(rises.values())),
        paper=paper_time(late, method) / paper_time(early, method),
        remark="; ".join(f"{LOOKS[name].label} {_course(comparison, name)}" for name in rises),
    )
    return explained(
        finding,
        f"{early}: {comparison.told([method], early)}; {late}: {comparison.told([method], late)}",
    )


def _for_most(answers: list[Answer]) -> Answer:
    """Whether enough hold throughout, or too few can."""
    if answers.count(True) >= MOST:
        return True
    return False if answers.count(False) > len(answers) - MOST else None


def _course(comparison: Comparison, method: str) -> str:
    seconds = (comparison.times.time_s((level, method)).value for level in LEVELS)
    return ", ".join(f"{value / 1e3:.2f}" for value in seconds) + " 10^3 s"


def gap_widens(evidence: Evidence) -> Finding:
    """Growth of the speed-up over FedRA from low to high heterogeneity, and of each step."""
    comparison = at_levels(evidence, *LEVELS)

    def growth(early: str, late: str) -> Estimate:
        return comparison.times.product(
            {
                (late, "fedra"): 1,
                (late, "fedquad"): -1,
                (early, "fedra"): -1,
                (early, "fedquad"): 1,
            }
        )

    low, medium, high = LEVELS
    course = ", ".join(f"{comparison.speedup('fedra', level).value:.2f}x" for level in LEVELS)
    finding = Finding(
        "speed-up over FedRA at high heterogeneity over that at low",
        growth(low, high),
        reproduced=both(above(growth(low, medium), 1), above(growth(medium, high), 1)),
        qualitative=above(growth(low, high), 1),
        paper=reported_value("tab04-high-x-fedra") / reported_value("tab04-low-x-fedra"),
        remark=f"low, medium, high: {course} (paper 1.5x, 2.5x, 5.35x)",
    )
    told = (f"{level}: {comparison.told(['fedquad', 'fedra'], level)}" for level in (low, high))
    return explained(finding, "; ".join(told))


PREDICATES: dict[str, Predicate] = {
    **{f"het-fastest-{level}": _fastest(level) for level in LEVELS},
    **{f"het-acc-{level}": _most_accurate(level) for level in LEVELS},
    "het-slower": slower_with_heterogeneity,
    "het-gap-widens": gap_widens,
}
