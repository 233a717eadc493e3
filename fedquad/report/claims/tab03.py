"""Claims on Table III: FedQuad on three backbones, and the paper's headline."""

from __future__ import annotations

from fedquad.report.claims import tab04
from fedquad.report.claims.compared import (
    BASELINES,
    Comparison,
    any_of,
    explained,
    fastest,
    told,
    with_fewest_seeds,
)
from fedquad.report.claims.evidence import Evidence, Predicate
from fedquad.report.claims.fig08 import CURVES, main_comparison
from fedquad.report.claims.verdict import (
    Finding,
    NotAttemptedError,
    above,
    both,
    in_the_mean,
)
from fedquad.report.frames.federated import PAPER_TASKS
from fedquad.report.intervals import Estimate
from fedquad.report.paper import reported_value
from fedquad.report.style import LOOKS
from fedquad.report.time_to_accuracy import LEVEL, REFERENCE_MODEL

TASK = "mnli"
# The paper's backbone -> the model whose costs its runs are priced by.
BACKBONES = {"bert": "bert-large", "roberta": REFERENCE_MODEL, "deberta": "deberta-v3-large"}
# Who comes before whom in the paper's order.
ORDER = (("hetlora", "layersel"), ("layersel", "fedra"), ("layersel", "inclusivefl"))
LOOSE_ORDER = (*ORDER[1:], ("hetlora", "fedra"), ("hetlora", "inclusivefl"))


def backbone(evidence: Evidence, name: str) -> Comparison:
    """The five methods on MNLI with one of the paper's backbones."""
    return main_comparison(evidence, TASK, reference_model=BACKBONES[name])


def paper_backbone_speedup(name: str, method: str) -> float:
    """The paper's speed-up of FedQuad over a baseline on a backbone, from its times."""
    times = [reported_value(f"tab03-{name}-{of}") for of in (method, "fedquad")]
    return times[0] / times[1]


def _fastest(name: str) -> Predicate:
    def predicate(evidence: Evidence) -> Finding:
        paper = min(paper_backbone_speedup(name, method) for method in BASELINES)
        return fastest(backbone(evidence, name), level=LEVEL, quantity="speed-up", paper=paper)

    return predicate


def baseline_order(evidence: Evidence) -> Finding:
    """HetLoRA before LayerSel, and LayerSel before FedRA and InclusiveFL, on every backbone.

    Shown is the smallest lead that the order asks for.
    """
    comparisons = {name: backbone(evidence, name) for name in BACKBONES}
    leads: dict[tuple[str, str, str], Estimate] = {}
    for name, comparison in comparisons.items():
        for early, late in {*ORDER, *LOOSE_ORDER}:
            lead = comparison.times.speedup((LEVEL, late), fast=(LEVEL, early))
            leads[name, early, late] = lead
    strict = {key: lead for key, lead in leads.items() if key[1:] in ORDER}
    loose = [lead for key, lead in leads.items() if key[1:] in LOOSE_ORDER]
    name, early, late = key = min(strict, key=lambda at: strict[at].value)
    paper = reported_value(f"tab03-{name}-{late}") / reported_value(f"tab03-{name}-{early}")
    finding = Finding(
        f"smallest lead, of {LOOKS[early].label} over {LOOKS[late].label} on {name}",
        with_fewest_seeds(strict[key], list(leads.values())),
        reproduced=both(*(above(lead, 1) for lead in strict.values())),
        qualitative=in_the_mean(all(lead.value > 1 for lead in loose)),
        paper=paper,
        remark="; ".join(
            f"{name}: " + ", ".join(LOOKS[method].label for method in _order(comparison))
            for name, comparison in comparisons.items()
        ),
    )
    return explained(finding, f"{name}: {comparisons[name].told([early, late])}")


def _order(comparison: Comparison) -> list[str]:
    """The baselines, the fastest first."""
    return sorted(BASELINES, key=lambda method: comparison.times.time_s((LEVEL, method)).value)


def all_speedups(evidence: Evidence) -> tuple[dict[str, Estimate], list[str]]:
    """Every speed-up over a baseline of Fig. 8 and Tables III and IV, and what is missing."""
    speedups: dict[str, Estimate] = {}
    missing = []
    wanted = [(key, REFERENCE_MODEL, LEVEL) for key in PAPER_TASKS]
    wanted += [(TASK, model, LEVEL) for model in BACKBONES.values() if model != REFERENCE_MODEL]
    wanted += [(TASK, REFERENCE_MODEL, level) for level in tab04.LEVELS if level != LEVEL]
    for key, model, level in wanted:
        where = key if model == REFERENCE_MODEL else f"{key} with {model}"
        where += "" if level == LEVEL else f" at {level} heterogeneity"
        try:
            comparison = Comparison(
                evidence, CURVES, key, reference_model=model, levels=(LEVEL, level)
            )
        except NotAttemptedError:
            missing.append(where)
            continue
        for method in BASELINES:
            name = f"{LOOKS[method].label} ({where})"
            speedups[name] = comparison.speedup(method, level)
    return speedups, missing


def headline(evidence: Evidence) -> Finding:
    """Every speed-up above 1 and the largest above 4; shown is the smallest."""
    evidence.frame(CURVES)
    speedups, missing = all_speedups(evidence)
    smallest, largest = (
        pick(speedups, key=lambda name: speedups[name].value, default=None) for pick in (min, max)
    )
    if smallest is None or missing:
        shown = ""
        if smallest is not None:
            shown = f"; of what is there {_range(speedups, smallest, largest)}"
        raise NotAttemptedError(lacking(missing) + shown)
    every = both(*(above(speedup, 1) for speedup in speedups.values()))
    slower = [f"{name} {told(s)}" for name, s in speedups.items() if above(s, 1) is not True]
    finding = Finding(
        f"smallest speed-up, over {smallest}",
        with_fewest_seeds(speedups[smallest], list(speedups.values())),
        reproduced=both(every, any_of(*(above(speedup, 4) for speedup in speedups.values()))),
        qualitative=every,
        paper=reported_value("headline-x-low"),
        remark=f"largest {told(speedups[largest])} over {largest}, paper "
        f"{reported_value('headline-x-high')}x",
    )
    return explained(finding, "not surely above 1: " + ", ".join(slower) if slower else "")


def lacking(missing: list[str]) -> str:
    """What keeps the headline from being judged."""
    return "no complete comparison on " + ", ".join(missing)


def _range(speedups: dict[str, Estimate], smallest: str, largest: str) -> str:
    ends = (f"{told(speedups[name])} over {name}" for name in (smallest, largest))
    return " to ".join(ends)


PREDICATES: dict[str, Predicate] = {
    **{f"models-fastest-{name}": _fastest(name) for name in BACKBONES},
    "models-order": baseline_order,
    "headline": headline,
}
