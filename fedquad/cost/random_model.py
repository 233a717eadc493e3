"""An architecture without its weights: costs depend on shapes alone."""

from __future__ import annotations

from typing import NamedTuple

import torch
from transformers import AutoModelForSequenceClassification, PretrainedConfig, PreTrainedModel

from fedquad.config import InputError, require_choice, require_int, require_layers
from fedquad.model.backbone import architecture
from fedquad.model.lora import attach_lora

TUNINGS = ("lora", "full")
ATTENTIONS = ("eager", "sdpa")
# Families whose first position stands behind the padding index, as in fairseq.
_OFFSET_POSITIONS = ("roberta", "xlm-roberta", "camembert", "mpnet")


class Shape(NamedTuple):
    """Rows of a batch and tokens of a row."""

    batch_size: int
    length: int


def checked_config(model: str, shape: Shape, num_labels: int) -> PretrainedConfig:
    """Configuration of ``model`` with a head of ``num_labels`` classes.

    Raises
    ------
    InputError
        An unknown model, no rows, more tokens than the model has positions, or
        fewer than two labels.
    """
    config = architecture(model)
    require_int("batch_size", shape.batch_size, 1)
    require_int("length", shape.length, 1, _max_length(config))
    require_int("num_labels", num_labels, 2)
    config.num_labels = num_labels
    config.problem_type = "single_label_classification"  # else DeBERTa looks at the labels' values
    return config


def checked_layers(
    tuning: str, trainable_layers: tuple[int, ...] | None, num_layers: int
) -> tuple[int, ...] | None:
    """Layers whose LoRA is trained, all of them for None; None itself for ``tuning="full"``.

    Raises
    ------
    InputError
        Unknown tuning, layers that the model has not, no layer at all, or a
        choice of layers together with full fine-tuning.
    """
    require_choice("tuning", tuning, TUNINGS)
    if tuning == "full":
        if trainable_layers is not None:
            accepted = "None with full fine-tuning, which trains every weight"
            raise InputError("trainable_layers", trainable_layers, accepted)
        return None
    if trainable_layers is None:
        return tuple(range(num_layers))
    require_layers("trainable_layers", trainable_layers, num_layers)
    if not trainable_layers:
        raise InputError("trainable_layers", (), "at least one layer (depth >= 1)")
    return trainable_layers


def build_model(
    config: PretrainedConfig, *, tuning: str, lora_rank: int, attention: str
) -> PreTrainedModel:
    """The architecture with random weights on the default device, in train mode.

    With LoRA, the head is what the classification model has beyond the encoder,
    as for a checkpoint that holds exactly the encoder.

    Raises
    ------
    InputError
        transformers has no such model, or not with this attention.
    """
    require_choice("attention", attention, ATTENTIONS)
    require_int("lora_rank", lora_rank, 1)
    try:
        model = AutoModelForSequenceClassification.from_config(
            config, attn_implementation=attention
        )
    except ValueError as error:
        if attention == "eager":
            accepted = f"an encoder that transformers can build for classification ({error})"
            raise InputError("model", config.model_type, accepted) from error
        accepted = f"eager for {config.model_type}, which has no other in transformers"
        raise InputError("attention", attention, accepted) from error
    if tuning == "lora":
        head = tuple(
            name
            for name, child in model.named_children()
            if child is not model.base_model and any(True for _ in child.parameters())
        )
        model = attach_lora(model, rank=lora_rank, alpha=lora_rank, fresh_modules=head)
    return model.train()


def random_batch(
    config: PretrainedConfig, shape: Shape, torch_device: str
) -> dict[str, torch.Tensor]:
    """Inputs of one step: token ids of the model's vocabulary, a mask and labels.

    One token is padding: a batch without any is run without a mask by
    transformers, and batches of real text have some.
    """
    ids = torch.randint(config.vocab_size, tuple(shape), device=torch_device)
    mask = torch.ones_like(ids)
    if shape.length > 1:
        mask[0, -1] = 0
    labels = torch.randint(config.num_labels, (shape.batch_size,), device=torch_device)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def _max_length(config: PretrainedConfig) -> int:
    offset = config.pad_token_id + 1 if config.model_type in _OFFSET_POSITIONS else 0
    return config.max_position_embeddings - offset
