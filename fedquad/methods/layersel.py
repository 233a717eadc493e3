"""LayerSel: every device trains the layers that a probe finds important for it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import ClassVar

import numpy as np

from fedquad.config import Assignment, InputError
from fedquad.fleet.fleet import DeviceStatus
from fedquad.methods.aggregation import LayerwiseMean
from fedquad.methods.budget import under_policy
from fedquad.methods.layer_choice import choose_layers
from fedquad.methods.method import Accumulator, History, Method, MethodSetting
from fedquad.model.adapter import Adapter


class LayerSel(Method):
    """Selective layer fine-tuning (Sun et al., https://arxiv.org/abs/2408.15600).

    Before each round every device runs one batch over the whole model, which is
    priced as one step of full depth; the squared gradient norm of a layer is its
    importance there. The server then maximises

        sum_il x_il importance_il - balance * sum over pairs of devices ||x_i - x_j||^2

    under sum_l x_il <= d_i (`fedquad.methods.layer_choice`). All layers run
    forward; what lies above the lowest chosen layer is kept for backward, so a
    choice far from the output can overrun the budget. Server: per layer the mean
    over its holders, weighted by their samples; the head's over all, alike.

    Under ``strict`` the probe covers the top d_i layers, those a device can
    afford, and so does the choice. A device without a probe is left out.

    Parameters
    ----------
    setting : MethodSetting
    balance : float
        lambda >= 0. At 0, the authors' default, a device trains its d_i most
        important layers; of equal ones the layer nearer to the output.
    """

    name = "layersel"
    label = "LayerSel"
    defaults: ClassVar[dict[str, float]] = {"balance": 0.0}

    def __init__(self, setting: MethodSetting, balance: float = 0.0) -> None:
        super().__init__(setting)
        if not 0 <= balance < math.inf:
            raise InputError("balance", balance, "a number >= 0")
        self.balance = balance

    def probe(self, statuses: Sequence[DeviceStatus], round_idx: int) -> list[Assignment | None]:
        num_layers = self.setting.num_layers
        training = cache(self._training)
        probes = []
        for status in statuses:
            depth = self._reach(status)
            probe = training(tuple(range(num_layers - depth, num_layers))) if depth else None
            probes.append(under_policy(self.setting, status, probe))
        return probes

    def assign(self, statuses: Sequence[DeviceStatus], history: History) -> list[Assignment | None]:
        probed = [i for i, s in enumerate(statuses) if i in history.probes and s.depth_budget >= 1]
        assignments: list[Assignment | None] = [None] * len(statuses)
        if not probed:
            return assignments
        num_layers = self.setting.num_layers
        lowest = np.array([num_layers - self._reach(statuses[device]) for device in probed])
        chosen = choose_layers(
            np.stack([history.probes[device] for device in probed]),
            np.array([statuses[device].depth_budget for device in probed]),
            self.balance,
            allowed=np.arange(num_layers) >= lowest[:, None],
        )
        training = cache(self._training)
        for device, row in zip(probed, chosen, strict=True):
            choice = training(tuple(np.flatnonzero(row).tolist()))
            assignments[device] = under_policy(self.setting, statuses[device], choice)
        return assignments

    def accumulator(self, global_adapter: Adapter) -> Accumulator:
        return LayerwiseMean(global_adapter, weight_of=lambda update: update.num_samples)

    def _reach(self, status: DeviceStatus) -> int:
        """How many layers from the output a device may probe and choose from."""
        is_strict = self.setting.budget_policy == "strict"
        return status.depth_budget if is_strict else self.setting.num_layers

    def _training(self, layers: tuple[int, ...]) -> Assignment:
        return Assignment(
            num_layers=self.setting.num_layers,
            active_layers=tuple(range(self.setting.num_layers)),
            trainable_layers=layers,
            lora_rank=self.setting.lora_rank,
        )
