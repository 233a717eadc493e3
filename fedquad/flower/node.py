"""What a Flower node is to us: one of the simulated devices, or a real one with rows of its own."""

from __future__ import annotations

import dataclasses
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np

from fedquad.config import InputError
from fedquad.federation.checks import check_tensors
from fedquad.federation.device import DeviceHost
from fedquad.federation.fallback import fine_tune_within
from fedquad.federation.jobs import DeviceJob
from fedquad.federation.own_device import OwnDevice, OwnSetting, measured_flops_per_second
from fedquad.federation.setting import FederatedSetting
from fedquad.federation.wire import Message, WireError
from fedquad.fleet.device_memory import DeviceMemory
from fedquad.flower.payloads import DeviceReport, RunSpec
from fedquad.methods.method import LocalUpdate
from fedquad.model.adapter import Adapter


class Node(ABC):
    """A node during a run.

    Parameters
    ----------
    host : DeviceHost
    fresh : Adapter
        The host's before it received any.
    """

    def __init__(self, host: DeviceHost, fresh: Adapter) -> None:
        self.host = host
        self._fresh = fresh

    @abstractmethod
    def report(self) -> DeviceReport:
        """The node's name, and what it can do now."""

    @abstractmethod
    def fine_tune(self, job: DeviceJob) -> tuple[LocalUpdate, DeviceReport | None]:
        """Local steps, and what the node says of itself after them."""

    def probe(self, job: DeviceJob) -> np.ndarray:
        """As `DeviceHost.probe`."""
        return self.host.probe(job)

    def receive(self, message: Message, job: DeviceJob) -> None:
        """Take what the job runs of the global adapter; `WireError` unless it is that."""
        message.require_kind("broadcast")
        try:
            adapter = Adapter.from_state(message.tensors, self._fresh.layout)
        except InputError as error:
            raise WireError(error.field, error.value, error.accepted) from None
        layers = tuple(adapter.lora)
        if layers != job.assignment.active_layers:
            raise WireError("layers", layers, str(job.assignment.active_layers))
        check_tensors(adapter, self._fresh, job.assignment.lora_rank)
        self.host.receive(adapter)


class SimulatedNode(Node):
    """One of the run's simulated devices: the one that Flower's partition id says."""

    def __init__(self, host: DeviceHost, fresh: Adapter, partition: int) -> None:
        super().__init__(host, fresh)
        self.partition = partition

    def report(self) -> DeviceReport:
        return DeviceReport(name=str(self.partition))

    def fine_tune(self, job: DeviceJob) -> tuple[LocalUpdate, DeviceReport | None]:
        if job.device != self.partition:
            raise WireError("device", job.device, f"{self.partition}, which this node is")
        return self.host.fine_tune(job), None


class RealNode(Node):
    """A device with its own rows, which measures its memory and speed.

    Parameters
    ----------
    host : OwnDevice
    setting : OwnSetting
        What the host was made from.
    name : str
    memory : DeviceMemory
        Made before the host.
    state : dict
        What it keeps between requests: ``flops_per_second`` as it was last
        measured, and ``memory_cap_bytes``, above which it once ran out of memory.
    """

    def __init__(
        self,
        host: OwnDevice,
        setting: OwnSetting,
        name: str,
        memory: DeviceMemory,
        state: dict[str, Any],
    ) -> None:
        super().__init__(host, host.global_adapter())
        self._setting = setting
        self._name = name
        self._memory = memory
        self._memory.cap_bytes = state.get("memory_cap_bytes")
        self._state = state

    def report(self) -> DeviceReport:
        if "flops_per_second" not in self._state:
            costs = self._setting.costs
            speed = measured_flops_per_second(self.host, costs, self._setting.num_layers)
            self._state["flops_per_second"] = speed
        return DeviceReport(
            name=self._name,
            memory_budget_bytes=self._memory.budget_bytes(),
            flops_per_second=self._state["flops_per_second"],
        )

    def fine_tune(self, job: DeviceJob) -> tuple[LocalUpdate, DeviceReport | None]:
        start = time.perf_counter()
        update, fallback = fine_tune_within(
            self.host,
            job,
            memory=self._memory,
            costs=self._setting.costs,
            method=self._setting.method,
        )
        seconds = time.perf_counter() - start
        if fallback is None:
            steps = self.host.config.local_steps
            flops = steps * self._setting.costs.price(job.assignment).flops
            self._state["flops_per_second"] = flops / seconds
        elif fallback.too_many_bytes is not None:
            self._memory.cap_bytes = fallback.too_many_bytes - 1
            self._state["memory_cap_bytes"] = self._memory.cap_bytes
        return update, self.report().with_fallback(fallback)


# Of the run that this process last worked for: a simulation's processes work for many nodes.
_shared: dict[bytes, tuple[DeviceHost, Adapter]] = {}


def simulated_node(spec: RunSpec, node_config: Mapping[str, Any], torch_device: str) -> Node:
    """The node that ``partition-id`` in Flower's node config names; all share one host."""
    key = spec.encode()
    if key not in _shared:
        _shared.clear()
        host = DeviceHost(FederatedSetting(spec.config), torch_device)
        _shared[key] = host, host.global_adapter()
    partition = node_config.get("partition-id")
    if type(partition) is not int or not 0 <= partition < spec.config.num_devices:
        accepted = f"an index below {spec.config.num_devices}, the run's number of devices"
        raise InputError("partition-id of a node", partition, accepted)
    return SimulatedNode(*_shared[key], partition)


def real_node(
    spec: RunSpec, node_config: Mapping[str, Any], torch_device: str, state: dict[str, Any]
) -> Node:
    """The device that a node's owner describes in Flower's node config.

    ``data``: folder with its ``train.tsv``; ``name``: of the device (``partition-id``
    otherwise); ``model``: a folder with the run's encoder, where its name is not
    enough; ``memory-limit-mb``: what the process may take.
    """
    name = str(node_config.get("name", node_config.get("partition-id", "")))
    for field, value in (("name", name), ("data", node_config.get("data"))):
        if not value:
            raise InputError(f"{field} in --node-config", value, _NEEDED[field])
    if spec.costs is None:
        raise WireError("costs", None, "those of the trained model")
    limit_mb = node_config.get("memory-limit-mb")
    if limit_mb is not None and (type(limit_mb) not in (int, float) or limit_mb <= 0):
        raise InputError("memory-limit-mb in --node-config", limit_mb, "a number > 0")
    limit_bytes = None if limit_mb is None else max(1, int(limit_mb * 1e6))
    memory = DeviceMemory(torch_device, limit_bytes=limit_bytes)
    config = dataclasses.replace(spec.config, fleet=None)
    if model := node_config.get("model"):
        config = dataclasses.replace(config, model=str(model))
    setting = OwnSetting(config, str(node_config["data"]), spec.label_names, spec.costs)
    host = OwnDevice(setting, torch_device)
    return RealNode(host, setting, name, memory, state)


_NEEDED = {"name": "a name of the device", "data": "the folder with its train.tsv"}
