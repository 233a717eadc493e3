"""FedRA: every device trains a random sub-model of the layers it can afford (ECCV 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np

from fedquad.config import Assignment
from fedquad.fleet.fleet import DeviceStatus
from fedquad.methods.aggregation import LayerwiseMean
from fedquad.methods.budget import under_policy
from fedquad.methods.method import Accumulator, History, Method
from fedquad.model.adapter import Adapter

# Its own branch of (seed, round), so that no other draw repeats it.
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
        ranks = self._ranks(history.round_idx, len(statuses))
        sub_model = cache(self._sub_model)  # the same layers are drawn by many of many devices
        assignments = []
        for status, rank in zip(statuses, ranks, strict=True):
            layers = tuple(np.flatnonzero(rank < status.depth_budget).tolist())
            assignments.append(under_policy(self.setting, status, sub_model(layers)))
        return assignments

    def accumulator(self, global_adapter: Adapter) -> Accumulator:
        return LayerwiseMean(global_adapter)

    def _ranks(self, round_idx: int, num_devices: int) -> np.ndarray:
        """A random order of the layers for each device, of shape (n, L).

        Row i is the i-th of a stream of rows, the same however many follow.
        """
        sequence = np.random.SeedSequence((self.setting.seed, round_idx), spawn_key=_DRAW)
        numbers = np.random.default_rng(sequence).random((num_devices, self.setting.num_layers))
        return numbers.argsort(axis=1).argsort(axis=1)

    def _sub_model(self, layers: tuple[int, ...]) -> Assignment | None:
        if not layers:
            return None
        return Assignment(
            num_layers=self.setting.num_layers,
            active_layers=layers,
            trainable_layers=layers,
            lora_rank=self.setting.lora_rank,
        )
