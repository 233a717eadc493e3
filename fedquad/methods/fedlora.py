"""FedLoRA: every device trains all layers (Eq. 5)."""

from __future__ import annotations

from collections.abc import Sequence

from fedquad.config import Assignment
from fedquad.fleet.fleet import DeviceStatus
from fedquad.methods.aggregation import LayerwiseMean
from fedquad.methods.budget import under_policy
from fedquad.methods.method import Accumulator, History, Method
from fedquad.model.adapter import Adapter


class FedLoRA(Method):
    """All layers at full rank on every device, uniform mean of every adapter.

    The reference without constraints: it ignores what a device can hold, and its
    depth is the paper's unit of memory. Under ``strict`` a device that cannot
    hold all layers is left out.
    """

    name = "fedlora"
    label = "FedLoRA"

    def assign(self, statuses: Sequence[DeviceStatus], history: History) -> list[Assignment | None]:
        num_layers = self.setting.num_layers
        all_layers = tuple(range(num_layers))
        assignment = Assignment(
            num_layers=num_layers,
            active_layers=all_layers,
            trainable_layers=all_layers,
            lora_rank=self.setting.lora_rank,
        )
        return [under_policy(self.setting, status, assignment) for status in statuses]

    def accumulator(self, global_adapter: Adapter) -> Accumulator:
        return LayerwiseMean(global_adapter)
