"""Finished fine-tuning runs as objects and as a table, read without model or data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from fedquad.config import FineTuneConfig, InputError, settings_of
from fedquad.model.backbone import model_identity
from fedquad.runs.store import StoredRun
from fedquad.tasks.task import task_identity


@dataclass(frozen=True, kw_only=True)
class FineTuneResult:
    """What came out of a fine-tuning run.

    Attributes
    ----------
    config : FineTuneConfig
    run_id : str
    accuracy, loss : float
        On the evaluation split after the last step; accuracy from 0 to 1.
    steps : int
        Optimizer steps taken.
    num_layers : int
        Transformer layers L of the model.
    curve : list of dict
        One row an evaluation: ``step, train_loss, accuracy, loss``.
        ``train_loss`` is the mean since the evaluation before.
    correct : ndarray of bool, shape (rows of the evaluation split,)
        Which rows were classified correctly, in the order of the split.
    rows_read, rows_refused : int
        Rows of both splits that were used, and rows of the source that could not be.
    sources : dict
        SHA-256 of the task's content and of the model's weights.
    telemetry : dict
        ``wall_time_s`` over all attempts, ``attempts``, ``rss_bytes`` at the
        end, ``environment``, where the task came from, the first rows refused.
    from_record : bool
        False if the run was computed by this call.
    """

    config: FineTuneConfig
    run_id: str
    accuracy: float
    loss: float
    steps: int
    num_layers: int
    curve: list[dict[str, Any]]
    correct: np.ndarray
    rows_read: int
    rows_refused: int
    sources: dict[str, str]
    telemetry: dict[str, Any]
    from_record: bool

    @property
    def trained_layers(self) -> tuple[int, ...]:
        """Layers whose weights or LoRA were trained."""
        layers = self.config.trainable_layers
        if self.config.tuning == "full" or layers is None:
            return tuple(range(self.num_layers))
        return layers

    @property
    def depth(self) -> int | None:
        """LoRA depth; None for other sets of layers and for full fine-tuning."""
        layers = self.trained_layers
        top = tuple(range(self.num_layers - len(layers), self.num_layers))
        return len(layers) if self.config.tuning == "lora" and layers == top else None

    @property
    def quantized(self) -> int | None:
        """Quantized layers a, counted from the lowest trained one; None for other sets."""
        layers = self.config.quantized_layers
        lowest = self.trained_layers[0]
        return len(layers) if layers == tuple(range(lowest, lowest + len(layers))) else None


def all_settings(configs: Iterable[FineTuneConfig]) -> list[dict[str, Any]]:
    """The settings that each run's id is the hash of.

    Names of tasks and models give way to their identity, so that no path
    enters. Each distinct one is looked up once: a folder has to be read.
    """
    configs = list(configs)
    tasks = {name: task_identity(name) for name in {config.task for config in configs}}
    models = {name: model_identity(name) for name in {config.model for config in configs}}
    return [
        settings_of(config) | {"task": tasks[config.task], "model": models[config.model]}
        for config in configs
    ]


def run_settings(config: FineTuneConfig) -> dict[str, Any]:
    """`all_settings` of one run."""
    return all_settings([config])[0]


def result_of(config: FineTuneConfig, stored: StoredRun, *, from_record: bool) -> FineTuneResult:
    """A stored run as a result."""
    last = stored.rows[-1]
    packed = np.frombuffer(bytes.fromhex(last["correct"]), dtype=np.uint8)
    curve = [
        {key: row[key] for key in ("step", "train_loss", "accuracy", "loss")} for row in stored.rows
    ]
    started = [row for row in stored.telemetry if row["event"] == "started"]
    return FineTuneResult(
        config=config,
        run_id=stored.run_id,
        accuracy=last["accuracy"],
        loss=float("nan") if last["loss"] is None else last["loss"],
        steps=last["step"],
        num_layers=last["num_layers"],
        curve=curve,
        correct=np.unpackbits(packed, count=last["num_eval"]).astype(bool),
        rows_read=started[-1]["rows_read"],
        rows_refused=started[-1]["rows_refused"],
        sources=stored.sources,
        telemetry={**started[-1], **effort(stored.telemetry), "attempts": len(started)},
        from_record=from_record,
    )


def effort(telemetry: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """``wall_time_s`` over all attempts, each up to its last evaluation; ``rss_bytes`` at the last.

    Of a central run and of a federated one alike.
    """
    seconds, rss_bytes = [], None
    for row in telemetry:
        if row["event"] == "started":
            seconds.append(0.0)
        else:
            seconds[-1], rss_bytes = row["wall_time_s"], row["rss_bytes"]
    return {"wall_time_s": round(sum(seconds), 3), "rss_bytes": rss_bytes}


def results_frame(results: Iterable[FineTuneResult]) -> pd.DataFrame:
    """One row a run.

    Returns
    -------
    DataFrame
        ``task, model, tuning, layers`` (``0-11``), ``depth`` and ``quantized``
        (NaN where there is none), ``activation_bits, seed, steps, accuracy, loss,
        num_eval, correct`` (hex of `numpy.packbits`), ``from_record``.
    """
    columns = (
        "task model tuning layers depth quantized activation_bits seed steps accuracy loss "
        "num_eval correct from_record"
    )
    rows = [
        {
            "task": result.config.task,
            "model": result.config.model,
            "tuning": result.config.tuning,
            "layers": format_layers(result.trained_layers),
            "depth": _or_nan(result.depth),
            "quantized": _or_nan(result.quantized),
            "activation_bits": result.config.activation_bits,
            "seed": result.config.seed,
            "steps": result.steps,
            "accuracy": result.accuracy,
            "loss": result.loss,
            "num_eval": len(result.correct),
            "correct": pack(result.correct),
            "from_record": result.from_record,
        }
        for result in results
    ]
    return pd.DataFrame(rows, columns=columns.split())


def _or_nan(count: int | None) -> float:
    return float("nan") if count is None else count


def pack(correct: np.ndarray) -> str:
    """Booleans as hex of `numpy.packbits`."""
    return np.packbits(correct).tobytes().hex()


def format_layers(layers: Sequence[int]) -> str:
    """Ascending layers as ranges: ``0-3,8,10-11``."""
    starts = [layers[0], *(b for a, b in pairwise(layers) if b != a + 1)]
    ends = [*(a for a, b in pairwise(layers) if b != a + 1), layers[-1]]
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in zip(starts, ends, strict=True))


def parse_layers(text: str) -> tuple[int, ...]:
    """Layers of a run from their text form: ``"0-3,7"`` -> ``(0, 1, 2, 3, 7)``."""
    layers: list[int] = []
    try:
        for part in str(text).split(","):
            first, _, last = part.partition("-")
            layers.extend(range(int(first), int(last or first) + 1))
    except ValueError:
        raise InputError("layers", text, "ranges such as 0-3 or 0-3,7") from None
    return tuple(layers)
