"""Measured seconds of a training step on this machine, for ratios side by side."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass

import numpy as np
import torch

from fedquad.config import InputError, require_choice, require_int
from fedquad.cost.random_model import Shape, build_model, checked_config, random_batch
from fedquad.cost.step_setting import SettableModel, StepSetting, as_setting
from fedquad.model.lora import trainable_parameters

__all__ = ["PHASES", "StepLatency", "StepSetting", "checked_device", "measure_steps"]

PHASES = ("forward", "backward", "optimizer", "step")


@dataclass(frozen=True, kw_only=True)
class StepLatency(StepSetting):
    """A setting with the times of its steps, one value a repeat.

    Attributes
    ----------
    forward_s, backward_s, optimizer_s, step_s : tuple of float
        Forward with the loss, backward, AdamW with the clearing of gradients, and
        all of it.
    torch_device : str
        Name of the GPU, or ``cpu``.
    num_threads : int
        Of PyTorch on the CPU.
    """

    forward_s: tuple[float, ...]
    backward_s: tuple[float, ...]
    optimizer_s: tuple[float, ...]
    step_s: tuple[float, ...]
    torch_device: str
    num_threads: int

    def quantile(self, phase: str, q: float = 0.5) -> float:
        """Quantile over the repeats of a phase's seconds; the median by default."""
        require_choice("phase", phase, PHASES)
        return float(np.quantile(getattr(self, f"{phase}_s"), q))

    def summary(self) -> dict[str, float]:
        """Median and quartiles of every phase: ``step_s``, ``step_s_q25``, ``step_s_q75``, …"""
        quantiles = {"": 0.5, "_q25": 0.25, "_q75": 0.75}
        return {
            f"{phase}_s{suffix}": self.quantile(phase, q)
            for phase in PHASES
            for suffix, q in quantiles.items()
        }


def measure_steps(
    model: str,
    settings: Sequence[StepSetting | tuple],
    *,
    batch_size: int = 32,
    length: int = 128,
    repeats: int = 10,
    warmup: int = 2,
    torch_device: str = "cpu",
    seed: int = 0,
    lora_rank: int = 16,
    attention: str = "eager",
    num_labels: int = 3,
) -> list[StepLatency]:
    """Time training steps of several settings, interleaved in one run.

    Every repeat runs each setting once, in turn, so that a slow moment of the
    machine falls on all of them and ratios stay fair. Weights and tokens are
    random: times depend on shapes alone. On a GPU the clock is read after the
    device has finished.

    Parameters
    ----------
    model : str
        As in `fedquad.cost.accounting.step_cost`.
    settings : list of StepSetting or (tuning, trainable_layers)
        ``("full", None)``, ``("lora", None)`` for all layers, ``("lora", (8, 9, 10, 11))``,
        ``StepSetting("lora", None, quantized_layers=(0, 1))``. Settings that differ
        in layers only take turns on one model.
    repeats, warmup : int
        Measured and unmeasured rounds over all settings.
    torch_device : str
        ``cpu``, ``cuda`` or ``cuda:1``.

    Returns
    -------
    list of StepLatency
        In the order of ``settings``, with their layers spelled out.

    Raises
    ------
    InputError
        What `step_cost` refuses, no settings, no repeats, or a device that is not
        there.
    """
    shape = Shape(batch_size, length)
    config = checked_config(model, shape, num_labels)
    require_int("repeats", repeats, 1)
    require_int("warmup", warmup, 0)
    require_int("seed", seed, 0)
    if not settings:
        raise InputError("settings", settings, "at least one (tuning, trainable_layers)")
    wanted = [as_setting(setting).checked(config.num_hidden_layers) for setting in settings]
    device = checked_device(torch_device)
    times: list[list[tuple[float, ...]]] = [[] for _ in wanted]
    with ExitStack() as until, torch.random.fork_rng(devices=_cuda_devices(device)):
        variants: dict[tuple, SettableModel] = {}
        for setting in wanted:
            if setting.variant not in variants:
                torch.manual_seed(seed)
                with device:  # for the weights only: it slows every operation down a little
                    network = build_model(
                        config, tuning=setting.tuning, lora_rank=lora_rank, attention=attention
                    )
                variants[setting.variant] = SettableModel(network, setting)
                until.callback(variants[setting.variant].close)
        steps = [_Step(variants[setting.variant], setting) for setting in wanted]
        for repeat in range(warmup + repeats):
            batch = random_batch(config, shape, torch_device=str(device))
            for idx, step in enumerate(steps):
                marks = step.run(batch, device)
                if repeat >= warmup:
                    times[idx].append(marks)
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return [
        StepLatency(
            **asdict(setting),
            **{
                f"{phase}_s": column
                for phase, column in zip(PHASES, zip(*rows, strict=True), strict=True)
            },
            torch_device=machine,
            num_threads=torch.get_num_threads(),
        )
        for setting, rows in zip(wanted, times, strict=True)
    ]


class _Step:
    """One setting's step on a model that settings of the same variant share."""

    def __init__(self, model: SettableModel, setting: StepSetting) -> None:
        self._model, self._setting = model, setting
        model.select(setting)
        weights = trainable_parameters(model.model).values()
        self._optimizer = torch.optim.AdamW(weights, lr=1e-5, weight_decay=0.0)

    def run(self, batch: dict, device: torch.device) -> tuple[float, ...]:
        """Seconds of forward, backward, optimizer and all three."""
        self._model.select(self._setting)
        marks = [_now(device)]
        loss = self._model.loss(batch)
        marks.append(_now(device))
        loss.backward()
        marks.append(_now(device))
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        marks.append(_now(device))
        return (*np.diff(marks).tolist(), marks[-1] - marks[0])


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def checked_device(name: str) -> torch.device:
    """The device of this name; `InputError` where it is not there."""
    accepted = "cpu, or cuda where a GPU is found"
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise InputError("torch_device", name, accepted) from error
    found = device.type == "cuda" and (device.index or 0) < torch.cuda.device_count()
    if device.type != "cpu" and not found:
        raise InputError("torch_device", name, accepted)
    return device


def _cuda_devices(device: torch.device) -> list[torch.device]:
    return [device] if device.type == "cuda" else []
