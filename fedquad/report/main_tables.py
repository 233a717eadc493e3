"""Tables III and IV beside ours, and Fig. 8's claims under every throughput model."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from fedquad.config.federated import THROUGHPUT_MODELS
from fedquad.report.claims import fig08, tab03, tab04
from fedquad.report.claims.compared import Comparison
from fedquad.report.claims.evidence import Evidence
from fedquad.report.claims.verdict import NotAttemptedError, not_attempted
from fedquad.report.frames.federated import PAPER_METHODS
from fedquad.report.intervals import Estimate
from fedquad.report.paper import get_claim, reported_value
from fedquad.report.style import LOOKS
from fedquad.report.time_to_accuracy import LEVEL

FORMATS = {
    **dict.fromkeys(("target_percent", "paper_target_percent"), ".1f"),
    **dict.fromkeys(("accuracy_percent", "paper_accuracy_percent"), ".1f"),
    **dict.fromkeys(("accuracy_low", "accuracy_high"), ".1f"),
    **dict.fromkeys(("time_ks", "paper_time_ks", "time_low", "time_high"), ".2f"),
    **dict.fromkeys(("speedup", "speedup_low", "speedup_high", "paper_speedup"), ".2f"),
    **dict.fromkeys(("reproduced", "low", "high", "paper"), ".2f"),
}
_BACKBONE_NAMES = {"bert": "BERT-large", "roberta": "RoBERTa-large", "deberta": "DeBERTaV3-large"}


def models_table(curves: pd.DataFrame) -> pd.DataFrame:
    """Table III: time to the common target on MNLI, by backbone and method.

    Parameters
    ----------
    curves : DataFrame
        As `fedquad.report.frames.accuracy_curves_frame` makes it.

    Returns
    -------
    DataFrame
        ``backbone, method``; ours with intervals beside the paper's: the target
        (``paper_target_percent``), ``time_ks`` in 10^3 s on the virtual clock and
        FedQuad's ``speedup``. The paper's seconds are those of its own devices
        and are not judged. ``note`` says which model was trained, or what is missing.
    """
    evidence = Evidence.of_frames({fig08.CURVES: curves})
    rows = []
    for name, shown in _BACKBONE_NAMES.items():
        comparison, note = _attempt(lambda name=name: tab03.backbone(evidence, name))
        for method in PAPER_METHODS:
            paper = {
                "target_percent": reported_value(f"tab03-{name}-target"),
                "time_ks": reported_value(f"tab03-{name}-{method}"),
                "speedup": tab03.paper_backbone_speedup(name, method),
            }
            row = {"backbone": shown, "method": LOOKS[method].label}
            rows.append({**row, **_cells(comparison, LEVEL, method, paper), "note": note})
    return pd.DataFrame(rows)


def heterogeneity_table(curves: pd.DataFrame) -> pd.DataFrame:
    """Table IV: time to the target and final accuracy on MNLI, by level of heterogeneity.

    Parameters
    ----------
    curves : DataFrame
        As `fedquad.report.frames.heterogeneity_curves_frame` makes it.

    Returns
    -------
    DataFrame
        As `models_table`, by ``heterogeneity``, with ``accuracy_percent``. Ours has
        one target for all levels, the paper one for each.
    """
    evidence = Evidence.of_frames({tab04.CURVES: curves})
    rows = []
    for level in tab04.LEVELS:
        comparison, note = _attempt(lambda level=level: tab04.at_levels(evidence, level))
        for method in PAPER_METHODS:
            paper = {
                "target_percent": reported_value(f"tab04-{level}-target"),
                "time_ks": tab04.paper_time(level, method),
                "speedup": tab04.paper_level_speedup(level, method),
                "accuracy_percent": reported_value(f"tab04-{level}-{method}-acc"),
            }
            row = {"heterogeneity": level, "method": LOOKS[method].label}
            rows.append({**row, **_cells(comparison, level, method, paper), "note": note})
    return pd.DataFrame(rows)


def throughput_models_table(curves: pd.DataFrame) -> pd.DataFrame:
    """Fig. 8's claims on MNLI at high heterogeneity under every throughput model.

    Each model has a target of its own: FedQuad's choices follow from the times.
    Other claims that speak of time are judged under the default alone.

    Parameters
    ----------
    curves : DataFrame
        As for `models_table`.

    Returns
    -------
    DataFrame
        ``claim, throughput_model, quantity, paper, reproduced, low, high, verdict``,
        the default model first; a model without runs is *not attempted*.
    """
    evidence = Evidence.of_frames({fig08.CURVES: curves})
    rows = []
    for id in fig08.PREDICATES:
        if f"-{fig08.MODELS_TASK}" not in id:
            continue
        for model in THROUGHPUT_MODELS:
            finding, verdict = fig08.verdict_under(evidence, id, model)
            row = {"id": id, "claim": get_claim(id).claim, "throughput_model": model}
            row |= {"quantity": "", "paper": None, "reproduced": None, "low": None, "high": None}
            if finding is not None:
                estimate = finding.estimate
                row |= {"quantity": finding.quantity, "paper": finding.paper}
                row |= {"reproduced": estimate.value, "low": estimate.low, "high": estimate.high}
            rows.append({**row, "verdict": verdict})
    numbers = dict.fromkeys(["paper", "reproduced", "low", "high"], float)
    return pd.DataFrame(rows).astype(numbers)


def _attempt(make: object) -> tuple[Comparison | None, str]:
    """A comparison with the name of its trained model, or none with what is missing."""
    try:
        comparison = make()
    except NotAttemptedError as error:
        return None, not_attempted(str(error))
    seeds = comparison.times.num_seeds
    model = comparison.rows["model"].iloc[0]
    return comparison, f"{model} on {comparison.task}, {seeds} seed{'s' if seeds > 1 else ''}"


def _cells(
    comparison: Comparison | None, level: str, method: str, paper: Mapping[str, float]
) -> dict[str, float]:
    """Ours with its ends, then the paper's, quantity by quantity."""
    cells: dict[str, float] = {}
    for quantity, stated in paper.items():
        ours = _ours(comparison, level, method, quantity)
        cells[quantity] = ours.value
        if quantity != "target_percent":
            stem = quantity.removesuffix("_ks").removesuffix("_percent")
            cells |= {f"{stem}_low": ours.low, f"{stem}_high": ours.high}
        cells[f"paper_{quantity}"] = stated
    return cells


def _ours(comparison: Comparison | None, level: str, method: str, quantity: str) -> Estimate:
    if comparison is None:
        return Estimate.exact(float("nan"), "")
    times = comparison.times
    if quantity == "target_percent":
        return times.target
    if quantity == "speedup":
        return comparison.speedup(method, level)
    if quantity == "accuracy_percent":
        return times.final_accuracy((level, method))
    seconds = times.time_s((level, method))
    return Estimate(seconds.value / 1e3, seconds.low / 1e3, seconds.high / 1e3, "10^3 s")
