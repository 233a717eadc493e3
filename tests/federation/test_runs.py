from __future__ import annotations

import dataclasses
import json
import os

import pytest
import torch

from fedquad.config import FederatedConfig, InputError
from fedquad.federation import runs, setting
from fedquad.federation.device import DeviceHost
from fedquad.federation.executor import InProcessExecutor
from fedquad.federation.runs import load_or_federate, run_federated, run_settings
from fedquad.federation.server import Server
from fedquad.federation.setting import FederatedSetting
from fedquad.methods import METHODS
from fedquad.runs.run import StoreMismatchError
from fedquad.runs.store import RunStore, StoreBusyError
from fedquad.training.local import DivergenceError


@pytest.fixture
def store(tmp_path) -> RunStore:
    return RunStore(tmp_path / "runs")


def results_bytes(config: FederatedConfig, store: RunStore) -> bytes:
    return (store.directory(run_settings(config)) / "results.jsonl").read_bytes()


def stop_after(round_number: int, config: FederatedConfig, store: RunStore) -> None:
    """An interrupt, as by Ctrl-C, when that many rounds are safe."""

    def interrupt(row) -> None:
        if row["round"] == round_number:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_federated(config, store, on_round=interrupt)


@pytest.fixture
def equal_fleet(tmp_path) -> str:
    """Four devices of one speed that hold all three layers unquantized."""
    costs = FederatedSetting(FederatedConfig()).reference.costs.of_layers(3)
    memory = costs.fixed_bytes + 3 * costs.bytes_per_lora_layer
    path = tmp_path / "fleet.csv"
    lines = [f"device {n},{memory},1e12" for n in range(4)]
    path.write_text("\n".join(["device_id,memory_budget_bytes,flops_per_second", *lines]))
    return str(path)


def test_on_equal_devices_that_hold_all_three_methods_are_one(tiny_federated, equal_fleet):
    adapters, curves = [], []
    for method in ("fedquad", "fedra", "fedlora"):
        chosen = FederatedSetting(tiny_federated(method=method, fleet=equal_fleet))
        server = Server(chosen, InProcessExecutor(DeviceHost(chosen)))
        before = server.global_adapter.state()
        curves.append([server.play_round() for _ in range(2)])
        adapters.append(server.global_adapter.state())
        assert not all(torch.equal(before[name], adapters[-1][name]) for name in before)
    for state in adapters[1:]:
        assert list(state) == list(adapters[0])
        for name, tensor in adapters[0].items():
            assert state[name].numpy().tobytes() == tensor.numpy().tobytes()
    assert curves[0] == curves[1] == curves[2]
    assert curves[0][1]["mean_depth"] == 3
    assert curves[0][1]["mean_waiting_time_s"] == 0.0


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_what_its_record_says(tiny_federated, store, method):
    config = tiny_federated(method=method)
    seen: list[dict] = []
    result = run_federated(config, store, on_round=seen.append)
    assert not result.from_record
    assert result.rows == seen == store.read(run_settings(config)).rows
    assert result.rows[-1]["participants"] == 4
    again = run_federated(config, store)
    assert again.from_record
    assert again.rows == result.rows
    folder = store.directory(run_settings(config))
    assert {path.name for path in folder.iterdir()} == {
        "config.json",
        "results.jsonl",
        "telemetry.jsonl",
    }


def test_nothing_that_is_stored_names_a_path(tiny_federated, store, tiny_model, equal_fleet):
    config = tiny_federated(fleet=equal_fleet)
    run_federated(config, store)
    for path in store.directory(run_settings(config)).iterdir():
        text = path.read_text()
        assert not any(str(place) in text for place in (tiny_model, equal_fleet, store.root))


@pytest.mark.parametrize("stop_at", [1, 2])
@pytest.mark.parametrize("method", ["fedquad", "hetlora", "layersel"])
def test_interrupted_anywhere_it_ends_with_the_same_bytes(
    tiny_federated, tmp_path, method, stop_at
):
    options = (("gamma", 0.5),) if method == "hetlora" else ()
    config = tiny_federated(method=method, method_options=options, num_rounds=3)
    whole, stopped = RunStore(tmp_path / "whole"), RunStore(tmp_path / "stopped")
    result = run_federated(config, whole)
    stop_after(stop_at, config, stopped)
    assert stopped.read(run_settings(config)) is None
    assert run_federated(config, stopped).telemetry["attempts"] == 2
    assert results_bytes(config, stopped) == results_bytes(config, whole)
    if method == "fedquad":
        assert max(row["mean_quantized"] for row in result.rows) > 0
    if method == "hetlora":  # what it keeps between rounds is of consequence
        first, *_, last = result.rows
        assert sum(last["devices"]["lora_rank"]) < sum(first["devices"]["lora_rank"])


def test_fresh_computes_again_and_gives_the_same_bytes(tiny_federated, store):
    config = tiny_federated(method="fedra")
    run_federated(config, store)
    before = results_bytes(config, store)
    assert not run_federated(config, store, fresh=True).from_record
    assert results_bytes(config, store) == before


def test_a_damaged_checkpoint_starts_over_and_ends_with_the_same_bytes(
    tiny_federated, tmp_path, caplog
):
    config = tiny_federated(method="hetlora", num_rounds=3)
    whole, stopped = RunStore(tmp_path / "whole"), RunStore(tmp_path / "stopped")
    run_federated(config, whole)
    stop_after(2, config, stopped)
    path = stopped.directory(run_settings(config)) / "checkpoint" / "state"
    content = bytearray(path.read_bytes())
    content[-5] ^= 16  # a bit of a weight: it would train on, and give something else
    path.write_bytes(content)
    run_federated(config, stopped)
    assert "starting over" in caplog.text
    assert results_bytes(config, stopped) == results_bytes(config, whole)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_devices": 101}, r"num_devices = 101 .* at most 100"),
        ({"method": "fedavg"}, r"method = 'fedavg' .* fedquad"),
        ({"method": "fedra", "method_options": (("beta", 1.0),)}, "method option = 'beta'"),
        ({"method": "hetlora", "method_options": (("gamma", 2.0),)}, "gamma = 2"),
        ({"fleet": "no such file.csv"}, "fleet = "),
        ({"model": "no such model"}, "model = "),
        ({"task": "no such task"}, "task = "),
        ({"reference_model": "tiny"}, "model = "),
    ],
)
def test_what_cannot_run_is_refused_and_nothing_is_stored(tiny_federated, store, changes, words):
    with pytest.raises(InputError, match=words):
        run_federated(tiny_federated(**changes), store)
    assert not store.root.exists()


def test_rows_longer_than_the_model_reads_are_refused_and_nothing_is_stored(
    tiny_federated, store, tmp_path, monkeypatch
):
    config = tiny_federated(max_length=64, num_devices=1)
    (tmp_path / "SST-2").mkdir()
    for name in ("train.tsv", "dev.tsv"):
        text = f"sentence\tlabel\n{'dog ' * 40}\t0\nthe good cat\t1\n"
        (tmp_path / "SST-2" / name).write_text(text)
    monkeypatch.setenv("FEDQUAD_GLUE", str(tmp_path))
    with pytest.raises(InputError, match=r"max_length = 64 .* at most 32"):
        run_federated(config, store)
    assert not store.root.exists()


@pytest.mark.parametrize("workers", [0, -1, 1.5])
def test_a_number_of_workers_that_cannot_be_is_refused(tiny_federated, store, workers):
    with pytest.raises(InputError, match="workers"):
        run_federated(tiny_federated(), store, workers=workers)


@pytest.mark.parametrize("torch_device", ["cuda:99", "mps", "gpu", ""])
def test_a_torch_device_that_is_not_there_is_refused_and_nothing_is_stored(
    tiny_federated, store, torch_device
):
    config = tiny_federated()
    with pytest.raises(InputError, match="torch_device"):
        run_federated(config, store, torch_device=torch_device)
    with pytest.raises(InputError, match="torch_device"):
        load_or_federate([config], store, torch_device=torch_device, progress=False)
    assert not store.root.exists()


def test_a_rate_at_which_all_diverge_stops_the_run(tiny_federated, store):
    config = tiny_federated(learning_rate=1e30)
    with pytest.raises(DivergenceError, match=r"round 1: 0 of 4 devices .* learning rate"):
        run_federated(config, store)
    assert store.read(run_settings(config)) is None


def test_a_run_that_is_being_computed_is_refused(tiny_federated, store):
    config = tiny_federated()
    with (
        store.open(run_settings(config), FederatedSetting(config).sources()),
        pytest.raises(StoreBusyError, match=str(os.getpid())),
    ):
        run_federated(config, store)


@pytest.mark.parametrize("finished", [True, False])
def test_a_record_of_other_settings_is_refused_naming_the_difference(
    tiny_federated, store, finished
):
    config = tiny_federated()
    stop_after(1, config, store)
    if finished:
        run_federated(config, store)
    path = store.directory(run_settings(config)) / "config.json"
    content = json.loads(path.read_text())
    content["settings"]["local_steps"] = 5
    path.write_text(json.dumps(content))
    with pytest.raises(StoreMismatchError, match=r"settings\.local_steps is 5 .* and 2 now"):
        run_federated(config, store)


@pytest.mark.parametrize("finished", [True, False])
def test_other_costs_are_refused_until_fresh(tiny_federated, store, monkeypatch, finished):
    config = tiny_federated()
    stop_after(1, config, store)
    if finished:
        run_federated(config, store)
    real = setting.reference_costs

    def recounted(*arguments, **options):
        found = real(*arguments, **options)
        costs = dataclasses.replace(found.costs, forward_flops=found.costs.forward_flops + 1)
        return dataclasses.replace(found, costs=costs)

    monkeypatch.setattr(setting, "reference_costs", recounted)
    with pytest.raises(StoreMismatchError, match=r"sources\.costs .* --fresh"):
        run_federated(config, store)
    result = run_federated(config, store, fresh=True)
    assert run_federated(config, store).rows == result.rows


def test_other_data_under_the_same_name_are_refused(tiny_federated, store, make_glue, monkeypatch):
    config = tiny_federated()
    run_federated(config, store)
    monkeypatch.setenv("FEDQUAD_GLUE", str(make_glue(1)))
    with pytest.raises(StoreMismatchError, match=r"sources\.task .* --fresh"):
        run_federated(config, store)


def test_a_complete_record_needs_neither_model_nor_data(
    tiny_federated, store, monkeypatch, tmp_path
):
    config = tiny_federated()
    run_federated(config, store)

    def refuse(*arguments, **options):
        raise AssertionError("loaded")

    monkeypatch.setattr(runs, "DeviceHost", refuse)
    monkeypatch.setattr(setting, "load_backbone", refuse)
    monkeypatch.setenv("FEDQUAD_GLUE", str(tmp_path / "nothing here"))
    assert run_federated(config, store).from_record


def test_recorded_runs_are_listed_without_computing_any(tiny_federated, store):
    done, missing = tiny_federated(method="fedra"), tiny_federated(method="fedlora")
    assert load_or_federate([done, missing], store, recorded_only=True) == []
    first, second = load_or_federate([done, done], store, progress=False)
    assert first.run_id == second.run_id
    (found,) = load_or_federate([missing, done], store, recorded_only=True)
    assert found.run_id == first.run_id
    assert found.from_record
    assert store.read(run_settings(missing)) is None
