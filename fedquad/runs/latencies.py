"""Measured step times of the figures as stored records: measured once, read ever after.

They are kept beside the runs, as ``<root>/latency-<name>.json``. Seconds belong
to the machine that is named in the record, and no simulated time comes from them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from fedquad.config import LayerConfig, Profile, settings_of
from fedquad.cost.latency import measure_steps
from fedquad.model.backbone import architecture
from fedquad.runs.environment import describe_environment
from fedquad.runs.journal import CorruptRunError, guarded_write, replace_file
from fedquad.runs.plans import layer_groups, synergy_points

_Setting = tuple[str, tuple[int, ...] | None] | tuple[str, tuple[int, ...], tuple[int, ...], bool]


@dataclass(frozen=True, kw_only=True)
class LatencyConfig:
    """Step times of one model under several tunings, measured in turn.

    Parameters
    ----------
    name : str
        Figure that shows them.
    by : str
        What tells the rows apart: ``tuning``, ``group``, ``depth`` or ``setting``.
    keys : tuple
        Value of ``by`` for each row.
    settings : tuple of (tuning, layers) or (tuning, layers, quantized layers, checkpointing)
        As `fedquad.cost.latency.measure_steps` takes them, one for each key.
    """

    name: str
    by: str
    keys: tuple[str | int, ...]
    settings: tuple[_Setting, ...]
    model: str
    batch_size: int
    length: int
    repeats: int
    torch_device: str


@dataclass(frozen=True, kw_only=True)
class LatencyRecord:
    """What was measured, and where.

    Attributes
    ----------
    rows : DataFrame
        One row a key: ``by``, ``model, torch_device, batch_size, length, repeats``, medians
        ``forward_s, backward_s, total_s`` (with the optimizer), and the
        quartiles ``total_low_s, total_high_s``.
    environment : dict
        Machine and versions.
    from_record : bool
        False if it was measured by this call.
    """

    config: LatencyConfig
    rows: pd.DataFrame
    environment: dict[str, Any]
    from_record: bool


def fig01_latencies(profile: Profile, torch_device: str = "cpu") -> list[LatencyConfig]:
    """Figure 1(c): LoRA on all layers against full fine-tuning."""
    settings = {"full": ("full", None), "lora": ("lora", None)}
    return [_config(profile, torch_device, "fig01c", "tuning", settings)]


def fig02_latencies(profile: Profile, torch_device: str = "cpu") -> list[LatencyConfig]:
    """Figure 2(a): LoRA on the layer groups."""
    groups = layer_groups(_num_layers(profile))
    settings = {group: ("lora", layers) for group, layers in groups.items()}
    return [_config(profile, torch_device, "fig02a", "group", settings)]


def fig03_latencies(profile: Profile, torch_device: str = "cpu") -> list[LatencyConfig]:
    """Figure 3(b): every LoRA depth."""
    top = _num_layers(profile)
    depths = range(1, top + 1)
    settings = {depth: ("lora", LayerConfig(depth).trainable_layers(top)) for depth in depths}
    return [_config(profile, torch_device, "fig03b", "depth", settings)]


def fig04_latencies(profile: Profile, torch_device: str = "cpu") -> list[LatencyConfig]:
    """Figure 4: quantization and checkpointing at full depth, and the points of Fig. 4(b)."""
    top = _num_layers(profile)
    whole = LayerConfig(top).trainable_layers(top)
    settings: dict[str, _Setting] = {
        "none": ("lora", whole, (), False),
        "quantization": ("lora", whole, whole[:-1], False),
        "checkpointing": ("lora", whole, (), True),
    }
    for point in synergy_points(top):
        layers = point.trainable_layers(top), point.quantized_layers(top)
        settings[f"({point.depth}, {point.quantized})"] = ("lora", *layers, False)
    return [_config(profile, torch_device, "fig04", "setting", settings)]


def load_or_measure(config: LatencyConfig, root: Path, *, fresh: bool = False) -> LatencyRecord:
    """The stored measurement, or a new one if there is none with these settings.

    Parameters
    ----------
    config : LatencyConfig
    root : Path
        Folder of a profile's runs.
    fresh : bool
        Measure again; what is stored stands until the new record is complete.

    Raises
    ------
    CorruptRunError
        If the stored file is no such record.
    StoreWriteError
        If the folder cannot be written.
    """
    path = root / f"latency-{config.name}.json"
    settings = json.loads(json.dumps(settings_of(config)))
    if not fresh and path.exists():
        stored = _read(path)
        if stored["settings"] == settings:
            frame = pd.DataFrame(stored["rows"])
            return LatencyRecord(
                config=config, rows=frame, environment=stored["environment"], from_record=True
            )
    rows = _measure(config)
    environment = {**describe_environment(), "threads": 1}
    record = {"settings": settings, "environment": environment, "rows": rows}
    content = (json.dumps(record, indent=1, allow_nan=False) + "\n").encode()

    def write() -> None:
        root.mkdir(parents=True, exist_ok=True)
        replace_file(path, content)

    guarded_write(path, "What was stored before is safe", write)
    return LatencyRecord(
        config=config, rows=pd.DataFrame(rows), environment=environment, from_record=False
    )


def _measure(config: LatencyConfig) -> list[dict[str, Any]]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the runs; more would wait for each other on a busy machine
    try:
        latencies = measure_steps(
            config.model,
            list(config.settings),
            batch_size=config.batch_size,
            length=config.length,
            repeats=config.repeats,
            torch_device=config.torch_device,
        )
    finally:
        torch.set_num_threads(threads)
    return [
        {
            config.by: key,
            "model": config.model,
            "torch_device": latency.torch_device,
            "batch_size": config.batch_size,
            "length": config.length,
            "repeats": config.repeats,
            "forward_s": latency.quantile("forward"),
            "backward_s": latency.quantile("backward"),
            "total_s": latency.quantile("step"),
            "total_low_s": latency.quantile("step", 0.25),
            "total_high_s": latency.quantile("step", 0.75),
        }
        for key, latency in zip(config.keys, latencies, strict=True)
    ]


def _read(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_bytes())
        return {key: record[key] for key in ("settings", "environment", "rows")}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CorruptRunError(
            f"{path} cannot be read ({error}). Nothing was changed; restore the file, "
            "delete it, or run with --fresh"
        ) from error


def _config(
    profile: Profile,
    torch_device: str,
    name: str,
    by: str,
    settings: dict[Any, _Setting],
) -> LatencyConfig:
    return LatencyConfig(
        name=name,
        by=by,
        keys=tuple(settings),
        settings=tuple(settings.values()),
        model=profile.model,
        batch_size=profile.batch_size,
        length=profile.max_length,
        repeats=profile.latency_repeats,
        torch_device=torch_device,
    )


def _num_layers(profile: Profile) -> int:
    return architecture(profile.model).num_hidden_layers
