"""Whole runs timed and weighed from outside: processes, what they hold, and the report of it."""

from __future__ import annotations

import json
import subprocess
import sys

import pandas as pd
import pytest

from fedquad.benchmarks.frames import rows_frame
from fedquad.benchmarks.record import Record
from fedquad.benchmarks.report import write_report
from fedquad.benchmarks.timing import Deadline
from fedquad.benchmarks.whole_run import BARE, FLOWER, WORKERS
from fedquad.benchmarks.whole_runs import WholeRunsPlan, measure, run_whole_runs, tree_bytes
from fedquad.benchmarks.whole_runs_report import (
    gap_by_steps,
    whole_runs_frame,
    whole_runs_targets,
)

HOLDER = """
import subprocess, sys
held = bytearray(40_000_000)
if sys.argv[1:]:
    child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdin=0, stdout=1)
else:
    print("ready", flush=True)
sys.stdin.read()
"""


def test_memory_is_that_of_a_process_and_all_below_it():
    command = [sys.executable, "-c", HOLDER, HOLDER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        assert 80e6 < tree_bytes(process.pid) < 160e6
        process.stdin.close()
    assert tree_bytes(process.pid) == 0


@pytest.mark.slow
def test_bare_processes_and_workers_are_measured(tiny_federated):
    config = tiny_federated(method="fedlora", num_rounds=3)
    for case in ("bare", "workers"):
        measured = measure(case, config)
        assert measured.wall_s > measured.round_s > 0
        assert measured.peak_bytes > 10**8


def test_a_run_that_fails_says_what_it_said(tiny_federated):
    with pytest.raises(RuntimeError, match=r"(?s)two workers ended with 1.*task = 'none'"):
        measure("workers", tiny_federated(task="none"))


@pytest.fixture
def rows() -> list[dict]:
    found = []
    for steps, ours, flower in ((1, 1.2, 1.5), (16, 1.04, 1.2)):
        for name, ratio, peak in ((BARE, 1.0, 6e8), (WORKERS, ours, 7e8), (FLOWER, flower, 18e8)):
            row = {"kind": "federation", "operation": "whole runs", "status": "ok"}
            row |= {"shape": f"20 devices, {steps} steps", "local_steps": steps}
            row |= {"implementation": name, "wall_s": 20 * ratio, "wall_s_ratio": ratio}
            found.append(row | {"round_s": 2 * ratio, "round_s_ratio": ratio, "peak_bytes": peak})
    return found


def test_targets_are_for_every_number_of_steps(rows, machine):
    frame = whole_runs_frame(rows_frame({"machine": machine, "rows": rows}))
    targets = whole_runs_targets(frame)
    assert list(zip(targets["measured"], targets["met"], strict=True)) == [
        ("1.200", "no"),
        ("0.800", "yes"),
        ("0.389", "yes"),
        ("1.040", "yes"),
        ("0.867", "yes"),
        ("0.389", "yes"),
    ]


def test_the_page_and_the_picture_show_the_gap(rows, machine, tmp_path):
    path = tmp_path / "flower-cpu.json"
    path.write_text(json.dumps({"machine": machine, "groups": [], "rows": rows}))
    readme, picture = write_report(tmp_path)
    assert "| 20 devices, 16 steps | two workers | 20.8 | 1.040 |" in readme.read_text()
    assert picture.read_bytes()[:4] == b"\x89PNG"
    lines = gap_by_steps(whole_runs_frame(pd.DataFrame(rows))).lines
    assert [list(line.get_ydata()) for line in lines] == [[1.0, 1.0], [1.2, 1.04], [1.5, 1.2]]


def test_what_is_measured_is_kept_and_not_measured_again(
    tiny_federated, machine, tmp_path, monkeypatch
):
    """Turns of all cases, their medians, and ratios to bare processes."""
    from fedquad.benchmarks import whole_runs

    seconds = iter([4.0, 5.0, 6.0, 2.0, 6.0, 8.0])
    calls = []

    def scripted(case: str, config: object) -> whole_runs.Measured:
        calls.append(case)
        value = next(seconds)
        return whole_runs.Measured(value, value / 10, int(1e6 * value))

    monkeypatch.setattr(whole_runs, "measure", scripted)
    plan = WholeRunsPlan(config=tiny_federated(), local_steps=(2,), repeats=2)
    record = Record(tmp_path / "flower.json", machine)
    for _ in range(2):
        run_whole_runs(plan, record, Deadline())
    assert calls == ["bare", "workers", "flower"] * 2
    rows = {row["implementation"]: row for row in record.rows}
    assert [rows[name]["wall_s"] for name in (BARE, WORKERS, FLOWER)] == [3.0, 5.5, 7.0]
    assert rows[WORKERS]["wall_s_ratio"] == pytest.approx(5.5 / 3)
