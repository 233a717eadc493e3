"""One worker's devices: a model and everybody's rows, and one device's part of a round."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from fedquad.config import Assignment, FederatedConfig, InputError
from fedquad.federation.jobs import DeviceJob, EvalBatch
from fedquad.federation.setting import FederatedSetting, config_from_json
from fedquad.methods.method import LocalUpdate, Method
from fedquad.model.adapter import Adapter
from fedquad.model.lora import (
    attach_lora,
    gradient_norms,
    lora_tensors,
    set_trainable_layers,
)
from fedquad.model.sub_model import active_layers
from fedquad.tasks.partition import dirichlet_partition
from fedquad.tasks.task import TokenizedSplit
from fedquad.tasks.tokens import tokenize_task
from fedquad.training.local import (
    DivergenceError,
    LocalTrainer,
    cosine_rate,
    evaluate_batch,
    evaluation_batches,
    evaluation_mode,
    row_order,
)


class DeviceHost:
    """Everything that one worker needs to be any of the devices, one after the other.

    One model serves all devices: each gets the global adapter, its own rows, a
    fresh optimizer, and random numbers from (seed, round, device) alone. So what
    a device sends does not depend on who ran before it, or where.

    Parameters
    ----------
    setting : FederatedSetting
    torch_device : str
        ``cpu`` or ``cuda``.

    Attributes
    ----------
    model : PeftModel
        Of whichever device ran last.

    Raises
    ------
    InputError
        More devices than rows to train on, or rows longer than the model can read.
    """

    def __init__(self, setting: FederatedSetting, torch_device: str = "cpu") -> None:
        config, backbone = setting.config, setting.backbone
        self.config = config
        self.torch_device = torch_device
        self._method: Method = setting.method
        train_rows, self._eval_rows = tokenize_task(setting.task, backbone, config.max_length)
        self._train_rows = train_rows
        self._shards = dirichlet_partition(
            train_rows.labels, setting.num_devices, config.partition_alpha, config.seed
        )
        self._eval_batches = evaluation_batches(self._eval_rows)
        self.model = attach_lora(
            backbone.model,
            rank=config.lora_rank,
            alpha=config.lora_alpha,
            fresh_modules=backbone.fresh_modules,
            seed=config.seed,
        ).to(torch_device)
        self._lora = lora_tensors(self.model)
        self._global = Adapter.from_model(self.model)
        self._in_model: Adapter | None = self._global

    @property
    def num_eval_batches(self) -> int:
        """How many parts the evaluation split is cut into, the same for any number of workers."""
        return len(self._eval_batches)

    def global_adapter(self) -> Adapter:
        """The global adapter as it was last received; the fresh one before that."""
        return self._global

    def receive(self, global_adapter: Adapter) -> None:
        """Take the global adapter of the round."""
        self._global = global_adapter
        self._in_model = None

    def fine_tune(self, job: DeviceJob) -> LocalUpdate:
        """One device's local steps of one round.

        Raises
        ------
        DivergenceError
            Its loss or a gradient is not finite.
        """
        config, assignment = self.config, job.assignment
        received = self._received(job)
        self._load(received)
        set_trainable_layers(self.model, assignment.trainable_layers)
        within_round = config.rate_schedule == "within-round"
        rate = cosine_rate(job.round_idx, config.num_rounds, config.learning_rate)
        rows = self.rows(job.device)
        trainer = LocalTrainer(
            self.model,
            rows,
            num_steps=config.local_steps,
            batch_size=config.batch_size,
            learning_rate=config.learning_rate if within_round else rate,
            seed=(config.seed, job.round_idx, job.device),
            torch_device=self.torch_device,
            record_gradient_norms=True,
            schedule="cosine" if within_round else "constant",
            penalty=self._method.penalty(assignment),
        )
        with self._running(assignment):
            losses = [trainer.step() for _ in range(config.local_steps)]
        trained = Adapter.from_model(self.model).layers(assignment.active_layers)
        trained = trained.truncate_rank(assignment.lora_rank)
        return LocalUpdate(
            device=job.device,
            assignment=assignment,
            adapter=self._method.finish_update(received, trained, assignment),
            num_samples=len(rows),
            gradient_norms=trainer.mean_gradient_norms(),
            train_loss=math.fsum(losses) / len(losses),
        )

    def probe(self, job: DeviceJob) -> np.ndarray:
        """Squared LoRA gradient norm of each layer on one batch, shape (L,); 0 where not trained.

        The batch is the first that the device would train on in this round.

        Raises
        ------
        DivergenceError
            The loss or a gradient is not finite.
        """
        self._load(self._received(job))
        set_trainable_layers(self.model, job.assignment.trainable_layers)
        rows = self.rows(job.device)
        seed = (self.config.seed, job.round_idx, job.device)
        batch = rows.batch(row_order(len(rows), self.config.batch_size, seed, 0))
        batch = {name: tensor.to(self.torch_device) for name, tensor in batch.items()}
        labels = batch.pop("labels")
        self.model.zero_grad(set_to_none=True)  # those of the device before are still there
        # The gradient at the weights as they are, without dropout.
        with evaluation_mode(self.model), self._running(job.assignment):
            loss = cross_entropy(self.model(**batch).logits, labels)
            loss.backward()
        squares = np.zeros(len(self._lora))
        for layer, norm in gradient_norms(self._lora).items():
            squares[layer] = norm * norm
        self.model.zero_grad(set_to_none=True)
        if not (math.isfinite(loss.item()) and np.isfinite(squares).all()):
            raise DivergenceError(f"the probe of round {job.round_idx + 1} is not finite")
        return squares

    def rows(self, device: int) -> TokenizedSplit:
        """A device's own rows of the training split."""
        if not 0 <= device < len(self._shards):
            raise InputError("device", device, f"an index below {len(self._shards)}")
        return self._train_rows.subset(self._shards[device])

    def evaluate(self, batches: Sequence[int]) -> list[EvalBatch]:
        """The global model on these parts of the evaluation split."""
        self._load(self._global)
        parts = []
        with evaluation_mode(self.model):
            for batch in batches:
                rows = self._eval_batches[batch]
                correct, losses = evaluate_batch(self.model, self._eval_rows, rows)
                parts.append(EvalBatch(rows=rows, correct=correct, losses=losses))
        return parts

    def _received(self, job: DeviceJob) -> Adapter:
        """What the device downloads: the layers it runs, at its rank."""
        adapter = self._global.layers(job.assignment.active_layers)
        return adapter.truncate_rank(job.assignment.lora_rank)

    def _load(self, adapter: Adapter) -> None:
        if self._in_model is not adapter:
            adapter.load_into(self.model)
        # Training changes the weights; after an evaluation the global adapter is there still.
        self._in_model = adapter if adapter is self._global else None

    @contextmanager
    def _running(self, assignment: Assignment) -> Iterator[None]:
        """The model with the assignment's layers quantized and the others than its own skipped."""
        with ExitStack() as until_done:
            if assignment.quantized_layers:
                from fedquad import quantize_activations  # brings the kernels, which others spare

                until_done.enter_context(
                    quantize_activations(
                        self.model,
                        assignment.quantized_layers,
                        bits=self.config.activation_bits,
                    )
                )
            until_done.enter_context(active_layers(self.model, assignment.active_layers))
            yield


def host_from_json(arguments: Mapping[str, Any]) -> DeviceHost:
    """A host in a worker process, from the settings that travel there.

    Parameters
    ----------
    arguments : mapping
        ``config``: as `fedquad.federation.setting.config_to_json` writes it;
        ``torch_device``: with ``cuda`` the workers take turns among the GPUs.
    """
    config: FederatedConfig = config_from_json(arguments["config"])
    torch_device = arguments.get("torch_device", "cpu")
    if torch_device == "cuda":
        gpus = max(1, torch.cuda.device_count())
        torch_device = f"cuda:{int(os.environ.get('LOCAL_RANK', 0)) % gpus}"
    return DeviceHost(FederatedSetting(config), torch_device)
