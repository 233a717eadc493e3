"""HetLoRA: every device at a LoRA rank of its own, pruned as it trains (EMNLP 2024)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, ClassVar

import torch
from peft import PeftModel
from torch import Tensor

from fedquad.config import Assignment, InputError, require_int
from fedquad.fleet.fleet import DeviceStatus
from fedquad.methods.aggregation import TensorSum, require_same_tensors
from fedquad.methods.budget import under_policy
from fedquad.methods.method import (
    Accumulator,
    History,
    LocalUpdate,
    Method,
    MethodSetting,
    Penalty,
)
from fedquad.model.adapter import AdaptedMatrix, Adapter, adapted_matrices
from fedquad.model.lora import lora_tensors


class HetLoRA(Method):
    """Heterogeneous LoRA (Cho et al., https://arxiv.org/abs/2401.06432).

    A device trains all layers at rank r_i = min(kept rank, round(r_max d_i / L)),
    at least 1, on the first r_i rows of A and columns of B. Its local loss has

        penalty_weight * sum over adapted matrices ||B[:, gamma r_i:]|| ||A[gamma r_i:, :]||

    (Frobenius norms), and where that sum shrank during its steps, it sends only
    the first floor(gamma r_i) rows and columns (at least one less, never none):
    its kept rank from then on. Server: `SparsityWeightedMean`.

    Parameters
    ----------
    setting : MethodSetting
    gamma : float
        Share of the rank that pruning keeps, between 0 and 1.
    penalty_weight : float
        Of the term in the local loss, 0 or more.
    """

    name = "hetlora"
    label = "HetLoRA"
    defaults: ClassVar[dict[str, float]] = {"gamma": 0.99, "penalty_weight": 1e-3}

    def __init__(
        self, setting: MethodSetting, gamma: float = 0.99, penalty_weight: float = 1e-3
    ) -> None:
        super().__init__(setting)
        if not 0 < gamma < 1:
            raise InputError("gamma", gamma, "a number between 0 and 1")
        if not 0 <= penalty_weight < math.inf:
            raise InputError("penalty_weight", penalty_weight, "a number >= 0")
        self.gamma = gamma
        self.penalty_weight = penalty_weight
        self._kept_ranks: dict[int, int] = {}

    def assign(self, statuses: Sequence[DeviceStatus], history: History) -> list[Assignment | None]:
        at_rank = cache(self._at_rank)  # there are few ranks and may be many devices
        return [
            under_policy(self.setting, status, at_rank(self._rank(device, status)))
            for device, status in enumerate(statuses)
        ]

    def penalty(self, assignment: Assignment) -> Penalty | None:
        """The term above; the model's rows beyond the assigned rank are zero and add nothing."""
        pruned = self._pruned(assignment.lora_rank)
        if pruned == assignment.lora_rank or self.penalty_weight == 0:
            return None

        def of_model(model: PeftModel) -> Tensor:
            return self.penalty_weight * _tail_product(lora_tensors(model), pruned)

        return of_model

    def finish_update(self, received: Adapter, trained: Adapter, assignment: Assignment) -> Adapter:
        """What was trained, at the lower rank where its last rows and columns shrank."""
        sent = trained.layers(assignment.trainable_layers)
        pruned = self._pruned(assignment.lora_rank)
        with torch.no_grad():
            before, after = (_tail_product(a.lora, pruned) for a in (received, trained))
        return sent.truncate_rank(pruned) if after < before else sent

    def accumulator(self, global_adapter: Adapter) -> Accumulator:
        return SparsityWeightedMean(global_adapter, self._learn_rank)

    def state_dict(self) -> dict[str, Any]:
        """Kept rank of each device that has pruned."""
        return {"kept_ranks": {str(device): r for device, r in sorted(self._kept_ranks.items())}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`; `InputError` for what it did not write."""
        ranks = state.get("kept_ranks")
        if not isinstance(ranks, Mapping) or not all(str(key).isdecimal() for key in ranks):
            raise InputError("state of hetlora", state, '{"kept_ranks": rank by device}')
        for rank in ranks.values():
            require_int("kept rank", rank, 1, self.setting.lora_rank)
        self._kept_ranks = {int(device): rank for device, rank in ranks.items()}

    def _rank(self, device: int, status: DeviceStatus) -> int:
        # round() to the nearest, halves up, as depths are mapped between models.
        share = self.setting.lora_rank * status.depth_budget / self.setting.num_layers
        affordable = max(1, math.floor(share + 0.5))
        return min(self._kept_ranks.get(device, self.setting.lora_rank), affordable)

    def _at_rank(self, rank: int) -> Assignment:
        layers = tuple(range(self.setting.num_layers))
        return Assignment(
            num_layers=len(layers), active_layers=layers, trainable_layers=layers, lora_rank=rank
        )

    def _pruned(self, rank: int) -> int:
        # The small number keeps 0.29 * 100 = 28.999... at 29.
        return max(1, min(math.floor(self.gamma * rank + 1e-9), rank - 1))

    def _learn_rank(self, update: LocalUpdate) -> None:
        if update.lora_rank < update.assignment.lora_rank:
            self._kept_ranks[update.device] = update.lora_rank


class SparsityWeightedMean(Accumulator):
    """Mean weighted by ||B_i A_i||, for each adapted matrix by itself; the head's is uniform.

    Updates are padded with zeros to the global rank. The weight of device i is
    its Frobenius norm over the sum of all, applied to A and to B. Where every
    norm is 0 the mean is uniform. One adapter of running sums is held: the
    uniform sum goes as soon as there is a weight.

    Parameters
    ----------
    global_adapter : Adapter
    on_add : callable
        Told of each update that was taken.
    """

    def __init__(self, global_adapter: Adapter, on_add: Callable[[LocalUpdate], None]) -> None:
        self._global = global_adapter
        self._rank = global_adapter.rank
        self._on_add = on_add
        self._weighted: dict[tuple[int, str], TensorSum] = {}
        self._uniform: dict[tuple[int, str], TensorSum] = {}
        self._head = TensorSum()

    def add(self, update: LocalUpdate) -> None:
        """Take one device's update; `InputError` for one that does not fit."""
        # Padded layer by layer, so that no second adapter is held; first all are checked.
        layers = [update.adapter.layers([layer]) for layer in update.adapter.lora]
        for layer in layers:
            require_same_tensors(layer.pad_rank(self._rank), self._global, update.device)
        for layer in layers:
            self._add_layer(layer)
        self._head.add(update.adapter.head)
        self._on_add(update)

    def _add_layer(self, layer: Adapter) -> None:
        padded = adapted_matrices(layer.pad_rank(self._rank).lora)
        for matrix, small in zip(padded, adapted_matrices(layer.lora), strict=True):
            self._add_matrix(matrix, product_norm(small.lora_a, small.lora_b))

    def _add_matrix(self, padded: AdaptedMatrix, weight: float) -> None:
        key = padded.layer, padded.a_name
        if weight > 0:
            self._uniform.pop(key, None)
            self._weighted.setdefault(key, TensorSum()).add(padded.tensors, weight)
        elif key not in self._weighted:
            self._uniform.setdefault(key, TensorSum()).add(padded.tensors)

    def finish(self) -> Adapter:
        totals = self._uniform | self._weighted
        lora: dict[int, dict[str, Tensor]] = {layer: {} for layer in self._global.lora}
        for matrix in adapted_matrices(self._global.lora):
            total = totals.get((matrix.layer, matrix.a_name), TensorSum())
            lora[matrix.layer] |= total.mean_or(matrix.tensors)
        return Adapter(lora, self._head.mean_or(self._global.head), self._global.layout)


def product_norm(lora_a: Tensor, lora_b: Tensor) -> float:
    """||B A||_F without forming B A.

    It is the root of the sum of (B^T B) * (A A^T), both r x r, in float64: the
    fp32 entries and their products are exact there.

    Parameters
    ----------
    lora_a : Tensor, shape (r, in)
    lora_b : Tensor, shape (out, r)
    """
    a, b = lora_a.double(), lora_b.double()
    return math.sqrt(max(0.0, ((b.T @ b) * (a @ a.T)).sum().item()))


def _tail_product(lora: Mapping[int, Mapping[str, Tensor]], start: int) -> Tensor:
    """Sum of ||B[:, start:]||_F ||A[start:, :]||_F over the adapted matrices, a scalar."""
    norm = torch.linalg.vector_norm
    products = [norm(m.lora_b[:, start:]) * norm(m.lora_a[start:]) for m in adapted_matrices(lora)]
    return torch.stack(products).sum()
