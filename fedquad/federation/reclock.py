"""A finished run under another clock: the same training, other times."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from fedquad.config import Assignment, InputError, run_id
from fedquad.cost.layer_costs import LayerCosts
from fedquad.federation.results import FederatedResult
from fedquad.federation.round_record import set_clock
from fedquad.federation.setting import FederatedSetting, all_settings
from fedquad.methods import find_method
from fedquad.runs.results import parse_layers


def reclock(result: FederatedResult, *, throughput_model: str) -> FederatedResult:
    """What the run would have been under another throughput model, without running it.

    Nothing but seconds changes: these methods choose without looking at them.

    Parameters
    ----------
    result : FederatedResult
        Of simulated Jetsons.
    throughput_model : {"fp16", "fp32", "roofline"}

    Returns
    -------
    FederatedResult
        With the id and, bit for bit, the rows that such a run would have.

    Raises
    ------
    InputError
        The method looks at time, the fleet comes from a file, or the recorded times
        are not those of the recorded assignments.
    """
    config = dataclasses.replace(result.config, throughput_model=throughput_model)
    method = find_method(config.method)
    if method.looks_at_time:
        raise InputError("method", method.name, "one whose choices do not depend on time")
    if config.fleet is not None:
        raise InputError("fleet", config.fleet, "simulated Jetsons, which have modes")
    setting = FederatedSetting(config)
    rows: list[dict[str, Any]] = []
    for row in result.rows:
        statuses = setting.fleet.statuses(row["round"] - 1)
        devices = _under_speeds(
            row["devices"], [status.flops_per_second for status in statuses], setting.costs
        )
        times = set_clock(devices, rows[-1]["sim_time_s"] if rows else 0.0)
        rows.append(row | times | {"devices": devices})
    key, trained = run_id(all_settings([config])[0]), result.trained_as or result.run_id
    trained_as = None if trained == key else trained
    return dataclasses.replace(result, config=config, run_id=key, rows=rows, trained_as=trained_as)


def _under_speeds(
    devices: Mapping[str, list[Any]], speeds: list[float], costs: LayerCosts
) -> dict[str, list[Any]]:
    """The columns of a round's devices with other speeds, and the seconds that follow."""
    columns = dict(devices) | {"flops_per_second": speeds, "probe_time_s": []}
    columns["completion_time_s"] = []
    for at, speed in enumerate(speeds):
        device = {name: values[at] for name, values in devices.items()}
        probe_time_s, completion_time_s = _seconds(device, speed, costs)
        columns["probe_time_s"].append(probe_time_s)
        columns["completion_time_s"].append(completion_time_s)
    return columns


def _seconds(
    device: Mapping[str, Any], speed: float, costs: LayerCosts
) -> tuple[float | None, float | None]:
    """Time of the probe and of the whole round at another speed; None for what was not done.

    FLOPs and steps are whole numbers: they are found by rounding, and the seconds made
    of them as a run makes them.
    """
    recorded, recorded_speed = device["probe_time_s"], device["flops_per_second"]
    probe_flops = None if recorded is None else round(recorded * recorded_speed)
    flops = steps = None
    if device["completion_time_s"] is not None:
        flops = costs.price(_assignment(device, costs.num_layers)).flops
        local_time_s = device["completion_time_s"] - (recorded or 0.0)
        steps = round(local_time_s * recorded_speed / flops)

    def at(q: float) -> tuple[float | None, float | None]:
        probe_time_s = None if probe_flops is None else probe_flops / q
        if flops is None:
            return probe_time_s, None
        return probe_time_s, (probe_time_s or 0.0) + steps * flops / q

    found = (recorded, device["completion_time_s"])
    if at(recorded_speed) != found:
        accepted = f"{at(recorded_speed)}, which its assignment and these costs give"
        raise InputError(f"times of {device['device_id']}", found, accepted)
    return at(speed)


def _assignment(device: Mapping[str, Any], num_layers: int) -> Assignment:
    trainable = parse_layers(device["trainable_layers"])
    return Assignment(
        num_layers=num_layers,
        active_layers=parse_layers(device["active_layers"]),
        trainable_layers=trainable,
        quantized_layers=trainable[: device["quantized"]],
        lora_rank=device["lora_rank"],
    )
