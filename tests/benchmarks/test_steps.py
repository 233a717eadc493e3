import json

import pytest
import torch

from fedquad.benchmarks import steps
from fedquad.benchmarks.kernels import run_kernels
from fedquad.benchmarks.record import Record
from fedquad.benchmarks.steps import run_layer, run_steps
from fedquad.benchmarks.timing import Deadline
from fedquad.benchmarks.workload import Workload
from fedquad.cost.random_model import Shape


def by_method(record):
    return {row["method"]: row for row in record.rows}


def test_methods_stand_side_by_side(small_plan, machine, tmp_path):
    record = Record(tmp_path / "cpu.json", machine)
    run_steps(small_plan(), record, Deadline())
    rows = by_method(record)
    assert list(rows) == ["none", "checkpointing", "hooks"]
    for row in rows.values():
        assert row["status"] == "ok"
        assert row["repeats"] == 2
        assert row["full_wall_s"] >= max(row["forward_wall_s"], row["backward_wall_s"]) > 0
        assert row["full_wall_s_q25"] <= row["full_wall_s"] <= row["full_wall_s_q75"]
        assert row["full_device_s"] is None
        assert row["kept_bytes"] < row["peak_bytes"]
    assert rows["none"]["full_wall_s_over_none"] == 1
    assert rows["checkpointing"]["kept_bytes"] < rows["none"]["kept_bytes"]
    assert rows["hooks"]["kept_bytes"] < rows["none"]["kept_bytes"]
    assert rows["checkpointing"]["lora_gradient_error"] == 0
    assert 0 < rows["hooks"]["lora_gradient_error"] < 0.03
    assert "lora_gradient_error" not in rows["none"]
    assert json.loads((tmp_path / "cpu.json").read_text())["rows"] == record.rows


def test_a_finished_group_is_not_measured_again(small_plan, machine, tmp_path, monkeypatch):
    plan = small_plan(methods=("none",))
    path = tmp_path / "cpu.json"
    run_steps(plan, Record(path, machine), Deadline())
    before = path.read_bytes()

    def measured_again(*_):
        raise AssertionError("measured again")

    monkeypatch.setattr(steps._Group, "measure", measured_again)
    run_steps(plan, Record(path, machine), Deadline())
    assert path.read_bytes() == before
    with pytest.raises(AssertionError, match="measured again"):
        run_steps(plan, Record(path, machine, fresh=True), Deadline())


def test_a_time_limit_ends_between_groups(small_plan, machine, tmp_path):
    plan, record = small_plan(), Record(tmp_path / "cpu.json", machine)
    for run in (run_kernels, run_layer, run_steps):
        run(plan, record, Deadline(0))
    assert record.rows == []
    assert not (tmp_path / "cpu.json").exists()


def test_what_is_not_supported_is_recorded(small_plan, machine, tmp_path, capsys):
    record = Record(tmp_path / "cpu.json", machine)
    plan = small_plan("deberta-v2", attentions=("sdpa", "eager"), methods=("none", "hooks"))
    run_steps(plan, record, Deadline())
    statuses = {(row["attention"], row["method"]): row["status"] for row in record.rows}
    assert statuses == {
        ("sdpa", "none"): "unsupported",
        ("sdpa", "hooks"): "unsupported",
        ("eager", "none"): "ok",
        ("eager", "hooks"): "ok",
    }
    assert "eager for deberta-v2" in record.rows[0]["message"]
    assert "unsupported" in capsys.readouterr().out


def test_a_method_that_needs_too_much_memory_leaves_the_others(
    small_plan, machine, tmp_path, monkeypatch
):
    forward = Workload.forward

    def exhausted(workload):
        if workload.method == "none":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 EiB.")
        forward(workload)

    monkeypatch.setattr(Workload, "forward", exhausted)
    record = Record(tmp_path / "cpu.json", machine)
    run_steps(small_plan(), record, Deadline())
    rows = by_method(record)
    assert rows["none"]["status"] == "out of memory"
    assert rows["hooks"]["status"] == "ok"
    assert "lora_gradient_error" not in rows["hooks"]  # nothing to compare with
    assert "full_wall_s_over_none" not in rows["hooks"]
    assert record.groups  # measuring again would not help


def test_a_failure_is_recorded_and_tried_again(small_plan, machine, tmp_path, monkeypatch):
    backward = Workload.backward

    def broken(workload):
        if workload.method == "hooks":
            raise RuntimeError("a defect\nwith a long story")
        backward(workload)

    plan, record = small_plan(), Record(tmp_path / "cpu.json", machine)
    monkeypatch.setattr(Workload, "backward", broken)
    run_steps(plan, record, Deadline())
    assert by_method(record)["hooks"]["message"] == "RuntimeError: a defect"
    assert by_method(record)["none"]["status"] == "ok"
    assert record.groups == []
    monkeypatch.setattr(Workload, "backward", backward)
    run_steps(plan, record, Deadline())
    assert by_method(record)["hooks"]["status"] == "ok"
    assert len(record.rows) == 3
    assert len(record.groups) == 1


def test_an_error_that_ends_cuda_ends_the_run(small_plan, machine, tmp_path, monkeypatch):
    def lost(_):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(Workload, "forward", lost)
    record = Record(tmp_path / "cpu.json", machine)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        run_steps(small_plan(), record, Deadline())
    assert record.rows == []


@pytest.mark.parametrize("family", ["bert", "deberta-v2"])
def test_one_layer_is_the_step_of_a_middle_layer(family, small_model):
    options = {"dtype": "float32", "mode": "eager", "attention": "eager", "torch_device": "cpu"}
    folder = small_model(family)
    kept = {}
    for method in ("none", "checkpointing", "hooks"):
        layer = Workload(folder, Shape(2, 16), method=method, one_layer=True, **options)
        kept[method] = layer.memory(eager=True)["kept_bytes"]
        layer.close()
    # Beside its result, which is a tensor of the hidden state's size.
    result = 2 * 16 * 32 * 4
    assert kept["checkpointing"] == pytest.approx(result, abs=8)
    assert result < kept["hooks"] < kept["none"]


def test_kernels_are_timed_beside_a_copy(small_plan, machine, tmp_path):
    record = Record(tmp_path / "cpu.json", machine)
    run_kernels(small_plan(), record, Deadline())
    assert {row["status"] for row in record.rows} == {"ok"}
    operations = {row["operation"] for row in record.rows}
    assert operations >= {
        "quantize_blocks",
        "dequantize_blocks, 4 bits",
        "pack_bits",
        "unpack_bits",
        "gelu",
        "layer_norm + residual",
        "softmax",
        "attention",
        "lora_weight_grad",
    }
    for row in record.rows:
        assert row["gb_per_s"] == pytest.approx(1e-9 * row["moved_bytes"] / row["wall_s"])
        assert row["share_of_copy"] > 0
    attention = {row["implementation"] for row in record.rows if row["operation"] == "attention"}
    assert attention == {"fedquad", "torch", "sdpa"}
    [moved] = {row["moved_bytes"] for row in record.rows if row["operation"] == "quantize_blocks"}
    assert moved == 32 * 64 * 4 + 32 * 64 + 2 * 4  # read, codes, a scale for each 32 x 32
