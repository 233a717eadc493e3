"""What quantization does to the gradient of encoders that have learned something, on real rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from fedquad.benchmarks.guard import outcome
from fedquad.benchmarks.plan import METHODS, Plan, group_of
from fedquad.benchmarks.record import Record
from fedquad.benchmarks.timing import Deadline

# Those that come with the project or with an extra of it; the others have random weights here.
PRETRAINED = ("embedded", "minilm")
TASK, MAX_LENGTH, NUM_BATCHES = "micro-mnli", 48, 4
QUANTIZED = tuple(name for name, options in METHODS.items() if "path" in options)


def run_gradients(plan: Plan, record: Record, deadline: Deadline) -> None:
    """Relative error of the LoRA gradient of the plan's pretrained encoders, a row a method.

    The steps' models have random weights, whose attention is flat. Attention that
    was learned has peaks, and one code is 1/255 of the peak of its block: more is
    lost. All layers but the last are quantized, as there; B of LoRA is drawn,
    since at its zeros A has no gradient. No dropout, fp32; a mean over batches.
    """
    for model in dict.fromkeys(model for model, _ in plan.sizes if model in PRETRAINED):
        group = f"gradients {model}, pretrained"
        if deadline.passed:
            return
        if record.has(group):
            continue
        common = {"kind": "gradients", "model": model, "batch_size": plan.batch_size}
        common |= {"length": MAX_LENGTH, "dtype": "float32", "mode": "eager"}
        with group_of(record, group) as rows:
            try:
                rows += [common | row for row in _errors(model, plan)]
            except Exception as error:  # MiniLM is an optional extra
                rows.append(common | {"method": "none", **outcome(error)})


def _errors(model: str, plan: Plan) -> Iterator[dict[str, Any]]:
    # They bring peft and tokenizers, which a machine for the kernels need not have.
    from fedquad.model.activation_quantization import quantize_activations
    from fedquad.model.backbone import find_layers, load_backbone
    from fedquad.model.lora import attach_lora, lora_tensors
    from fedquad.tasks.task import load_task
    from fedquad.tasks.tokens import tokenize_task

    task = load_task(TASK)
    backbone = load_backbone(model, num_labels=len(task.label_names), seed=0)
    rows, _ = tokenize_task(task, backbone, MAX_LENGTH)
    network = attach_lora(
        backbone.model, rank=16, alpha=16, fresh_modules=backbone.fresh_modules, seed=0
    )
    network.eval().to(plan.torch_device)
    weights = [weight for layer in lora_tensors(network).values() for weight in layer.values()]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in weights:
            if not weight.any():
                weight.copy_(0.02 * torch.randn(weight.shape, generator=generator))

    def gradient(batch: int) -> Tensor:
        chosen = rows.batch(range(batch * plan.batch_size, (batch + 1) * plan.batch_size))
        chosen = {name: tensor.to(plan.torch_device) for name, tensor in chosen.items()}
        labels = chosen.pop("labels")
        network.zero_grad(set_to_none=True)
        cross_entropy(network(**chosen).logits, labels).backward()
        return torch.cat([weight.grad.flatten() for weight in weights]).double().cpu()

    exact = [gradient(batch) for batch in range(NUM_BATCHES)]
    layers = tuple(range(len(find_layers(network)) - 1))
    for method in QUANTIZED:
        with quantize_activations(network, layers, **METHODS[method]):
            found = [gradient(batch) for batch in range(NUM_BATCHES)]
        errors = [float((a - b).norm() / b.norm()) for a, b in zip(found, exact, strict=True)]
        mean = sum(errors) / NUM_BATCHES
        yield {"method": method, "status": "ok", "lora_gradient_error": mean}
