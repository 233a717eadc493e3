"""``data/benchmarks/README.md`` and a picture for each machine, from the JSON files alone."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from fedquad.benchmarks.federation_report import (
    federation_frame,
    federation_section,
    server_work,
)
from fedquad.benchmarks.frames import compared_frame, kernel_frame, load_records, rows_frame
from fedquad.benchmarks.plots import kept_against_time, share_of_copy
from fedquad.benchmarks.targets import targets_frame
from fedquad.benchmarks.whole_runs_report import (
    gap_by_steps,
    whole_runs_frame,
    whole_runs_section,
)
from fedquad.report.style import DOUBLE_COLUMN, new_figure, paper_style
from fedquad.report.tables import markdown, shown_table

_INTRODUCTION = """\
# Benchmarks

Made by `python -m fedquad.benchmarks report` from the JSON files in this folder, one for each
machine; `make bench` and `make bench-gpu` measure. Weights and tokens are random but for the
pretrained encoders, whose attention has peaks that random weights have not. Every method
applies to all layers but the output layer: `checkpointing` keeps only their inputs, `hooks` and
`fused` keep activations as INT8 blocks of 32 x 32. `wall` is time on the wall with the device
finished at the end of forward and of backward, `device` the same phases by the events of a GPU that
does not wait for the host, `busy` the sum of the times of its kernels. Methods of one group take
turns, so that their ratios are fair. Times are medians; `kept` and `peak` are the allocator's bytes
without weights (on a CPU: the storages that were alive). `compiled`: each layer's forward through
`torch.compile`. fp32 on a GPU multiplies in TF32. Where a method takes less time than `none` on a
CPU, it spares page faults: activations of hundreds of MB go back to the system after each step and
are mapped anew in the next (28,000 faults a step for MiniLM at length 64; one with `hooks`).
"""
_STEP_COLUMNS = {
    "model": "model",
    "length": "length",
    "dtype": "dtype",
    "mode": "mode",
    "attention": "attention",
    "method": "method",
    "full_wall_s": "wall, ms",
    "added_wall_percent": "added, %",
    "full_device_s": "device, ms",
    "added_device_percent": "device added, %",
    "busy_device_s": "busy, ms",
    "added_busy_percent": "busy added, %",
    "kept_bytes": "kept, MB",
    "kept_percent": "kept, %",
    "peak_bytes": "peak, MB",
    "peak_percent": "peak, %",
    "lora_gradient_error": "gradient error, %",
    "status": "status",
}
_KERNEL_COLUMNS = {
    "operation": "operation",
    "phase": "phase",
    "shape": "shape",
    "dtype": "dtype",
    "implementation": "implementation",
    "seconds": "µs",
    "gb_per_s": "GB/s",
    "share_of_copy": "of a copy, %",
}
_SCALE = {
    **dict.fromkeys(["wall, ms", "device, ms", "busy, ms"], 1e3),
    **dict.fromkeys(["kept, MB", "peak, MB"], 1e-6),
    "µs": 1e6,
    "of a copy, %": 100,
    "gradient error, %": 100,
}
_DIGITS = {
    **dict.fromkeys(["wall, ms", "device, ms", "busy, ms", "µs", "GB/s"], ".1f"),
    **dict.fromkeys(["kept, MB", "peak, MB"], ",.1f"),
    "gradient error, %": ".3f",
}


def write_report(folder: Path) -> list[Path]:
    """Write ``README.md`` and ``<machine>.png`` beside the records of a folder.

    Raises
    ------
    InputError
        There are no records, or one is damaged.
    """
    folder = Path(folder)
    written = []
    sections = [_INTRODUCTION]
    for stem, record in load_records(folder).items():
        rows = rows_frame(record)
        sections.append(machine_section(stem, record["machine"], rows))
        written.append(folder / f"{stem}.png")
        _draw(rows, written[-1])
    readme = folder / "README.md"
    readme.write_text("\n".join(sections), encoding="utf-8")
    return [readme, *written]


def machine_section(stem: str, machine: dict, rows: pd.DataFrame) -> str:
    """Markdown of one machine: what it is, targets, steps, layers, kernels."""
    on_gpu = machine.get("gpu") is not None
    versions = ("driver", "torch", "cuda", "triton", "transformers", "python", "commit")
    told = [f"{name} {machine[name]}" for name in versions if machine.get(name)]
    if not on_gpu:
        told.append(f"{machine.get('threads')} thread")
    parts = [
        f"## {machine['device']}\n",
        ", ".join(told) + f". Every number: [{stem}.json]({stem}.json).\n",
        f"![{machine['device']}]({stem}.png)\n",
    ]
    whole_runs = whole_runs_frame(rows)
    if len(whole_runs):
        parts[0] = f"## {machine['device']}: whole runs beside Flower's\n"
        return "\n".join([*parts, whole_runs_section(whole_runs)])
    federation = federation_frame(rows)
    if len(federation):
        parts[0] = f"## {machine['device']}: the federated engine\n"
        return "\n".join([*parts, federation_section(federation)])
    parts += ["### Targets\n", markdown(targets_frame(rows, on_gpu=on_gpu))]
    titles = {"steps": "Whole models", "layer": "One layer", "gradients": "Pretrained encoders"}
    for kind, title in titles.items():
        table = _table(compared_frame(rows, kind), _STEP_COLUMNS)
        if len(table):
            parts += [f"### {title}\n", markdown(table)]
    kernels = _table(kernel_frame(rows), _KERNEL_COLUMNS)
    if len(kernels):
        parts += ["### Kernels\n", markdown(kernels)]
    unwell = rows[rows["status"] != "ok"]
    if len(unwell):
        named = [name for name in ("kind", "operation", "implementation") if name in unwell]
        told = unwell[[*named, "model", "length", "dtype", "mode", "method", "status", "message"]]
        parts += ["### Not measured, and why\n", markdown(shown_table(told))]
    return "\n".join(parts)


def _table(df: pd.DataFrame, columns: dict[str, str]) -> pd.DataFrame:
    """Text of the columns that hold anything, in the units a reader wants."""
    shown = df.reindex(columns=list(columns)).rename(columns=columns)
    shown = shown.dropna(axis="columns", how="all")
    shown = shown.assign(
        **{
            name: pd.to_numeric(shown[name]) * scale
            for name, scale in _SCALE.items()
            if name in shown
        }
    )
    percents = {name: ".1f" for name in shown if name.endswith("%")}
    return shown_table(shown, percents | _DIGITS)


def _draw(rows: pd.DataFrame, path: Path) -> None:
    whole_runs = whole_runs_frame(rows)
    if len(whole_runs):
        with paper_style():
            figure, (ax,) = new_figure(1)
            gap_by_steps(whole_runs, ax)
            figure.savefig(path, format="png", dpi=160, metadata={"Software": None})
        return
    federation = federation_frame(rows)
    if len(federation):
        with paper_style():
            figure, (ax,) = new_figure(1)
            server_work(federation, ax)
            figure.savefig(path, format="png", dpi=160, metadata={"Software": None})
        return
    steps, kernels = compared_frame(rows, "steps"), kernel_frame(rows)
    with paper_style():
        figure, axes = new_figure(2, width=DOUBLE_COLUMN, height=3.6)
        kept_against_time(steps, axes[0])
        share_of_copy(kernels, axes[1])
        axes[0].set_title(rows["device"].iloc[0])
        figure.savefig(path, format="png", dpi=160, metadata={"Software": None})
