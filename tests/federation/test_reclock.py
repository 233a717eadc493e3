"""A run that is given another clock is, bit for bit, the run under that clock."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest

from fedquad.config import InputError
from fedquad.cost.layer_costs import LayerCosts
from fedquad.federation.reclock import reclock
from fedquad.federation.results import federated_frames
from fedquad.federation.runs import run_federated
from fedquad.fleet.fleet import DeviceStatus, depth_budget
from fedquad.methods import METHODS, create_method
from fedquad.methods.method import History, MethodSetting
from fedquad.runs.store import RunStore

TIMELESS = [name for name, method in METHODS.items() if not method.looks_at_time]


@pytest.fixture
def run(tiny_federated, tmp_path):
    """Runs a short federated run in a store of its own."""
    store = RunStore(tmp_path / "runs")

    def run(**changes):
        values = {"num_devices": 6, "seed": 3}
        return run_federated(tiny_federated(**values | changes), store)

    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "policy"), [*((name, "layers") for name in TIMELESS), ("layersel", "strict")]
)
def test_a_run_is_that_of_the_other_clock_bit_for_bit(run, method, policy):
    setting = {"method": method, "budget_policy": policy}
    recorded, wanted = (run(**setting, throughput_model=clock) for clock in ("fp16", "fp32"))
    found = reclock(recorded, throughput_model="fp32")
    assert found.sim_time_s != recorded.sim_time_s
    assert (found.config, found.run_id) == (wanted.config, wanted.run_id)
    assert found.rows == wanted.rows
    pd.testing.assert_frame_equal(found.rounds(), wanted.rounds(), check_exact=True)
    pd.testing.assert_frame_equal(found.devices(), wanted.devices(), check_exact=True)


def test_there_and_back_is_the_same_run(run):
    result = run(method="layersel", num_devices=3)
    there = reclock(result, throughput_model="fp32")
    assert there.rows != result.rows
    assert reclock(there, throughput_model="fp16") == result
    assert reclock(result, throughput_model="fp16") == result


def test_another_clock_does_not_make_a_run_older(run):
    """What was trained just now counts as computed now under every clock."""
    made = dataclasses.replace(run(method="fedra", num_devices=2, num_rounds=1), from_record=True)
    there = reclock(made, throughput_model="fp32")
    further = reclock(there, throughput_model="roofline")
    assert there.trained_as == further.trained_as == made.run_id
    rounds, _ = federated_frames([made, there, further], [made.run_id])
    assert not rounds["from_record"].any()
    rounds, _ = federated_frames([made, there, further], [there.run_id])
    assert rounds["from_record"].all()


@pytest.mark.parametrize("name", METHODS)
def test_a_method_says_whether_its_choices_look_at_time(name):
    """On the same fleet, ten times as fast on one side."""
    costs = LayerCosts(
        num_layers=12,
        fixed_bytes=100,
        bytes_per_lora_layer=10,
        bytes_saved_per_quantized_layer=5,
        forward_flops=1200,
        flops_per_lora_layer=200,
        flops_per_quantized_layer=10,
    )

    def chosen(speeds):
        method = create_method(name, MethodSetting(costs=costs, local_steps=3, seed=1))
        budgets = [130, 160, 190, 220]
        statuses = [
            DeviceStatus(
                device_id=f"device-{at}",
                depth_budget=depth_budget(memory, costs),
                memory_budget_bytes=memory,
                flops_per_second=speed,
            )
            for at, (memory, speed) in enumerate(zip(budgets, speeds, strict=True))
        ]
        history = History(
            round_idx=1,
            mean_completion_time_s=60.0,
            gradient_norms=np.ones(12),
            probes={at: np.arange(12.0) for at in range(4)},
        )
        return method.assign(statuses, history)

    differs = chosen([100.0] * 4) != chosen([100.0, 100.0, 1000.0, 1000.0])
    assert differs == METHODS[name].looks_at_time


@pytest.mark.parametrize("method", ["fedquad", "fedquad-no-qd"])
def test_a_method_that_looks_at_time_is_refused(run, method):
    result = run(method=method, num_devices=2, num_rounds=1)
    with pytest.raises(InputError, match=f"method.*{method}.*do not depend on time"):
        reclock(result, throughput_model="fp32")


def test_a_fleet_from_a_file_an_unknown_clock_and_other_times_are_refused(run, tmp_path):
    result = run(method="fedra", num_devices=2, num_rounds=1)
    with pytest.raises(InputError, match=r"throughput_model.*int8"):
        reclock(result, throughput_model="int8")
    config = dataclasses.replace(result.config, fleet=str(tmp_path / "fleet.csv"))
    with pytest.raises(InputError, match=r"fleet.*simulated Jetsons"):
        reclock(dataclasses.replace(result, config=config), throughput_model="fp32")
    [row] = result.rows
    times = [time * 1.001 for time in row["devices"]["completion_time_s"]]
    damaged = row | {"devices": row["devices"] | {"completion_time_s": times}}
    with pytest.raises(InputError, match="times of device-0"):
        reclock(dataclasses.replace(result, rows=[damaged]), throughput_model="fp32")
