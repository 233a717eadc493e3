"""Whole runs beside each other: two bare processes, two workers, Flower's simulation."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from fedquad.benchmarks.plan import group_of
from fedquad.benchmarks.record import Record
from fedquad.benchmarks.timing import Deadline
from fedquad.benchmarks.whole_run import BARE, CASES
from fedquad.config import FederatedConfig, require_int
from fedquad.federation.setting import config_to_json

_LOOK_S = 0.5
CONFIG = FederatedConfig(
    method="fedlora",
    num_devices=20,
    num_rounds=5,
    batch_size=8,
    max_length=48,
    eval_samples=1000,
)


@dataclass(frozen=True, kw_only=True)
class WholeRunsPlan:
    """Which runs are measured.

    Attributes
    ----------
    config : FederatedConfig
        All devices do the same, so that bare processes can share them evenly.
    local_steps : tuple of int
        Of a round: the fewer, the more the engines' own work counts.
    repeats : int
        Runs of each case, in turns; the medians are kept.
    """

    config: FederatedConfig = CONFIG
    local_steps: tuple[int, ...] = (1, 4, 16)
    repeats: int = 3


def whole_runs_plan_from(options: Namespace) -> WholeRunsPlan:
    """The plan of a command line, see `fedquad.benchmarks.__main__`."""
    plan = WholeRunsPlan()
    if options.repeats is not None:
        require_int("repeats", options.repeats, 1)
        plan = dataclasses.replace(plan, repeats=options.repeats)
    if options.local_steps:
        for steps in options.local_steps:
            require_int("local_steps", steps, 1)
        plan = dataclasses.replace(plan, local_steps=tuple(sorted(set(options.local_steps))))
    changes = {"model": options.models[0]} if options.models else {}
    if options.devices:
        require_int("devices", options.devices[0], 1)
        changes["num_devices"] = options.devices[0]
    if options.rounds is not None:
        require_int("rounds", options.rounds, 2)
        changes["num_rounds"] = options.rounds
    return dataclasses.replace(plan, config=dataclasses.replace(plan.config, **changes))


def run_whole_runs(plan: WholeRunsPlan, record: Record, deadline: Deadline) -> None:
    """Time and weigh whole runs, start to end, and their steady rounds."""
    for steps in plan.local_steps:
        config = dataclasses.replace(plan.config, local_steps=steps)
        shape = f"{config.num_devices} devices, {steps} steps, {config.num_rounds} rounds"
        name = f"whole runs of {shape}"
        if deadline.passed or record.has(name):
            continue
        with group_of(record, name) as rows:
            turns = [{case: measure(case, config) for case in CASES} for _ in range(plan.repeats)]
            for case, implementation in CASES.items():
                rows.append(_row(config, shape, implementation, [turn[case] for turn in turns]))
            _set_ratios(rows)


@dataclass(frozen=True)
class Measured:
    """One run: seconds from start to end, of a steady round, and the most memory it held."""

    wall_s: float
    round_s: float
    peak_bytes: int


def measure(case: str, config: FederatedConfig) -> Measured:
    """Play a run in processes of its own.

    Raises
    ------
    RuntimeError
        They failed; with what they said.
    """
    with tempfile.TemporaryDirectory(prefix="fedquad-") as folder:
        command = [sys.executable, "-m", "fedquad.benchmarks.whole_run", case]
        command += [json.dumps(config_to_json(config)), folder]
        log = Path(folder) / "log"
        with log.open("wb") as output:
            start = time.perf_counter()
            process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
            peak_bytes = 0
            while process.poll() is None:
                peak_bytes = max(peak_bytes, tree_bytes(process.pid))
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_LOOK_S)
            wall_s = time.perf_counter() - start
        if process.returncode:
            tail = log.read_text(errors="replace")[-2000:]
            raise RuntimeError(f"{CASES[case]} ended with {process.returncode}: {tail}")
        ends = json.loads((Path(folder) / "rounds.json").read_text())
    return Measured(wall_s, float(np.median(np.diff(ends))), peak_bytes)


def tree_bytes(pid: int) -> int:
    """Memory of a process and all below it; what several share is counted once, where known."""
    total = 0
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for member in [process, *process.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess, psutil.ZombieProcess, psutil.AccessDenied):
                memory = member.memory_full_info()
                total += getattr(memory, "pss", memory.rss)
    return total


def _row(
    config: FederatedConfig, shape: str, implementation: str, runs: list[Measured]
) -> dict[str, Any]:
    def median(name: str) -> float:
        return float(np.median([getattr(run, name) for run in runs]))

    return {
        "kind": "federation",
        "operation": "whole runs",
        "shape": shape,
        "local_steps": config.local_steps,
        "model": config.model,
        "batch_size": config.batch_size,
        "method": config.method,
        "implementation": implementation,
        "status": "ok",
        "wall_s": median("wall_s"),
        "round_s": median("round_s"),
        "peak_bytes": int(median("peak_bytes")),
    }


def _set_ratios(rows: list[dict[str, Any]]) -> None:
    (bare,) = [row for row in rows if row["implementation"] == BARE]
    for row in rows:
        for name in ("wall_s", "round_s"):
            row[f"{name}_ratio"] = row[name] / bare[name]
