"""A small real host: LoRA on three linear layers, trained on rows of its own; and devices that
misbehave as they are told. Imported by the tests and by the worker processes they start."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from fedquad.config import Assignment, InputError
from fedquad.federation.jobs import DeviceJob, EvalBatch
from fedquad.methods.method import LocalUpdate
from fedquad.model.adapter import Adapter, AdapterLayout
from fedquad.training.local import DivergenceError

NUM_LAYERS, WIDTH, RANK, CLASSES, EVAL_ROWS, EVAL_BATCH_SIZE = 3, 40, 4, 3, 70, 8
LAYOUT = AdapterLayout(layers_path="layers", head_modules=("classifier",), scaling=1.0)


def job(device: int, layers: tuple[int, ...] = (1, 2), round_idx: int = 0) -> DeviceJob:
    assignment = Assignment(
        num_layers=NUM_LAYERS,
        active_layers=tuple(range(NUM_LAYERS)),
        trainable_layers=layers,
        lora_rank=RANK,
    )
    return DeviceJob(device=device, round_idx=round_idx, assignment=assignment)


def fresh_adapter() -> Adapter:
    generator = torch.Generator().manual_seed(7)
    lora = {
        layer: {
            "query.lora_A": torch.randn(RANK, WIDTH, generator=generator) / WIDTH**0.5,
            "query.lora_B": torch.zeros(WIDTH, RANK),
        }
        for layer in range(NUM_LAYERS)
    }
    head = {"classifier.weight": torch.randn(CLASSES, WIDTH, generator=generator)}
    return Adapter(lora, head, LAYOUT)


class ToyHost:
    """A host whose device ``n`` does what ``fates[str(n)]`` says, if anything."""

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        self.folder = Path(arguments.get("folder", "."))
        self.fates: Mapping[str, str] = arguments.get("fates", {})
        if arguments.get("refuse"):
            raise InputError("num_devices", 9, "at most 4: a device needs a row")
        generator = torch.Generator().manual_seed(1)
        self._frozen = torch.randn(NUM_LAYERS, WIDTH, WIDTH, generator=generator) / WIDTH**0.5
        self._eval = torch.randn(EVAL_ROWS, WIDTH, generator=generator)
        self._labels = torch.arange(EVAL_ROWS) % CLASSES
        self._global = fresh_adapter()
        # Neither in order nor of one size, as when rows are sorted by length.
        order = np.random.default_rng(0).permutation(EVAL_ROWS)
        self._batches = [order[n : n + EVAL_BATCH_SIZE] for n in range(0, EVAL_ROWS, 8)]

    @property
    def num_eval_batches(self) -> int:
        return len(self._batches)

    def global_adapter(self) -> Adapter:
        return self._global

    def receive(self, global_adapter: Adapter) -> None:
        self._global = global_adapter

    def fine_tune(self, job: DeviceJob) -> LocalUpdate:
        fate = self.fates.get(str(job.device), "")
        self._suffer(fate, job)
        adapter = self._copy()
        trained = [
            weight
            for layer in job.assignment.trainable_layers
            for weight in adapter.lora[layer].values()
        ] + list(adapter.head.values())
        loss, gradients = self._gradients(adapter, trained, job)
        with torch.no_grad():
            for weight, gradient in zip(trained, gradients, strict=True):
                weight.sub_(0.1 * gradient)
        state = {name: tensor.detach() for name, tensor in adapter.state().items()}
        adapter = Adapter.from_state(state, LAYOUT).layers(job.assignment.trainable_layers)
        if fate == "nan":
            next(iter(adapter.head.values()))[1, 2] = float("nan")
        norms = {}
        for idx, layer in enumerate(adapter.lora):
            norms[layer] = torch.nn.utils.get_total_norm(gradients[2 * idx : 2 * idx + 2]).item()
        return LocalUpdate(
            device=job.device + (fate == "other"),
            assignment=job.assignment,
            adapter=adapter,
            num_samples=5 + job.device,
            gradient_norms=norms,
            train_loss=float("inf") if fate == "infinite" else loss,
        )

    def probe(self, job: DeviceJob) -> np.ndarray:
        self._suffer(self.fates.get(str(job.device), ""), job)
        adapter = self._copy()
        weights = [weight for tensors in adapter.lora.values() for weight in tensors.values()]
        _, gradients = self._gradients(adapter, weights, job)
        squares = [gradient.double().square().sum().item() for gradient in gradients]
        return np.array(squares).reshape(NUM_LAYERS, 2).sum(axis=1)

    def evaluate(self, batches: Sequence[int]) -> list[EvalBatch]:
        parts = []
        for batch in batches:
            rows = self._batches[batch]
            logits = self._forward(self._global, self._eval[rows])
            labels = self._labels[rows]
            correct = (logits.argmax(dim=-1) == labels).numpy()
            losses = cross_entropy(logits, labels, reduction="none").double().numpy()
            parts.append(EvalBatch(rows=rows, correct=correct, losses=losses))
        return parts

    def _copy(self) -> Adapter:
        state = {n: t.clone().requires_grad_() for n, t in self._global.state().items()}
        return Adapter.from_state(state, self._global.layout)

    def _forward(self, adapter: Adapter, inputs: torch.Tensor) -> torch.Tensor:
        hidden = inputs
        for layer, lora in adapter.lora.items():
            update = hidden @ lora["query.lora_A"].T @ lora["query.lora_B"].T
            hidden = torch.tanh(hidden @ self._frozen[layer] + update) + hidden
        return hidden @ adapter.head["classifier.weight"].T

    def _gradients(
        self, adapter: Adapter, weights: list[torch.Tensor], job: DeviceJob
    ) -> tuple[float, tuple[torch.Tensor, ...]]:
        generator = torch.Generator().manual_seed(1000 * job.round_idx + job.device)
        inputs = torch.randn(32, WIDTH, generator=generator)
        labels = torch.randint(CLASSES, (32,), generator=generator)
        loss = cross_entropy(self._forward(adapter, inputs), labels)
        return loss.item(), torch.autograd.grad(loss, weights)

    def _suffer(self, fate: str, job: DeviceJob) -> None:
        (self.folder / f"started-{job.device}").write_text(str(os.getpid()))
        if fate == "diverge":
            raise DivergenceError("training loss nan")
        if fate == "bug":
            raise ZeroDivisionError("a bug in device's code")
        if fate == "refuse":
            raise InputError("device", job.device, "an index below 2")
        if fate == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if fate == "exit":
            os._exit(3)
        if fate == "shout":
            print("a worker prints")
        while fate == "wait" and not (self.folder / "go").exists():
            time.sleep(0.01)


def make_host(arguments: Mapping[str, Any]) -> ToyHost:
    return ToyHost(arguments)
