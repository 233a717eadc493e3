"""Error of the LoRA gradient on encoders that have learned something."""

from __future__ import annotations

import json

import pytest

from fedquad.benchmarks import gradients
from fedquad.benchmarks.__main__ import main
from fedquad.benchmarks.report import write_report


@pytest.fixture
def record(tmp_path, monkeypatch):
    monkeypatch.setattr(gradients, "NUM_BATCHES", 1)
    path = tmp_path / "cpu.json"
    main(["gradients", "--output", str(path), "--models", "embedded", "--batch-size", "4"])
    return path


@pytest.mark.slow
def test_each_way_of_quantizing_has_its_error_and_its_target(record):
    rows = {row["method"]: row for row in json.loads(record.read_text())["rows"]}
    assert set(rows) == set(gradients.QUANTIZED)
    errors = {name: row["lora_gradient_error"] for name, row in rows.items()}
    # A code of 4 bits is 127 / 7 times as coarse.
    assert 0 < 5 * errors["hooks"] < errors["hooks, 4 bits"]
    assert errors["fused"] == pytest.approx(errors["hooks"], rel=0.5)
    page, _ = write_report(record.parent)
    assert "pretrained weights | <= 0.3 %" in page.read_text()


def test_only_pretrained_encoders_are_asked(tmp_path):
    path = tmp_path / "cpu.json"
    main(["gradients", "--output", str(path), "--models", "roberta-base"])
    assert not path.exists()
