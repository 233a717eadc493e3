"""Ours beside each number that the paper states for Figs. 8 and 10 and Tables III and IV."""

from __future__ import annotations

from collections.abc import Callable

from fedquad.report.claims import fig08, fig10, tab03, tab04
from fedquad.report.claims.compared import BASELINES, Comparison, cut_percent
from fedquad.report.claims.evidence import Evidence
from fedquad.report.claims.verdict import NotAttemptedError
from fedquad.report.frames.federated import PAPER_METHODS
from fedquad.report.intervals import Estimate
from fedquad.report.time_to_accuracy import LEVEL

Reproduction = Callable[[Evidence], Estimate]
Compare = Callable[[Evidence], Comparison]

ITEMS = ("fig08", "tab03", "tab04", "fig10")


def _on_task(key: str) -> Compare:
    return lambda evidence: fig08.main_comparison(evidence, key)


def _on_backbone(name: str) -> Compare:
    return lambda evidence: tab03.backbone(evidence, name)


def _at_level(level: str) -> Compare:
    return lambda evidence: tab04.at_levels(evidence, level)


def _ablation(key: str) -> Compare:
    return lambda evidence: fig10.ablation(evidence, key)


def _seconds(compare: Compare, method: str) -> Reproduction:
    return lambda evidence: compare(evidence).times.time_s((LEVEL, method))


def _thousand_seconds(compare: Compare, method: str, level: str = LEVEL) -> Reproduction:
    def reproduce(evidence: Evidence) -> Estimate:
        time_s = compare(evidence).times.time_s((level, method))
        ends = [seconds / 1e3 for seconds in (time_s.value, time_s.low, time_s.high)]
        return Estimate(*ends, "10^3 s", time_s.num_seeds)

    return reproduce


def _target(compare: Compare) -> Reproduction:
    return lambda evidence: compare(evidence).times.target


def _final(compare: Compare, method: str, level: str) -> Reproduction:
    return lambda evidence: compare(evidence).times.final_accuracy((level, method))


def _speedup(compare: Compare, method: str, level: str = LEVEL) -> Reproduction:
    return lambda evidence: compare(evidence).speedup(method, level)


def _cut(compare: Compare, method: str) -> Reproduction:
    return lambda evidence: cut_percent(compare(evidence).speedup(method))


def _headline(pick: Callable) -> Reproduction:
    """The smallest or the largest of all speed-ups; nothing unless every one is there."""

    def reproduce(evidence: Evidence) -> Estimate:
        evidence.frame(fig08.CURVES)
        speedups, missing = tab03.all_speedups(evidence)
        if missing:
            raise NotAttemptedError(tab03.lacking(missing))
        return pick(speedups.values(), key=lambda speedup: speedup.value)

    return reproduce


MAIN_REPRODUCTIONS: dict[str, Reproduction] = {
    "headline-x-low": _headline(min),
    "headline-x-high": _headline(max),
}
for _key in ("mnli", "qqp"):
    for _method in PAPER_METHODS:
        MAIN_REPRODUCTIONS[f"fig08-{_key}-{_method}"] = _seconds(_on_task(_key), _method)
    for _method in BASELINES:
        MAIN_REPRODUCTIONS[f"fig08-{_key}-x-{_method}"] = _speedup(_on_task(_key), _method)
for _name in tab03.BACKBONES:
    _there = _on_backbone(_name)
    MAIN_REPRODUCTIONS[f"tab03-{_name}-target"] = _target(_there)
    for _method in PAPER_METHODS:
        MAIN_REPRODUCTIONS[f"tab03-{_name}-{_method}"] = _thousand_seconds(_there, _method)
    for _method in BASELINES if _name != "roberta" else ():
        MAIN_REPRODUCTIONS[f"tab03-{_name}-cut-{_method}"] = _cut(_there, _method)
for _level in tab04.LEVELS:
    _there = _at_level(_level)
    MAIN_REPRODUCTIONS[f"tab04-{_level}-target"] = _target(_there)
    for _method in PAPER_METHODS:
        _stem = f"tab04-{_level}-{_method}"
        MAIN_REPRODUCTIONS[f"{_stem}-time"] = _thousand_seconds(_there, _method, _level)
        MAIN_REPRODUCTIONS[f"{_stem}-acc"] = _final(_there, _method, _level)
    for _method in BASELINES if _level == "medium" else ("fedra",):
        MAIN_REPRODUCTIONS[f"tab04-{_level}-x-{_method}"] = _speedup(_there, _method, _level)
for _short, _method in (("noqd", fig10.NO_QUANTIZATION), ("nold", fig10.NO_DEPTH)):
    MAIN_REPRODUCTIONS[f"fig10-mnli-cut-{_short}"] = _cut(_ablation("mnli"), _method)
    MAIN_REPRODUCTIONS[f"fig10-qqp-x-{_short}"] = _speedup(_ablation("qqp"), _method)


def level_note(id: str, evidence: Evidence) -> str:
    """Why an accuracy of ours does not compare with the paper's; empty where it does."""
    name = id.split("-")[1]
    if id.startswith("tab03"):
        comparison, namesake = tab03.backbone(evidence, name), tab03.BACKBONES[name]
    else:
        comparison, namesake = tab04.at_levels(evidence, name), tab03.BACKBONES["roberta"]
    model = comparison.rows["model"].iloc[0]
    same = model.endswith(namesake) and comparison.task == tab03.TASK
    return "" if same else f"{model} on {comparison.task}: shown, not judged"
