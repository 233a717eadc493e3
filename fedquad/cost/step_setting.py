"""One way to run a training step: what is trained, quantized, checkpointed, compiled."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from transformers import PreTrainedModel

from fedquad.config import InputError, require_choice
from fedquad.cost.memory_saving import (
    checked_checkpointing,
    checked_quantized_layers,
    checkpoint_layers,
    wrapped_forwards,
)
from fedquad.cost.random_model import checked_layers
from fedquad.model.activation_quantization import quantize_activations
from fedquad.model.backbone import find_layers
from fedquad.model.lora import set_trainable_layers

PATHS = ("auto", "hooks", "fused")


@dataclass(frozen=True)
class StepSetting:
    """How a step is run.

    Attributes
    ----------
    tuning : {"lora", "full"}
    trainable_layers : tuple of int or None
        Layers whose LoRA is trained, None for all of them; None with full fine-tuning.
    quantized_layers : tuple of int
        Layers from the lowest trained one upward, without the output layer.
    checkpointing : bool or tuple of int
        Recompute every layer that keeps something, or these.
    path : {"auto", "hooks", "fused"}
        How quantization gets in, as `fedquad.quantize_activations` takes it.
    compiled : bool
        Run the forward of each transformer layer through `torch.compile`, which
        compiles equal layers once (PyTorch calls it regional compilation).
    bits : {8, 4}
        Of the quantized activations.
    """

    tuning: str
    trainable_layers: tuple[int, ...] | None
    quantized_layers: tuple[int, ...] = ()
    checkpointing: bool | tuple[int, ...] = False
    path: str = "auto"
    compiled: bool = False
    bits: int = 8

    def checked(self, num_layers: int) -> StepSetting:
        """The same setting of a model of so many layers, with its layers spelled out.

        ``trainable_layers`` are None for full fine-tuning only, then, and
        ``checkpointing`` is a tuple.

        Raises
        ------
        InputError
            For layers that the model has not or that keep nothing, a layer that is
            both quantized and checkpointed, or another value that cannot be used.
        """
        trained = checked_layers(self.tuning, self.trainable_layers, num_layers)
        quantized = checked_quantized_layers(self.quantized_layers, trained, num_layers)
        recomputed = checked_checkpointing(self.checkpointing, quantized, trained, num_layers)
        require_choice("path", self.path, PATHS)
        if not isinstance(self.compiled, bool):
            raise InputError("compiled", self.compiled, "True or False")
        return replace(self, trainable_layers=trained, checkpointing=recomputed)

    @property
    def variant(self) -> tuple:
        """Settings of one variant can take turns on one model, switched at no cost."""
        quantization = (self.path, self.bits) if self.quantized_layers else None
        return self.tuning, self.checkpointing, quantization, self.compiled


class SettableModel:
    """A model with the quantizer, the checkpointing and the compilation of one variant.

    Parameters
    ----------
    model : PreTrainedModel
        Built for the setting's tuning; changed until `close`.
    setting : StepSetting
        As `StepSetting.checked` gives it.

    Raises
    ------
    InputError
        What `fedquad.quantize_activations` refuses.
    """

    def __init__(self, model: PreTrainedModel, setting: StepSetting) -> None:
        self.model = model
        self._variant = setting.variant
        self._quantizer = None
        layers = find_layers(model)
        with ExitStack() as until_closed:
            if setting.compiled:
                compiled = wrapped_forwards(layers, partial(torch.compile, dynamic=False))
                until_closed.enter_context(compiled)
            until_closed.enter_context(
                checkpoint_layers(layers[idx] for idx in setting.checkpointing)
            )
            if setting.quantized_layers:  # last: it is taken off layers and put on others
                self._quantizer = quantize_activations(
                    model, setting.quantized_layers, bits=setting.bits, path=setting.path
                )
                until_closed.enter_context(self._quantizer)
            self._until_closed = until_closed.pop_all()
        self.select(setting)

    def select(self, setting: StepSetting) -> None:
        """Train and quantize the layers of another setting of the same variant."""
        if setting.variant != self._variant:
            raise InputError("setting", setting, f"one of the variant {self._variant}")
        if setting.trainable_layers is not None:
            set_trainable_layers(self.model, setting.trainable_layers)
        if self._quantizer is not None and self._quantizer.layers != setting.quantized_layers:
            self._quantizer.set_layers(setting.quantized_layers)

    def loss(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Forward."""
        return self.model(**batch).loss

    def close(self) -> None:
        """Leave the model as it was."""
        self._until_closed.close()


def as_setting(setting: StepSetting | tuple[Any, ...]) -> StepSetting:
    """A `StepSetting` from itself or from the tuple (tuning, trainable_layers, …)."""
    return setting if isinstance(setting, StepSetting) else StepSetting(*setting)
