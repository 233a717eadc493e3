"""Settings of experiments, and the id derived from them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fedquad.config.validation import (
    InputError,
    require_choice,
    require_int,
    require_layers,
    require_positive,
)

ACTIVATION_BITS = (8, 4)
EVALUATION_ROWS = ("eval", "holdout")
# A setting that came when runs were recorded already. While it has its default it is left out of
# what the id is the hash of: those runs are the same experiments as before, and keep their ids.
ADDED_LATER = {"left_out_at_default": True}


@dataclass(frozen=True, kw_only=True)
class FineTuneConfig:
    """A central fine-tuning run: everything that changes its result, and nothing else.

    Parameters
    ----------
    task : str
        Name of a task (``micro-mnli``, ``sst2``, …) or a folder of TSV files.
    model : str
        ``embedded``, ``minilm``, a Hugging Face name or a folder.
    tuning : {"lora", "full"}
        LoRA on ``trainable_layers`` and the head, or every weight.
    trainable_layers : tuple of int or None
        Layers whose LoRA is trained; None means all. Not used by ``full``.
    num_steps : int
        Optimizer steps.
    batch_size : int
        Rows a step.
    max_length : int
        Tokens a row at most; longer rows are cut.
    learning_rate : float
        Peak rate of the cosine schedule (no warm-up).
    lora_rank : int
        r of LoRA.
    lora_alpha : int
        alpha of LoRA; the update is scaled by alpha / r.
    train_samples : int or None
        Rows used of the training split, in an order that does not depend on
        ``seed``; None means all.
    eval_samples : int or None
        The same for the evaluation split.
    evaluate_every : int
        Steps between two evaluations; the last step is always evaluated.
    evaluate_on : {"eval", "holdout"}
        The evaluation split, or a fifth of the training split that is then
        not trained on: settings are chosen on the latter.
    seed : int
        Head and LoRA initialisation, order of the rows, dropout.
    quantized_layers : tuple of int
        Layers that keep what backward needs as quantized blocks, none of them
        below the lowest trained layer (those keep nothing). Never the output
        layer: `fedquad.runs.central.CentralRun` refuses it, who knows the model.
    activation_bits : {8, 4}
        Of the quantized blocks.
    """

    task: str = "micro-mnli"
    model: str = "embedded"
    tuning: str = "lora"
    trainable_layers: tuple[int, ...] | None = None
    num_steps: int = 400
    batch_size: int = 32
    max_length: int = 128
    learning_rate: float = 1e-3
    lora_rank: int = 16
    lora_alpha: int = 16
    train_samples: int | None = None
    eval_samples: int | None = None
    evaluate_every: int = 100
    evaluate_on: str = "eval"
    seed: int = 0
    quantized_layers: tuple[int, ...] = field(default=(), metadata=ADDED_LATER)
    activation_bits: int = field(default=8, metadata=ADDED_LATER)

    def __post_init__(self) -> None:
        require_choice("tuning", self.tuning, ("lora", "full"))
        require_choice("evaluate_on", self.evaluate_on, EVALUATION_ROWS)
        for name in ("num_steps", "batch_size", "lora_rank", "lora_alpha", "evaluate_every"):
            require_int(name, getattr(self, name), 1)
        require_int("max_length", self.max_length, 4)
        require_int("seed", self.seed, 0)
        require_positive("learning_rate", self.learning_rate)
        object.__setattr__(self, "learning_rate", float(self.learning_rate))  # 1 and 1.0: one id
        for name in ("train_samples", "eval_samples"):
            if getattr(self, name) is not None:
                require_int(name, getattr(self, name), 1)
        if self.trainable_layers is not None:
            require_layers("trainable_layers", self.trainable_layers)
            if not self.trainable_layers:
                raise InputError("trainable_layers", (), "at least one layer (depth >= 1)")
        self._check_quantization()

    def _check_quantization(self) -> None:
        require_layers("quantized_layers", self.quantized_layers)
        some_layers = self.tuning == "lora" and self.trainable_layers is not None
        lowest = self.trainable_layers[0] if some_layers else 0
        if self.quantized_layers and self.quantized_layers[0] < lowest:
            accepted = f"layers from {lowest}, the lowest trained one, upward"
            raise InputError("quantized_layers", self.quantized_layers, accepted)
        if type(self.activation_bits) is not int or self.activation_bits not in ACTIVATION_BITS:
            raise InputError("activation_bits", self.activation_bits, "8 or 4")
        if self.activation_bits != 8 and not self.quantized_layers:
            # The same run under two ids otherwise.
            raise InputError("activation_bits", self.activation_bits, "8 if no layer is quantized")


# Raised when the meaning of a setting changes, so that old records are not mistaken for new ones.
RESULT_VERSION = 1


def settings_of(config: Any) -> dict[str, Any]:
    """A config dataclass as plain JSON values, in field order.

    Fields that were added after runs had been recorded are there only where
    they differ from their default.
    """
    settings = {"experiment": type(config).__name__, "version": RESULT_VERSION}
    values = dataclasses.asdict(config)
    for one in dataclasses.fields(config):
        if one.metadata.get("left_out_at_default") and values[one.name] == one.default:
            del values[one.name]
    settings.update(json.loads(json.dumps(values)))
    return settings


def run_id(settings: Mapping[str, Any]) -> str:
    """Id of a run: a hash of the settings that change its result.

    Parameters
    ----------
    settings : mapping
        As `settings_of` gives them. Paths must have been replaced by a hash of
        their content, so that a moved folder is still the same experiment.

    Returns
    -------
    str
        16 hexadecimal digits of SHA-256 over the canonical JSON.
    """
    canonical = json.dumps(settings, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]
