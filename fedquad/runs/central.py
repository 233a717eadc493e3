"""One central fine-tuning run, from its last checkpoint to its final row."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from typing import Any

import psutil
import torch

from fedquad.config import FineTuneConfig, InputError
from fedquad.model.backbone import Backbone, num_layers
from fedquad.model.lora import attach_lora, set_trainable_layers
from fedquad.runs.environment import describe_environment
from fedquad.runs.results import pack
from fedquad.runs.run import Run
from fedquad.tasks.task import Task, TokenizedSplit
from fedquad.tasks.tokens import tokenize_task
from fedquad.training.local import LocalTrainer, evaluate

CHECKPOINT_EVERY_S = 30.0
REFUSALS_LOGGED = 20

_log = logging.getLogger(__name__)


class CentralRun:
    """Model, rows and trainer of a run, made before anything is stored of it.

    Parameters
    ----------
    config : FineTuneConfig
    task : Task
        With the config's numbers of samples.
    backbone : Backbone
        Changed in place: LoRA is put on it, or all of it is trained.
    torch_device : str
        ``cpu`` or ``cuda``.

    Raises
    ------
    InputError
        Layers that the model does not have, its output layer among those to
        quantize, or rows longer than it can read.
    """

    def __init__(
        self, config: FineTuneConfig, task: Task, backbone: Backbone, torch_device: str
    ) -> None:
        self.config = config
        self.task = task
        self.torch_device = torch_device
        _check_quantized_layers(config, num_layers(backbone.model))
        self.train_rows, self.eval_rows = tokenize_task(task, backbone, config.max_length)
        self.trainer = _make_trainer(config, backbone, self.train_rows, torch_device)

    def go_on(self, run: Run, on_step: Callable[[int], None]) -> None:
        """Train and evaluate from the checkpoint of ``run``, if it has one, to the end.

        The same rows of results come out however often it was stopped between.
        """
        trainer, num_steps = self.trainer, self.config.num_steps
        losses = _restore(run, trainer)  # of the steps since the last evaluation
        on_step(trainer.step_idx)
        run.log(step=trainer.step_idx, event="started", **self._describe())
        started = saved = time.perf_counter()
        with self._quantization():  # evaluation keeps nothing for backward
            while trainer.step_idx < num_steps:
                losses.append(trainer.step())
                step = trainer.step_idx
                is_last = step == num_steps
                evaluated = is_last or step % self.config.evaluate_every == 0
                if evaluated:
                    row = _evaluation_row(trainer, self.eval_rows, losses, is_last)
                    run.log(
                        step=step,
                        event="evaluated",
                        wall_time_s=round(time.perf_counter() - started, 3),
                        rss_bytes=psutil.Process().memory_info().rss,
                    )
                    run.append(row)
                    losses = []
                if not is_last and (evaluated or time.perf_counter() - saved > CHECKPOINT_EVERY_S):
                    run.save_checkpoint(json.dumps(losses).encode() + b"\n" + trainer.state())
                    saved = time.perf_counter()
                on_step(step)

    def _quantization(self) -> AbstractContextManager:
        """What makes the steps keep quantized blocks.

        Rounding is to nearest, so a step depends on nothing but model and rows,
        and a resumed run takes the same ones.
        """
        if not self.config.quantized_layers:
            return nullcontext()
        from fedquad import quantize_activations  # brings the kernels, which other runs spare

        return quantize_activations(
            self.trainer.model,
            self.config.quantized_layers,
            bits=self.config.activation_bits,
            block_size=32,
            rounding="nearest",
        )

    def _describe(self) -> dict[str, Any]:
        """What the settings do not determine, or say in other words."""
        splits = {"train": self.task.train, "eval": self.task.eval}
        if self.config.evaluate_on == "holdout":
            del splits["eval"]  # of the same file, with the same refused rows
        refused = [
            {"split": name, "line": refusal.line, "reason": refusal.reason}
            for name, split in splits.items()
            for refusal in split.refused
        ]
        return {
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "task_source": self.task.source,
            "rows_read": len(self.task.train) + len(self.task.eval),
            "rows_refused": len(refused),
            "refused": refused[:REFUSALS_LOGGED],
            "unknown_share": self.train_rows.unknown_share,
            "environment": describe_environment(self.torch_device),
        }


def _check_quantized_layers(config: FineTuneConfig, num_layers: int) -> None:
    if config.quantized_layers and config.quantized_layers[-1] >= num_layers - 1:
        accepted = f"layers below {num_layers - 1}, the output layer, which is never quantized"
        raise InputError("quantized_layers", config.quantized_layers, accepted)


def _evaluation_row(
    trainer: LocalTrainer, rows: TokenizedSplit, losses: list[float], is_last: bool
) -> dict[str, Any]:
    evaluation = evaluate(trainer.model, rows)
    row = {
        "step": trainer.step_idx,
        "train_loss": sum(losses) / len(losses),
        "accuracy": evaluation.accuracy,
        # JSON has no infinity, and a loss can overflow where training itself did not.
        "loss": evaluation.loss if math.isfinite(evaluation.loss) else None,
    }
    if is_last:
        row |= {
            "num_layers": num_layers(trainer.model),
            "num_eval": len(evaluation.correct),
            "correct": pack(evaluation.correct),
            "final": True,
        }
    return row


def _make_trainer(
    config: FineTuneConfig, backbone: Backbone, rows: TokenizedSplit, torch_device: str
) -> LocalTrainer:
    model: torch.nn.Module = backbone.model
    if config.tuning == "lora":
        model = attach_lora(
            backbone.model,
            rank=config.lora_rank,
            alpha=config.lora_alpha,
            fresh_modules=backbone.fresh_modules,
            seed=config.seed,
        )
        if config.trainable_layers is not None:
            set_trainable_layers(model, config.trainable_layers)
    return LocalTrainer(
        model,
        rows,
        num_steps=config.num_steps,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        seed=config.seed,
        torch_device=torch_device,
    )


def _restore(run: Run, trainer: LocalTrainer) -> list[float]:
    """Bring trainer and rows to the last checkpoint; the losses since its last evaluation."""
    losses: list[float] = []
    if checkpoint := run.load_checkpoint():
        try:
            pending, _, state = checkpoint.partition(b"\n")
            losses = json.loads(pending)
            trainer.load_state(state)
        except (InputError, ValueError) as error:
            _log.warning("%s: starting over, its checkpoint is damaged: %s", run.directory, error)
            losses = []
    run.rewind(sum(row["step"] <= trainer.step_idx for row in run.rows))
    return losses
