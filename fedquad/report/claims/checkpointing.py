"""Claims on time: what quantization adds to a step, and its rival, activation checkpointing."""

from __future__ import annotations

import pandas as pd

from fedquad.report.claims.evidence import Evidence
from fedquad.report.claims.verdict import Finding, NotAttemptedError, at_most
from fedquad.report.intervals import Estimate
from fedquad.report.paper import reported_value

MODEL = "roberta-base"
CHECKPOINTING = "tab_fig04_checkpointing"


def timed(evidence: Evidence, *, on_gpu: bool = False) -> pd.DataFrame:
    """Step times by method of one measurement: the profile's own, or the best on a GPU.

    The best is one of the paper's model. `NotAttemptedError` where there is none.
    """
    rows = evidence.frame(CHECKPOINTING)
    if on_gpu:
        rows = rows[rows["torch_device"] != "cpu"].copy()
        rows["other"] = rows["timed_model"] != MODEL
        candidates = rows.sort_values("other", kind="stable")["measurement"].unique()
    else:
        candidates = ["profile"]
    chosen = rows[rows["measurement"].isin(candidates[:1])]
    if chosen.empty:
        raise NotAttemptedError("no measurement on a GPU" if on_gpu else "nothing measured")
    return chosen.set_index("method")


def papers_machine(evidence: Evidence) -> bool:
    """Whether there is a measurement of the paper's model on a GPU."""
    try:
        return machine(evidence, on_gpu=True)[0] == MODEL
    except NotAttemptedError:
        return False


def machine(evidence: Evidence, *, on_gpu: bool = False) -> tuple[str, str]:
    """Which model was timed, and where."""
    row = timed(evidence, on_gpu=on_gpu).iloc[0]
    return row["timed_model"], row["torch_device"]


def added_time(evidence: Evidence, method: str, *, on_gpu: bool = False) -> Estimate:
    """Time that a method adds to a step, in percent."""
    rows = timed(evidence, on_gpu=on_gpu)
    return Estimate.exact(rows.loc[method, "added_percent"], "percent")


def checkpointing_latency(evidence: Evidence) -> Finding:
    """Time added by checkpointing over that added by quantization, on the profile's machine.

    Judged as "checkpointing > factor * quantization", which stays defined where
    quantization adds nothing.
    """
    quantization, checkpointing = _both_added(evidence)
    ratio = checkpointing / quantization if quantization > 0 else float("inf")
    remark = _told(evidence)
    if papers_machine(evidence) and machine(evidence) != machine(evidence, on_gpu=True):
        remark += f"; {_told(evidence, on_gpu=True)}"
    return Finding(
        "time added by checkpointing over that added by quantization",
        Estimate.exact(ratio, "x"),
        reproduced=checkpointing > 2 * quantization,
        qualitative=checkpointing > quantization,
        paper=reported_value("ckpt-latency") / reported_value("quant-latency"),
        remark=remark,
    )


def _both_added(evidence: Evidence, *, on_gpu: bool = False) -> tuple[float, float]:
    methods = ("quantization", "checkpointing")
    quantization, checkpointing = (added_time(evidence, m, on_gpu=on_gpu) for m in methods)
    return quantization.value, checkpointing.value


def _told(evidence: Evidence, *, on_gpu: bool = False) -> str:
    quantization, checkpointing = _both_added(evidence, on_gpu=on_gpu)
    where = " on ".join(machine(evidence, on_gpu=on_gpu))
    return f"{checkpointing:+.0f} % against {quantization:+.0f} % ({where})"


def quantization_latency(evidence: Evidence) -> Finding:
    """Time added by quantizing all layers but the last, on a GPU."""
    try:
        added = added_time(evidence, "quantization", on_gpu=True)
    except NotAttemptedError as error:
        here = f"{added_time(evidence, 'quantization').value:+.0f} %"
        raise NotAttemptedError(f"{error}; {here} for {' on '.join(machine(evidence))}") from None
    return Finding(
        "time added by quantizing all layers but the last",
        added,
        reproduced=at_most(added, 36),
        qualitative=at_most(added, 60),
        paper=reported_value("quant-latency"),
        remark=" on ".join(machine(evidence, on_gpu=True)),
    )
