"""The exact optimum against enumeration of every assignment."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedquad.config import InputError
from fedquad.cost.layer_costs import LayerCosts
from fedquad.methods import fastest_assignment as exact
from fedquad.methods.selection import select_configurations
from fedquad.methods.selection_problem import SelectionProblem
from fedquad.methods.yardstick import measure_yardstick, most_rewarding_configurations


@st.composite
def small_problems(draw):
    num_layers = draw(st.integers(1, 4))
    per_layer = draw(st.integers(1, 100))
    costs = LayerCosts(
        num_layers=num_layers,
        fixed_bytes=100,
        bytes_per_lora_layer=per_layer,
        bytes_saved_per_quantized_layer=draw(st.integers(0, per_layer)),
        forward_flops=draw(st.integers(1, 1000)),
        flops_per_lora_layer=draw(st.integers(0, 300)),
        flops_per_quantized_layer=draw(st.integers(0, 300)),
    )
    top = 100 + per_layer * num_layers
    device = st.tuples(st.integers(100 + per_layer // 2, top), st.floats(0.5, 20))
    memory, speed = zip(*draw(st.lists(device, min_size=1, max_size=3)), strict=True)
    norm = st.floats(0, 5) | st.integers(0, 3).map(float)
    return SelectionProblem(
        costs=costs,
        memory_budget_bytes=memory,
        flops_per_second=speed,
        gradient_norms=draw(st.lists(norm, min_size=num_layers, max_size=num_layers)),
        mean_completion_time_s=draw(st.none() | st.floats(1, 1000)),
    )


def all_pairs(case, device):
    """(d, a) that fit a device, with exact time and gain."""
    costs, found = case.costs, {}
    for depth in range(1, costs.num_layers + 1):
        for quantized in range(depth):
            used = costs.fixed_bytes + costs.bytes_per_lora_layer * depth
            used -= costs.bytes_saved_per_quantized_layer * quantized
            if used <= case.memory_budget_bytes[device]:
                flops = costs.forward_flops + costs.flops_per_lora_layer * depth
                flops += costs.flops_per_quantized_layer * quantized
                time = flops / float(case.flops_per_second[device])
                found[depth, quantized] = time, float(case.gain_of_depth[depth - 1])
    return found


def totals(choice):
    """Round time, sum of gains, n times the mean waiting time: exact."""
    times = [Fraction(time) for time, _ in choice]
    return (
        max(times),
        sum(Fraction(gain) for _, gain in choice),
        len(times) * max(times) - sum(times),
    )


@settings(max_examples=100, deadline=None)
@given(small_problems())
def test_fastest_assignment_equals_enumeration(case):
    greedy = select_configurations(case)
    there = np.flatnonzero(greedy.takes_part)
    if not len(there):
        with pytest.raises(InputError, match="no device fits anything"):
            measure_yardstick(case)
        return
    options = {device: all_pairs(case, device) for device in there}

    def chosen(selection):
        return totals(
            [
                options[device][int(selection.depth[device]), int(selection.quantized[device])]
                for device in there
            ]
        )

    _, gain, waiting = chosen(greedy)
    allowed = [
        found
        for choice in itertools.product(*(options[device].values() for device in there))
        if (found := totals(choice))[1] >= gain and found[2] <= waiting
    ]
    shortest = min(found[0] for found in allowed)
    yardstick = measure_yardstick(case)
    found = chosen(yardstick.fastest)
    assert found[0] == shortest
    assert found[1] == max(other[1] for other in allowed if other[0] == shortest)
    assert found[2] <= waiting
    assert yardstick.round_time_ratio >= 1
    assert yardstick.gain_ratio >= 1 - 1e-12
    assert not yardstick.fastest.takes_part[~greedy.takes_part].any()


@settings(max_examples=100, deadline=None)
@given(small_problems())
def test_most_rewarding_equals_enumeration(case):
    best = most_rewarding_configurations(case)
    for device in range(case.num_devices):
        rewards = {
            pair: gain / (abs(time - case.mean_completion_time_s) + case.reward_offset_s)
            for pair, (time, gain) in all_pairs(case, device).items()
        }
        if not rewards:
            assert best.depth[device] == 0
            continue
        first = min(pair for pair in rewards if rewards[pair] == max(rewards.values()))
        assert (best.depth[device], best.quantized[device]) == first
        assert best.reward[device] == rewards[first]


def hand_problem(mean):
    """Two devices of 4 layers, times (100 + 10 d + 5 a) / q; the first is twice as fast."""
    costs = LayerCosts(
        num_layers=4,
        fixed_bytes=0,
        bytes_per_lora_layer=10,
        bytes_saved_per_quantized_layer=5,
        forward_flops=100,
        flops_per_lora_layer=10,
        flops_per_quantized_layer=5,
    )
    return SelectionProblem(
        costs=costs,
        memory_budget_bytes=[20, 40],
        flops_per_second=[2.0, 1.0],
        gradient_norms=[1.0] * 4,
        mean_completion_time_s=mean,
    )


def test_by_hand():
    # Device 1 holds (2, 0) and (3, 2): 60 and 70 s. Device 2 holds all: 110 … 140 s.
    # It is slower than the mean at every depth and goes to 4: gains 3 + 4, 140 s, waiting 35 s.
    yardstick = measure_yardstick(hand_problem(70.0))
    assert yardstick.greedy.depth.tolist() == [3, 4]
    assert yardstick.fastest.depth.tolist() == [3, 4]
    assert yardstick.round_time_ratio == 1
    # Mean 60: device 1 at 2, and the same could be had in 130 s by (3, 2) and (3, 0).
    yardstick = measure_yardstick(hand_problem(60.0))
    assert yardstick.greedy.depth.tolist() == [2, 4]
    assert yardstick.fastest.depth.tolist() == [3, 3]
    assert yardstick.fastest.quantized.tolist() == [2, 0]
    assert yardstick.round_time_ratio == pytest.approx(140 / 130)
    assert yardstick.gain_ratio == 1
    # More quantization than needed can meet the mean: (2, 1) takes 62.5 s, (2, 0) 60, (3, 2) 70.
    yardstick = measure_yardstick(hand_problem(62.5))
    assert yardstick.greedy.depth[0] == 2
    assert yardstick.greedy.quantized[0] == 0
    assert yardstick.most_rewarding.quantized.tolist() == [1, 0]
    assert yardstick.reward_ratio == pytest.approx((1e-4 / (2.5 + 1e-4) + 1) / 2)


def twenty_devices_of_24_layers():
    rng = np.random.default_rng(1)
    costs = LayerCosts(
        num_layers=24,
        fixed_bytes=1_500_000_000,
        bytes_per_lora_layer=250_000_000,
        bytes_saved_per_quantized_layer=145_000_000,
        forward_flops=2_500_000_000_000,
        flops_per_lora_layer=110_000_000_000,
        flops_per_quantized_layer=77_000_000_000,
    )
    return SelectionProblem(
        costs=costs,
        memory_budget_bytes=costs.fixed_bytes + 250_000_000 * rng.integers(4, 25, 20),
        flops_per_second=rng.uniform(1e11, 3e12, 20),
        gradient_norms=rng.uniform(0.5, 2, 24),
    )


def test_twenty_devices_of_24_layers():
    case = twenty_devices_of_24_layers()
    yardstick = measure_yardstick(case)
    greedy, fastest = yardstick.greedy, yardstick.fastest
    assert (fastest.memory_bytes <= case.memory_budget_bytes).all()
    assert fastest.mean_expected_gain >= greedy.mean_expected_gain * (1 - 1e-12)
    assert fastest.mean_waiting_time_s <= greedy.mean_waiting_time_s * (1 + 1e-12)
    assert yardstick.round_time_ratio > 1
    assert 0 < yardstick.reward_ratio <= 1


def test_a_fleet_too_large_to_enumerate_is_refused(monkeypatch):
    monkeypatch.setattr(exact, "MAX_STATES", 3)
    with pytest.raises(InputError, match="small enough to enumerate"):
        measure_yardstick(twenty_devices_of_24_layers())
