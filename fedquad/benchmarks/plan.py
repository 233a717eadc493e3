"""What is measured: sizes, types, modes and methods, and a line about each group."""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from fedquad.benchmarks.guard import release
from fedquad.benchmarks.record import Record
from fedquad.config import require_choice, require_int
from fedquad.cost.accounting import DTYPES
from fedquad.cost.latency import checked_device
from fedquad.cost.random_model import ATTENTIONS
from fedquad.model.pretrained import architecture

MODES = ("eager", "compiled")
# What a step is compared with and without. Layers: all but the output layer for each of them.
METHODS: dict[str, dict[str, Any]] = {
    "none": {},
    "checkpointing": {"checkpointing": True},
    "hooks": {"path": "hooks"},
    "fused": {"path": "fused"},
    "hooks, 4 bits": {"path": "hooks", "bits": 4},
    "fused, 4 bits": {"path": "fused", "bits": 4},
}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that is measured in one run.

    Attributes
    ----------
    sizes : tuple of (str, int)
        Models and lengths.
    dtypes, modes, attentions, methods : tuple of str
        Combined with each other and the sizes; methods are timed in turns.
    repeats : int
        Measurements of each setting.
    profile : bool
        Also let CUPTI sum the time of the kernels, and name the longest.
    """

    torch_device: str
    sizes: tuple[tuple[str, int], ...]
    batch_size: int
    dtypes: tuple[str, ...]
    modes: tuple[str, ...]
    attentions: tuple[str, ...]
    methods: tuple[str, ...]
    repeats: int
    profile: bool


# Unless the command line says otherwise: the paper's models on a GPU, small ones on a CPU.
CPU_SIZES = (("embedded", 48), ("minilm", 64), ("minilm", 128))
CUDA_MODELS = ("roberta-base", "roberta-large", "bert-large", "deberta-v3-large")
CUDA_SIZES = tuple((model, length) for model in CUDA_MODELS for length in (128, 256))


def plan_from(options: Namespace) -> Plan:
    """The plan of a command line, see `fedquad.benchmarks.__main__`.

    Raises
    ------
    InputError
        For a device that is not there, or names that are not known.
    """
    on_gpu = checked_device(options.torch_device).type == "cuda"
    require_int("batch_size", options.batch_size, 1)
    sizes = CUDA_SIZES if on_gpu else CPU_SIZES
    if options.models or options.lengths:
        models = options.models or dict.fromkeys(model for model, _ in sizes)
        lengths = options.lengths or (128,)
        sizes = tuple((model, length) for model in models for length in lengths)
    for model, _ in sizes:
        architecture(model)
    chosen = {
        "dtypes": options.dtypes or (("float32", "bfloat16") if on_gpu else ("float32",)),
        "modes": options.modes or (MODES if on_gpu else ("eager",)),
        "attentions": options.attentions or ("eager",),
        "methods": options.methods or ("none", "checkpointing", "hooks", "fused"),
    }
    known = {"dtypes": DTYPES, "modes": MODES, "attentions": ATTENTIONS, "methods": METHODS}
    for name, values in chosen.items():
        for value in values:
            require_choice(name, value, known[name])
    repeats = options.repeats if options.repeats is not None else 20 if on_gpu else 10
    require_int("repeats", repeats, 1)
    return Plan(
        torch_device=options.torch_device,
        sizes=sizes,
        batch_size=options.batch_size,
        repeats=repeats,
        profile=on_gpu and not options.no_profile,
        **{name: tuple(values) for name, values in chosen.items()},
    )


@contextmanager
def group_of(record: Record, name: str) -> Iterator[list[dict[str, Any]]]:
    """Rows to fill; they are written, and a line is printed, when the block ends well."""
    started = time.monotonic()
    rows: list[dict[str, Any]] = []
    yield rows
    release()
    record.add(name, rows)
    print(f"{name}: {_summary(rows)} ({time.monotonic() - started:.0f} s)", flush=True)


def _summary(rows: list[dict[str, Any]]) -> str:
    unwell = [row for row in rows if row["status"] != "ok"]
    if not unwell:
        return f"{len(rows)} settings"
    reasons = "; ".join(
        f"{row.get('method') or row.get('implementation')}: {row['status']} ({row['message']})"
        for row in unwell
    )
    return f"{len(rows) - len(unwell)} of {len(rows)} settings; {reasons}"
