"""What one training step keeps and computes, counted on fake tensors: no weights, no GPU."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import lru_cache

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoConfig

from fedquad.config import require_choice, require_int
from fedquad.cost.random_model import (
    ATTENTIONS,
    Shape,
    build_model,
    checked_config,
    checked_layers,
    random_batch,
)
from fedquad.cost.tracing import CudaSemantics, SavedBytes, StepMeter
from fedquad.model.backbone import find_layers
from fedquad.model.lora import set_trainable_layers, trainable_parameters

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_ADAMW_BYTES_PER_PARAMETER = 2 * 4  # exp_avg and exp_avg_sq in fp32


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
        of a layer belongs to that layer.
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
        sums = ("activation_bytes", "total_bytes", "activation_share", "total_flops")
        values = {**asdict(self), **{name: getattr(self, name) for name in sums}}
        return json.loads(json.dumps(values))


def step_cost(
    model: str,
    *,
    batch_size: int = 32,
    length: int = 128,
    tuning: str = "lora",
    trainable_layers: tuple[int, ...] | None = None,
    lora_rank: int = 16,
    dtype: str = "float32",
    attention: str = "eager",
    num_labels: int = 3,
) -> StepCost:
    """Price one training step of a real architecture at any size, in a second or two.

    The model is built from its configuration on the meta device and run in train
    mode on fake tensors that keep what CUDA keeps
    (`fedquad.cost.tracing.CudaSemantics`), under saved-tensor hooks. Every storage
    that autograd keeps is counted once; weights are left out, whatever view or
    transpose of them is kept. Temporaries that die before backward, the
    allocator's rounding and the CUDA context are not counted.

    Parameters
    ----------
    model : str
        A known name (``roberta-large``, ``microsoft/deberta-v3-large``, …),
        ``embedded``, ``minilm`` or a folder with a ``config.json``.
    batch_size, length : int
        Rows, and tokens a row; every row is padded to ``length``.
    tuning : {"lora", "full"}
        LoRA (of ``trainable_layers``) and the head, or every weight without LoRA.
    trainable_layers : tuple of int or None
        Layers whose LoRA is trained, None for all; LoRA is computed in all layers.
    lora_rank : int
        r of the query and value projections.
    dtype : {"float32", "bfloat16", "float16"}
        Of weights, activations and gradients alike; autocast is not modelled.
    attention : {"eager", "sdpa"}
        ``eager`` keeps the attention probabilities. ``sdpa`` is priced as the
        memory-efficient kernel of PyTorch, whatever the type: padded batches bring
        a mask, which the flash kernel does not take, and fp32 neither.
    num_labels : int
        Classes of the head.

    Returns
    -------
    StepCost

    Raises
    ------
    InputError
        An unknown model, a length beyond its positions, layers it does not have,
        or any other value that cannot be used.
    """
    shape = Shape(batch_size, length)
    config = checked_config(model, shape, num_labels)
    layers = checked_layers(tuning, trainable_layers, config.num_hidden_layers)
    require_choice("dtype", dtype, DTYPES)
    require_choice("attention", attention, ATTENTIONS)
    require_int("lora_rank", lora_rank, 1)
    # Cached by content, not by name: a folder's config.json may change.
    config_json = config.to_json_string(use_diff=False)
    return _count_step(config_json, shape, layers, lora_rank, dtype, attention)


@lru_cache(maxsize=512)
def _count_step(
    config_json: str,
    shape: Shape,
    trainable_layers: tuple[int, ...] | None,
    lora_rank: int,
    dtype: str,
    attention: str,
) -> StepCost:
    config = AutoConfig.for_model(**json.loads(config_json))
    tuning = "full" if trainable_layers is None else "lora"
    with torch.device("meta"):
        model = build_model(config, tuning=tuning, lora_rank=lora_rank, attention=attention)
    model.to(DTYPES[dtype])
    if trainable_layers is not None:
        set_trainable_layers(model, trainable_layers)
    # Transformers below 5.11 makes its attention masks from real tensors.
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        weights = {name: fake.from_tensor(weight) for name, weight in model.named_parameters()}
        weights |= {name: fake.from_tensor(buffer) for name, buffer in model.named_buffers()}
        saved = SavedBytes(find_layers(model), weights.values())
        batch = random_batch(config, shape, torch_device="meta")
        with StepMeter() as forward, CudaSemantics(), saved:
            loss = torch.func.functional_call(model, weights, kwargs=batch).loss
        with StepMeter() as backward:
            loss.backward()
    trainable = trainable_parameters(model).values()
    num_trainable = sum(weight.numel() for weight in trainable)
    return StepCost(
        weight_bytes=sum(weight.nbytes for weight in weights.values()),
        gradient_bytes=sum(weight.nbytes for weight in trainable),
        optimizer_bytes=num_trainable * _ADAMW_BYTES_PER_PARAMETER,
        activation_bytes_by_layer=tuple(saved.by_layer),
        activation_bytes_outside_layers=saved.outside_layers,
        forward_flops=forward.flops,
        backward_flops=backward.flops,
        operand_bytes=forward.operand_bytes + backward.operand_bytes,
        parameters=sum(weight.numel() for weight in model.parameters()),
        trainable_parameters=num_trainable,
    )
