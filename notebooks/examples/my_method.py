"""A federated method of one's own: the file to copy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from fedquad.config import Assignment, LayerConfig, require_positive
from fedquad.fleet.fleet import DeviceStatus
from fedquad.methods.aggregation import LayerwiseMean
from fedquad.methods.method import Accumulator, History, Method, MethodSetting
from fedquad.methods.selection import feasible_quantized
from fedquad.model.adapter import Adapter


class FillTheRound(Method):
    """The slowest device sets the length of the round; the others train as deep as it allows.

    A round lasts ``slack`` times what the slowest device needs for one layer, with the
    whole forward pass. Every device gets the deepest pair (d, a) that fits its memory
    and ends in that time, so that nobody works longer.
    """

    name = "fill-the-round"
    defaults: ClassVar[dict[str, float]] = {"slack": 1.0}
    looks_at_time = True  # speeds decide: its choices are others under another clock

    def __init__(self, setting: MethodSetting, *, slack: float = 1.0) -> None:
        super().__init__(setting)
        require_positive("slack", slack)
        self.slack = slack

    def assign(self, statuses: Sequence[DeviceStatus], history: History) -> list[Assignment | None]:
        pairs = [self._pairs(status) for status in statuses]
        shortest_s = [options[0][0] for options in pairs if options]
        limit_s = self.slack * max(shortest_s, default=0.0)
        return [self._deepest(options, limit_s) for options in pairs]

    def accumulator(self, global_adapter: Adapter) -> Accumulator:
        return LayerwiseMean(global_adapter, weight_of=lambda update: update.num_samples)

    def _pairs(self, status: DeviceStatus) -> list[tuple[float, Assignment]]:
        """Seconds and assignment of every depth that fits the memory, the shallowest first."""
        budget = np.array([status.memory_budget_bytes])
        (quantized,) = feasible_quantized(self.setting.costs, budget).tolist()
        configs = [LayerConfig(d, a) for d, a in enumerate(quantized, start=1) if a >= 0]
        shape = self.setting.num_layers, self.setting.lora_rank
        options = [Assignment.from_layer_config(config, *shape) for config in configs]
        speed = status.flops_per_second
        return [(self.setting.completion_time_s(option, speed), option) for option in options]

    def _deepest(
        self, options: list[tuple[float, Assignment]], limit_s: float
    ) -> Assignment | None:
        """The last of the options in time, else the first; None for a device that fits nothing."""
        in_time = [option for seconds, option in options if seconds <= limit_s]
        return (in_time or [option for _, option in options[:1]] or [None])[-1]
