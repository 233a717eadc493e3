"""What one training step keeps and computes, counted on fake tensors: no weights, no GPU."""

from __future__ import annotations

import json
from contextlib import ExitStack, nullcontext
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoConfig

from fedquad.config import require_choice, require_int
from fedquad.cost.live_bytes import LiveBytes
from fedquad.cost.memory_saving import (
    checked_checkpointing,
    checked_quantized_layers,
    checkpoint_layers,
)
from fedquad.cost.random_model import (
    ATTENTIONS,
    Shape,
    build_model,
    checked_config,
    checked_layers,
    random_batch,
)
from fedquad.cost.step_bytes import StepCost
from fedquad.cost.tracing import CudaSemantics, SavedBytes, StepMeter
from fedquad.model.activation_quantization import QuantizationSettings, quantize_activations
from fedquad.model.backbone import find_layers
from fedquad.model.lora import set_trainable_layers, trainable_parameters

__all__ = ["DTYPES", "StepCost", "step_cost"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_ADAMW_BYTES_PER_PARAMETER = 2 * 4  # exp_avg and exp_avg_sq in fp32


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
    quantized_layers: tuple[int, ...] = (),
    activation_bits: int = 8,
    block_size: int = 32,
    checkpointing: bool | tuple[int, ...] = False,
) -> StepCost:
    """Price one training step of a real architecture at any size, in a second or two.

    The model is built from its configuration on the meta device and run in train
    mode on fake tensors that keep what CUDA keeps
    (`fedquad.cost.tracing.CudaSemantics`), under saved-tensor hooks. Every storage
    that autograd keeps is counted once; weights are left out, whatever view or
    transpose of them is kept. Temporaries that die before backward count in the
    peak only; the allocator's rounding and the CUDA context are not counted.

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
    quantized_layers : tuple of int
        Layers from the lowest trained one upward that keep their activations as
        blocks of integers, through the saved-tensor hooks of
        `fedquad.model.activation_quantization`; never the output layer.
    activation_bits, block_size : int
        Of the quantized activations.
    checkpointing : bool or tuple of int
        Keep only the input of every layer (or of these), and run it again in
        backward, as `torch.utils.checkpoint` does. Its operations count twice.

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
    num_layers = config.num_hidden_layers
    saving = _Saving(
        checked_quantized_layers(quantized_layers, layers, num_layers),
        QuantizationSettings(bits=activation_bits, block_size=block_size),
        checked_checkpointing(checkpointing, quantized_layers, layers, num_layers),
    )
    # Cached by content, not by name: a folder's config.json may change.
    config_json = config.to_json_string(use_diff=False)
    return _count_step(config_json, shape, layers, lora_rank, dtype, attention, saving)


class _Saving(NamedTuple):
    """What makes layers keep less."""

    quantized_layers: tuple[int, ...]
    settings: QuantizationSettings
    checkpointed_layers: tuple[int, ...]


@lru_cache(maxsize=512)
def _count_step(
    config_json: str,
    shape: Shape,
    trainable_layers: tuple[int, ...] | None,
    lora_rank: int,
    dtype: str,
    attention: str,
    saving: _Saving,
) -> StepCost:
    config = AutoConfig.for_model(**json.loads(config_json))
    tuning = "full" if trainable_layers is None else "lora"
    with torch.device("meta"):
        model = build_model(config, tuning=tuning, lora_rank=lora_rank, attention=attention)
    model.to(DTYPES[dtype])
    if trainable_layers is not None:
        set_trainable_layers(model, trainable_layers)
    # Transformers below 5.11 makes its attention masks from real tensors.
    with FakeTensorMode(allow_non_fake_inputs=True) as fake, ExitStack() as savings:
        _make_fake(model, fake)
        weights = [*model.parameters(), *model.buffers()]
        batch = random_batch(config, shape, torch_device="meta")
        _apply(saving, model, savings)
        live = LiveBytes([*weights, *batch.values()])
        saved = SavedBytes(find_layers(model), weights)
        with live, StepMeter() as forward, CudaSemantics(), saved:
            loss = model(**batch).loss
        with live, StepMeter() as backward:
            loss.backward()
    trainable = trainable_parameters(model).values()
    num_trainable = sum(weight.numel() for weight in trainable)
    return StepCost(
        weight_bytes=sum(weight.nbytes for weight in weights),
        gradient_bytes=sum(weight.nbytes for weight in trainable),
        optimizer_bytes=num_trainable * _ADAMW_BYTES_PER_PARAMETER,
        activation_bytes_by_layer=tuple(saved.by_layer),
        activation_bytes_outside_layers=saved.outside_layers,
        forward_flops=forward.flops,
        backward_flops=backward.flops,
        operand_bytes=forward.operand_bytes + backward.operand_bytes,
        parameters=sum(weight.numel() for weight in model.parameters()),
        trainable_parameters=num_trainable,
        peak_step_bytes=live.peak,
    )


def _make_fake(model: nn.Module, fake: FakeTensorMode) -> None:
    """Put fake tensors in the place of all weights, in the modules themselves.

    `torch.func.functional_call` would do for the forward, but the
    recomputation of a checkpointed layer comes after it has ended.
    """
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    tensors[name] = fake.from_tensor(tensor)


def _apply(saving: _Saving, model: nn.Module, until: ExitStack) -> None:
    layers = find_layers(model)
    if saving.quantized_layers:
        quantizer = quantize_activations(
            model,
            saving.quantized_layers,
            bits=saving.settings.bits,
            block_size=saving.settings.block_size,
            path="hooks",
        )
        until.enter_context(quantizer)
    # A recomputation must keep what the forward kept. The state of the random generator is
    # nothing that fake tensors have.
    checkpointed = checkpoint_layers(
        (layers[idx] for idx in saving.checkpointed_layers),
        context_fn=lambda: (nullcontext(), CudaSemantics()),
        preserve_rng_state=False,
    )
    until.enter_context(checkpointed)
