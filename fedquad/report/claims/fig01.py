"""Claims on Fig. 1: communication is negligible with LoRA, memory and computation are not."""

from __future__ import annotations

from fedquad.report.claims.evidence import Evidence, Predicate, measured_setting, total_of
from fedquad.report.claims.verdict import (
    Finding,
    NotAttemptedError,
    above,
    below,
    between,
    both,
    within,
)
from fedquad.report.intervals import Estimate
from fedquad.report.paper import reported_value

MODEL = "roberta-large"
COMMUNICATION = "fig01a_communication"
MEMORY = "fig01b_memory"
LATENCY = "fig01c_latency"


def communication_row(evidence: Evidence, tuning: str, network: str) -> dict[str, float]:
    """The row of one tuning on one network, of the paper's model."""
    df = evidence.frame(COMMUNICATION)
    match = (df["model"] == MODEL) & (df["tuning"] == tuning) & (df["network"] == network)
    if match.sum() != 1:
        raise NotAttemptedError(f"no {tuning} of {MODEL} on {network}")
    return df[match].iloc[0].to_dict()


def memory_row(evidence: Evidence, tuning: str, batch_size: int, length: int) -> dict[str, float]:
    """The row of one tuning and batch size, of the paper's model."""
    df = evidence.frame(MEMORY)
    match = (df["model"] == MODEL) & (df["tuning"] == tuning)
    match &= (df["batch_size"] == batch_size) & (df["length"] == length)
    if match.sum() != 1:
        raise NotAttemptedError(f"no {tuning} of {MODEL} at batch {batch_size}, length {length}")
    return df[match].iloc[0].to_dict()


def communication_negligible(evidence: Evidence) -> Finding:
    """Share of communication in a round's time at 3G, the slower rate, and at 4G."""
    rows = {network: communication_row(evidence, "lora", network) for network in ("3G", "4G")}
    shares = {n: Estimate.exact(row["share_percent"], "percent") for n, row in rows.items()}
    megabytes = rows["3G"]["bytes_per_round"] / 1e6
    return Finding(
        "largest share of communication in a round (3G)",
        shares["3G"],
        reproduced=both(*(below(share, 1) for share in shares.values())),
        qualitative=both(*(below(share, 5) for share in shares.values())),
        paper=reported_value("fig01a-comm-3g"),
        remark=f"4G: {shares['4G'].value:.2f} % (paper {reported_value('fig01a-comm-4g'):g} %); "
        f"{megabytes:.1f} MB a round, both ways, adapters and head",
    )


def communication_against_full(evidence: Evidence) -> Finding:
    """Trainable share of the parameters, and traffic of full fine-tuning over that of LoRA."""
    lora, full = (communication_row(evidence, tuning, "3G") for tuning in ("lora", "full"))
    share = Estimate.exact(100 * lora["trainable_parameters"] / lora["parameters"], "percent")
    traffic = Estimate.exact(full["bytes_per_round"] / lora["bytes_per_round"], "x")
    return Finding(
        "trainable share of the parameters",
        share,
        reproduced=both(below(share, 1), above(traffic, 100)),
        qualitative=below(share, 5),
        remark=f"traffic falls by {traffic.value:.1f}x",
    )


def _activation_share(batch_size: int) -> Predicate:
    def predicate(evidence: Evidence) -> Finding:
        row = memory_row(evidence, "lora", batch_size, 256)
        share = Estimate.exact(row["activation_share_percent"], "percent")
        paper = reported_value(f"fig01b-act-share-{batch_size}")
        return Finding(
            f"activation share at batch {batch_size}",
            share,
            reproduced=within(share, paper, 6),
            qualitative=above(share, 50),
            paper=paper,
        )

    return predicate


def _gigabytes(tuning: str, column: str, id: str, tight: float, loose: float) -> Predicate:
    """Bytes of RoBERTa-large at batch 32, length 256 against the paper's number ``id``."""

    def predicate(evidence: Evidence) -> Finding:
        gigabytes = Estimate.exact(memory_row(evidence, tuning, 32, 256)[column] / 1e9, "GB")
        paper = reported_value(id)
        return Finding(
            f"{column.removesuffix('_bytes')} memory of {tuning} fine-tuning at batch 32",
            gigabytes,
            reproduced=within(gigabytes, paper, tight),
            qualitative=within(gigabytes, paper, loose),
            paper=paper,
        )

    return predicate


def latency_cut(evidence: Evidence) -> Finding:
    """By how much LoRA cuts a step against full fine-tuning: FLOPs decide, seconds are shown."""
    remark = "by FLOPs"
    measured = evidence.measured(LATENCY)
    if len(measured):
        remark += f"; measured {_cut(measured):.1f} % ({measured_setting(measured)})"
    cut = Estimate.exact(_cut(evidence.counted(LATENCY, "flops", MODEL)), "percent")
    return Finding(
        "cut of the work of a step",
        cut,
        reproduced=between(cut, 20, 40),
        qualitative=between(cut, 5, 50),
        paper=reported_value("lora-latency-cut"),
        remark=remark,
    )


def _cut(rows: object) -> float:
    return 100 * (1 - total_of(rows, "tuning", "lora") / total_of(rows, "tuning", "full"))


PREDICATES: dict[str, Predicate] = {
    "comm-negligible": communication_negligible,
    "comm-lora-vs-full": communication_against_full,
    "act-share-16": _activation_share(16),
    "act-share-32": _activation_share(32),
    "act-bytes-32": _gigabytes("lora", "activation_bytes", "fig01b-act-32", 6, 25),
    "total-bytes-32": _gigabytes("lora", "total_bytes", "fig01b-total-32", 6, 25),
    "full-bytes": _gigabytes("full", "total_bytes", "intro-fft-mem", 10, 30),
    "lora-latency-cut": latency_cut,
}
