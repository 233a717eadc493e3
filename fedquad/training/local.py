"""Local fine-tuning: the step, the schedule, its resumable state, and evaluation."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import nn
from torch.nn.functional import cross_entropy

from fedquad.config import InputError, require_choice, require_int, require_positive
from fedquad.model.lora import gradient_norms, lora_tensors, trainable_parameters
from fedquad.tasks.task import TokenizedSplit
from fedquad.training.schedule import cosine_rate, row_order, seed_entropy, step_seed

__all__ = [
    "DivergenceError",
    "Evaluation",
    "LocalTrainer",
    "cosine_rate",
    "evaluate",
    "evaluate_batch",
    "evaluation_batches",
    "evaluation_mode",
    "row_order",
]


class DivergenceError(ArithmeticError):
    """The loss or a gradient became NaN or infinite; the weights are those before that step."""


@dataclass(frozen=True)
class Evaluation:
    """Accuracy and mean cross-entropy over a split, and which of its rows were right, in order."""

    accuracy: float
    loss: float
    correct: np.ndarray


class LocalTrainer:
    """AdamW with a cosine schedule over the trainable parameters of a model.

    Two trainers with the same model, rows and settings take the same steps, bit
    for bit on the same kind of CPU and thread count, also when one of them was
    made anew in between from the other's `state`.

    Parameters
    ----------
    model : torch.nn.Module
        Its parameters with ``requires_grad`` are trained: choose them before
        (`fedquad.model.lora.set_trainable_layers`; all of them for full tuning).
        It is put in train mode.
    rows : TokenizedSplit
    num_steps, batch_size : int
    learning_rate : float
        Peak of `cosine_rate`, or the rate itself.
    seed : int or sequence of int
        Of the order of the rows and of dropout, such as (seed, round, device).
    torch_device : str
        ``cpu`` or ``cuda``.
    record_gradient_norms : bool
        Keep the mean over steps of each layer's LoRA gradient norm (g_l).
    schedule : {"cosine", "constant"}
        The cosine over ``num_steps``, or ``learning_rate`` at every step (one
        round of many, whose cosine falls from round to round).
    penalty : callable, optional
        From the model to a scalar that is added to each step's loss.

    Attributes
    ----------
    step_idx : int
        Steps taken.
    """

    def __init__(
        self,
        model: nn.Module,
        rows: TokenizedSplit,
        *,
        num_steps: int,
        batch_size: int,
        learning_rate: float,
        seed: int | Sequence[int],
        torch_device: str = "cpu",
        record_gradient_norms: bool = False,
        schedule: str = "cosine",
        penalty: Callable[[nn.Module], torch.Tensor] | None = None,
    ) -> None:
        require_int("num_steps", num_steps, 1)
        require_int("batch_size", batch_size, 1)
        require_positive("learning_rate", learning_rate)
        require_int("rows to train on", len(rows.labels), 1)
        require_choice("schedule", schedule, ("cosine", "constant"))
        # All modules are told here, whatever mode the whole says that it is in: peft wraps a model
        # in eval mode without a word, and layers that are skipped while it trains hear of nothing.
        self.model = model.to(torch_device).train()
        self.rows = rows
        self.torch_device = torch.device(torch_device)
        self.step_idx = 0
        self._settings = {
            "num_steps": num_steps,
            "batch_size": batch_size,
            "learning_rate": learning_rate,
            "seed": list(seed_entropy(seed)),
            "num_rows": len(rows.labels),
        }
        self._weights = trainable_parameters(model)
        if not self._weights:
            raise InputError("model", type(model).__name__, "a model with trainable parameters")
        self._optimizer = torch.optim.AdamW(
            self._weights.values(), lr=learning_rate, weight_decay=0.0, fused=True
        )
        self._norm_sums: dict[int, float] | None = {} if record_gradient_norms else None
        self._lora = lora_tensors(model) if record_gradient_norms else {}
        self._is_constant = schedule == "constant"
        self._penalty = penalty

    @property
    def num_steps(self) -> int:
        return self._settings["num_steps"]

    def step(self) -> float:
        """Take one step and return its training loss.

        Raises
        ------
        DivergenceError
            The loss or a gradient is not finite; the step is not applied.
        """
        settings, step = self._settings, self.step_idx
        if step >= self.num_steps:
            raise RuntimeError(f"all {self.num_steps} steps have been taken")
        rows = row_order(settings["num_rows"], settings["batch_size"], settings["seed"], step)
        batch = _to_device(self.rows.batch(rows), self.torch_device)
        labels = batch.pop("labels")
        if not self.model.training:  # telling every module takes 5 % of a small encoder's step
            self.model.train()
        self._optimizer.zero_grad(set_to_none=True)
        cuda = [self.torch_device] if self.torch_device.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda):
            torch.manual_seed(step_seed(settings["seed"], step))
            loss = cross_entropy(self.model(**batch).logits, labels)
            if self._penalty is not None:
                loss = loss + self._penalty(self.model)
            loss.backward()
        value = loss.item()
        gradients = [w.grad for w in self._weights.values() if w.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients).item()
        if not (math.isfinite(value) and math.isfinite(norm)):
            raise DivergenceError(
                f"step {step} of {self.num_steps}: training loss {value}, gradient norm {norm}; "
                f"try a learning rate below {settings['learning_rate']:g}"
            )
        if self._norm_sums is not None:
            for layer, layer_norm in gradient_norms(self._lora).items():
                self._norm_sums[layer] = self._norm_sums.get(layer, 0.0) + layer_norm
        if not self._is_constant:
            for group in self._optimizer.param_groups:
                group["lr"] = cosine_rate(step, self.num_steps, settings["learning_rate"])
        self._optimizer.step()
        self.step_idx += 1
        return value

    def mean_gradient_norms(self) -> dict[int, float]:
        """g_l: mean over the steps taken of each layer's LoRA gradient norm, where recorded."""
        return {layer: total / self.step_idx for layer, total in (self._norm_sums or {}).items()}

    def state(self) -> bytes:
        """Everything a new trainer needs to go on: safetensors with JSON metadata, no pickle."""
        tensors = {}
        for name, weight in self._weights.items():
            tensors[f"weight/{name}"] = weight.detach()
            for key, value in self._optimizer.state.get(weight, {}).items():
                tensors[f"{key}/{name}"] = value
        progress = {
            "settings": self._settings,
            "step_idx": self.step_idx,
            "norm_sums": None if self._norm_sums is None else list(self._norm_sums.items()),
        }
        tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        return safetensors.torch.save(tensors, {"progress": json.dumps(progress)})

    def load_state(self, state: bytes) -> None:
        """Go on from `state`.

        Raises
        ------
        InputError
            Bytes that are damaged or belong to a run with other settings or
            another model; the trainer is unchanged then.
        """
        try:
            tensors = safetensors.torch.load(state)
            header = json.loads(state[8 : 8 + int.from_bytes(state[:8], "little")])
            progress = json.loads(header["__metadata__"]["progress"])
        except (SafetensorError, ValueError, KeyError) as error:
            accepted = f"what LocalTrainer.state() wrote, undamaged ({error})"
            raise InputError("training state", f"{len(state)} bytes", accepted) from error
        if progress["settings"] != self._settings:
            accepted = f"one of a run with {self._settings}"
            raise InputError("training state", progress["settings"], accepted)
        shapes = {name: weight.shape for name, weight in self._weights.items()}
        moments: dict[str, dict[str, torch.Tensor]] = {"weight": {}}
        for key, tensor in tensors.items():
            kind, _, name = key.partition("/")
            moments.setdefault(kind, {})[name] = tensor
        if {name: tensor.shape for name, tensor in moments["weight"].items()} != shapes:
            raise InputError("training state", "its weights", "the model's trainable parameters")
        weights = moments.pop("weight")
        with torch.no_grad():
            for name, weight in self._weights.items():
                weight.copy_(weights[name])
        saved = {
            idx: {kind: values[name] for kind, values in moments.items() if name in values}
            for idx, name in enumerate(self._weights)
        }
        groups = self._optimizer.state_dict()["param_groups"]
        saved = {idx: values for idx, values in saved.items() if values}
        self._optimizer.load_state_dict({"state": saved, "param_groups": groups})
        self.step_idx = progress["step_idx"]
        sums = progress["norm_sums"]
        self._norm_sums = None if sums is None else dict(map(tuple, sums))


def evaluation_batches(rows: TokenizedSplit, batch_size: int = 64) -> list[np.ndarray]:
    """The rows of a split in order of length, cut into batches: little padding is computed."""
    require_int("batch_size", batch_size, 1)
    require_int("rows to evaluate", len(rows.labels), 1)
    by_length = np.argsort([len(ids) for ids in rows.input_ids], kind="stable")
    return [by_length[start : start + batch_size] for start in range(0, len(rows), batch_size)]


def evaluate_batch(
    model: nn.Module, rows: TokenizedSplit, chosen: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Whether each of these rows is classified correctly (bool), and its loss (float64).

    Runs on the device where the model is, which is in `evaluation_mode`.
    """
    batch = _to_device(rows.batch(chosen), next(model.parameters()).device)
    labels = batch.pop("labels")
    with torch.inference_mode():
        logits = model(**batch).logits
        correct = (logits.argmax(dim=-1) == labels).cpu().numpy()
        losses = cross_entropy(logits, labels, reduction="none").cpu().numpy()
    return correct, losses.astype(np.float64)


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """A model without dropout for as long as the block lasts; then in the mode it was in."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def evaluate(model: nn.Module, rows: TokenizedSplit, batch_size: int = 64) -> Evaluation:
    """Accuracy and loss of a model over a split, reported in the order of the split."""
    correct = np.empty(len(rows), dtype=bool)
    losses = np.empty(len(rows), dtype=np.float64)
    with evaluation_mode(model):
        for chosen in evaluation_batches(rows, batch_size):
            correct[chosen], losses[chosen] = evaluate_batch(model, rows, chosen)
    return Evaluation(float(correct.mean()), float(losses.mean()), correct)


def _to_device(
    batch: dict[str, torch.Tensor], torch_device: torch.device
) -> dict[str, torch.Tensor]:
    return {name: tensor.to(torch_device) for name, tensor in batch.items()}
