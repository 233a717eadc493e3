"""``fedquad memory``: bytes and FLOPs of one fine-tuning step, without weights or a GPU."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import Parameter

from fedquad.cli.options import ALL_LAYERS, LayerChoice, print_json


def memory(
    choice: Annotated[LayerChoice, Parameter(name="*", negative="")] = ALL_LAYERS,
    *,
    model: str = "roberta-large",
    batch_size: int = 32,
    length: int = 256,
    lora_rank: int = 16,
    num_labels: int = 3,
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    attention: Literal["eager", "sdpa"] = "eager",
    activation_bits: Literal[8, 4] = 8,
    block_size: int = 32,
    checkpointing: Annotated[bool, Parameter(negative="")] = False,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Print the bytes and FLOPs of one training step of a model.

    The model is built from its configuration on fake tensors and run once, so
    neither weights nor network nor GPU are needed. LoRA on all layers unless
    --depth, --layers or --full says otherwise.

    Parameters
    ----------
    model
        bert-base, bert-large, roberta-base, roberta-large, deberta-v3-base,
        deberta-v3-large, embedded, or a folder with a config.json.
    batch_size
        Rows of the step.
    length
        Tokens of each row.
    lora_rank
        r of LoRA.
    num_labels
        Classes of the task, for the size of the head.
    dtype
        Type of weights and activations.
    attention
        eager keeps the matrix of attention weights for backward, sdpa does not.
    activation_bits
        Of a quantized activation.
    block_size
        Side of the blocks that share a scale.
    checkpointing
        Keep only the input of each layer and compute the rest again in backward.
    json
        Print one JSON object instead of a table.
    """
    from fedquad.cost.accounting import step_cost
    from fedquad.model.backbone import architecture

    def count_layers() -> int:
        return architecture(model).num_hidden_layers

    layers = choice.trainable_layers(count_layers)
    setting = {"model": model, "batch_size": batch_size, "length": length}
    setting |= {"tuning": choice.tuning, "trainable_layers": layers, "lora_rank": lora_rank}
    setting |= {"num_labels": num_labels, "dtype": dtype, "attention": attention}
    setting |= {"quantized_layers": choice.quantized_layers(count_layers)}
    setting |= {"activation_bits": activation_bits, "block_size": block_size}
    setting |= {"checkpointing": checkpointing}
    cost = step_cost(**setting).summary()
    if json:
        print_json(setting | cost)
        return
    trained = choice.describe()
    if choice.quantized:
        trained += f" to {activation_bits} bits"
    if checkpointing:
        trained += ", checkpointing"
    print(
        f"{model}, {trained}, batch {batch_size}, length {length}, {dtype}, {attention} attention"
    )
    for part in ("weight", "gradient", "optimizer", "activation", "total", "peak"):
        print(f"  {part:<11} {cost[f'{part}_bytes'] / 1e9:>10.3f} GB")
    print(f"  activations are {100 * cost['activation_share']:.1f} % of the total")
    for part in ("forward", "backward"):
        print(f"  {part:<11} {cost[f'{part}_flops'] / 1e12:>10.3f} TFLOP")
    trainable, parameters = cost["trainable_parameters"], cost["parameters"]
    print(f"  {trainable:,} of {parameters:,} parameters are trained")
