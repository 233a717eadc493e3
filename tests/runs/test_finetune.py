from __future__ import annotations

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from fedquad.config import FineTuneConfig, InputError
from fedquad.runs import central, finetune
from fedquad.runs.finetune import load_or_run, results_frame, run_settings
from fedquad.runs.journal import CorruptRunError, StoreWriteError
from fedquad.runs.results import format_layers
from fedquad.runs.run import StoreMismatchError
from fedquad.runs.store import RunStore, StoreBusyError
from fedquad.training.local import DivergenceError


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path / "runs")


def run(config: FineTuneConfig, store: RunStore, **options):
    [result] = load_or_run([config], store, progress=False, **options)
    return result


def results_bytes(config: FineTuneConfig, store: RunStore) -> bytes:
    return (store.directory(run_settings(config)) / "results.jsonl").read_bytes()


def test_a_run_gives_what_its_record_says(tiny, store):
    config = tiny(trainable_layers=(1, 2))
    result = run(config, store)
    assert result.steps == 12
    assert [row["step"] for row in result.curve] == [5, 10, 12]
    assert result.correct.shape == (50,)
    assert result.accuracy == result.correct.mean() == result.curve[-1]["accuracy"]
    assert result.loss == result.curve[-1]["loss"] > 0
    assert (result.rows_read, result.rows_refused) == (150, 2)
    assert result.telemetry["refused"][0]["line"] == 9
    assert set(result.sources) == {"task", "model"}
    assert result.telemetry["environment"]["threads"] == 1
    assert result.telemetry["wall_time_s"] > 0
    assert result.telemetry["attempts"] == 1
    assert (result.num_layers, result.depth, result.from_record) == (3, 2, False)
    names = {path.name for path in store.directory(run_settings(config)).iterdir()}
    assert names == {"config.json", "results.jsonl", "telemetry.jsonl"}
    again = run(config, store)
    assert again.from_record
    for field in dataclasses.fields(again):
        if field.name != "from_record":
            np.testing.assert_equal(getattr(again, field.name), getattr(result, field.name))


def test_nothing_that_is_stored_names_a_path(tiny, store, tiny_model, glue):
    config = tiny(trainable_layers=(2,))
    run(config, store)
    for path in store.directory(run_settings(config)).iterdir():
        text = path.read_text()
        assert str(tiny_model) not in text
        assert str(glue) not in text
        assert str(store.root) not in text


def test_evaluating_more_often_does_not_change_the_training(tiny, tmp_path):
    often, seldom = tiny(evaluate_every=3), tiny(evaluate_every=12)
    stores = RunStore(tmp_path / "often"), RunStore(tmp_path / "seldom")
    a, b = run(often, stores[0]), run(seldom, stores[1])
    assert a.loss == b.loss
    np.testing.assert_array_equal(a.correct, b.correct)


def test_moving_model_and_data_does_not_change_the_run(tiny, store, tiny_model, tmp_path):
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for path in tiny_model.iterdir():
        (moved / path.name).write_bytes(path.read_bytes())
    first = run(tiny(num_steps=2), store)
    second = run(tiny(num_steps=2, model=str(moved)), store)
    assert second.from_record
    assert second.run_id == first.run_id


def test_duplicates_run_once_and_results_come_in_order(tiny, store, monkeypatch):
    calls = []
    compute = finetune._compute
    monkeypatch.setattr(
        finetune._FINE_TUNING,
        "_compute",
        lambda item, report: calls.append(item) or compute(item, report),
    )
    a, b = tiny(num_steps=2), tiny(num_steps=3)
    results = load_or_run([b, a, b], store, progress=False)
    assert [result.steps for result in results] == [3, 2, 3]
    assert len(calls) == 2
    assert load_or_run([], store) == []


def test_a_complete_record_needs_neither_model_nor_data(tiny, store, monkeypatch, tmp_path):
    config = tiny(num_steps=2)
    run(config, store)

    def refuse(*arguments, **options):
        raise AssertionError("loaded")

    monkeypatch.setattr(finetune, "load_backbone", refuse)
    monkeypatch.setenv("FEDQUAD_GLUE", str(tmp_path / "nothing here"))
    assert run(config, store).from_record


def test_other_data_under_the_same_name_is_refused_until_fresh(tiny, store, make_glue, monkeypatch):
    config = tiny(num_steps=2)
    before = run(config, store)
    monkeypatch.setenv("FEDQUAD_GLUE", str(make_glue(1)))
    with pytest.raises(StoreMismatchError, match=r"sources\.task .* --fresh"):
        run(config, store)
    fresh = run(config, store, fresh=True)
    assert fresh.run_id == before.run_id
    assert fresh.sources["task"] != before.sources["task"]
    assert run(config, store).sources == fresh.sources


def test_fresh_computes_again_and_gives_the_same_bytes(tiny, store):
    config = tiny(num_steps=6)
    run(config, store)
    before = results_bytes(config, store)
    assert not run(config, store, fresh=True).from_record
    assert results_bytes(config, store) == before


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"task": "no such task"}, "task"),
        ({"model": "no such model"}, "model"),
        ({"trainable_layers": (2, 3)}, "layers"),
        ({"quantized_layers": (1, 2)}, r"quantized_layers = \(1, 2\) .* never quantized"),
        ({"tuning": "full", "quantized_layers": (7,)}, "quantized_layers"),
    ],
)
def test_what_cannot_run_is_refused_and_nothing_is_stored(tiny, store, changes, field):
    config = tiny(num_steps=2, **changes)
    with pytest.raises(InputError, match=field):
        run(config, store)
    assert not store.root.exists()


def test_rows_longer_than_the_model_reads_are_refused(tiny, store, tmp_path, monkeypatch):
    (tmp_path / "SST-2").mkdir()
    for name in ("train.tsv", "dev.tsv"):
        text = f"sentence\tlabel\n{'dog ' * 40}\t0\nthe good cat\t1\n"
        (tmp_path / "SST-2" / name).write_text(text)
    monkeypatch.setenv("FEDQUAD_GLUE", str(tmp_path))
    with pytest.raises(InputError, match=r"max_length = 64 .* at most 32"):
        run(tiny(max_length=64), store)
    assert not store.root.exists()


def test_full_tuning_trains_every_layer_and_has_no_depth(tiny, store):
    result = run(tiny(num_steps=2, tuning="full"), store)
    assert result.trained_layers == (0, 1, 2)
    assert result.depth is None


def test_a_holdout_is_taken_from_the_training_rows(tiny, store):
    held_out, other = tiny(num_steps=2, evaluate_on="holdout"), tiny(num_steps=2)
    result = run(held_out, store)
    assert len(result.correct) == 20
    assert (result.rows_read, result.rows_refused) == (100, 1)
    assert len(run(other, store).correct) == 50


def test_the_callers_threads_come_back(tiny, store):
    torch.set_num_threads(2)
    try:
        result = run(tiny(num_steps=2), store)
        assert torch.get_num_threads() == 2
        assert result.telemetry["environment"]["threads"] == 1
    finally:
        torch.set_num_threads(1)


def test_a_run_that_diverges_says_so_and_gives_no_record(tiny, store):
    config = tiny(learning_rate=1e30, num_steps=30)
    with pytest.raises(DivergenceError, match="learning rate"):
        run(config, store)
    assert store.read(run_settings(config)) is None
    run(tiny(num_steps=2), store)


def test_the_frame_has_one_row_a_run(tiny, store):
    configs = [tiny(num_steps=2, trainable_layers=layers) for layers in ((0,), (1, 2), (0, 2))]
    frame = results_frame(load_or_run([*configs, tiny(num_steps=2)], store, progress=False))
    columns = "task model tuning layers depth quantized activation_bits seed steps accuracy loss"
    columns = [*columns.split(), "num_eval", "correct", "from_record"]
    assert list(frame.columns) == columns
    assert list(frame["layers"]) == ["0", "1-2", "0,2", "0-2"]
    np.testing.assert_equal(list(frame["depth"]), [np.nan, 2, np.nan, 3])
    unpacked = np.unpackbits(np.frombuffer(bytes.fromhex(frame["correct"][0]), np.uint8), count=50)
    assert unpacked.mean() == frame["accuracy"][0]
    assert list(results_frame([]).columns) == columns


@pytest.mark.parametrize(
    ("layers", "text"),
    [((3,), "3"), ((0, 1, 2), "0-2"), ((0, 2, 3, 5), "0,2-3,5"), ((0, 1, 3, 4), "0-1,3-4")],
)
def test_layers_are_written_as_ranges(layers, text):
    assert format_layers(layers) == text


def test_a_damaged_checkpoint_starts_over_and_ends_with_the_same_bytes(
    tiny, tmp_path, monkeypatch, caplog
):
    config, whole = tiny(), RunStore(tmp_path / "whole")
    run(config, whole)
    stopped = RunStore(tmp_path / "stopped")
    stop_after(7, config, stopped, monkeypatch)
    checkpoint = stopped.directory(run_settings(config)) / "checkpoint" / "state"
    checkpoint.write_bytes(checkpoint.read_bytes()[:100])
    assert run(config, stopped).telemetry["attempts"] == 2
    assert "starting over" in caplog.text
    assert results_bytes(config, stopped) == results_bytes(config, whole)


def stop_after(step: int, config: FineTuneConfig, store: RunStore, monkeypatch) -> None:
    """An interrupt, as by Ctrl-C, when that many steps are done."""

    def interrupt(steps: int) -> None:
        if steps == step:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune.finetune(config, store, on_step=interrupt)


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_quantized_layers_change_the_steps_by_little(tiny, store, tuning):
    plain, quantized, coarse = (
        run(tiny(num_steps=4, tuning=tuning, **changes), store)
        for changes in (
            {},
            {"quantized_layers": (0, 1)},
            {"quantized_layers": (0, 1), "activation_bits": 4},
        )
    )
    assert len({plain.run_id, quantized.run_id, coarse.run_id}) == 3
    assert plain.loss != quantized.loss != coarse.loss
    assert quantized.loss == pytest.approx(plain.loss, rel=0.02)
    assert (plain.quantized, quantized.quantized) == (0, 2)


def test_layers_are_quantized_while_it_trains(tiny, store, monkeypatch):
    import fedquad

    made, real = [], fedquad.quantize_activations

    def watch(model, layers, **options):
        quantizer = real(model, layers, **options)
        made.append((quantizer, quantizer.layers, options["bits"]))
        return quantizer

    monkeypatch.setattr(fedquad, "quantize_activations", watch)
    run(tiny(trainable_layers=(0, 2), quantized_layers=(1,), num_steps=3), store)
    ((quantizer, layers, bits),) = made
    assert (layers, bits) == ((1,), 8)
    assert quantizer.layers == ()  # removed
    run(tiny(num_steps=2), store)
    assert len(made) == 1


def test_a_quantized_run_ends_with_the_same_bytes_wherever_it_stopped(tiny, tmp_path, monkeypatch):
    config = tiny(quantized_layers=(0, 1))
    whole, stopped = RunStore(tmp_path / "whole"), RunStore(tmp_path / "stopped")
    run(config, whole)
    monkeypatch.setattr(central, "CHECKPOINT_EVERY_S", 0.0)
    for step in (1, 6, 11):
        stop_after(step, config, stopped, monkeypatch)
    assert run(config, stopped).telemetry["attempts"] == 4
    assert results_bytes(config, stopped) == results_bytes(config, whole)


def test_a_frame_tells_configurations_apart(tiny, store):
    configs = [
        tiny(num_steps=1, trainable_layers=(1, 2)),
        tiny(num_steps=1, trainable_layers=(1, 2), quantized_layers=(1,)),
        tiny(num_steps=1, trainable_layers=(0, 1, 2), quantized_layers=(1,)),
        tiny(num_steps=1, tuning="full", quantized_layers=(0,), activation_bits=4),
    ]
    frame = results_frame(load_or_run(configs, store, progress=False))
    np.testing.assert_equal(frame["depth"].to_numpy(), [2, 2, 3, np.nan])
    np.testing.assert_equal(frame["quantized"].to_numpy(), [0, 1, np.nan, 1])
    assert list(frame["activation_bits"]) == [8, 8, 8, 4]


@pytest.mark.parametrize("step", [1, 5, 6, 11])
@pytest.mark.parametrize("every_s", [0.0, 30.0])
def test_interrupted_anywhere_it_ends_with_the_same_bytes(
    tiny, tmp_path, monkeypatch, step, every_s
):
    config, whole = tiny(), RunStore(tmp_path / "whole")
    run(config, whole)
    stopped = RunStore(tmp_path / "stopped")
    monkeypatch.setattr(central, "CHECKPOINT_EVERY_S", every_s)
    stop_after(step, config, stopped, monkeypatch)
    assert stopped.read(run_settings(config)) is None
    seen: list[int] = []
    finetune.finetune(config, stopped, on_step=seen.append)
    assert seen[0] == (step if every_s == 0.0 else step // 5 * 5)
    assert results_bytes(config, stopped) == results_bytes(config, whole)


def test_a_corrupt_record_is_named_and_kept_until_fresh(tiny, store):
    config = tiny()
    run(config, store)
    path = store.directory(run_settings(config)) / "results.jsonl"
    whole = path.read_bytes()
    damaged = whole.replace(b'"step": 10', b'"step" 10', 1)
    path.write_bytes(damaged)
    with pytest.raises(CorruptRunError, match=r"results\.jsonl, line 2"):
        run(config, store)
    assert path.read_bytes() == damaged
    run(config, store, fresh=True)
    assert path.read_bytes() == whole


def test_a_disk_that_fills_up_stops_a_run_that_ends_with_the_same_bytes_later(
    tiny, tmp_path, small_disk, fill
):
    config = tiny(lora_rank=1)
    whole, small = RunStore(tmp_path / "whole"), RunStore(small_disk / "runs")
    run(config, whole)
    ballast = []

    def fill_after_seven(steps: int) -> None:
        if steps == 7:
            ballast.append(fill(small_disk))

    with pytest.raises(StoreWriteError, match=r"No space left.* safe"):
        finetune.finetune(config, small, on_step=fill_after_seven)
    assert small.read(run_settings(config)) is None
    ballast[0].unlink()
    assert run(config, small).telemetry["attempts"] == 2
    assert results_bytes(config, small) == results_bytes(config, whole)


def test_a_run_that_is_being_computed_is_refused(tiny, store):
    config = tiny(num_steps=2)
    run(config, store)
    with store.open(run_settings(config), store.read(run_settings(config)).sources):
        assert run(config, store).from_record
        with pytest.raises(StoreBusyError, match=str(os.getpid())):
            run(config, store, fresh=True)


# Imports once, then forks a child for every line it gets: a fresh process without the wait.
FORKER = """
import json, os, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from fedquad.config import FineTuneConfig
from fedquad.runs import central
from fedquad.runs.finetune import finetune
from fedquad.runs.store import RunStore
print("ready", flush=True)
for line in sys.stdin:
    settings, root, central.CHECKPOINT_EVERY_S = json.loads(line)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            layers = tuple(settings.pop("quantized_layers"))
            config = FineTuneConfig(**settings, quantized_layers=layers)
            finetune(config, RunStore(Path(root)), on_step=lambda n: print("step", n, flush=True))
            status = 0
        finally:
            os._exit(status)
    print("child", child, flush=True)
    os.waitpid(child, 0)
    print("gone", flush=True)
"""


@pytest.fixture(scope="module")
def forker(glue):
    process = subprocess.Popen(
        [sys.executable, "-c", FORKER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "FEDQUAD_GLUE": str(glue)},
    )
    assert process.stdout.readline() == "ready\n"
    yield process
    process.stdin.close()
    process.wait()
    process.stdout.close()


def compute_in_child(forker, config, store, every_s: float = 30.0, kill_at: int | None = None):
    """Run in a process of its own; SIGKILL at a random moment of the step after ``kill_at``."""
    job = [dataclasses.asdict(config), str(store.root), every_s]
    forker.stdin.write(json.dumps(job) + "\n")
    forker.stdin.flush()
    child = 0
    for line in forker.stdout:
        word, *number = line.split()
        if word == "child":
            child = int(number[0])
        elif word == "step" and kill_at is not None and int(number[0]) >= kill_at and child:
            time.sleep(random.uniform(0, 0.02))
            os.kill(child, signal.SIGKILL)
            kill_at = None
        elif word == "gone":
            return


def test_killed_at_random_moments_it_ends_with_the_same_bytes(tiny, forker, tmp_path):
    config = tiny(num_steps=20, trainable_layers=None, quantized_layers=(0, 1))
    whole, killed = RunStore(tmp_path / "whole"), RunStore(tmp_path / "killed")
    compute_in_child(forker, config, whole)
    expected = results_bytes(config, whole)
    for kill_at in (0, 3, 5, 8, 11, 14, 19):
        every_s = random.choice([0.0, 30.0])
        compute_in_child(forker, config, killed, every_s, kill_at)
    compute_in_child(forker, config, killed)
    assert results_bytes(config, killed) == expected
    assert run(config, killed).from_record
    names = {path.name for path in killed.directory(run_settings(config)).iterdir()}
    assert names == {"config.json", "results.jsonl", "telemetry.jsonl"}


def test_a_process_of_its_own_gives_the_same_bytes(tiny, forker, tmp_path):
    config = tiny(num_steps=7)
    here, there = RunStore(tmp_path / "here"), RunStore(tmp_path / "there")
    run(config, here)
    compute_in_child(forker, config, there)
    assert results_bytes(config, here) == results_bytes(config, there)
