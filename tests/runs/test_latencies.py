"""Which step times the figures need, and how they are stored."""

from __future__ import annotations

import dataclasses
import json

import pytest

from fedquad import paths
from fedquad.config import PROFILES, settings_of
from fedquad.runs.journal import CorruptRunError
from fedquad.runs.latencies import (
    fig01_latencies,
    fig02_latencies,
    fig03_latencies,
    fig04_latencies,
    load_or_measure,
)

REFERENCE = PROFILES["reference"]
RECORDS = paths.package_data() / "runs" / "reference"


@pytest.fixture
def config(tiny_model):
    profile = dataclasses.replace(
        PROFILES["smoke"], model=str(tiny_model), batch_size=2, max_length=8, latency_repeats=2
    )
    [config] = fig04_latencies(profile)
    return config


@pytest.mark.parametrize(
    ("plan", "name"),
    [(fig01_latencies, "fig01c"), (fig02_latencies, "fig02a"), (fig03_latencies, "fig03b")],
)
def test_committed_step_times_are_those_of_the_plans(plan, name):
    [config] = plan(REFERENCE)
    recorded = json.loads((RECORDS / f"latency-{name}.json").read_text())
    assert recorded["settings"] == json.loads(json.dumps(settings_of(config)))


def test_figure_four_times_quantization_beside_its_rival():
    [config] = fig04_latencies(REFERENCE)
    settings = dict(zip(config.keys, config.settings, strict=True))
    whole = tuple(range(12))
    assert settings["none"] == ("lora", whole, (), False)
    assert settings["quantization"] == ("lora", whole, whole[:-1], False)
    assert settings["checkpointing"] == ("lora", whole, (), True)
    assert settings["(5, 0)"] == ("lora", whole[7:], (), False)
    assert settings["(8, 5)"] == ("lora", whole[4:], whole[4:9], False)
    assert settings["(10, 9)"] == ("lora", whole[2:], whole[2:11], False)


def test_a_model_of_six_layers_has_points_of_its_own():
    [config] = fig04_latencies(PROFILES["glue"])
    assert config.keys[3:] == ("(3, 0)", "(4, 2)", "(5, 4)")


def test_step_times_are_measured_once(config, tmp_path):
    record = load_or_measure(config, tmp_path)
    assert not record.from_record
    assert tuple(record.rows["setting"]) == config.keys
    assert (record.rows[["forward_s", "backward_s", "total_s"]] > 0).all(axis=None)
    assert (record.rows["total_low_s"] <= record.rows["total_high_s"]).all()
    again = load_or_measure(config, tmp_path)
    assert again.from_record
    assert again.rows.equals(record.rows)
    assert again.environment == record.environment
    other = load_or_measure(dataclasses.replace(config, repeats=1), tmp_path)
    assert not other.from_record


def test_a_record_that_cannot_be_read_is_kept(config, tmp_path):
    path = tmp_path / "latency-fig04.json"
    path.write_text("[]")
    with pytest.raises(CorruptRunError, match="latency-fig04"):
        load_or_measure(config, tmp_path)
    assert path.read_text() == "[]"
