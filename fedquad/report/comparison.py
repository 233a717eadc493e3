"""The paper's numbers beside ours, figure by figure."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from fedquad.config import require_choice
from fedquad.report.claims import checkpointing, fig01, fig02, fig03, fig04, fig09
from fedquad.report.claims.evidence import Evidence, line_fit, total_of
from fedquad.report.claims.verdict import NotAttemptedError
from fedquad.report.intervals import Estimate
from fedquad.report.main_numbers import ITEMS as MAIN_ITEMS
from fedquad.report.main_numbers import MAIN_REPRODUCTIONS, level_note
from fedquad.report.paper import Reported, reported_items

Reproduction = Callable[[Evidence], Estimate]

FORMATS = {"reproduced": ".4g", "low": ".4g", "high": ".4g", "difference_percent": "+.1f"}


def _of_claim(predicate: Callable) -> Reproduction:
    return lambda evidence: predicate(evidence).estimate


def _share(network: str) -> Reproduction:
    def reproduce(evidence: Evidence) -> Estimate:
        row = fig01.communication_row(evidence, "lora", network)
        return Estimate.exact(row["share_percent"], "percent")

    return reproduce


def _full_round(column: str, scale: float, unit: str) -> Reproduction:
    def reproduce(evidence: Evidence) -> Estimate:
        return Estimate.exact(fig01.communication_row(evidence, "full", "3G")[column] / scale, unit)

    return reproduce


def _measured_ms(tuning: str) -> Reproduction:
    def reproduce(evidence: Evidence) -> Estimate:
        rows = _measured(evidence, fig01.LATENCY)
        return Estimate.exact(1e3 * total_of(rows, "tuning", tuning), "ms")

    return reproduce


def _measured_slope(evidence: Evidence) -> Estimate:
    rows = _measured(evidence, fig03.COST)
    return Estimate.exact(1e3 * line_fit(rows["depth"], rows["total"])[0], "ms")


def _measured(evidence: Evidence, figure: str) -> pd.DataFrame:
    rows = evidence.measured(figure)
    if rows.empty:
        raise NotAttemptedError("nothing measured")
    return rows


def _accuracy(group: str) -> Reproduction:
    def reproduce(evidence: Evidence) -> Estimate:
        return evidence.bootstrap(fig02.ACCURACY, "group").estimate(group)

    return reproduce


def _last_gain(evidence: Evidence) -> Estimate:
    bootstrap, two_thirds, num_layers = fig03.accuracy_by_depth(evidence)
    return bootstrap.contrast({num_layers: 1, two_thirds: -1})


def _gain_per_layer(evidence: Evidence) -> Estimate:
    bootstrap, two_thirds, _ = fig03.accuracy_by_depth(evidence)
    return bootstrap.contrast({two_thirds: 1 / (two_thirds - 1), 1: -1 / (two_thirds - 1)})


def _added_time(method: str) -> Reproduction:
    def reproduce(evidence: Evidence) -> Estimate:
        return checkpointing.added_time(
            evidence, method, on_gpu=checkpointing.papers_machine(evidence)
        )

    return reproduce


def _point_accuracy(position: int) -> Reproduction:
    return lambda evidence: fig04.synergy(evidence)[0].estimate(position)


def _point_ms(position: int) -> Reproduction:
    def reproduce(evidence: Evidence) -> Estimate:
        rows = _measured(evidence, fig04.SYNERGY_COST)
        return Estimate.exact(1e3 * total_of(rows, "position", position), "ms")

    return reproduce


def _second_gain(evidence: Evidence) -> Estimate:
    return fig04.synergy(evidence)[0].contrast({2: 1, 1: -1})


def _waiting_cut(task: str, baseline: str) -> Reproduction:
    return lambda evidence: fig09.cut_on(evidence, task, baseline)


def _waiting_s(method: str) -> Reproduction:
    return lambda evidence: fig09.waiting_seconds(evidence, "qqp", method)


ITEMS = ("fig01", "fig02", "fig03", "fig04", *MAIN_ITEMS, "fig09")
# id of the paper's number -> ours
REPRODUCTIONS: dict[str, Reproduction] = {
    "fig01a-comm-3g": _share("3G"),
    "fig01a-comm-4g": _share("4G"),
    "fig01b-act-share-16": _of_claim(fig01.PREDICATES["act-share-16"]),
    "fig01b-act-share-32": _of_claim(fig01.PREDICATES["act-share-32"]),
    "fig01b-total-32": _of_claim(fig01.PREDICATES["total-bytes-32"]),
    "fig01b-act-32": _of_claim(fig01.PREDICATES["act-bytes-32"]),
    "intro-fft-mem": _of_claim(fig01.PREDICATES["full-bytes"]),
    "intro-fft-traffic": _full_round("bytes_per_round", 1e9, "GB"),
    "intro-fft-flops": _full_round("flops_per_round", 1e12, "TFLOP"),
    "fft-latency": _measured_ms("full"),
    "lora-latency": _measured_ms("lora"),
    "lora-latency-cut": _of_claim(fig01.latency_cut),
    **{f"fig02a-mem-{g}": _of_claim(fig02.PREDICATES[f"pos-mem-{g}"]) for g in "SMD"},
    **{f"fig02a-lat-S{g}": _of_claim(fig02.PREDICATES[f"pos-lat-S{g}"]) for g in "MD"},
    **{f"fig02b-acc-{group}": _accuracy(group) for group in ("A", "S", "M", "D", "MD")},
    "fig03-lat-slope": _measured_slope,
    "fig03-mem-slope": _of_claim(fig03.memory_slope),
    "fig03-gain-1-8": _of_claim(fig03.accuracy_rises),
    "fig03-gain-8-12": _last_gain,
    "fig03-gain-per-layer": _gain_per_layer,
    "ckpt-latency": _added_time("checkpointing"),
    "quant-latency": _added_time("quantization"),
    "fig04a-mem-cut": _of_claim(fig04.memory_cut),
    "fig04a-acc-gain-8": _of_claim(fig04.accuracy_gains),
    "fig04b-acc-5-0": _point_accuracy(0),
    "fig04b-acc-8-5": _point_accuracy(1),
    "fig04b-gain-8-5": _of_claim(fig04.synergy_gains),
    "fig04b-gain-10-9": _second_gain,
    "fig04b-lat-8-5": _point_ms(1),
    "fig04b-lat-10-9": _point_ms(2),
    "fig04b-lat-8-5-to-10-9": _of_claim(fig04.synergy_latency),
    **MAIN_REPRODUCTIONS,
    **{f"fig09-mnli-wait-{name}": _waiting_cut("mnli", name) for name in fig09.BASELINES},
    **{f"fig09-qqp-cut-{name}": _waiting_cut("qqp", name) for name in fig09.BASELINES},
    **{f"fig09-qqp-wait-{name}": _waiting_s(name) for name in fig09.PAPER_METHODS},
}
# Beginning of the ids of trained numbers -> figure; its first task stands beside the paper's MNLI.
_TRAINED = {
    "fig02b": fig02.ACCURACY,
    "fig03-gain": fig03.ACCURACY,
    "fig04a-acc": fig04.ACCURACY,
    "fig04b-acc": fig04.SYNERGY_ACCURACY,
    "fig04b-gain": fig04.SYNERGY_ACCURACY,
}
_TIMED = ("ckpt-latency", "quant-latency")


def comparison_table(item: str, folder: str | Path) -> pd.DataFrame:
    """Every number the paper states for a figure beside ours.

    Parameters
    ----------
    item : str
        One of `ITEMS`, such as ``fig01`` or ``tab03``.
    folder : str or Path
        Folder of one profile's figures.

    Returns
    -------
    DataFrame
        ``id, quantity, setting, kind, unit, paper, reproduced, low, high,
        difference_percent, note``. The difference is relative to the paper's
        value and empty where the two do not compare: ``absolute`` rows belong
        to other hardware, accuracy levels to another model or task. A row that
        cannot be computed says why in its note.
    """
    require_choice("item", item, ITEMS)
    evidence = Evidence(folder)
    return pd.DataFrame([_row(number, evidence) for number in reported_items(item)])


def _row(number: Reported, evidence: Evidence) -> dict[str, object]:
    row = {
        "id": number.id,
        "quantity": number.quantity,
        "setting": number.setting,
        "kind": number.kind,
        "unit": number.unit,
        "paper": number.value,
        "reproduced": float("nan"),
        "low": float("nan"),
        "high": float("nan"),
        "difference_percent": float("nan"),
        "note": "",
    }
    try:
        evidence, note = _comparable(number, evidence)
        ours = REPRODUCTIONS[number.id](evidence)
    except NotAttemptedError as error:
        return {**row, "note": f"not attempted ({error})"}
    row |= {"reproduced": ours.value, "low": ours.low, "high": ours.high, "note": note}
    if not note:
        row["difference_percent"] = 100 * (ours.value / number.value - 1)
    return row


def _comparable(number: Reported, evidence: Evidence) -> tuple[Evidence, str]:
    """The evidence for a number, and a note where ours does not compare with it."""
    if number.kind == "absolute":
        return evidence, "other hardware and model: shown, not judged"
    if number.item in MAIN_ITEMS:
        return evidence, level_note(number.id, evidence) if number.kind == "level" else ""
    if number.id in _TIMED:
        if checkpointing.papers_machine(evidence):
            return evidence, ""
        return evidence, f"{' on '.join(checkpointing.machine(evidence))}: not compared"
    for prefix, figure in _TRAINED.items():
        if number.id.startswith(prefix):
            task = evidence.tasks(figure)[0]
            evidence = evidence.of_task(task)
            model = evidence.frame(figure)["model"].iloc[0]
            same = model.endswith("roberta-base") and task == "mnli"
            return evidence, "" if same else f"{model} on {task}: shown, not judged"
    return evidence, ""
