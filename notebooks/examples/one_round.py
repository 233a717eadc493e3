"""One round of federated fine-tuning in plain PyTorch: a device's steps, and the server's mean.

The library does the same with more care, on any number of processes
(`fedquad.federation`): this file is what the walkthrough shows.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from peft import PeftModel
from torch import Tensor

from fedquad.config import FederatedConfig
from fedquad.methods.method import LocalUpdate
from fedquad.model.adapter import Adapter
from fedquad.model.lora import set_trainable_layers, trainable_parameters
from fedquad.tasks.task import TokenizedSplit
from fedquad.training.schedule import row_order, step_seed


def fine_tune(
    model: PeftModel,
    received: Adapter,
    layers: Sequence[int],
    rows: TokenizedSplit,
    config: FederatedConfig,
    device: int,
) -> Adapter:
    """What a device does in the first round: start from the global adapter, train, send back."""
    received.load_into(model)
    set_trainable_layers(model, tuple(layers))
    # Fresh in every round: a device's moments do not travel.
    optimizer = torch.optim.AdamW(
        trainable_parameters(model).values(), lr=config.learning_rate, weight_decay=0.0
    )
    seed = (config.seed, 0, device)  # of the run, the round and the device, and nothing else
    model.train()
    for step in range(config.local_steps):
        batch = rows.batch(row_order(len(rows), config.batch_size, seed, step))
        torch.manual_seed(step_seed(seed, step))  # of dropout
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()
    return Adapter.from_model(model).layers(layers)


def holders(updates: Sequence[LocalUpdate], layer: int) -> list[LocalUpdate]:
    """The devices that trained a layer."""
    return [update for update in updates if layer in update.adapter.lora]


def mean(parts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The plain mean of tensors under the same names, summed in the order given."""
    total = {name: tensor.clone() for name, tensor in parts[0].items()}
    for part in parts[1:]:
        for name, tensor in part.items():
            total[name] += tensor
    return {name: tensor / len(parts) for name, tensor in total.items()}


def aggregate(before: Adapter, updates: Sequence[LocalUpdate]) -> Adapter:
    """Eq. (19): each layer's mean over its holders, the head's over all.

    A layer that nobody trained keeps its value.
    """
    lora = dict(before.lora)
    for layer in before.lora:
        if trained := holders(updates, layer):
            lora[layer] = mean([update.adapter.lora[layer] for update in trained])
    head = mean([update.adapter.head for update in updates])
    return Adapter(lora, head, before.layout)


def distance(one: Adapter, other: Adapter) -> float:
    """Length of the difference of two adapters of the same layers, over the length of the first."""
    before, after = one.state(), other.state()
    squares = sum(float((after[name] - before[name]).square().sum()) for name in before)
    return (squares / sum(float(tensor.square().sum()) for tensor in before.values())) ** 0.5
