"""What travels inside Flower's records: written, read, and refused where it is something else."""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path

import needs_flower  # noqa: F401
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

import fedquad.flower
from fedquad.config import Assignment, FederatedConfig, InputError
from fedquad.cost.layer_costs import LayerCosts
from fedquad.federation.fallback import Fallback
from fedquad.federation.wire import Message, WireError, decode, encode
from fedquad.flower.payloads import DeviceReport, RunSpec, require_part_of
from fedquad.flower.records import read, records
from fedquad.flower.run_config import RunConfig

ASKED = Assignment(
    num_layers=3, active_layers=(0, 1, 2), trainable_layers=(1, 2), quantized_layers=(1,)
)


def test_a_payload_comes_back_as_it_was():
    content = records({"job": encode("job", {"a": [1, 2]}), "other": encode("x", {})})
    assert read(content, "job") == Message("job", {"a": [1, 2]})


@pytest.mark.parametrize(
    "content",
    [
        RecordDict(),
        RecordDict({"job": ConfigRecord({"payload": "text"})}),
        RecordDict({"job": ConfigRecord({"other": b""})}),
        RecordDict({"job": ArrayRecord({"payload": Array("uint8", (1,), "", b"1")})}),
        RecordDict({"job": ConfigRecord({"payload": b""})}),
    ],
)
def test_other_content_is_refused(content):
    with pytest.raises(WireError):
        read(content, "job")


def test_size_is_looked_at_before_anything_else():
    content = records({"job": b"\xff" * 1000})  # no payload at all, if it were decoded
    with pytest.raises(WireError, match=r"1000 bytes.*at most 999"):
        read(content, "job", max_bytes=999)


COSTS = LayerCosts(
    num_layers=3,
    fixed_bytes=7,
    bytes_per_lora_layer=5,
    bytes_saved_per_quantized_layer=2,
    forward_flops=11,
    flops_per_lora_layer=3,
    flops_per_quantized_layer=1,
)


@pytest.mark.parametrize("costs", [None, COSTS])
def test_a_run_comes_back_as_it_was(costs):
    config = FederatedConfig(
        method="hetlora", method_options=(("gamma", 0.9),), partition_alpha=float("inf")
    )
    spec = RunSpec(config=config, label_names=("no", "yes"), costs=costs)
    assert RunSpec.decode(decode(spec.encode())) == spec


@pytest.mark.parametrize(
    "changes",
    [
        {"config": None},
        {"config": {"method": 7}},
        {"config": {"num_rounds": 0}},
        {"config": {"method": "os:system"}},
        {"config": {"method_options": 3}},
        {"label_names": [1]},
        {"costs": {"num_layers": 3}},
        {"costs": "x"},
    ],
)
def test_a_run_that_cannot_be_is_refused(changes):
    message = decode(RunSpec(config=FederatedConfig()).encode())
    with pytest.raises(WireError):
        RunSpec.decode(Message("run", {**message.fields, **changes}))


@given(
    memory=st.integers(0, 2**62),
    speed=st.floats(1e-3, 1e18),
    reasons=st.lists(st.text(max_size=9), max_size=3),
)
def test_a_report_comes_back_as_it_was(memory, speed, reasons):
    report = DeviceReport(name="porch", memory_budget_bytes=memory, flops_per_second=speed)
    fallback = Fallback(assignment=ASKED, reasons=tuple(reasons), too_many_bytes=None)
    for said in (report, report.with_fallback(fallback)):
        assert DeviceReport.decode(decode(said.encode())) == said


@pytest.mark.parametrize(
    "changes",
    [
        {"name": ""},
        {"name": "a\nb"},
        {"name": 5},
        {"memory_budget_bytes": -1},
        {"memory_budget_bytes": 1.5},
        {"flops_per_second": 0},
        {"flops_per_second": float("nan")},
        {"fallback": [1]},
        {"ran": {"num_layers": 3}},
        {"ran": [1]},
    ],
)
def test_a_report_that_cannot_be_is_refused(changes):
    message = decode(DeviceReport(name="porch").encode())
    with pytest.raises(WireError):
        DeviceReport.decode(Message("report", {**message.fields, **changes}))


@pytest.mark.parametrize(
    ("changes", "is_part"),
    [
        ({}, True),
        ({"quantized_layers": ()}, True),
        ({"trainable_layers": (2,), "quantized_layers": ()}, True),
        ({"trainable_layers": (0, 1, 2)}, False),
        ({"trainable_layers": (), "quantized_layers": ()}, False),
        ({"lora_rank": 8}, False),
        ({"num_layers": 4}, False),
    ],
)
def test_a_device_falls_back_to_a_part_of_its_job_only(changes, is_part):
    ran = dataclasses.replace(ASKED, **changes)
    if is_part:
        require_part_of(ran, ASKED)
    else:
        with pytest.raises(WireError, match="a part of"):
            require_part_of(ran, ASKED)


def app_config() -> dict:
    path = Path(fedquad.flower.__path__[0]) / "app" / "pyproject.toml"
    return tomllib.loads(path.read_text())["tool"]["flwr"]["app"]["config"]


def test_the_app_lists_every_setting_at_its_default(tmp_path, monkeypatch):
    """Flower takes no setting that the app does not list."""
    monkeypatch.setenv("FEDQUAD_HOME", str(tmp_path))
    fields = {field.name for field in dataclasses.fields(FederatedConfig)}
    own = {field.name for field in dataclasses.fields(RunConfig)} - {"config"}
    assert {name.replace("-", "_") for name in app_config()} == fields | own
    store = tmp_path / "data" / "runs" / "local"
    assert RunConfig.read(app_config()) == RunConfig(config=FederatedConfig(), store=store)


def test_a_flat_config_is_read():
    values = app_config() | {
        "method": "inclusivefl",
        "method-options": "beta=0.5",
        "partition-alpha": "inf",
        "train-samples": 100,
        "store": "/tmp/x",
        "status": "measured",
        "max-under-way": 4,
    }
    options = RunConfig.read(values)
    assert options.config.method_options == (("beta", 0.5),)
    assert options.config.partition_alpha == float("inf")
    assert options.config.train_samples == 100
    assert options.config.clock_local_steps == options.config.local_steps  # real seconds
    assert options.store == Path("/tmp/x")
    assert options.max_under_way == 4


@pytest.mark.parametrize(
    "changes",
    [
        {"no-such": 1},
        {"status": "guessed"},
        {"min-updates": 0},
        {"answer-timeout-s": 0},
        {"method-options": "beta"},
        {"num-rounds": 0},
        {"status": "measured", "fleet": "fleet.csv"},
    ],
)
def test_a_flat_config_that_no_run_can_have_is_refused(changes):
    with pytest.raises(InputError):
        RunConfig.read(app_config() | changes)
