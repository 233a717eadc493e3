"""InclusiveFL: sub-models of the first layers, and momentum between their sizes (KDD 2022)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import cache
from typing import ClassVar

from torch import Tensor

from fedquad.config import Assignment, InputError
from fedquad.fleet.fleet import DeviceStatus
from fedquad.methods.aggregation import LayerwiseMean
from fedquad.methods.budget import under_policy
from fedquad.methods.method import Accumulator, History, LocalUpdate, Method, MethodSetting
from fedquad.model.adapter import Adapter


class InclusiveFL(Method):
    """No one left behind (Liu et al., https://arxiv.org/abs/2202.08036).

    A device trains the sub-model of the first d_i layers, with the head on top of
    the last of them. Server: `MomentumMean`.

    Parameters
    ----------
    setting : MethodSetting
    beta : float
        Share of the next larger size in the update of a size's top layer, 0 to 1.
        The authors' formula and value; their released code never applies it.
    """

    name = "inclusivefl"
    label = "InclusiveFL"
    defaults: ClassVar[dict[str, float]] = {"beta": 0.2}

    def __init__(self, setting: MethodSetting, beta: float = 0.2) -> None:
        super().__init__(setting)
        if not 0 <= beta <= 1:
            raise InputError("beta", beta, "a number from 0 to 1")
        self.beta = beta

    def assign(self, statuses: Sequence[DeviceStatus], history: History) -> list[Assignment | None]:
        sub_model = cache(self._first_layers)  # there are few sizes and may be many devices
        return [
            under_policy(self.setting, status, sub_model(status.depth_budget))
            for status in statuses
        ]

    def smaller(self, assignment: Assignment) -> Assignment | None:
        """The next smaller sub-model: the server knows no other parts of one."""
        return self._first_layers(len(assignment.trainable_layers) - 1)

    def accumulator(self, global_adapter: Adapter) -> Accumulator:
        return MomentumMean(global_adapter, self.beta)

    def _first_layers(self, count: int) -> Assignment | None:
        if count < 1:
            return None
        layers = tuple(range(count))
        return Assignment(
            num_layers=self.setting.num_layers,
            active_layers=layers,
            trainable_layers=layers,
            lora_rank=self.setting.lora_rank,
        )


class MomentumMean(Accumulator):
    """Layer-wise mean over the holders, after momentum distillation between sizes.

    Let D_k[l] be the mean update of layer l over the n_k devices of size k (what
    they send minus the global value), layers from 0. For each size k with a next
    larger one k' among this round's devices, the update of its top layer becomes

        D'_k[k-1] = (1 - beta) D_k[k-1] + beta mean(D_k'[k-1], ..., D_k'[k'-1]),

    which hands down what the larger model learned in the layers that the smaller
    one lacks. The right side holds updates as they came, so the order of the
    sizes is of no matter. Then a layer's new value is its old one plus the mean
    of its updates over all devices that hold it; layers above the largest size
    keep their values. So with n[l] holders of layer l = k-1, its plain mean over
    them moves by n_k / n[l] * (D'_k[l] - D_k[l]); that is how it is computed, and
    with beta = 0 or a single size it is Eq. (19).

    Held is one adapter a size.
    """

    def __init__(self, global_adapter: Adapter, beta: float) -> None:
        self._global = global_adapter
        self._beta = beta
        self._sizes: dict[int, LayerwiseMean] = {}

    def add(self, update: LocalUpdate) -> None:
        """Take one device's update; `InputError` for one that does not fit."""
        size = len(update.assignment.trainable_layers)
        if sorted(update.adapter.lora) != list(range(size)):
            raise InputError(
                f"layers of device {update.device}",
                sorted(update.adapter.lora),
                f"the first {size}, those of its sub-model",
            )
        mean = self._sizes.get(size) or LayerwiseMean(self._global)
        mean.add(update)
        self._sizes[size] = mean

    def finish(self) -> Adapter:
        whole = LayerwiseMean(self._global)
        for size in sorted(self._sizes):
            whole.merge(self._sizes[size])
        adapter = whole.finish()
        if self._beta == 0:
            return adapter
        for size, larger in itertools.pairwise(sorted(self._sizes)):
            top = size - 1
            own = self._sizes[size].layer_change(top)
            handed_down = self._mean_change(larger, range(top, larger))
            share = self._sizes[size].layer_weight(top) / whole.layer_weight(top)
            for name, tensor in adapter.lora[top].items():
                tensor.add_(handed_down[name] - own[name], alpha=self._beta * share)
        return adapter

    def _mean_change(self, size: int, layers: range) -> dict[str, Tensor]:
        total: dict[str, Tensor] = {}
        for layer in layers:
            for name, change in self._sizes[size].layer_change(layer).items():
                total[name] = total[name] + change if name in total else change
        return {name: tensor / len(layers) for name, tensor in total.items()}
