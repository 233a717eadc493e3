"""The federated engine's benchmark: small ones run, and what is reported of any."""

from __future__ import annotations

import dataclasses
import json

import pandas as pd
import pytest

from fedquad.benchmarks.federation import (
    ONE_WORKER,
    PLAIN_LOOP,
    SIMULATED,
    STEPS_ALONE,
    TWO_THREADS,
    TWO_WORKERS,
    FederationPlan,
    run_round,
    run_workers,
)
from fedquad.benchmarks.federation_report import (
    federation_frame,
    federation_targets,
    growth,
    server_work,
)
from fedquad.benchmarks.frames import rows_frame
from fedquad.benchmarks.record import Record
from fedquad.benchmarks.report import write_report
from fedquad.benchmarks.server_work import run_aggregation, run_selection, run_server
from fedquad.benchmarks.targets import NOT_MEASURED
from fedquad.benchmarks.timing import Deadline


@pytest.fixture
def plan(tiny_federated) -> FederationPlan:
    """Of a second."""
    config = tiny_federated(method="fedlora", num_rounds=1000)
    return FederationPlan(config=config, repeats=2, devices=(20, 200), updates=12)


def measure(run, plan, machine, tmp_path) -> pd.DataFrame:
    record = Record(tmp_path / "cpu.json", machine)
    run(plan, record, Deadline())
    rows = list(record.rows)
    assert {row["status"] for row in rows} == {"ok"}
    run(plan, record, Deadline())  # is there already
    assert record.rows == rows
    return pd.DataFrame(rows)


def test_a_round_is_timed_beside_its_training(plan, machine, tmp_path):
    rows = measure(run_round, plan, machine, tmp_path).set_index("implementation")
    assert list(rows.index) == [SIMULATED, STEPS_ALONE, PLAIN_LOOP]
    assert (rows["wall_s"] > 0).all()
    assert rows["wall_s_ratio"][STEPS_ALONE] == 1.0


@pytest.mark.slow
def test_workers_are_timed_in_turns_and_give_the_same_bytes(plan, machine, tmp_path):
    rows = measure(run_workers, plan, machine, tmp_path).set_index("implementation")
    assert list(rows.index) == [ONE_WORKER, TWO_THREADS, TWO_WORKERS]
    assert rows["same_bytes"][TWO_WORKERS]


def test_selection_is_timed_by_the_number_of_devices(plan, machine, tmp_path):
    rows = measure(run_selection, plan, machine, tmp_path)
    assert list(rows["devices"]) == [20, 200]
    assert list(rows["layers"]) == [24, 24]
    assert rows["peak_bytes"].is_monotonic_increasing


def test_aggregation_holds_the_same_whatever_the_number_of_updates(plan, machine, tmp_path):
    """Sums, one adapter of them a sub-model size for InclusiveFL, and the update in hand."""
    few = measure(run_aggregation, plan, machine, tmp_path).set_index("method")
    many = dataclasses.replace(plan, updates=60)
    (tmp_path / "many").mkdir()
    rows = measure(run_aggregation, many, machine, tmp_path / "many").set_index("method")
    assert (rows["peak_bytes"] <= 1.15 * few["peak_bytes"]).all()
    sizes = rows["sub_model_sizes"].where(rows.index == "inclusivefl", 1)
    # In a model of three layers what is in work for one of them, in fp64 for HetLoRA, counts.
    assert (rows["peak_bytes"] <= (sizes + 2) * rows["adapter_bytes"]).all()
    assert (rows["peak_bytes"] > rows["adapter_bytes"]).all()


def test_the_servers_round_is_timed_by_the_number_of_devices(plan, machine, tmp_path):
    rows = measure(run_server, plan, machine, tmp_path)
    assert list(zip(rows["method"], rows["devices"], strict=True)) == [
        ("fedquad", 20),
        ("fedquad", 200),
        ("fedra", 20),
        ("fedra", 200),
    ]


def row(operation: str, **values) -> dict:
    return {"kind": "federation", "operation": operation, "status": "ok", **values}


@pytest.fixture
def rows() -> list[dict]:
    return [
        row("round", implementation=SIMULATED, wall_s=1.04, wall_s_ratio=1.04),
        row("workers", implementation=TWO_WORKERS, wall_s_ratio=0.5, same_bytes=True),
        row("workers", implementation=TWO_THREADS, wall_s_ratio=0.9, same_bytes=False),
        row("selection", method="fedquad", devices=10_000, wall_s=0.03, peak_bytes=1e6),
        row("selection", method="fedquad", devices=100_000, wall_s=1.2, peak_bytes=1e7),
        row("aggregation", method="inclusivefl", updates=10_000, peak_bytes=450, adapter_bytes=100)
        | {"sub_model_sizes": 3},
        row("server", method="fedquad", devices=100, wall_s=0.1),
        row("server", method="fedquad", devices=1000, wall_s=1.0),
        row("server", method="fedquad", devices=10_000, wall_s=12.0),
    ]


def test_targets_say_what_was_met(rows, machine):
    frame = federation_frame(rows_frame({"machine": machine, "rows": rows}))
    targets = federation_targets(frame)
    assert list(zip(targets["measured"], targets["met"], strict=True)) == [
        ("1.040", "yes"),
        ("2.00x, the same bytes", "yes"),
        ("1.80x", "yes"),
        ("1.20 s", "no"),
        ("10.0x", "yes"),
        ("4.50", "no"),
        ("12.0x", "no"),
    ]
    rows[1]["same_bytes"] = False
    targets = federation_targets(federation_frame(rows_frame({"machine": machine, "rows": rows})))
    assert tuple(targets.iloc[1][["measured", "met"]]) == ("2.00x, other bytes", "no")


def test_what_was_not_measured_meets_nothing(rows, machine):
    frame = federation_frame(rows_frame({"machine": machine, "rows": rows[6:7]}))
    assert set(federation_targets(frame)["met"]) == {NOT_MEASURED}
    assert pd.isna(growth(frame, "wall_s"))


def test_the_page_and_the_picture_are_of_the_engine(rows, machine, tmp_path):
    path = tmp_path / "federation-cpu.json"
    path.write_text(json.dumps({"machine": machine, "groups": [], "rows": rows}))
    readme, picture = write_report(tmp_path)
    text = readme.read_text()
    assert "## CPU: the federated engine" in text
    assert "| fedquad | 12.0000 |" in text
    assert picture.read_bytes()[:4] == b"\x89PNG"
    frame = federation_frame(rows_frame({"machine": machine, "rows": rows}))
    assert [line.get_label() for line in server_work(frame).lines] == ["fedquad", "in proportion"]
