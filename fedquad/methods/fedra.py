"""FedRA: every device trains a random sub-model of the layers it can afford (ECCV 2024)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedquad.config import Assignment
from fedquad.fleet.fleet import DeviceStatus
from fedquad.methods.aggregation import LayerwiseMean
from fedquad.methods.budget import under_policy
from fedquad.methods.method import Accumulator, History, Method
from fedquad.model.adapter import Adapter

# Its own branch of (seed, round, device), so that no other draw repeats it.
_DRAW = tuple(b"fedra")


class FedRA(Method):
    """Random allocation (Su et al., https://arxiv.org/abs/2311.11227).

    Each round each device draws d_i of the L layers uniformly without
    replacement; they form its sub-model in their order, the others are skipped
    forward and backward. The draw comes from (seed, round, device) alone. Server:
    per layer the unweighted mean over its holders.
    """

    name = "fedra"
    label = "FedRA"

    def assign(self, statuses: Sequence[DeviceStatus], history: History) -> list[Assignment | None]:
        assignments = []
        for device, status in enumerate(statuses):
            assignment = None
            if status.depth_budget >= 1:
                layers = self._draw(history.round_idx, device, status.depth_budget)
                assignment = Assignment(
                    num_layers=self.setting.num_layers,
                    active_layers=layers,
                    trainable_layers=layers,
                    lora_rank=self.setting.lora_rank,
                )
            assignments.append(under_policy(self.setting, status, assignment))
        return assignments

    def accumulator(self, global_adapter: Adapter) -> Accumulator:
        return LayerwiseMean(global_adapter)

    def _draw(self, round_idx: int, device: int, count: int) -> tuple[int, ...]:
        entropy = (self.setting.seed, round_idx, device)
        rng = np.random.default_rng(np.random.SeedSequence(entropy, spawn_key=_DRAW))
        return tuple(sorted(rng.choice(self.setting.num_layers, count, replace=False).tolist()))
