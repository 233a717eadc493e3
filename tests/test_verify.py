from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest

from fedquad.config import InputError, get_profile, run_id
from fedquad.federation.record_differences import accounting_differences
from fedquad.federation.runs import load_or_federate
from fedquad.federation.runs import run_settings as federated_settings
from fedquad.runs import environment
from fedquad.runs.environment import describe_environment, same_arithmetic
from fedquad.runs.finetune import load_or_run, run_settings
from fedquad.runs.store import RunStore, StoredRun
from fedquad.verify import config_of, difference_limit, verify

PROFILE = get_profile("smoke")


@pytest.fixture(scope="module")
def computed(tmp_path_factory) -> Path:
    """Where the records lie that all tests have copies of, once they are computed."""
    return tmp_path_factory.mktemp("computed") / "runs"


@pytest.fixture
def records(tiny, tiny_federated, tmp_path, monkeypatch, computed) -> RunStore:
    """Three committed records of a model that a name stands for, as ``embedded`` does."""
    monkeypatch.setenv("FEDQUAD_HOME", str(tmp_path))
    for room in ("runs.results", "federation.setting"):
        monkeypatch.setattr(f"fedquad.{room}.model_identity", lambda model: f"{model}@0123")
    if not computed.exists():
        load_or_run([tiny(seed=seed) for seed in (0, 1)], RunStore(computed), progress=False)
        config = tiny_federated(partition_alpha=math.inf)
        load_or_federate([config], RunStore(computed), progress=False)
    store = RunStore(tmp_path / "data" / "runs" / "smoke")
    shutil.copytree(computed, store.root)
    return store


def is_federated(run: StoredRun) -> bool:
    return run.settings["experiment"] == "FederatedConfig"


def edit_json(path: Path, change) -> None:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    change(lines)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_records_of_this_machine_are_the_same_to_the_byte(records):
    frame = verify(PROFILE, sample=4)
    assert len(frame) == 3
    assert set(frame["rule"]) == {"bytes"}
    assert set(frame["verdict"]) == {"same"}
    assert (frame["recorded_accuracy"] == frame["recomputed_accuracy"]).all()


def test_the_draw_follows_the_seed_and_leaves_the_records_alone(records):
    before = [run.results_sha256 for run in records.finished()]
    drawn = [verify(PROFILE, sample=1, seed=seed)["run"][0] for seed in (3, 3)]
    assert drawn[0] == drawn[1]
    assert [run.results_sha256 for run in records.finished()] == before


def test_two_records_are_one_of_each_kind(records, monkeypatch):
    monkeypatch.setattr("fedquad.verify._reason_to_skip", lambda record, kind: "not now")
    federated = {run.directory.name for run in records.finished() if is_federated(run)}
    drawn = [verify(PROFILE, sample=2, seed=seed)["run"] for seed in range(8)]
    assert all(len(federated & set(runs)) == 1 for runs in drawn)
    assert {runs[0] in federated for runs in drawn} == {True, False}


def test_a_record_that_the_code_does_not_give_differs(records):
    for run in records.finished():
        edit_json(run.directory / "results.jsonl", lambda rows: rows[0].update(loss=0.5))
    assert set(verify(PROFILE)["verdict"]) == {"differs"}


@pytest.mark.parametrize(("accuracy_change", "verdict"), [(0, "within"), (-0.9, "differs")])
def test_records_of_another_machine_are_held_to_the_interval(records, accuracy_change, verdict):
    def other_cpu(rows):
        rows[0]["environment"]["cpu"] = "another CPU"

    def worse(rows):
        rows[0]["loss"] += 1e-9
        if accuracy_change:
            rows[-1]["accuracy"] = 0.0 if rows[-1]["accuracy"] > 0.5 else 1.0

    for run in records.finished():
        edit_json(run.directory / "telemetry.jsonl", other_cpu)
        edit_json(run.directory / "results.jsonl", worse)
    frame = verify(PROFILE)
    assert set(frame["rule"]) == {"interval"}
    assert set(frame["verdict"]) == {verdict}
    assert frame["detail"].str.contains("another CPU").all()


def test_what_training_cannot_change_is_the_same_on_every_machine(records):
    (record,) = filter(is_federated, records.finished())
    rows = json.loads(json.dumps(record.rows))
    assert accounting_differences(record.rows, rows) == []
    devices, name = rows[1]["devices"], rows[1]["devices"]["device_id"][2]
    devices["completion_time_s"][2] *= 1.5
    (difference,) = accounting_differences(record.rows, rows)
    assert difference.startswith(f"round 2, {name}: completion_time_s ")
    devices["trainable_layers"][2] = "other"  # chosen otherwise, so priced otherwise
    assert accounting_differences(record.rows, rows) == []
    devices["mode"][2] = "TX2 MaxN, no, another"
    assert len(accounting_differences(record.rows, rows)) == 1
    assert accounting_differences(record.rows, rows[:1]) == ["2 rounds and 1 now"]


def test_other_data_and_other_versions_are_skipped_with_the_reason(
    records, make_glue, monkeypatch, tmp_path
):
    monkeypatch.setenv("FEDQUAD_GLUE", str(make_glue(1)))
    frame = verify(PROFILE, sample=2)
    assert list(frame["verdict"]) == ["skipped", "skipped"]
    assert frame["detail"].str.contains("the data.* task").all()
    for room in ("runs.results", "federation.setting"):
        monkeypatch.setattr(f"fedquad.{room}.model_identity", lambda model: f"{model}@4567")
    assert verify(PROFILE, sample=2)["detail"].str.contains("settings .* model").all()


def test_a_federated_record_of_a_fleet_file_or_of_other_costs_is_skipped(records):
    (record,) = filter(is_federated, records.finished())
    for run in records.finished():
        if run.directory != record.directory:
            shutil.rmtree(run.directory)
    path = record.directory / "config.json"
    content = json.loads(path.read_text())
    other_costs = content | {"sources": content["sources"] | {"costs": "0" * 64}}
    path.write_text(json.dumps(other_costs))
    assert "costs here are other ones: costs" in verify(PROFILE)["detail"][0]
    settings = content["settings"] | {"fleet": "file:0123456789abcdef", "num_devices": None}
    path.write_text(json.dumps(content | {"settings": settings, "run_id": run_id(settings)}))
    assert "fleet = 'file:0123" in verify(PROFILE)["detail"][0]


def test_a_profile_without_records_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDQUAD_HOME", str(tmp_path))
    with pytest.raises(InputError, match=r"profile = 'smoke' .* finished runs in"):
        verify(PROFILE)


def test_a_config_comes_back_from_its_settings(tiny, tiny_model):
    quantized = {"quantized_layers": (0, 1), "activation_bits": 4}
    full = {"tuning": "full", "eval_samples": 3}
    for changes in ({}, {"trainable_layers": (0, 2)}, full, quantized):
        config = tiny(**changes, model="minilm")
        assert config_of(run_settings(config)) == config


def test_a_federated_config_comes_back_from_its_settings(tiny_federated):
    options = {"method_options": (("reward_offset_s", 0.5),), "partition_alpha": math.inf}
    sizes = {"train_samples": 80, "eval_samples": 3, "clock_local_steps": 7}
    for changes in ({}, options, sizes, {"method": "hetlora", "seed": 4}):
        config = tiny_federated(**changes, model="minilm")
        assert config_of(json.loads(json.dumps(federated_settings(config)))) == config


def test_the_limit_is_that_of_the_difference_of_two_samples():
    """Against simulation: 95 % of differences of two samples of equal accuracy stay below it."""
    rng, num_eval, accuracy = np.random.default_rng(0), 500, 0.7
    a, b = rng.binomial(num_eval, accuracy, (2, 20_000)) / num_eval
    inside = np.abs(a - b) <= difference_limit(accuracy, accuracy, num_eval)
    assert math.isclose(inside.mean(), 0.95, abs_tol=0.01)


def test_the_environment_says_what_decides_about_bytes(monkeypatch):
    here = describe_environment()
    assert run_id({"environment": here})  # JSON values
    assert here["torch"]
    assert here["cpu"]
    assert here["threads"] == 1
    assert same_arithmetic(here, dict(here))
    for key in ("cpu", "torch", "threads"):
        assert not same_arithmetic({**here, key: "other"}, here)
    assert not same_arithmetic({**here, "gpu": "H100"}, {**here, "gpu": "H100"})
    monkeypatch.setattr(environment, "PACKAGES", ("no-such-package",))
    assert describe_environment()["no-such-package"] is None
