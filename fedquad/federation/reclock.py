"""A finished run under another clock: the same training, other times."""

from __future__ import annotations

import dataclasses
from typing import Any

from fedquad.config import InputError, run_id
from fedquad.federation.results import FederatedResult
from fedquad.federation.round_record import set_clock
from fedquad.federation.setting import FederatedSetting, all_settings
from fedquad.methods import METHODS


def reclock(result: FederatedResult, *, throughput_model: str) -> FederatedResult:
    """What the run would have been under another throughput model, without running it.

    Nothing but seconds changes: a device's time is what it computes over how
    fast it is, and these methods choose without looking at either.

    Parameters
    ----------
    result : FederatedResult
        Of simulated Jetsons.
    throughput_model : {"fp16", "fp32", "roofline"}

    Returns
    -------
    FederatedResult
        With the id that the run itself would have. Its times are those of such a
        run but for the last bit, as they are scaled and not summed up again.

    Raises
    ------
    InputError
        The method looks at time, or the fleet comes from a file.
    """
    method = METHODS[result.config.method]
    if method.looks_at_time:
        raise InputError("method", method.name, "one whose choices do not depend on time")
    if result.config.fleet is not None:
        raise InputError("fleet", result.config.fleet, "simulated Jetsons, which have modes")
    config = dataclasses.replace(result.config, throughput_model=throughput_model)
    fleet = FederatedSetting(config).fleet
    rows: list[dict[str, Any]] = []
    for row in result.rows:
        before = row["devices"]
        speeds = [status.flops_per_second for status in fleet.statuses(row["round"] - 1)]
        scales = [old / new for old, new in zip(before["flops_per_second"], speeds, strict=True)]
        devices = {**before, "flops_per_second": speeds}
        for column in ("probe_time_s", "completion_time_s"):
            pairs = zip(before[column], scales, strict=True)
            devices[column] = [None if time is None else time * scale for time, scale in pairs]
        times = set_clock(devices, rows[-1]["sim_time_s"] if rows else 0.0)
        rows.append(row | times | {"devices": devices})
    key = run_id(all_settings([config])[0])
    return dataclasses.replace(result, config=config, run_id=key, rows=rows)
