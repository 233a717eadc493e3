from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from toy_host import NUM_LAYERS, ToyHost, fresh_adapter, job
from toy_server import COSTS, THREE, Scripted, make_server, make_setting, statuses, store_run

from fedquad.config import InputError
from fedquad.methods.aggregation import LayerwiseMean
from fedquad.runs.store import RunStore
from fedquad.training.local import DivergenceError

# Of the toy adapter, in fp32: A and B of rank 4 by 40 in each layer, a head of 3 by 40.
LAYER_BYTES, HEAD_BYTES = 2 * 4 * 40 * 4, 3 * 40 * 4


def bits(adapter) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in adapter.state().items()}


def test_the_clock_by_hand(tmp_path):
    """InclusiveFL on three devices: k layers cost 10 k forward and 20 k backward, two steps."""
    server, _ = make_server(make_setting(method="inclusivefl"), tmp_path)
    first, second = server.play_round(), server.play_round()
    assert first["devices"]["completion_time_s"] == [18.0, 12.0, 1.5]
    assert first["devices"]["waiting_time_s"] == [0.0, 6.0, 16.5]
    assert (first["round_time_s"], first["mean_completion_time_s"]) == (18.0, 10.5)
    assert (first["mean_waiting_time_s"], first["probe_time_s"]) == (7.5, 0.0)
    assert [first["sim_time_s"], second["sim_time_s"]] == [18.0, 36.0]
    assert first["devices"]["memory_bytes"] == [130, 120, 110]
    assert (first["memory_overruns"], first["participants"], first["failures"]) == (0, 3, 0)
    assert (first["mean_depth"], first["mean_quantized"]) == (2.0, 0.0)
    assert ("final" in first, second["final"]) == (False, True)


def test_the_traffic_by_hand(tmp_path):
    server, _ = make_server(make_setting(method="inclusivefl"), tmp_path)
    row = server.play_round()
    expected = [layers * LAYER_BYTES + HEAD_BYTES for layers in (3, 2, 1)]
    assert row["devices"]["download_bytes"] == row["devices"]["upload_bytes"] == expected
    assert row["download_bytes"] == row["upload_bytes"] == sum(expected)
    scripted = Scripted([[(2,), (0, 1), None]])
    server, _ = make_server(make_setting(method=scripted, num_rounds=1), tmp_path)
    row = (
        server.play_round()
    )  # all layers are run, so all of them are sent; those trained come back
    assert row["devices"]["download_bytes"] == [expected[0], expected[0], None]
    assert row["devices"]["upload_bytes"] == [expected[2], expected[1], None]


def test_a_probe_costs_a_step_in_time_and_memory(tmp_path):
    """LayerSel: all layers forward and backward, 30 + 60 FLOPs and 130 bytes, before each round."""
    server, host = make_server(make_setting(method="layersel"), tmp_path)
    row = server.play_round()
    devices = row["devices"]
    assert devices["probe_time_s"] == [9.0, 9.0, 2.25]
    assert row["probe_time_s"] == 9.0
    assert devices["memory_bytes"] == [130, 130, 130]
    assert devices["is_overrun"] == [False, True, True]
    assert row["memory_overruns"] == 2
    for device, status in enumerate(THREE):
        lowest = int(devices["trainable_layers"][device].replace(",", "-").split("-")[0])
        flops = 30 + 20 * (NUM_LAYERS - lowest)
        after_probe = devices["completion_time_s"][device] - devices["probe_time_s"][device]
        assert after_probe == pytest.approx(2 * flops / status.flops_per_second)
        assert devices["depth"][device] == status.depth_budget
    probes = [host.probe(job(device)) for device in range(3)]  # of round 0, at other weights
    assert all(probe.shape == (NUM_LAYERS,) for probe in probes)


def test_a_strict_probe_stays_within_the_memory(tmp_path):
    setting = make_setting(method="layersel", budget_policy="strict")
    server, _ = make_server(setting, tmp_path)
    row = server.play_round()
    assert row["devices"]["probe_time_s"] == [9.0, 7.0, 50 / 40]
    assert row["devices"]["trainable_layers"] == ["0-2", "1-2", "2"]
    assert row["memory_overruns"] == 0


@pytest.mark.parametrize("fate", ["nan", "diverge", "infinite", "other"])
def test_a_device_whose_update_cannot_be_used_is_left_out(tmp_path, caplog, fate):
    server, _ = make_server(make_setting(method="inclusivefl"), tmp_path, {"0": fate})
    row = server.play_round()
    assert (row["participants"], row["failures"]) == (2, 1)
    assert row["devices"]["completion_time_s"] == [None, 12.0, 1.5]
    assert row["devices"]["waiting_time_s"] == [None, 0.0, 10.5]
    assert (row["round_time_s"], row["mean_completion_time_s"]) == (12.0, 6.75)
    assert row["devices"]["depth"] == [0, 2, 1]
    (record,) = caplog.records
    assert "round 1: left out one: " in record.getMessage()
    assert all(torch.isfinite(t).all() for t in server.global_adapter.state().values())


def test_the_others_are_averaged_as_if_it_had_not_been_there(tmp_path):
    script = [[(1, 2), (0, 1, 2), (2,)]]
    setting = make_setting(method=Scripted(script), num_rounds=1)
    server, host = make_server(setting, tmp_path, {"1": "nan"})
    expected = LayerwiseMean(fresh_adapter())
    for device in (0, 2):
        expected.add(host.fine_tune(job(device, script[0][device])))
    server.play_round()
    assert bits(server.global_adapter) == bits(expected.finish())


def test_a_probe_that_fails_is_a_failure_of_the_round(tmp_path, caplog):
    server, _ = make_server(make_setting(method="layersel"), tmp_path, {"2": "diverge"})
    row = server.play_round()
    assert (row["participants"], row["failures"]) == (2, 1)
    assert row["devices"]["completion_time_s"][2] is None
    assert [record.getMessage().split(":")[1] for record in caplog.records] == [" left out three"]


@pytest.mark.parametrize("method", ["inclusivefl", "layersel"])
def test_when_all_fail_it_stops_and_goes_on_later_with_the_same_bytes(tmp_path, method):
    setting = {"method": method, "num_rounds": 3}
    whole = store_run(make_setting(**setting), RunStore(tmp_path / "whole"), tmp_path)
    store = RunStore(tmp_path / "stopped")

    def fail_from_now_on(row, host: ToyHost) -> None:
        host.fates = dict.fromkeys("012", "diverge")

    with pytest.raises(DivergenceError, match=r"round 2: 0 of 3 devices .* 1 needed \(training"):
        store_run(make_setting(**setting), store, tmp_path, on_round=fail_from_now_on)
    seen = []
    again = store_run(
        make_setting(**setting), store, tmp_path, on_round=lambda row, _: seen.append(row["round"])
    )
    assert seen == [1, 2, 3]  # the first was there
    assert again.rows == whole.rows
    assert again.telemetry["attempts"] == 2


def test_a_round_that_nobody_can_join_keeps_the_model_and_costs_no_time(tmp_path):
    devices = statuses((2, 10.0), (1, 40.0))
    setting = make_setting(devices, method="fedlora", budget_policy="strict")
    result = store_run(setting, RunStore(tmp_path / "runs"), tmp_path)
    first, second = result.rows
    assert (first["participants"], first["failures"]) == (0, 0)
    assert (first["round_time_s"], second["sim_time_s"]) == (0.0, 0.0)
    assert (first["mean_completion_time_s"], first["mean_waiting_time_s"]) == (None, 0.0)
    assert (first["download_bytes"], first["upload_bytes"]) == (0, 0)
    assert (first["accuracy"], first["loss"]) == (second["accuracy"], second["loss"])
    rounds, table = result.rounds(), result.devices()
    empty = ["train_loss", "mean_depth", "mean_completion_time_s", "mean_waiting_time_s"]
    assert rounds[empty].isna().all(axis=None)
    assert result.mean_waiting_time_s is None
    assert not table["participated"].any()
    assert (table["depth"] == 0).all()


def test_what_a_method_learns_of_the_rounds_before(tmp_path):
    """Ones at first; then the last known norm, and the mean of the known for an unknown layer."""
    script = Scripted([[(1, 2), (2,)], [None, (1,)], [None, None], [(0,), None]])
    setting = make_setting(statuses((3, 10.0), (3, 20.0)), method=script, num_rounds=4)
    server, _ = make_server(setting, tmp_path)
    twin = ToyHost({"folder": str(tmp_path)})
    rows, norms = [], []
    for round_idx, layers in enumerate(script.script):
        jobs = [job(i, choice, round_idx) for i, choice in enumerate(layers) if choice]
        norms.append([twin.fine_tune(one).gradient_norms for one in jobs])
        rows.append(server.play_round())
        twin.receive(server.global_adapter)
    start, second, third, last = script.histories
    assert start.gradient_norms.tolist() == [1.0, 1.0, 1.0]
    assert start.mean_completion_time_s is None
    one, two = norms[0]
    expected = [one[1], (one[2] + two[2]) / 2]
    np.testing.assert_allclose(second.gradient_norms[1:], expected, rtol=1e-12)
    assert second.gradient_norms[0] == pytest.approx(np.mean(expected))
    assert second.mean_completion_time_s == rows[0]["mean_completion_time_s"]
    assert third.gradient_norms[1] == norms[1][0][1]
    assert third.gradient_norms[2] == second.gradient_norms[2]
    assert last.gradient_norms.tolist() == third.gradient_norms.tolist()
    # Nobody took part in the third round: its t_avg is that of the round before.
    assert last.mean_completion_time_s == rows[1]["mean_completion_time_s"]
    assert rows[0]["gradient_norms"] == second.gradient_norms.tolist()


@pytest.mark.parametrize("layers", [[(1,)], [(1,), (1,), (1,), (1,)]])
def test_a_method_that_forgets_a_device_is_refused_before_any_has_run(tmp_path, layers):
    server, _ = make_server(make_setting(method=Scripted([layers])), tmp_path)
    with pytest.raises(InputError, match=r"assignments of a round = . .* 3, one a device"):
        server.play_round()
    assert not list(tmp_path.glob("started-*"))


@pytest.mark.parametrize("stop_at", [1, 2, 3])
def test_the_mean_of_unknown_layers_does_not_depend_on_a_stop(tmp_path, stop_at):
    """The layers become known in an order that is not theirs."""
    script = [[(2,), (2,), (2,)], [(0,), (0,), (0,)], [(0,), (2,), None], [(2,), None, (0,)]]

    def play(name: str, stop_at: int | None = None) -> list[dict]:
        def stop(row, host) -> None:
            if row["round"] == stop_at:
                raise KeyboardInterrupt

        setting = make_setting(method=Scripted(script), num_rounds=4)
        return store_run(setting, RunStore(tmp_path / name), tmp_path, on_round=stop).rows

    whole = play("whole")
    with pytest.raises(KeyboardInterrupt):
        play("stopped", stop_at)
    again = play("stopped")
    for row, other in zip(whole, again, strict=True):
        assert row == other
    assert math.isfinite(whole[0]["gradient_norms"][1])


def test_a_checkpoint_that_is_ahead_of_its_rows_starts_over(tmp_path, caplog):
    """As when somebody cut the results: rounds must not be missing."""
    setting, store = {"method": "inclusivefl", "num_rounds": 3}, RunStore(tmp_path / "runs")
    whole = store_run(make_setting(**setting), RunStore(tmp_path / "whole"), tmp_path)

    def stop(row, host) -> None:
        if row["round"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store_run(make_setting(**setting), store, tmp_path, on_round=stop)
    (path,) = store.root.glob("*/results.jsonl")
    path.write_bytes(path.read_bytes().split(b"\n")[0] + b"\n")
    assert store_run(make_setting(**setting), store, tmp_path).rows == whole.rows
    assert "starting over" in caplog.text


def test_every_price_is_that_of_the_cost_model(tmp_path):
    """FedQuad, whose layers are quantized, against Eqs. 6 and 11 for each device of the record."""
    devices = statuses((3, 10.0), (1, 9.0), (2, 31.0), (1, 25.0))
    server, _ = make_server(make_setting(devices, method="fedquad"), tmp_path)
    row = server.play_round()["devices"]
    for device, status in enumerate(devices):
        depth, quantized = row["depth"][device], row["quantized"][device]
        flops = 30 + 20 * depth + 5 * quantized
        assert row["completion_time_s"][device] == 2 * flops / status.flops_per_second
        memory = 100 + 10 * depth - 6 * quantized
        assert row["memory_bytes"][device] == memory <= status.memory_budget_bytes
    assert max(row["quantized"]) > 0
    assert COSTS.num_layers == NUM_LAYERS


def test_repairs_of_a_waiting_limit_are_counted_in_the_record(tmp_path):
    """At t_avg 16.5 s both go to full depth, 18 and 15 s; the limit of 1 s takes a layer away."""
    devices = statuses((3, 10.0), (3, 12.0))
    changes = {"method": "fedquad", "num_rounds": 3}
    limited = changes | {"method_options": (("waiting_limit_s", 1.0),)}

    def play(name: str, stop_at: int | None = None, **settings) -> list[dict]:
        def stop(row, host) -> None:
            if row["round"] == stop_at:
                raise KeyboardInterrupt

        setting = make_setting(devices, **settings)
        return store_run(setting, RunStore(tmp_path / name), tmp_path, on_round=stop).rows

    whole = play("whole", **limited)
    assert whole[0]["devices"]["depth"] == [2, 3]
    assert whole[0]["counts"] == {"repaired_rounds": 1, "lowered_layers": 1, "unmet_rounds": 0}
    with pytest.raises(KeyboardInterrupt):
        play("stopped", stop_at=1, **limited)
    assert play("stopped", **limited) == whole
    assert not any("counts" in row for row in play("free", **changes))
