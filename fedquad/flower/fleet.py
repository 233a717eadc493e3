"""Real devices as a fleet: what they measured in place of what a simulated one would report."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cached_property

from fedquad.cost.layer_costs import LayerCosts
from fedquad.cost.reference_costs import ReferenceCosts, reference_costs
from fedquad.federation.jobs import Failure
from fedquad.federation.setting import FederatedSetting
from fedquad.federation.wire import MAX_HEADER_BYTES, WireError
from fedquad.fleet.fleet import DeviceStatus, Fleet, depth_budget
from fedquad.flower.nodes import HELLO, Nodes
from fedquad.flower.payloads import ANSWER, DeviceReport
from fedquad.flower.records import read

_log = logging.getLogger(__name__)


class NodeFleet(Fleet):
    """The devices of a deployment.

    An update brings its device's report, which is its status before the next
    round; devices that sent none are asked. Of one that does not answer the last
    status is kept: what it is assigned fails then, and is counted.

    Parameters
    ----------
    nodes : Nodes
        Connected.
    reports : sequence of DeviceReport
        By index of the device.
    costs : LayerCosts
        Of the trained model.
    """

    def __init__(self, nodes: Nodes, reports: Sequence[DeviceReport], costs: LayerCosts) -> None:
        self._nodes = nodes
        self._reports = list(reports)
        self._costs = costs
        self._fresh = set(range(len(reports)))

    @property
    def num_devices(self) -> int:
        return len(self._reports)

    def take(self, device: int, report: DeviceReport) -> None:
        """What a device says of itself beside an update."""
        if report.name != self._reports[device].name:
            raise WireError("name", report.name, self._reports[device].name)
        self._reports[device] = report
        self._fresh.add(device)

    def statuses(self, round_idx: int) -> list[DeviceStatus]:
        stale = [device for device in range(self.num_devices) if device not in self._fresh]
        answers = self._nodes.ask(HELLO, ((device, {}) for device in stale))
        for device, answer in zip(stale, answers, strict=True):
            try:
                if isinstance(answer, Failure):
                    raise WireError("status", answer.reason, "one")
                message = read(answer, ANSWER, MAX_HEADER_BYTES)
                self.take(device, DeviceReport.decode(message))
            except WireError as error:
                name = self._reports[device].name
                _log.warning("round %d: no status of %s: %s", round_idx + 1, name, error)
        self._fresh.clear()
        return [self._status(report) for report in self._reports]

    def _status(self, report: DeviceReport) -> DeviceStatus:
        memory = report.memory_budget_bytes
        return DeviceStatus(
            device_id=report.name,
            depth_budget=depth_budget(memory, self._costs),
            memory_budget_bytes=memory,
            flops_per_second=report.flops_per_second,
        )


class DeployedSetting(FederatedSetting):
    """The setting of a run on real devices, as the server knows it.

    Costs are those of the trained model itself, at its own batch size and length,
    and the clock's local steps those that are trained: seconds are predictions of
    real ones. ``fleet`` is set once the devices are connected.

    Parameters
    ----------
    config : FederatedConfig
        ``clock_local_steps`` is set.
    """

    @cached_property
    def reference(self) -> ReferenceCosts:
        """Of the trained model: counted, a few seconds for a small encoder."""
        config = self.config
        return reference_costs(
            config.model,
            config.batch_size,
            config.max_length,
            activation_bits=self.counted_bits,
        )
