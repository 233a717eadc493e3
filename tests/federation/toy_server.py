"""A server over the toy host, with costs, devices and choices that can be computed by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from toy_host import NUM_LAYERS, RANK, ToyHost

from fedquad.config import Assignment, FederatedConfig, run_id
from fedquad.cost.layer_costs import LayerCosts
from fedquad.federation.executor import InProcessExecutor
from fedquad.federation.results import FederatedResult, federated_result
from fedquad.federation.server import Server
from fedquad.federation.setting import FederatedSetting
from fedquad.fleet.fleet import DeviceStatus, FixedFleet
from fedquad.methods.aggregation import LayerwiseMean
from fedquad.methods.method import Accumulator, History, Method
from fedquad.model.adapter import Adapter
from fedquad.runs.store import RunStore

COSTS = LayerCosts(
    num_layers=NUM_LAYERS,
    fixed_bytes=100,
    bytes_per_lora_layer=10,
    bytes_saved_per_quantized_layer=6,
    forward_flops=30,
    flops_per_lora_layer=20,
    flops_per_quantized_layer=5,
)
LOCAL_STEPS = 2


def statuses(*devices: tuple[int, float]) -> list[DeviceStatus]:
    """Devices ``one, two, …`` from depth budgets and rates; memory exactly that of the depth."""
    names = ("one", "two", "three", "four")
    return [
        DeviceStatus(
            device_id=name,
            depth_budget=depth,
            memory_budget_bytes=100 + 10 * depth,
            flops_per_second=rate,
        )
        for name, (depth, rate) in zip(names, devices, strict=False)
    ]


THREE = statuses((3, 10.0), (2, 10.0), (1, 40.0))


def make_setting(
    devices: Sequence[DeviceStatus] = THREE, method: str | Scripted = "fedlora", **changes: Any
) -> FederatedSetting:
    """A setting whose parts are given here rather than found by the names in its config."""
    values = {"num_rounds": 2, "lora_rank": RANK, "clock_local_steps": LOCAL_STEPS}
    if isinstance(method, str):
        values["method"] = method
    setting = FederatedSetting(FederatedConfig(**values | changes))
    setting.__dict__["num_layers"] = NUM_LAYERS
    setting.__dict__["costs"] = COSTS
    setting.__dict__["fleet"] = FixedFleet(devices)
    if isinstance(method, Scripted):
        method.setting = setting.method.setting
        setting.__dict__["method"] = method
    return setting


def make_server(
    setting: FederatedSetting, folder: Path, fates: Mapping[str, str] | None = None
) -> tuple[Server, ToyHost]:
    host = ToyHost({"folder": str(folder), "fates": dict(fates or {})})
    return Server(setting, InProcessExecutor(host)), host


def store_run(
    setting: FederatedSetting,
    store: RunStore,
    folder: Path,
    fates: Mapping[str, str] | None = None,
    on_round: Any = None,
) -> FederatedResult:
    """Play a run to its end, from where the store has it; ``on_round(row, host)``."""
    server, host = make_server(setting, folder, fates)
    settings = {"method_options": dict(setting.config.method_options), "seed": setting.config.seed}
    settings |= {"method": setting.config.method, "task": "toy"}
    with store.open(settings, {}) as run:
        run.log(event="started", environment={"cpu": "here"})
        server.go_on(
            run,
            lambda row: run.log(event="round", round=row["round"], wall_time_s=1.5, rss_bytes=1),
            lambda row: on_round and on_round(row, host),
        )
    stored = store.read(settings)
    assert stored.run_id == run_id(settings)
    return federated_result(setting.config, stored, from_record=False)


class Scripted(Method):
    """Trains what a script says, ``script[round][device]``: layers, or None; and keeps a diary."""

    def __init__(self, script: Sequence[Sequence[tuple[int, ...] | None]]) -> None:
        self.script = script
        self.histories: list[History] = []

    def assign(self, statuses: Sequence[DeviceStatus], history: History) -> list[Assignment | None]:
        self.histories.append(history)
        return [
            layers
            and Assignment(
                num_layers=NUM_LAYERS,
                active_layers=tuple(range(NUM_LAYERS)),
                trainable_layers=layers,
                lora_rank=RANK,
            )
            for layers in self.script[history.round_idx]
        ]

    def accumulator(self, global_adapter: Adapter) -> Accumulator:
        return LayerwiseMean(global_adapter)
