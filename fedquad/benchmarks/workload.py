"""A training step of a whole model, or of one of its layers, in one way of keeping less."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from fedquad.benchmarks.plan import METHODS
from fedquad.cost.accounting import DTYPES
from fedquad.cost.live_bytes import LiveBytes
from fedquad.cost.random_model import Shape, build_model, checked_config, random_batch
from fedquad.cost.step_setting import SettableModel, StepSetting
from fedquad.cost.tracing import SavedBytes
from fedquad.model.backbone import find_layers
from fedquad.model.lora import lora_tensors

_SEED = 0
_NUM_LABELS = 3


class Workload:
    """Forward and backward of LoRA fine-tuning, on random weights and tokens.

    Parameters
    ----------
    model : str
    shape : Shape
    method : str
        A key of `METHODS`; it applies to all layers but the output layer.
    dtype, mode, attention : str
        Of weights and activations; ``eager`` or ``compiled``; ``eager`` or ``sdpa``.
    torch_device : str
    one_layer : bool
        A single layer in the middle of the model instead of the whole.

    Raises
    ------
    InputError
        A model, an attention or a method that is not supported.
    """

    def __init__(
        self,
        model: str,
        shape: Shape,
        *,
        method: str,
        dtype: str,
        mode: str,
        attention: str,
        torch_device: str,
        one_layer: bool = False,
    ) -> None:
        config = checked_config(model, shape, _NUM_LABELS)
        if one_layer:
            config.num_hidden_layers = 2  # the second is the output layer, and never run
        setting = _setting(method, config.num_hidden_layers, compiled=mode == "compiled")
        self.method = method
        self.device = torch.device(torch_device)
        self._network = _network(config, attention).to(self.device, DTYPES[dtype])
        batch = random_batch(config, shape, torch_device=torch_device)
        self._settable = SettableModel(self._network, setting)
        self._batch = batch
        self._layer, self._inputs, self._kwargs = None, (), {}
        if one_layer:
            self._layer = find_layers(self._network)[0]
            self._inputs, self._kwargs = _inputs_of(self._layer, self._network, batch)
        self._result: Tensor | None = None

    def forward(self) -> None:
        """Of the whole with its loss, or of the layer."""
        if self._layer is None:
            self._result = self._settable.loss(self._batch)
            return
        output = self._layer(*self._inputs, **self._kwargs)
        self._result = output[0] if isinstance(output, tuple) else output

    def backward(self) -> None:
        """From what `forward` left."""
        result, self._result = self._result, None
        result.backward(None if self._layer is None else torch.ones_like(result))

    def clear(self) -> None:
        """Forget gradients."""
        self._network.zero_grad(set_to_none=True)
        for tensor in self._inputs:
            if isinstance(tensor, Tensor):
                tensor.grad = None

    def lora_gradient(self) -> Tensor:
        """Gradient of all LoRA tensors without dropout, one vector on the CPU."""
        self._network.eval()
        self.clear()
        self.forward()
        self.backward()
        self._network.train()
        weights = [w for tensors in lora_tensors(self._network).values() for w in tensors.values()]
        gradient = torch.cat([w.grad.flatten() for w in weights if w.grad is not None])
        self.clear()
        return gradient.double().cpu()

    def memory(self, *, eager: bool) -> dict[str, int | None]:
        """Bytes kept between forward and backward, and the most at any moment.

        On a GPU both are the allocator's, weights left out. On a CPU storages are
        followed; compiled code lets one see those that are kept only.
        """
        self.clear()
        if self.device.type == "cuda":
            return self._allocated()
        weights = [*self._network.parameters(), *self._network.buffers()]
        if not eager:
            with SavedBytes(find_layers(self._network), weights) as saved:
                self.forward()
            self.backward()
            return {"kept_bytes": sum(saved.by_layer) + saved.outside_layers, "peak_bytes": None}
        inputs = [*self._batch.values(), *_tensors(self._inputs), *_tensors(self._kwargs.values())]
        with LiveBytes([*weights, *inputs]) as live:
            self.forward()
            kept = live.now
            self.backward()
        return {"kept_bytes": kept, "peak_bytes": live.peak}

    def _allocated(self) -> dict[str, int | None]:
        torch.cuda.synchronize(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        self.forward()
        kept = torch.cuda.memory_allocated(self.device) - before
        self.backward()
        peak = torch.cuda.max_memory_allocated(self.device) - before
        return {"kept_bytes": kept, "peak_bytes": peak}

    def close(self) -> None:
        """Let go of the model."""
        self._settable.close()
        del self._network, self._settable, self._layer, self._inputs, self._kwargs, self._result


def _setting(method: str, num_layers: int, *, compiled: bool) -> StepSetting:
    options = dict(METHODS[method])
    chosen = tuple(range(num_layers - 1))
    if options.pop("checkpointing", False):
        options["checkpointing"] = chosen
    elif options:
        options["quantized_layers"] = chosen
    return StepSetting("lora", None, compiled=compiled, **options).checked(num_layers)


def _network(config: PretrainedConfig, attention: str) -> nn.Module:
    """Random weights, the same for every method, with a B of LoRA that lets A have a gradient."""
    torch.manual_seed(_SEED)
    network = build_model(config, tuning="lora", lora_rank=16, attention=attention)
    with torch.no_grad():
        for tensors in lora_tensors(network).values():
            for name, weight in tensors.items():
                if name.endswith("lora_B"):
                    weight.normal_(std=0.02)
    return network


def _inputs_of(
    layer: nn.Module, network: nn.Module, batch: dict[str, Tensor]
) -> tuple[tuple, dict[str, Any]]:
    """What a layer is called with, its hidden state as one that leads to trained layers below."""
    caught: list[tuple[tuple, dict[str, Any]]] = []
    handle = layer.register_forward_pre_hook(
        lambda module, args, kwargs: caught.append((args, kwargs)), with_kwargs=True
    )
    try:
        with torch.no_grad():
            network(**batch)
    finally:
        handle.remove()
    (hidden, *others), kwargs = caught[0]
    return (hidden.detach().requires_grad_(), *others), kwargs


def _tensors(values) -> list[Tensor]:
    return [value for value in values if isinstance(value, Tensor)]
