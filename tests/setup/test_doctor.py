"""`fedquad.doctor` tells what is there and what is not, on any machine, without touching it."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import threading

import pytest

import fedquad.doctor
from fedquad.config import PROFILES
from fedquad.doctor import Finding, examine, machine, render_text, sources, versions


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Results and local GLUE under an empty folder."""
    monkeypatch.setenv("FEDQUAD_HOME", str(tmp_path))
    monkeypatch.delenv("FEDQUAD_GLUE", raising=False)
    return tmp_path


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    assert len({finding.name for finding in findings}) == len(findings)
    return {finding.name: finding for finding in findings}


def test_everything_is_looked_at_and_nothing_touched(home):
    findings = examine()
    found = by_name(findings)

    profiles = [f"profile {name}" for name in PROFILES]
    assert [finding.name for finding in findings][-len(profiles) :] == profiles
    for name in ("python", "torch", "transformers", "peft", "triton", "other packages"):
        assert found[name].status == "ok", found[name]
    for name in ("gpu", "memory", "disk", "hub", "glue"):
        assert found[name].detail
    assert {finding.status for finding in findings} <= {"ok", "limited", "missing"}
    assert list(home.iterdir()) == []


def test_json_and_text_say_the_same(home):
    findings = [Finding("memory", "limited", "1 GB " * 30, "close something"), *examine()]
    again = [
        Finding(**row) for row in json.loads(json.dumps(list(map(dataclasses.asdict, findings))))
    ]
    assert again == findings

    text = render_text(findings)
    assert max(map(len, text.splitlines())) <= 100
    words = " ".join(text.split())
    for finding in findings:
        assert f"{finding.status} {finding.name} " in words
        assert " ".join(finding.remedy.split()) in words


def test_offline_setting_is_named_and_answered_at_once(home):
    finding = sources.hub()  # tests run with HF_HUB_OFFLINE=1
    assert finding.status == "limited"
    assert "HF_HUB_OFFLINE" in finding.detail


def test_a_hub_that_hangs_is_left_behind(monkeypatch):
    let_go = threading.Event()
    monkeypatch.setattr("fedquad.tasks.hub.require_hub", lambda *_: let_go.wait(60))
    monkeypatch.setattr(sources, "HUB_WAIT_S", 0.05)
    finding = sources.hub()
    let_go.set()
    assert finding.status == "limited"
    assert "no answer" in finding.detail


def test_versions_outside_the_tried_ranges(monkeypatch):
    real_version = importlib.metadata.version
    installed = {"peft": "0.1.0", "numpy": "1.0"}
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: installed.get(name) or real_version(name)
    )
    found = by_name(versions.packages())
    assert found["peft"].status == "limited"
    assert "0.1.0 was not tried, only >=" in found["peft"].detail
    assert found["other packages"].status == "limited"
    assert "numpy 1.0 was not tried" in found["other packages"].detail


def test_a_missing_package_stops_the_profiles(home, monkeypatch):
    real_version = importlib.metadata.version

    def version(name):
        if name == "papermill":
            raise importlib.metadata.PackageNotFoundError(name)
        return real_version(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    found = by_name(examine())
    assert found["other packages"].status == "missing"
    assert "papermill is not installed" in found["other packages"].detail
    assert found["profile embedded"].status == "missing"
    assert "other packages" in found["profile embedded"].detail


def test_a_package_that_cannot_be_imported(monkeypatch):
    def broken():
        raise OSError("libcudart.so.13: missing")

    finding = fedquad.doctor.look("gpu", broken)
    assert finding == Finding("gpu", "missing", "cannot be used: libcudart.so.13: missing")


def test_scarce_memory_and_disk(home, monkeypatch):
    monkeypatch.setattr(machine, "ENOUGH_MEMORY_BYTES", 1e18)
    monkeypatch.setattr(machine, "ENOUGH_DISK_BYTES", 1e18)
    for finding in (machine.memory(), machine.disk()):
        assert finding.status == "limited"
        assert finding.remedy


def test_results_that_cannot_be_written(home, monkeypatch):
    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(machine.tempfile, "TemporaryFile", refuse)
    finding = machine.results()
    assert finding.status == "missing"
    assert "Permission denied" in finding.detail
    assert "FEDQUAD_HOME" in finding.remedy


def test_glue_folder_and_its_tasks(home):
    assert sources.glue().status == "limited"
    (home / "data" / "glue" / "SST-2").mkdir(parents=True)
    assert sources.glue().status == "limited"  # a folder without files is no task
    (home / "data" / "glue" / "SST-2" / "train.tsv").write_text("sentence\tlabel\nfine\t1\n")
    finding = sources.glue()
    assert finding.status == "ok"
    assert finding.detail.startswith("sst2 in ")


def test_profiles_follow_from_what_was_found(home):
    by_profile = by_name(examine())
    assert "FacebookAI/roberta-base" in by_profile["profile paper"].detail  # no hub in tests
    assert by_profile["profile paper"].status == "missing"
    assert "the task sst2" in by_profile["profile glue"].detail
    encoder = by_profile["embedded encoder"].status
    assert by_profile["profile embedded"].status == encoder
