"""FedQuad and its ablations as methods of the round loop."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedquad.config import InputError
from fedquad.cost.layer_costs import LayerCosts
from fedquad.fleet.fleet import DeviceStatus
from fedquad.methods import METHODS, History, MethodSetting, create_method

COSTS = LayerCosts(
    num_layers=12,
    fixed_bytes=500,
    bytes_per_lora_layer=100,
    bytes_saved_per_quantized_layer=60,
    forward_flops=1000,
    flops_per_lora_layer=100,
    flops_per_quantized_layer=50,
)
SETTING = MethodSetting(costs=COSTS, local_steps=10, lora_rank=8)
NAMES = ("fedquad", "fedquad-no-qd", "fedquad-no-ld")


def fleet(*devices):
    return [
        DeviceStatus(
            device_id=f"device-{i}",
            depth_budget=0,  # methods look at the bytes
            memory_budget_bytes=memory,
            flops_per_second=speed,
        )
        for i, (memory, speed) in enumerate(devices)
    ]


def history(mean=None, round_idx=0):
    return History(
        round_idx=round_idx, mean_completion_time_s=mean, gradient_norms=np.ones(COSTS.num_layers)
    )


def pairs(assignments):
    return [a and (len(a.trainable_layers), len(a.quantized_layers)) for a in assignments]


def test_labels_of_the_paper():
    labels = [METHODS[name].label for name in NAMES]
    assert labels == ["FedQuad", "FedQuad w/o QD", "FedQuad w/o LD"]


def test_a_round_by_hand():
    # Ten steps. The first device holds all, 11000 / 100 = 110 s at (1, 0) to 220 s at (12, 0);
    # the second holds 4 layers or (8, 7): 110 to 140 s, (5, 2) in 160 s, (6, 4) in 180 s.
    devices = fleet((1700, 100.0), (900, 100.0))
    [first, second] = create_method("fedquad", SETTING).assign(devices, history(163.0))
    assert first.trainable_layers == (6, 7, 8, 9, 10, 11)
    assert first.quantized_layers == ()
    assert second.trainable_layers == (7, 8, 9, 10, 11)
    assert second.quantized_layers == (7, 8)
    for assignment in (first, second):
        assert assignment.active_layers == tuple(range(12))
        assert assignment.lora_rank == 8
    without = create_method("fedquad-no-qd", SETTING).assign(devices, history(163.0))
    assert pairs(without) == [(6, 0), (4, 0)]
    # 500 + 100 d - 60 (d - 1) <= 900 for d = 8, and all 12 fit the first.
    no_depth_choice = create_method("fedquad-no-ld", SETTING).assign(devices, history(163.0))
    assert pairs(no_depth_choice) == [(12, 11), (8, 7)]


def test_the_first_round_aims_at_the_deepest_unquantized_depths():
    # Alone, a device is its own mean: the time of its depth 4, and scaled, that of (8, 7).
    devices = fleet((900, 100.0))
    assert pairs(create_method("fedquad", SETTING).assign(devices, history())) == [(4, 0)]
    scaled = create_method("fedquad", SETTING, {"first_mean_time_scale": 215 / 140})
    assert pairs(scaled.assign(devices, history())) == [(8, 7)]
    assert pairs(scaled.assign(devices, history(140.0, 1))) == [(4, 0)]


def test_equal_devices_that_hold_every_layer_train_every_layer():
    devices = fleet(*[(1700, 100.0)] * 3)
    for name in ("fedquad", "fedquad-no-qd"):
        assert pairs(create_method(name, SETTING).assign(devices, history())) == [(12, 0)] * 3


def test_a_large_offset_makes_gain_decide():
    devices = fleet((1700, 100.0))
    patient = create_method("fedquad", SETTING, {"reward_offset_s": 1e6})
    assert pairs(patient.assign(devices, history(110.0))) == [(12, 0)]
    assert pairs(create_method("fedquad", SETTING).assign(devices, history(110.0))) == [(1, 0)]


@pytest.mark.parametrize("name", NAMES)
def test_a_device_that_fits_nothing_is_left_out_or_an_error(name):
    devices = fleet((900, 100.0), (599, 100.0))
    [there, left_out] = create_method(name, SETTING).assign(devices, history())
    assert there is not None
    assert left_out is None
    strict = create_method(name, SETTING, {"leave_out_infeasible": 0})
    with pytest.raises(InputError, match="device-1"):
        strict.assign(devices, history())
    assert create_method(name, SETTING).assign(devices[1:], history()) == [None]


DEVICES = st.lists(
    st.tuples(st.integers(500, 2000), st.floats(1.0, 1000.0)), min_size=1, max_size=8
)


@settings(max_examples=60, deadline=None)
@given(DEVICES, st.none() | st.floats(1, 1e4), st.sampled_from(NAMES))
def test_every_choice_fits_under_both_budget_policies(devices, mean, name):
    found = []
    for policy in ("layers", "strict"):
        setting = MethodSetting(costs=COSTS, local_steps=10, budget_policy=policy)
        assignments = create_method(name, setting).assign(fleet(*devices), history(mean))
        for assignment, (memory, _) in zip(assignments, devices, strict=True):
            assert (assignment is None) == (memory < 600)
            assert assignment is None or COSTS.price(assignment).bytes <= memory
        found.append(assignments)
    assert found[0] == found[1]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2000), st.integers(0, 100))
def test_without_depth_choice_takes_the_deepest_that_fits_quantized(memory, saved):
    costs = LayerCosts(
        num_layers=12,
        fixed_bytes=500,
        bytes_per_lora_layer=100,
        bytes_saved_per_quantized_layer=saved,
        forward_flops=1,
        flops_per_lora_layer=1,
        flops_per_quantized_layer=1,
    )
    setting = MethodSetting(costs=costs, local_steps=1)
    found = create_method("fedquad-no-ld", setting).assign(fleet((memory, 1.0)), history())
    fitting = [d for d in range(1, 13) if 500 + 100 * d - saved * (d - 1) <= memory]
    assert pairs(found) == [(max(fitting), max(fitting) - 1) if fitting else None]


def test_a_waiting_limit_is_kept_and_repairs_are_counted_and_survive_a_resume():
    # At t_avg 290 s the slow device (220 to 280 s unquantized) goes to (4, 0), the fast one
    # (110 to 220 s) to its full depth.
    devices = fleet((1700, 100.0), (900, 50.0))
    free = create_method("fedquad", SETTING)
    assert pairs(free.assign(devices, history(290.0))) == [(12, 0), (4, 0)]
    assert free.state_dict() == {"repaired_rounds": 0, "lowered_layers": 0, "unmet_rounds": 0}
    limited = create_method("fedquad", SETTING, {"waiting_limit_s": 15.0})
    # (280 - 220) / 2 = 30 s of waiting; at depth 2 the slow device takes 240 s, and it is 10 s.
    assert pairs(limited.assign(devices, history(290.0))) == [(12, 0), (2, 0)]
    assert limited.state_dict() == {"repaired_rounds": 1, "lowered_layers": 2, "unmet_rounds": 0}
    resumed = create_method("fedquad", SETTING, {"waiting_limit_s": 15.0})
    resumed.load_state_dict(limited.state_dict())
    assert pairs(resumed.assign(devices, history(250.0, 1))) == [(12, 0), (2, 0)]
    much_slower = fleet((1700, 100.0), (900, 5.0))
    assert pairs(resumed.assign(much_slower, history(300.0, 2)))[1] == (1, 0)
    state = resumed.state_dict()
    assert (state["repaired_rounds"], state["unmet_rounds"]) == (3, 1)


def test_equal_choices_share_one_assignment():
    rng = np.random.default_rng(0)
    memory, speed = rng.integers(600, 2000, 5000).tolist(), rng.uniform(50, 500, 5000).tolist()
    devices = fleet(*zip(memory, speed, strict=True))
    assignments = create_method("fedquad", SETTING).assign(devices, history())
    counted = Counter(pairs(assignments))
    assert len({id(assignment) for assignment in assignments}) == len(counted) > 5


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("fedquad", {"reward_offset_s": 0.0}),
        ("fedquad", {"first_mean_time_scale": -1.0}),
        ("fedquad", {"waiting_limit_s": -1.0}),
        ("fedquad-no-qd", {"waiting_limit_s": float("inf")}),
        ("fedquad-no-ld", {"leave_out_infeasible": 0.5}),
        ("fedquad-no-ld", {"waiting_limit_s": 1.0}),
    ],
)
def test_options_that_cannot_be_used(name, options):
    with pytest.raises(InputError, match=next(iter(options))):
        create_method(name, SETTING, options)


@pytest.mark.parametrize("name", NAMES)
def test_defaults_are_the_constructors(name):
    method = METHODS[name]
    assert {k: float(v) for k, v in method.__init__.__kwdefaults__.items()} == method.defaults
