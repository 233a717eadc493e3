"""What a server does in a round whose devices answer at once: its time and memory by their number.

Updates are prepared: one for each assignment, given to every device that has it.
"""

from __future__ import annotations

import dataclasses
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np

from fedquad.benchmarks.federation import FederationPlan, stored_rounds
from fedquad.benchmarks.plan import group_of
from fedquad.benchmarks.record import Record
from fedquad.benchmarks.timing import Deadline, quantiles
from fedquad.config import Assignment, FederatedConfig
from fedquad.cost.layer_costs import LayerCosts
from fedquad.cost.live_bytes import LiveBytes
from fedquad.cost.reference_costs import reference_costs
from fedquad.federation.executor import Executor
from fedquad.federation.jobs import DeviceJob
from fedquad.federation.server import Server
from fedquad.federation.setting import CLOCK_BATCH_SIZE, CLOCK_LENGTH, FederatedSetting
from fedquad.fleet.jetson_fleet import JetsonFleet
from fedquad.methods import History, LocalUpdate, MethodSetting, create_method
from fedquad.methods.fedquad import FedQuad
from fedquad.methods.selection import select_configurations
from fedquad.model.adapter import Adapter
from fedquad.model.lora import attach_lora
from fedquad.training.local import Evaluation

SERVER_METHODS = ("fedquad", "fedra")
AGGREGATED_METHODS = ("fedquad", "inclusivefl", "hetlora")
_SERVER_ROUNDS = 3
_SELECTION_REPEATS = 5


def run_selection(plan: FederationPlan, record: Record, deadline: Deadline) -> None:
    """Time Algorithm 1 at the reference model's 24 layers, and what it allocates."""
    costs = reference_costs(plan.config.reference_model, CLOCK_BATCH_SIZE, CLOCK_LENGTH).costs
    for count in plan.devices:
        name = f"federated selection, {count} devices"
        if deadline.passed or record.has(name):
            continue
        select = _selection(costs, count)
        with group_of(record, name) as rows:
            row = _row("selection", f"{count} devices", "fedquad") | {"devices": count}
            row |= {"layers": costs.num_layers, **_times(select, _SELECTION_REPEATS)}
            rows.append(row | {"peak_bytes": _traced_peak(select)})


def run_aggregation(plan: FederationPlan, record: Record, deadline: Deadline) -> None:
    """Watch the bytes that are alive while many updates are aggregated, one after the other."""
    name = f"federated aggregation, {plan.updates} updates"
    if deadline.passed or record.has(name):
        return
    setting = _setting(plan.config, 10)
    adapter = fresh_adapter(setting)
    with group_of(record, name) as rows:
        for method in AGGREGATED_METHODS:
            measured = _aggregated(setting, method, adapter, plan.updates)
            row = _row("aggregation", f"{plan.updates} updates", method)
            rows.append(row | {"updates": plan.updates, **measured})


def run_server(plan: FederationPlan, record: Record, deadline: Deadline) -> None:
    """Time the server's rounds, the record on disk included, by the number of devices."""
    adapter = None
    for method in SERVER_METHODS:
        for count in plan.devices:
            name = f"federated server, {method}, {count} devices"
            if deadline.passed or record.has(name):
                continue
            setting = _setting(plan.config, count, method)
            adapter = adapter or fresh_adapter(setting)
            with (
                group_of(record, name) as rows,
                stored_rounds(Server(setting, PreparedExecutor(adapter))) as (play, _),
            ):
                row = _row("server", f"{count} devices", method) | {"devices": count}
                rows.append(row | _times(play, _SERVER_ROUNDS))


class PreparedExecutor(Executor):
    """Devices that answer at once, with the global adapter's own layers."""

    def __init__(self, adapter: Adapter) -> None:
        self._global = adapter
        self._evaluation = Evaluation(0.5, 0.7, np.arange(1000) % 2 == 0)

    def global_adapter(self) -> Adapter:
        return self._global

    def broadcast(self, adapter: Adapter) -> None:
        self._global = adapter

    def fine_tune(self, jobs: Sequence[DeviceJob]) -> Iterator[LocalUpdate]:
        prepared = cache(self._adapter)
        for job in jobs:
            layers = job.assignment.trainable_layers
            yield LocalUpdate(
                device=job.device,
                assignment=job.assignment,
                adapter=prepared(layers, job.assignment.lora_rank),
                num_samples=100,
                gradient_norms=dict.fromkeys(layers, 1.0),
                train_loss=1.0,
            )

    def probe(self, jobs: Sequence[DeviceJob]) -> list[np.ndarray]:
        return [np.linspace(1.0, 2.0, job.assignment.num_layers) for job in jobs]

    def evaluate(self) -> Evaluation:
        return self._evaluation

    def close(self) -> None:
        """Nothing is held."""

    def _adapter(self, layers: tuple[int, ...], rank: int) -> Adapter:
        return self._global.layers(layers).truncate_rank(rank)


def fresh_adapter(setting: FederatedSetting) -> Adapter:
    """The adapter that a run of this setting starts from, but for B, which is not zero."""
    backbone, config = setting.backbone, setting.config
    model = attach_lora(
        backbone.model,
        rank=config.lora_rank,
        alpha=config.lora_alpha,
        fresh_modules=backbone.fresh_modules,
    )
    adapter = Adapter.from_model(model)
    for tensors in adapter.lora.values():
        for tensor in tensors.values():
            tensor.add_(0.01)
    return adapter


def _setting(config: FederatedConfig, count: int, method: str = "fedquad") -> FederatedSetting:
    # The paper's steps for the task, so that no row has to be counted.
    changes = {"num_devices": count, "method": method, "clock_local_steps": 123}
    return FederatedSetting(dataclasses.replace(config, **changes))


def _selection(costs: LayerCosts, count: int) -> Callable[[], None]:
    """Algorithm 1 for as many devices, from what they report to their configurations."""
    method = FedQuad(MethodSetting(costs=costs, local_steps=123))
    statuses = JetsonFleet(count, "high", costs).statuses(0)
    norms = np.linspace(1.0, 2.0, costs.num_layers)
    history = History(round_idx=0, mean_completion_time_s=None, gradient_norms=norms)
    return lambda: select_configurations(method.problem(statuses, history))


def _aggregated(
    setting: FederatedSetting, method: str, adapter: Adapter, updates: int
) -> dict[str, Any]:
    """Peak bytes over those of the adapter; updates are made when they are asked for."""
    made = create_method(method, setting.method.setting)
    statuses = setting.fleet.statuses(0)
    norms = np.ones(setting.num_layers)
    history = History(round_idx=0, mean_completion_time_s=None, gradient_norms=norms)
    assignments = [one for one in made.assign(statuses, history) if one is not None]
    accumulator = made.accumulator(adapter)
    known = adapter.state().values()
    started = time.perf_counter()
    with LiveBytes(known) as live:
        for device in range(updates):
            accumulator.add(_copy(adapter, assignments[device % len(assignments)], device))
        peak = live.peak
        accumulator.finish()
    sizes = len({len(one.trainable_layers) for one in assignments})
    return {
        "status": "ok",
        "adapter_bytes": adapter.num_bytes,
        "peak_bytes": peak,
        "finish_peak_bytes": live.peak,
        "sub_model_sizes": sizes,
        "watched_s": time.perf_counter() - started,
    }


def _copy(adapter: Adapter, assignment: Assignment, device: int) -> LocalUpdate:
    """An update with tensors of its own."""
    state = {}
    for layer in assignment.trainable_layers:  # one by one: a lower rank is a copy already
        sent = adapter.layers([layer]).truncate_rank(assignment.lora_rank)
        state |= {name: tensor.clone() for name, tensor in sent.state().items()}
    return LocalUpdate(
        device=device,
        assignment=assignment,
        adapter=Adapter.from_state(state, adapter.layout),
        num_samples=100,
        gradient_norms=dict.fromkeys(assignment.trainable_layers, 1.0),
        train_loss=1.0,
    )


def _row(operation: str, shape: str, method: str) -> dict[str, Any]:
    return {"kind": "federation", "operation": operation, "shape": shape, "method": method}


def _times(call: Callable[[], None], repeats: int) -> dict[str, Any]:
    call()
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return {"status": "ok", "repeats": repeats, **quantiles(seconds, "wall_s")}


def _traced_peak(call: Callable[[], None]) -> int:
    """Most bytes that numpy and Python held at once, beyond what was there."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        call()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
