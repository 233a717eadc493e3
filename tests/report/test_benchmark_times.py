"""Step times of committed benchmarks beside those of a profile."""

from __future__ import annotations

import json

import pytest

from fedquad.config import InputError
from fedquad.report.frames import gpu_step_times

STEP = {"model": "roberta-base", "batch_size": 32, "length": 128}
SECONDS = {"none": 0.10, "checkpointing": 0.13, "hooks": 0.12, "fused": 0.105}


def row(method: str, **changes):
    times = {
        f"{phase}_wall_s{suffix}": share * SECONDS[method]
        for phase, share in (("forward", 0.4), ("backward", 0.6), ("full", 1.0))
        for suffix in ("", "_q25", "_q75")
    }
    setting = {"kind": "steps", "dtype": "float32", "mode": "eager", "attention": "eager"}
    return {**setting, **STEP, "method": method, "status": "ok", "repeats": 20, **times} | changes


def write(folder, name, rows):
    content = {"machine": {"device": "NVIDIA H100"}, "groups": [], "rows": rows}
    (folder / name).write_text(json.dumps(content))


def test_fused_steps_are_preferred(tmp_path):
    write(tmp_path, "nvidia-h100.json", [row(method) for method in SECONDS])
    [(name, times)] = gpu_step_times(tmp_path, **STEP).items()
    assert name == "benchmark nvidia-h100"
    assert times.set_index("setting")["total_s"].to_dict() == {
        "none": 0.10,
        "quantization": 0.105,
        "checkpointing": 0.13,
    }
    assert set(times["torch_device"]) == {"NVIDIA H100"}


def test_hooks_stand_in_where_nothing_was_fused(tmp_path):
    rows = [row("none"), row("hooks"), row("checkpointing"), row("fused", status="unsupported")]
    write(tmp_path, "card.json", rows)
    times = gpu_step_times(tmp_path, **STEP)["benchmark card"].set_index("setting")
    assert times.loc["quantization", "total_s"] == 0.12


@pytest.mark.parametrize(
    "changes",
    [{"model": "roberta-large"}, {"dtype": "bfloat16"}, {"mode": "compiled"}, {"kind": "layer"}],
)
def test_other_settings_are_left_out(tmp_path, changes):
    write(tmp_path, "card.json", [row(method, **changes) for method in SECONDS])
    assert gpu_step_times(tmp_path, **STEP) == {}


def test_cpus_and_incomplete_records_are_left_out(tmp_path):
    write(tmp_path, "cpu-xeon.json", [row(method) for method in SECONDS])
    write(tmp_path, "card.json", [row("none"), row("fused")])
    assert gpu_step_times(tmp_path, **STEP) == {}
    assert gpu_step_times(tmp_path / "nothing", **STEP) == {}


def test_a_file_that_is_no_record_is_named(tmp_path):
    (tmp_path / "card.json").write_text("{}")
    with pytest.raises(InputError, match=r"card\.json"):
        gpu_step_times(tmp_path, **STEP)
