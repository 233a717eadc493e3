import json

import pandas as pd
import pytest
from matplotlib.axes import Axes

from fedquad.benchmarks.frames import compared_frame, kernel_frame, load_records, rows_frame
from fedquad.benchmarks.plots import kept_against_time, share_of_copy
from fedquad.benchmarks.report import machine_section, write_report
from fedquad.benchmarks.targets import NOT_MEASURED, targets_frame
from fedquad.config import InputError


def step(method, over_none=1.0, *, busy=0.1, kept=100, status="ok", **values):
    row = {
        "kind": "steps",
        "model": "roberta-base",
        "batch_size": 32,
        "length": 128,
        "dtype": "float32",
        "mode": "eager",
        "attention": "eager",
        "method": method,
        "status": status,
    }
    if status == "ok":
        row |= {"full_wall_s": 0.1 * over_none, "full_wall_s_over_none": over_none}
        row |= {"full_device_s": 0.1 * over_none, "full_device_s_over_none": over_none}
        row |= {"busy_device_s": busy, "kept_bytes": kept, "peak_bytes": 2 * kept}
    return {**row, **values}


def kernel(operation, share, implementation="fedquad", **values):
    return {
        "kind": "kernel",
        "model": "roberta-large",
        "batch_size": 32,
        "length": 256,
        "dtype": "float32",
        "operation": operation,
        "phase": "forward",
        "shape": "8192 x 4096",
        "implementation": implementation,
        "status": "ok",
        "wall_s": 2e-4,
        "device_s": 1e-4,
        "gb_per_s": 1000.0 * share,
        "share_of_copy": share,
        **values,
    }


@pytest.fixture
def record(machine):
    rows = [
        step("none"),
        step("checkpointing", 1.4, kept=10),
        step("hooks", 1.5, busy=0.12, kept=25, lora_gradient_error=0.002),
        step("fused", 1.08, busy=0.105, kept=24, lora_gradient_error=0.004),
        step("none", status="out of memory", message="17 EiB", model="deberta-v3-large"),
        step("hooks", 1.2, model="deberta-v3-large"),
        kernel("quantize_blocks", 0.9),
        kernel("quantize_blocks", 0.5, shape="10 x 10"),
        kernel("dequantize_blocks", 0.8),
        kernel("gelu", 0.7),
        kernel("gelu", 0.95, "torch"),
    ]
    card = {**machine, "device": "NVIDIA H100 80GB HBM3", "gpu": "NVIDIA H100 80GB HBM3"}
    return {"machine": card, "groups": [], "rows": rows}


def test_methods_are_related_to_none_of_their_group(record):
    frame = compared_frame(rows_frame(record), "steps").set_index(["model", "method"])
    hooks = frame.loc["roberta-base", "hooks"]
    assert hooks["added_wall_percent"] == pytest.approx(50)
    assert hooks["added_busy_percent"] == pytest.approx(20)
    assert hooks["kept_percent"] == 25
    assert frame.loc["roberta-base", "none"]["added_wall_percent"] == 0
    assert pd.isna(frame.loc["deberta-v3-large", "hooks"]["kept_percent"])
    assert len(frame) == 6


def test_targets_say_what_was_measured(record):
    rows = rows_frame(record)
    targets = targets_frame(rows, on_gpu=True).set_index("target")
    found = {name: (row["measured"], row["met"]) for name, row in targets.iterrows()}
    base = "time added, RoBERTa-base, batch 32, length 128"
    assert found[f"{base}, float32: fused or compiled"] == ("8 %", "yes")
    assert found[f"{base}, bfloat16: fused or compiled"] == (NOT_MEASURED, NOT_MEASURED)
    assert found["the same, float32: hooks, of device time"] == ("20 %", "yes")
    share = "share of a copy's bandwidth, largest shape"
    assert found[f"quantize_blocks, float32: {share}"] == ("90 %", "yes")
    assert found[f"dequantize_blocks, float32: {share}"] == ("80 %", "no")
    error = "relative error of the LoRA gradient, {}, largest of all models, random weights"
    assert found[error.format("hooks")] == ("0.20 %", "yes")
    assert found[error.format("fused")] == ("0.40 %", "no")


def test_targets_of_a_cpu_compare_with_checkpointing(record):
    targets = targets_frame(rows_frame(record), on_gpu=False)
    row = targets[targets["target"] == "time added by hooks, roberta-base, batch 32, length 128"]
    assert row["limit"].item() == "< 40 % (checkpointing)"
    assert (row["measured"].item(), row["met"].item()) == ("50 %", "no")


def test_nothing_measured_is_said_so(machine):
    rows = rows_frame({"machine": machine, "rows": [step("none", status="failed", message="x")]})
    targets = targets_frame(rows, on_gpu=True)
    assert set(targets["met"]) == {NOT_MEASURED}
    section = machine_section("cpu", machine, rows)
    assert "### Not measured, and why" in section
    assert "### Kernels" not in section


def test_a_page_and_a_picture_are_written(record, tmp_path):
    path = tmp_path / "nvidia-h100-80gb-hbm3.json"
    path.write_text(json.dumps(record))
    written = write_report(tmp_path)
    assert [each.name for each in written] == ["README.md", "nvidia-h100-80gb-hbm3.png"]
    text = written[0].read_text()
    assert "## NVIDIA H100 80GB HBM3" in text
    assert "| roberta-base | 128 | float32 | eager | eager | fused | 108.0 | 8.0 |" in text
    assert "out of memory" in text
    assert written[1].read_bytes()[:4] == b"\x89PNG"
    before = [each.read_bytes() for each in written]
    assert [each.read_bytes() for each in write_report(tmp_path)] == before
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(InputError, match=r"other\.json"):
        load_records(tmp_path)


def test_plots_take_a_frame_and_give_axes(record):
    rows = rows_frame(record)
    ax = kept_against_time(compared_frame(rows, "steps"))
    assert isinstance(ax, Axes)
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["checkpointing", "hooks", "fused"]
    bars = share_of_copy(kernel_frame(rows))
    assert [text.get_text() for text in bars.get_yticklabels()] == [
        "quantize_blocks, forward",
        "dequantize_blocks, forward",
        "gelu, forward",
    ]
    empty = rows[rows["kind"] == "nothing"]
    assert isinstance(kept_against_time(compared_frame(empty, "steps")), Axes)
    assert isinstance(share_of_copy(kernel_frame(empty)), Axes)
