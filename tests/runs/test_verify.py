from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from fedquad.config import InputError, get_profile, run_id
from fedquad.runs import environment
from fedquad.runs.environment import describe_environment, same_arithmetic
from fedquad.runs.finetune import load_or_run, run_settings
from fedquad.runs.store import RunStore
from fedquad.runs.verify import config_of, difference_limit, verify

PROFILE = get_profile("smoke")


@pytest.fixture
def records(tiny, tmp_path, monkeypatch, tiny_model) -> RunStore:
    """Two committed records of a model that a name stands for, as ``embedded`` does."""
    monkeypatch.setenv("FEDQUAD_HOME", str(tmp_path))
    monkeypatch.setattr("fedquad.runs.results.model_identity", lambda model: f"{model}@0123")
    store = RunStore(tmp_path / "data" / "runs" / "smoke")
    load_or_run([tiny(seed=seed) for seed in (0, 1)], store, progress=False)
    return store


def edit_json(path: Path, change) -> None:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    change(lines)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_records_of_this_machine_are_the_same_to_the_byte(records):
    frame = verify(PROFILE, sample=3)
    assert len(frame) == 2
    assert set(frame["rule"]) == {"bytes"}
    assert set(frame["verdict"]) == {"same"}
    assert (frame["recorded_accuracy"] == frame["recomputed_accuracy"]).all()


def test_the_draw_follows_the_seed_and_leaves_the_records_alone(records):
    before = [run.results_sha256 for run in records.finished()]
    drawn = [verify(PROFILE, sample=1, seed=seed)["run"][0] for seed in (3, 3)]
    assert drawn[0] == drawn[1]
    assert [run.results_sha256 for run in records.finished()] == before


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


def test_other_data_and_other_versions_are_skipped_with_the_reason(
    records, make_glue, monkeypatch, tmp_path
):
    monkeypatch.setenv("FEDQUAD_GLUE", str(make_glue(1)))
    frame = verify(PROFILE, sample=1)
    assert list(frame["verdict"]) == ["skipped"]
    assert "data" in frame["detail"][0]
    monkeypatch.setattr("fedquad.runs.results.model_identity", lambda model: f"{model}@4567")
    assert "model" in verify(PROFILE, sample=1)["detail"][0]


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
