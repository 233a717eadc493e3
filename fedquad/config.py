"""What an experiment is: frozen, validated settings, and the id derived from them."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


class InputError(ValueError):
    """A value from outside that cannot be used.

    The message names the field, the value and what would be accepted.
    """

    def __init__(self, field: str, value: object, accepted: str) -> None:
        super().__init__(f"{field} = {value!r} cannot be used: expected {accepted}")
        self.field = field
        self.value = value
        self.accepted = accepted

    def __reduce__(self) -> tuple:  # errors cross process boundaries
        return type(self), (self.field, self.value, self.accepted)


def require_int(field: str, value: object, low: int, high: int | None = None) -> None:
    """Raise `InputError` unless ``low <= value <= high`` and ``value`` is an int."""
    accepted = f"an integer >= {low}" if high is None else f"an integer from {low} to {high}"
    if not isinstance(value, int) or isinstance(value, bool):
        raise InputError(field, value, accepted)
    if value < low or (high is not None and value > high):
        raise InputError(field, value, accepted)


def require_positive(field: str, value: object) -> None:
    """Raise `InputError` unless ``value`` is a finite number above zero."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or value <= 0:
        raise InputError(field, value, "a finite number > 0")


def require_choice(field: str, value: object, choices: Iterable[str]) -> None:
    """Raise `InputError` unless ``value`` is one of ``choices``."""
    choices = list(choices)
    if value not in choices:
        raise InputError(field, value, "one of " + ", ".join(choices))


@dataclass(frozen=True)
class LayerConfig:
    """What FedQuad gives a device: the pair (d, a) of Eq. (15).

    Parameters
    ----------
    depth : int
        LoRA depth d: how many layers, counted from the output, are trained.
    quantized : int
        Quantized layers a: how many of them, counted from the lowest trained
        one, keep their saved activations as INT8; ``0 <= a <= d - 1``, since
        the output layer is never quantized.
    """

    depth: int
    quantized: int = 0

    def __post_init__(self) -> None:
        require_int("depth", self.depth, 1)
        require_int("quantized", self.quantized, 0, self.depth - 1)

    def trainable_layers(self, num_layers: int) -> tuple[int, ...]:
        """L_t of Section III-D: layers ``L - d .. L - 1``."""
        require_int("depth", self.depth, 1, num_layers)
        return tuple(range(num_layers - self.depth, num_layers))

    def quantized_layers(self, num_layers: int) -> tuple[int, ...]:
        """L_q of Section III-D: layers ``L - d .. L - d + a - 1``."""
        return self.trainable_layers(num_layers)[: self.quantized]


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """What one device does in one round, for any method.

    Layers are indices in ``0 .. num_layers - 1``, ascending. ``active_layers``
    are run forward (a sub-model skips the others), ``trainable_layers`` get
    LoRA gradients, ``quantized_layers`` keep their activations as INT8.
    """

    num_layers: int
    active_layers: tuple[int, ...]
    trainable_layers: tuple[int, ...]
    quantized_layers: tuple[int, ...] = ()
    lora_rank: int = 16

    def __post_init__(self) -> None:
        require_int("num_layers", self.num_layers, 1)
        require_int("lora_rank", self.lora_rank, 1)
        for field in ("active_layers", "trainable_layers", "quantized_layers"):
            require_layers(field, getattr(self, field), self.num_layers)
        active = set(self.active_layers)
        for field in ("trainable_layers", "quantized_layers"):
            if not set(getattr(self, field)) <= active:
                raise InputError(field, getattr(self, field), f"a subset of {self.active_layers}")
        lowest = min(self.trainable_layers, default=self.num_layers)
        if any(layer < lowest for layer in self.quantized_layers):
            raise InputError(
                "quantized_layers",
                self.quantized_layers,
                f"layers from {lowest}, the lowest trainable one, upward "
                "(those below keep nothing to quantize)",
            )

    @classmethod
    def from_layer_config(
        cls, config: LayerConfig, num_layers: int, lora_rank: int = 16
    ) -> Assignment:
        """FedQuad's own assignment: all layers active, (d, a) as in Section III-D."""
        return cls(
            num_layers=num_layers,
            active_layers=tuple(range(num_layers)),
            trainable_layers=config.trainable_layers(num_layers),
            quantized_layers=config.quantized_layers(num_layers),
            lora_rank=lora_rank,
        )


def require_layers(field: str, layers: object, num_layers: int | None = None) -> None:
    """Raise `InputError` unless ``layers`` is an ascending tuple of layer indices."""
    top = "" if num_layers is None else f" below {num_layers}"
    accepted = f"ascending layer indices from 0{top}, none twice"
    if not isinstance(layers, tuple) or not all(
        isinstance(layer, int) and not isinstance(layer, bool) for layer in layers
    ):
        raise InputError(field, layers, accepted)
    ascending = all(a < b for a, b in itertools.pairwise(layers))
    in_range = all(layer >= 0 and (num_layers is None or layer < num_layers) for layer in layers)
    if not ascending or not in_range:
        raise InputError(field, layers, accepted)


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

    def __post_init__(self) -> None:
        require_choice("tuning", self.tuning, ("lora", "full"))
        require_choice("evaluate_on", self.evaluate_on, ("eval", "holdout"))
        for field in ("num_steps", "batch_size", "lora_rank", "lora_alpha", "evaluate_every"):
            require_int(field, getattr(self, field), 1)
        require_int("max_length", self.max_length, 4)
        require_int("seed", self.seed, 0)
        require_positive("learning_rate", self.learning_rate)
        object.__setattr__(self, "learning_rate", float(self.learning_rate))  # 1 and 1.0: one id
        for field in ("train_samples", "eval_samples"):
            if getattr(self, field) is not None:
                require_int(field, getattr(self, field), 1)
        if self.trainable_layers is not None:
            require_layers("trainable_layers", self.trainable_layers)
            if not self.trainable_layers:
                raise InputError("trainable_layers", (), "at least one layer (depth >= 1)")


# Raised when the meaning of a setting changes, so that old records are not mistaken for new ones.
RESULT_VERSION = 1


def settings_of(config: Any) -> dict[str, Any]:
    """A config dataclass as plain JSON values, in field order."""
    settings = {"experiment": type(config).__name__, "version": RESULT_VERSION}
    settings.update(json.loads(json.dumps(dataclasses.asdict(config))))
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


@dataclass(frozen=True, kw_only=True)
class Profile:
    """One size of the whole reproduction: which model, which data, how much of it."""

    name: str
    description: str
    hardware: str
    model: str
    tasks: tuple[str, ...]
    seeds: tuple[int, ...]
    num_steps: int
    batch_size: int
    max_length: int
    learning_rate: float
    train_samples: int | None
    eval_samples: int | None
    latency_repeats: int
    committed: bool
    accounting_model: str = "roberta-base"
    bottleneck_model: str = "roberta-large"


PROFILES: dict[str, Profile] = {
    profile.name: profile
    for profile in (
        Profile(
            name="smoke",
            description="a few steps on the embedded tasks, to see that everything runs",
            hardware="2 CPU cores",
            model="embedded",
            tasks=("micro-mnli",),
            seeds=(0,),
            num_steps=16,
            batch_size=16,
            max_length=32,
            learning_rate=5e-3,
            train_samples=128,
            eval_samples=64,
            latency_repeats=2,
            committed=False,
        ),
        Profile(
            name="embedded",
            description="the embedded encoder and tasks, computed afresh, one seed",
            hardware="2 CPU cores",
            model="embedded",
            tasks=("micro-mnli",),
            seeds=(0,),
            num_steps=240,
            batch_size=32,
            max_length=48,
            learning_rate=3e-3,
            train_samples=None,
            eval_samples=1000,
            latency_repeats=10,
            committed=False,
        ),
        Profile(
            name="reference",
            description="the embedded encoder and tasks at full size, three seeds",
            hardware="2 CPU cores, recorded in each run",
            model="embedded",
            tasks=("micro-mnli",),
            seeds=(0, 1, 2),
            num_steps=400,
            batch_size=32,
            max_length=48,
            learning_rate=3e-3,
            train_samples=None,
            eval_samples=None,
            latency_repeats=20,
            committed=True,
        ),
        Profile(
            name="glue",
            description="real GLUE text with the pretrained 6-layer MiniLM",
            hardware="2 CPU cores, recorded in each run",
            model="minilm",
            tasks=("sst2",),
            seeds=(0, 1, 2),
            num_steps=200,
            batch_size=32,
            max_length=64,
            learning_rate=3e-3,
            train_samples=None,
            eval_samples=None,
            latency_repeats=10,
            committed=True,
        ),
        Profile(
            name="paper",
            description="RoBERTa-base and full GLUE at the paper's sizes",
            hardware="one GPU workstation",
            model="FacebookAI/roberta-base",
            tasks=("mnli",),
            seeds=(0, 1, 2),
            num_steps=12_272,
            batch_size=32,
            max_length=128,
            learning_rate=1e-3,
            train_samples=None,
            eval_samples=None,
            latency_repeats=50,
            committed=False,
        ),
    )
}


def get_profile(
    name: str, *, task: str | None = None, seeds: Iterable[int] | None = None
) -> Profile:
    """The profile of that name, optionally with another task or other seeds.

    Raises
    ------
    InputError
        For an unknown name (the known ones are listed), no seed, or a seed
        that is no integer >= 0 or comes twice.
    """
    require_choice("profile", name, PROFILES)
    profile = PROFILES[name]
    if task is not None:
        profile = dataclasses.replace(profile, tasks=(task,))
    if seeds is not None:
        seeds = tuple(seeds)
        for seed in seeds:
            require_int("seeds", seed, 0)
        if not seeds or len(set(seeds)) < len(seeds):
            raise InputError("seeds", seeds, "at least one seed, none twice")
        profile = dataclasses.replace(profile, seeds=seeds)
    return profile
