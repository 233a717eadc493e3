"""Two records of one federated run, made on two machines: what must be the same all the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

# Of a device in a round. What it reports does not depend on training; where it was assigned the
# same layers, neither do the times, bytes and memory that they cost.
_REPORTED = (
    "device_id",
    "device_class",
    "mode",
    "depth_budget",
    "memory_budget_bytes",
    "flops_per_second",
)
_ASSIGNED = ("active_layers", "trainable_layers", "quantized", "lora_rank")
_PRICED = ("probe_time_s", "completion_time_s", "memory_bytes", "is_overrun", "download_bytes")


def accounting_differences(
    recorded: Sequence[dict[str, Any]], again: Sequence[dict[str, Any]]
) -> list[str]:
    """Where two records of one run differ in what training cannot change.

    Parameters
    ----------
    recorded, again : sequence of dict
        Rows of results, one a round. Those of other experiments differ in nothing.

    Returns
    -------
    list of str
        A sentence a difference, with round, device and column.
    """
    if len(recorded) != len(again):
        return [f"{len(recorded)} rounds and {len(again)} now"]
    found = []
    for row, other in zip(recorded, again, strict=True):
        devices, others = row.get("devices", {}), other.get("devices", {})
        for device in range(len(devices.get("device_id", ()))):
            same = all(devices[name][device] == others[name][device] for name in _ASSIGNED)
            for name in (*_REPORTED, *(_PRICED if same else ())):
                before, now = devices[name][device], others[name][device]
                if before != now:
                    who = devices["device_id"][device]
                    found.append(f"round {row['round']}, {who}: {name} {before} and {now} now")
    return found
