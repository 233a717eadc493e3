"""Bytes and FLOPs of one training step, and their sums."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True, kw_only=True)
class StepCost:
    """Bytes and FLOPs of one training step (forward, loss, backward) of a model.

    Attributes
    ----------
    weight_bytes : int
        All parameters and buffers that are loaded, with LoRA also peft's frozen
        copy of the head.
    gradient_bytes : int
        One gradient, in the parameter's type, for every trainable parameter.
    optimizer_bytes : int
        AdamW's two moments of every trainable parameter, in fp32 for any
        ``dtype`` (`torch.optim.AdamW` on bf16 parameters would keep half).
    activation_bytes_by_layer : tuple of int, length L
        What each transformer layer keeps for backward. A tensor that several
        operations keep counts once, for the first layer that keeps it: the input
        of a layer belongs to that layer. A quantized layer keeps codes, scales,
        bits and what is not quantized, a checkpointed one its input.
    activation_bytes_outside_layers : int
        What embeddings, head and loss keep.
    forward_flops, backward_flops : int
        Matrix products and attention, a multiply-add as two, by PyTorch's own
        counter. Backward follows autograd: no gradient of a frozen weight, nothing
        below the lowest trainable layer.
    operand_bytes : int
        Input and output bytes of all operations of forward and backward that
        read or write memory (views do not); FLOPs over these bytes is the
        arithmetic intensity of the roofline model.
    parameters, trainable_parameters : int
        Of the model as loaded, and those with a gradient.
    peak_step_bytes : int
        Most bytes alive at any moment of forward and backward beside weights,
        optimizer and batch: activations, temporaries, what is recomputed or
        dequantized, gradients. 0 where it was not counted.
    """

    weight_bytes: int
    gradient_bytes: int
    optimizer_bytes: int
    activation_bytes_by_layer: tuple[int, ...]
    activation_bytes_outside_layers: int
    forward_flops: int
    backward_flops: int
    operand_bytes: int
    parameters: int
    trainable_parameters: int
    peak_step_bytes: int = 0

    @property
    def activation_bytes(self) -> int:
        """Everything autograd keeps from forward to backward, weights left out."""
        return sum(self.activation_bytes_by_layer) + self.activation_bytes_outside_layers

    @property
    def total_bytes(self) -> int:
        """Weights, gradients, optimizer and activations."""
        states = self.weight_bytes + self.gradient_bytes + self.optimizer_bytes
        return states + self.activation_bytes

    @property
    def peak_bytes(self) -> int:
        """Weights, optimizer and `peak_step_bytes`: what a device must have."""
        return self.weight_bytes + self.optimizer_bytes + self.peak_step_bytes

    @property
    def activation_share(self) -> float:
        """Activations as a fraction of `total_bytes`."""
        return self.activation_bytes / self.total_bytes

    @property
    def total_flops(self) -> int:
        """Forward and backward."""
        return self.forward_flops + self.backward_flops

    @property
    def arithmetic_intensity(self) -> float:
        """FLOPs per byte moved, I of the roofline throughput model."""
        return self.total_flops / self.operand_bytes

    def summary(self) -> dict[str, int | float | list[int]]:
        """All fields and sums as plain JSON values."""
        sums = ("activation_bytes", "total_bytes", "peak_bytes", "activation_share", "total_flops")
        values = {**asdict(self), **{name: getattr(self, name) for name in sums}}
        return json.loads(json.dumps(values))
