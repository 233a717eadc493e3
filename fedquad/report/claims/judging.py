"""From the figures of one profile to a table of verdicts.

A new figure adds one module of predicates by claim id, and its name to
``_MODULES``. A module whose trained claims are about one task, whichever it is,
names the figure they are read from in ``ACCURACY``.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from fedquad.config import InputError
from fedquad.report.claims import (
    fig01,
    fig02,
    fig03,
    fig04,
    fig06,
    fig08,
    fig09,
    fig10,
    tab03,
    tab04,
)
from fedquad.report.claims.evidence import Evidence, Predicate
from fedquad.report.claims.verdict import Finding, NotAttemptedError, not_attempted, verdict
from fedquad.report.paper import Claim, claims

_MODULES = (fig01, fig02, fig03, fig04, fig06, fig08, tab03, tab04, fig09, fig10)
PREDICATES: dict[str, Predicate] = {
    id: predicate for module in _MODULES for id, predicate in module.PREDICATES.items()
}
_ACCURACY: dict[str, str] = {
    id: module.ACCURACY for module in (fig02, fig03, fig04) for id in module.PREDICATES
}


def judged_items() -> list[str]:
    """Figures and tables whose claims have predicates, in the paper's order."""
    return list(dict.fromkeys(claim.item for claim in claims() if claim.id in PREDICATES))


def judge(figures_folder: str | Path, items: list[str] | None = None) -> pd.DataFrame:
    """Judge every claim that has a predicate on the figures in one folder.

    Parameters
    ----------
    figures_folder : str or Path
        Folder of one profile, such as ``figures/reference``.
    items : list of str or None
        Only these figures (``fig01``, …); None means all.

    Returns
    -------
    DataFrame
        One row a claim: ``id, item, claim, quantity, unit, paper, reproduced,
        low, high, verdict, reason, num_seeds``. ``num_seeds`` is empty where
        nothing was trained; ``low`` and ``high`` are then the value itself.
    """
    known = judged_items()
    for item in items or []:
        if item not in known:
            raise InputError("items", item, "figures with claims: " + ", ".join(known))
    evidence = Evidence(figures_folder)
    chosen = [claim for claim in claims() if claim.id in PREDICATES]
    if items is not None:
        chosen = [claim for claim in chosen if claim.item in items]
    table = pd.DataFrame([_row(claim, evidence) for claim in chosen])
    numbers = dict.fromkeys(["paper", "reproduced", "low", "high"], float)
    return table.astype({"num_seeds": "Int64", **numbers})


def _row(claim: Claim, evidence: Evidence) -> dict[str, object]:
    row = {
        "id": claim.id,
        "item": claim.item,
        "claim": claim.claim,
        "quantity": "",
        "unit": "",
        "paper": None,
        "reproduced": None,
        "low": None,
        "high": None,
        "verdict": "",
        "reason": "",
        "num_seeds": None,
    }
    try:
        finding, reason = _find(claim, evidence)
    except NotAttemptedError as error:
        return {**row, "verdict": not_attempted(str(error)), "reason": str(error)}
    estimate = finding.estimate
    return {
        **row,
        "quantity": finding.quantity,
        "unit": estimate.unit,
        "paper": finding.paper,
        "reproduced": estimate.value,
        "low": estimate.low,
        "high": estimate.high,
        "verdict": verdict(finding),
        "reason": reason,
        "num_seeds": estimate.num_seeds,
    }


def _find(claim: Claim, evidence: Evidence) -> tuple[Finding, str]:
    """The finding that is judged and its reason.

    The trained claims of Figs. 2 to 4 are about one task. Where a figure holds
    several, the first one is judged and the others are told in the reason, each
    with the verdict that it would get. All other claims choose their runs themselves.
    """
    predicate = PREDICATES[claim.id]
    if claim.id not in _ACCURACY or not claim.is_trained:
        finding = predicate(evidence)
        return finding, _reason(claim, finding)
    first, *others = evidence.tasks(_ACCURACY[claim.id])
    finding = predicate(evidence.of_task(first))
    parts = [_reason(claim, finding)]
    for task in others:
        try:
            other = predicate(evidence.of_task(task))
        except NotAttemptedError as error:
            parts.append(f"{task}: {not_attempted(str(error))}")
        else:
            parts.append(f"{task}: {_interval(other)}, {verdict(other)}")
    return finding, "; ".join(parts)


def _reason(claim: Claim, finding: Finding) -> str:
    """Which condition decided, and what else a reader should know."""
    conditions = f"needs: {claim.reproduced_if}; or, qualitatively: {claim.qualitative_if}"
    given = verdict(finding)
    if given == "reproduced":
        conditions = f"{claim.reproduced_if}: holds"
    elif given == "qualitatively":
        state = "fails" if finding.reproduced is False else "straddled by the interval"
        conditions = f"{claim.reproduced_if}: {state}; {claim.qualitative_if}: holds"
    return "; ".join(part for part in (conditions, finding.remark) if part)


def _interval(finding: Finding) -> str:
    estimate = finding.estimate
    return f"{estimate.value:.1f} [{estimate.low:.1f}, {estimate.high:.1f}] {estimate.unit}"
