"""One round as a row of results: the learning, the clock, the traffic, and every device."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from fedquad.config import Assignment
from fedquad.federation.setting import FederatedSetting
from fedquad.fleet.clock import RoundTimes
from fedquad.fleet.fleet import DeviceStatus
from fedquad.methods.method import LocalUpdate
from fedquad.model.adapter import Adapter
from fedquad.runs.results import format_layers, pack
from fedquad.training.local import Evaluation


class UpdateSummary:
    """What the record keeps of an update after its tensors are gone."""

    def __init__(self, update: LocalUpdate) -> None:
        self.gradient_norms = update.gradient_norms
        self.train_loss = update.train_loss
        self.upload_bytes = update.adapter.num_bytes


class AdapterSizes:
    """Bytes of any part of an adapter, without cutting it out for every device."""

    def __init__(self, adapter: Adapter) -> None:
        self._rank = adapter.rank
        self._by_layer = {
            layer: sum(tensor.nbytes for tensor in tensors.values())
            for layer, tensors in adapter.lora.items()
        }
        self._head = sum(tensor.nbytes for tensor in adapter.head.values())

    def num_bytes(self, layers: Iterable[int], rank: int) -> int:
        """Of these layers at this rank, and the head."""
        whole = sum(self._by_layer[layer] for layer in layers)
        return whole * rank // self._rank + self._head  # A and B are both linear in the rank


def round_row(
    setting: FederatedSetting,
    sizes: AdapterSizes,
    *,
    round_idx: int,
    statuses: Sequence[DeviceStatus],
    probed: Sequence[Assignment | None],
    assignments: Sequence[Assignment | None],
    updates: Mapping[int, UpdateSummary],
    failures: Mapping[int, str],
    evaluation: Evaluation,
    gradient_norms: np.ndarray,
    sim_time_before_s: float,
) -> dict[str, Any]:
    """The row of one round, as JSON values; the last round's is final.

    A device's completion time is that of its probe, if the method asked for one,
    and of its local steps: Eqs. 12 and 13 are over their sum.

    Returns
    -------
    dict
        ``ROUND_COLUMNS`` of `fedquad.federation.results`, ``gradient_norms`` (g_l as
        the next round knows them, one a layer), ``devices``: a list per column of
        `DEVICE_COLUMNS`, None where a device did not take part; and ``counts``, what
        the method has counted up to here, where it counts anything.
    """
    devices = _device_columns(setting, sizes, statuses, probed, assignments, updates)
    row = {
        "round": round_idx + 1,
        "accuracy": evaluation.accuracy,
        "loss": evaluation.loss if math.isfinite(evaluation.loss) else None,
        "train_loss": _mean([update.train_loss for update in updates.values()]),
        **set_clock(devices, sim_time_before_s),
        "download_bytes": _sum(devices["download_bytes"]),
        "upload_bytes": _sum(devices["upload_bytes"]),
        "mean_depth": _mean([depth for depth in devices["depth"] if depth]),
        "mean_quantized": _mean([q for q in devices["quantized"] if q is not None]),
        "memory_overruns": sum(bool(over) for over in devices["is_overrun"]),
        "participants": sum(time is not None for time in devices["completion_time_s"]),
        "failures": len(failures),
        "gradient_norms": [float(norm) for norm in gradient_norms],
        "num_eval": len(evaluation.correct),
        "correct": pack(evaluation.correct),
        "devices": devices,
    }
    if counts := setting.method.counts():
        row["counts"] = counts
    if round_idx + 1 == setting.config.num_rounds:
        row["final"] = True
    return row


def set_clock(devices: dict[str, list[Any]], sim_time_before_s: float) -> dict[str, Any]:
    """Times of a round from those of its devices, whose ``waiting_time_s`` is set."""
    present = [at for at, seconds in enumerate(devices["completion_time_s"]) if seconds is not None]
    clock = RoundTimes([devices["completion_time_s"][at] for at in present])
    waiting: list[float | None] = [None] * len(devices["completion_time_s"])
    for at, seconds in zip(present, clock.waiting_time_s.tolist(), strict=True):
        waiting[at] = seconds
    devices["waiting_time_s"] = waiting
    return {
        "round_time_s": clock.round_time_s,
        "sim_time_s": sim_time_before_s + clock.round_time_s,
        "probe_time_s": max((t for t in devices["probe_time_s"] if t is not None), default=0.0),
        "mean_completion_time_s": clock.mean_completion_time_s,
        "mean_waiting_time_s": clock.mean_waiting_time_s,
    }


class _Plan(NamedTuple):
    """What an assignment means for any device that is given it."""

    flops: int
    memory_bytes: int
    columns: dict[str, Any]


def _device_columns(
    setting: FederatedSetting,
    sizes: AdapterSizes,
    statuses: Sequence[DeviceStatus],
    probed: Sequence[Assignment | None],
    assignments: Sequence[Assignment | None],
    updates: Mapping[int, UpdateSummary],
) -> dict[str, list[Any]]:
    @cache  # there are few assignments and may be many devices
    def plan(job: Assignment) -> _Plan:
        price = setting.costs.price(job)
        columns = {
            "depth": len(job.trainable_layers),
            "quantized": len(job.quantized_layers),
            "lora_rank": job.lora_rank,
            "active_layers": format_layers(job.active_layers),
            "trainable_layers": format_layers(job.trainable_layers),
            "download_bytes": sizes.num_bytes(job.active_layers, job.lora_rank),
        }
        return _Plan(price.flops, price.bytes, columns)

    local_steps = setting.clock_local_steps
    probed = list(probed) or [None] * len(statuses)
    rows = []
    for device, (status, probe, job) in enumerate(zip(statuses, probed, assignments, strict=True)):
        row = {
            **_NOTHING,
            "device_id": status.device_id,
            "device_class": status.device_class,
            "mode": status.mode,
            "depth_budget": status.depth_budget,
            "memory_budget_bytes": status.memory_budget_bytes,
            "flops_per_second": status.flops_per_second,
        }
        memory, seconds = 0, 0.0
        if probe is not None:
            memory, seconds = plan(probe).memory_bytes, plan(probe).flops / status.flops_per_second
            row["probe_time_s"] = seconds
        if job is not None:
            flops, job_memory, columns = plan(job)
            memory = max(memory, job_memory)
            row |= columns
            row["completion_time_s"] = seconds + local_steps * flops / status.flops_per_second
            row["upload_bytes"] = updates[device].upload_bytes
        if job is not None or probe is not None:
            row["memory_bytes"] = memory
            row["is_overrun"] = memory > status.memory_budget_bytes
        rows.append(row)
    return {name: [row[name] for row in rows] for name in DEVICE_COLUMNS}


DEVICE_COLUMNS = (
    "device_id",
    "device_class",
    "mode",
    "depth_budget",
    "memory_budget_bytes",
    "flops_per_second",
    "depth",
    "quantized",
    "lora_rank",
    "active_layers",
    "trainable_layers",
    "probe_time_s",
    "completion_time_s",
    "waiting_time_s",
    "memory_bytes",
    "is_overrun",
    "download_bytes",
    "upload_bytes",
)
_NOTHING = dict.fromkeys(DEVICE_COLUMNS) | {"depth": 0}


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def _sum(values: Sequence[int | None]) -> int:
    return sum(value for value in values if value is not None)
