"""An adapter apart from its model: LoRA tensors by layer, and the head."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from fedquad.config import InputError, require_int
from fedquad.model.backbone import find_layers
from fedquad.model.lora import (
    ADAPTER_NAME,
    head_modules,
    head_tensors,
    lora_tensors,
    module_path,
)
from fedquad.model.peft_format import AdapterLayout, read_peft, write_peft

__all__ = ["AdaptedMatrix", "Adapter", "AdapterLayout", "adapted_matrices"]


@dataclass(frozen=True)
class Adapter:
    """LoRA tensors by layer and the head's tensors, on the CPU, apart from any model.

    Attributes
    ----------
    lora : dict of int to dict of str to Tensor
        Per layer ``….lora_A`` of shape (rank, in) and ``….lora_B`` of shape (out, rank).
    head : dict of str to Tensor
        The head's weights by their names in the model.
    layout : AdapterLayout
    """

    lora: dict[int, dict[str, Tensor]]
    head: dict[str, Tensor]
    layout: AdapterLayout

    @classmethod
    def from_model(cls, model: PeftModel) -> Adapter:
        """A copy of the model's LoRA in all layers, and of its head."""
        base = model.get_base_model()
        layers = find_layers(base)
        config = model.peft_config[ADAPTER_NAME]
        scaling = next(
            m.scaling[ADAPTER_NAME] for m in layers.modules() if isinstance(m, LoraLayer)
        )
        layout = AdapterLayout(
            layers_path=module_path(base, layers),
            head_modules=tuple(head_modules(model)),
            scaling=scaling,
            fan_in_fan_out=config.fan_in_fan_out,
            base_model=config.base_model_name_or_path or "",
        )
        lora = {layer: _copies(weights) for layer, weights in lora_tensors(model).items()}
        return cls(lora, _copies(head_tensors(model)), layout)

    def load_into(self, model: PeftModel) -> None:
        """Write the adapter into a model; layers that it does not hold stay as they are.

        A lower rank than the model's fills the first rows of A and columns of B
        and zeros the others. Those get zero gradients as long as both are zero,
        so the model then trains as one of the lower rank.

        Raises
        ------
        InputError
            A layer, name or shape that the model lacks; nothing has been written then.
        """
        layers, head = lora_tensors(model), head_tensors(model)
        pairs = [(f"head.{name}", tensor, head.get(name)) for name, tensor in self.head.items()]
        for layer, tensors in self.lora.items():
            there = layers.get(layer, {})
            pairs += [(f"layers.{layer}.{n}", t, there.get(n)) for n, t in tensors.items()]
        for name, tensor, weight in pairs:
            if weight is None or not _fits(name, tensor, weight):
                found = "no such weight" if weight is None else f"shape {tuple(weight.shape)}"
                shape = tuple(tensor.shape)
                raise InputError("adapter", f"{name} {shape}", f"what the model has: {found}")
        with torch.no_grad():
            for _, tensor, weight in pairs:
                if tensor.shape != weight.shape:
                    weight.zero_()
                weight[tuple(slice(size) for size in tensor.shape)] = tensor.to(weight)

    @property
    def rank(self) -> int:
        """r, the same in all tensors (`InputError` otherwise)."""
        ranks = {
            tensor.shape[_rank_axis(name)]
            for tensors in self.lora.values()
            for name, tensor in tensors.items()
        }
        if len(ranks) != 1:
            raise InputError("adapter rank", sorted(ranks), "LoRA tensors, all of one rank")
        return ranks.pop()

    @property
    def num_bytes(self) -> int:
        """Bytes of all tensors, LoRA and head."""
        return sum(tensor.nbytes for tensor in self.state().values())

    def layers(self, layers: Iterable[int]) -> Adapter:
        """The same head with the LoRA of these layers only."""
        layers = sorted(layers)
        for layer in layers:
            if layer not in self.lora:
                raise InputError("layers", layer, f"layers of the adapter: {sorted(self.lora)}")
        return replace(self, lora={layer: self.lora[layer] for layer in layers})

    def truncate_rank(self, rank: int) -> Adapter:
        """The first ``rank`` rows of each A and columns of each B; alpha / r stays as it was."""
        require_int("rank", rank, 1, self.rank)
        lora = {
            layer: {
                name: tensor.narrow(_rank_axis(name), 0, rank).contiguous()
                for name, tensor in tensors.items()
            }
            for layer, tensors in self.lora.items()
        }
        return replace(self, lora=lora)

    def pad_rank(self, rank: int) -> Adapter:
        """Zeros below each A and beside each B up to ``rank``: the same B A, of more rows."""
        require_int("rank", rank, self.rank)
        lora = {
            layer: {name: _padded(tensor, _rank_axis(name), rank) for name, tensor in ts.items()}
            for layer, ts in self.lora.items()
        }
        return replace(self, lora=lora)

    @classmethod
    def mean(cls, adapters: Sequence[Adapter]) -> Adapter:
        """Eq. (19): each layer's mean over the adapters that hold it; the head's over all.

        Sums run in the order given, so the result is the same bytes every time.
        """
        if not adapters:
            raise InputError("adapters", 0, "at least one adapter")
        held = sorted({layer for adapter in adapters for layer in adapter.lora})
        lora = {
            layer: _mean([adapter.lora[layer] for adapter in adapters if layer in adapter.lora])
            for layer in held
        }
        return cls(lora, _mean([adapter.head for adapter in adapters]), adapters[0].layout)

    def state(self) -> dict[str, Tensor]:
        """All tensors in one flat dict, ``layers.<index>.<name>`` and ``head.<name>``."""
        state = {
            f"layers.{layer}.{name}": tensor
            for layer, tensors in self.lora.items()
            for name, tensor in tensors.items()
        }
        return state | {f"head.{name}": tensor for name, tensor in self.head.items()}

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor], layout: AdapterLayout) -> Adapter:
        """The inverse of `state`."""
        lora: dict[int, dict[str, Tensor]] = {}
        head: dict[str, Tensor] = {}
        for key, tensor in state.items():
            place, _, rest = key.partition(".")
            index, _, name = rest.partition(".")
            if place == "head":
                head[rest] = tensor
            elif place == "layers" and index.isdecimal() and name:
                lora.setdefault(int(index), {})[name] = tensor
            else:
                raise InputError("adapter tensor", key, "layers.<index>.<name> or head.<name>")
        return cls(dict(sorted(lora.items())), head, layout)

    def save(self, folder: str | Path) -> None:
        """Write peft's format: ``PeftModel.from_pretrained(base, folder)`` loads it."""
        write_peft(Path(folder), self.lora, self.head, self.layout, self.rank)

    @classmethod
    def load(cls, folder: str | Path) -> Adapter:
        """Read a LoRA adapter in peft's format, made by `save` or by peft itself.

        Raises
        ------
        InputError
            Files that are missing or damaged, or another kind of adapter.
        """
        return cls(*read_peft(Path(folder)))


class AdaptedMatrix(NamedTuple):
    """A and B of one projection, and their names in the layer."""

    layer: int
    a_name: str
    b_name: str
    lora_a: Tensor
    lora_b: Tensor

    @property
    def tensors(self) -> dict[str, Tensor]:
        """As in `Adapter.lora`."""
        return {self.a_name: self.lora_a, self.b_name: self.lora_b}


def adapted_matrices(lora: Mapping[int, Mapping[str, Tensor]]) -> Iterator[AdaptedMatrix]:
    """The adapted projections in `Adapter.lora`, or in `fedquad.model.lora.lora_tensors`."""
    for layer, tensors in lora.items():
        for a_name, lora_a in tensors.items():
            if a_name.endswith("lora_A"):
                b_name = f"{a_name.removesuffix('lora_A')}lora_B"
                yield AdaptedMatrix(layer, a_name, b_name, lora_a, tensors[b_name])


def _padded(tensor: Tensor, axis: int, size: int) -> Tensor:
    shape = list(tensor.shape)
    shape[axis] = size - shape[axis]
    return torch.cat([tensor, tensor.new_zeros(shape)], dim=axis)


def _rank_axis(name: str) -> int:
    return 0 if name.endswith("lora_A") else 1


def _fits(name: str, tensor: Tensor, weight: nn.Parameter) -> bool:
    if tensor.dim() != weight.dim():
        return False
    lower_rank_axis = None if name.startswith("head.") else _rank_axis(name)
    return all(
        size <= there if axis == lower_rank_axis else size == there
        for axis, (size, there) in enumerate(zip(tensor.shape, weight.shape, strict=True))
    )


def _copies(weights: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    return {n: weight.detach().to("cpu", copy=True).contiguous() for n, weight in weights.items()}


def _mean(groups: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    total = {name: tensor.clone() for name, tensor in groups[0].items()}
    for group in groups[1:]:
        if {n: t.shape for n, t in group.items()} != {n: t.shape for n, t in total.items()}:
            raise InputError("adapters", sorted(group), "tensors of the same names and shapes")
        for name, tensor in group.items():
            total[name] += tensor
    return {name: tensor.div_(len(groups)) for name, tensor in total.items()}
