"""Frames of Fig. 1: what LoRA saves against full fine-tuning, and what it does not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pandas as pd

from fedquad.config import InputError, require_positive
from fedquad.cost.accounting import StepCost
from fedquad.cost.communication import RoundShare
from fedquad.report.frames.costs import assemble, percent_of
from fedquad.report.paper import reported_value
from fedquad.report.style import MEMORY_PARTS


def communication_frame(
    shares: Iterable[RoundShare], *, model: str, flops_per_second: float, profile: str
) -> pd.DataFrame:
    """Fig. 1(a): share of communication in the time of one round.

    Parameters
    ----------
    shares : iterable of RoundShare
        One per tuning (``lora``, ``full``) and network, of ``model``.
    flops_per_second : float
        Speed of the device for which they were computed.

    Returns
    -------
    DataFrame
        A row per tuning and network. ``bytes_per_round`` counts both
        directions, ``share_percent`` is communication over communication plus
        computation, ``parameters`` are those of the model without LoRA.
    """
    require_positive("flops_per_second", flops_per_second)
    rows = [
        {
            "model": model,
            "tuning": share.tuning,
            "network": share.network,
            "rate_mbit_s": share.rate_mbit_s,
            "bytes_per_round": share.traffic.total_bytes,
            "flops_per_round": share.compute_time_s * flops_per_second,
            "communication_time_s": share.communication_time_s,
            "compute_time_s": share.compute_time_s,
            "share_percent": 100 * share.share,
            "parameters": share.traffic.parameters,
            "trainable_parameters": share.traffic.trainable_parameters,
            "paper_percent": _paper_share(share.tuning, share.network),
            "profile": profile,
            "from_record": False,
        }
        for share in shares
    ]
    if not rows:
        raise InputError("shares", [], "at least one RoundShare")
    return pd.DataFrame(rows)


def _paper_share(tuning: str, network: str) -> float:
    known = {("lora", "3G"): "fig01a-comm-3g", ("lora", "4G"): "fig01a-comm-4g"}
    id = known.get((tuning, network))
    return float("nan") if id is None else reported_value(id)


def memory_frame(
    costs: Mapping[tuple[str, int, int], StepCost], *, model: str, profile: str
) -> pd.DataFrame:
    """Fig. 1(b): what the memory of fine-tuning is spent on.

    Parameters
    ----------
    costs : mapping
        (tuning, batch size, length) -> cost of one step.

    Returns
    -------
    DataFrame
        A row per configuration, in bytes; the paper's values in bytes beside them.
    """
    if not costs:
        raise InputError("costs", dict(costs), "at least one configuration")
    rows = []
    for (tuning, batch_size, length), cost in costs.items():
        paper = _paper_memory(tuning, batch_size, length) if model == "roberta-large" else {}
        rows.append(
            {
                "model": model,
                "tuning": tuning,
                "batch_size": batch_size,
                "length": length,
                **{part: getattr(cost, part) for part in MEMORY_PARTS},
                "total_bytes": cost.total_bytes,
                "activation_share_percent": 100 * cost.activation_bytes / cost.total_bytes,
                "paper_total_bytes": paper.get("total", float("nan")),
                "paper_activation_bytes": paper.get("activation", float("nan")),
                "paper_share_percent": paper.get("share", float("nan")),
                "profile": profile,
                "from_record": False,
            }
        )
    return pd.DataFrame(rows)


def _paper_memory(tuning: str, batch_size: int, length: int) -> dict[str, float]:
    """The paper's bytes and share for RoBERTa-large, where it states them."""
    gigabyte = 1e9
    return {
        ("lora", 16, 256): {"share": reported_value("fig01b-act-share-16")},
        ("lora", 32, 256): {
            "share": reported_value("fig01b-act-share-32"),
            "total": reported_value("fig01b-total-32") * gigabyte,
            "activation": reported_value("fig01b-act-32") * gigabyte,
        },
        ("full", 32, 256): {"total": reported_value("intro-fft-mem") * gigabyte},
    }.get((tuning, batch_size, length), {})


def tuning_latency_frame(
    costs: Mapping[str, StepCost],
    *,
    model: str,
    batch_size: int,
    length: int,
    profile: str,
    measured: pd.DataFrame | None = None,
    from_record: bool = False,
) -> pd.DataFrame:
    """Fig. 1(c): FLOPs and, where given, measured seconds of a step with ``lora`` and ``full``.

    ``percent`` is relative to full fine-tuning of the same source. For ``measured``
    see `fedquad.report.frames.costs.measured_rows` (configurations in column ``tuning``).
    """
    frame = assemble(
        "tuning",
        costs,
        measured,
        model=model,
        batch_size=batch_size,
        length=length,
        profile=profile,
        from_record=from_record,
        with_memory=False,
    )
    frame["percent"] = percent_of(frame, "tuning", dict.fromkeys(["flops", "measured"], "full"))
    paper = {"full": 100.0, "lora": 100 - reported_value("lora-latency-cut")}
    frame["paper_percent"] = frame["tuning"].map(paper)
    return frame
