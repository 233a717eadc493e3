"""Settings of a federated fine-tuning run."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from fedquad.config.experiments import ACTIVATION_BITS, ADDED_LATER, EVALUATION_ROWS
from fedquad.config.validation import InputError, require_choice, require_int, require_positive

HETEROGENEITY_LEVELS = ("low", "medium", "high")
THROUGHPUT_MODELS = ("fp16", "fp32", "roofline")
BUDGET_POLICIES = ("layers", "strict")
RATE_SCHEDULES = ("rounds", "within-round")
QUANTIZATION_PRICES = ("paper", "counted")

# A small encoder's costs are those of the large model of its architecture.
REFERENCE_MODELS = {
    "embedded": "roberta-large",
    "embedded-bert": "bert-large",
    "embedded-deberta": "deberta-v3-large",
}
DEFAULT_REFERENCE_MODEL = "roberta-large"


@dataclass(frozen=True, kw_only=True)
class FederatedConfig:
    """A federated run: everything that changes its result, and nothing else.

    Parameters
    ----------
    method : str
        A name of `fedquad.methods.METHODS`, such as ``fedquad`` or ``fedra``.
    method_options : tuple of (str, number)
        The method's own settings that differ from its defaults, by name, such as
        ``(("reward_offset_s", 0.001),)``.
    task : str
        Name of a task (``micro-mnli``, ``sst2``, …) or a folder of TSV files.
    model : str
        ``embedded``, ``minilm``, a Hugging Face name or a folder.
    num_devices : int
        n. Not used with ``fleet``, which has its own.
    num_rounds : int
        Rounds, H.
    local_steps : int
        Optimizer steps that a device really takes in a round.
    batch_size : int
        Rows a step.
    max_length : int
        Tokens a row at most; longer rows are cut.
    learning_rate : float
        Peak of the cosine schedule.
    rate_schedule : {"rounds", "within-round"}
        ``rounds``: the cosine falls over the rounds and is constant inside each;
        ``within-round``: it falls from the peak in every round.
    lora_rank : int
        r of the global adapter.
    lora_alpha : int
        alpha of LoRA; the update is scaled by alpha / r.
    train_samples : int or None
        Rows used of the training split; None means all.
    eval_samples : int or None
        The same for the evaluation split.
    partition_alpha : float
        Of the Dirichlet partition; ``inf`` gives every device the same mix.
    heterogeneity : {"low", "medium", "high"}
        ``low``: strong devices only; ``medium``: strong and moderate 1:1;
        ``high``: strong, moderate, weak 3:3:4.
    fleet : str or None
        A CSV file of devices in place of simulated Jetsons, with the columns
        device_id, memory_budget_bytes, flops_per_second
        (`fedquad.fleet.fleet.read_fleet`).
    throughput_model : {"fp16", "fp32", "roofline"}
        How q follows from a Jetson's mode: ``fp16``, ``fp32`` or ``roofline``.
    budget_policy : {"layers", "strict"}
        What a baseline may do with a device's budget. ``layers``: train as many
        layers as it is worth, overruns being reported; ``strict``: only what
        fits in memory.
    reference_model : str
        The model whose costs the virtual clock and the memory are those of.
    quantization_price : {"paper", "counted"}
        m_q and c_a of the reference model. ``paper``: the paper's; ``counted``:
        those we count.
    clock_local_steps : int or None
        Local steps of a round on the clock; None: the paper's for the task.
    activation_bits : {8, 4}
        Of quantized activations.
    seed : int
        Partition, fleet, head and LoRA initialisation, order of the rows, dropout.
    evaluate_on : {"eval", "holdout"}
        The evaluation split, or a fifth of the training split that is then
        shared out to no device: settings are chosen on the latter.
    """

    method: str = "fedquad"
    method_options: tuple[tuple[str, float], ...] = ()
    task: str = "micro-mnli"
    model: str = "embedded"
    num_devices: int = 20
    num_rounds: int = 15
    local_steps: int = 4
    batch_size: int = 32
    max_length: int = 48
    learning_rate: float = 3e-3
    rate_schedule: str = "rounds"
    lora_rank: int = 16
    lora_alpha: int = 16
    train_samples: int | None = None
    eval_samples: int | None = None
    partition_alpha: float = 10.0
    heterogeneity: str = "high"
    fleet: str | None = None
    throughput_model: str = "fp16"
    budget_policy: str = "layers"
    reference_model: str = DEFAULT_REFERENCE_MODEL
    quantization_price: str = "paper"
    clock_local_steps: int | None = None
    activation_bits: int = 8
    seed: int = 0
    evaluate_on: str = field(default="eval", metadata=ADDED_LATER)

    def __post_init__(self) -> None:
        for name in ("num_devices", "num_rounds", "local_steps", "batch_size"):
            require_int(name, getattr(self, name), 1)
        for name in ("lora_rank", "lora_alpha"):
            require_int(name, getattr(self, name), 1)
        require_int("max_length", self.max_length, 4)
        require_int("seed", self.seed, 0)
        require_positive("learning_rate", self.learning_rate)
        for name in ("train_samples", "eval_samples", "clock_local_steps"):
            if getattr(self, name) is not None:
                require_int(name, getattr(self, name), 1)
        require_choice("evaluate_on", self.evaluate_on, EVALUATION_ROWS)
        require_choice("rate_schedule", self.rate_schedule, RATE_SCHEDULES)
        require_choice("heterogeneity", self.heterogeneity, HETEROGENEITY_LEVELS)
        require_choice("throughput_model", self.throughput_model, THROUGHPUT_MODELS)
        require_choice("budget_policy", self.budget_policy, BUDGET_POLICIES)
        require_choice("quantization_price", self.quantization_price, QUANTIZATION_PRICES)
        if type(self.activation_bits) is not int or self.activation_bits not in ACTIVATION_BITS:
            raise InputError("activation_bits", self.activation_bits, "8 or 4")
        _require_alpha(self.partition_alpha)
        # 1 and 1.0: one id.
        for name in ("learning_rate", "partition_alpha"):
            object.__setattr__(self, name, float(getattr(self, name)))
        object.__setattr__(self, "method_options", _checked_options(self.method_options))


def _require_alpha(alpha: object) -> None:
    is_number = isinstance(alpha, (int, float)) and not isinstance(alpha, bool)
    if not is_number or not alpha > 0:
        raise InputError("partition_alpha", alpha, "a number > 0, or inf")


def _checked_options(options: object) -> tuple[tuple[str, float], ...]:
    accepted = 'pairs of a name and a finite number, as (("beta", 0.5),), no name twice'
    try:
        pairs = sorted((str(name), float(value)) for name, value in options)
    except (TypeError, ValueError):
        raise InputError("method_options", options, accepted) from None
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names) or not all(math.isfinite(value) for _, value in pairs):
        raise InputError("method_options", options, accepted)
    return tuple(pairs)
