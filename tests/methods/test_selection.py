"""Algorithm 1 against a line-by-line transcription, brute force, and what its formulas predict."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedquad.config import Assignment, InputError, LayerConfig
from fedquad.cost.layer_costs import LayerCosts
from fedquad.methods.method import MethodSetting
from fedquad.methods.selection import (
    candidate_rewards,
    candidate_times_s,
    feasible_quantized,
    require_all,
    select_at_depths,
    select_configurations,
)
from fedquad.methods.selection_problem import SelectionProblem, deepest_unquantized

COSTS = LayerCosts(
    num_layers=12,
    fixed_bytes=500,
    bytes_per_lora_layer=100,
    bytes_saved_per_quantized_layer=60,
    forward_flops=1000,
    flops_per_lora_layer=100,
    flops_per_quantized_layer=50,
)
LARGE = LayerCosts(
    num_layers=24,
    fixed_bytes=1_500_000_000,
    bytes_per_lora_layer=250_000_000,
    bytes_saved_per_quantized_layer=145_000_000,
    forward_flops=2_500_000_000_000,
    flops_per_lora_layer=110_000_000_000,
    flops_per_quantized_layer=77_000_000_000,
)


def problem(memory, speed, norms=None, mean=None, costs=COSTS, **settings):
    return SelectionProblem(
        costs=costs,
        memory_budget_bytes=memory,
        flops_per_second=speed,
        gradient_norms=[1.0] * costs.num_layers if norms is None else norms,
        mean_completion_time_s=mean,
        **settings,
    )


@st.composite
def problems(draw, max_devices=6):
    per_layer = draw(st.integers(1, 500))
    costs = LayerCosts(
        num_layers=draw(st.integers(1, 9)),
        fixed_bytes=draw(st.integers(0, 2000)),
        bytes_per_lora_layer=per_layer,
        bytes_saved_per_quantized_layer=draw(st.integers(0, per_layer)),
        forward_flops=draw(st.integers(1, 10**6)),
        flops_per_lora_layer=draw(st.integers(0, 10**5)),
        flops_per_quantized_layer=draw(st.integers(0, 10**5)),
    )
    layers, top = costs.num_layers, costs.fixed_bytes + per_layer * costs.num_layers + 100
    device = st.tuples(st.integers(0, top), st.floats(1, 1e4))
    memory, speed = zip(*draw(st.lists(device, min_size=1, max_size=max_devices)), strict=True)
    # Sixteenths: their sums are exact in any order.
    norms = draw(st.lists(st.integers(0, 64), min_size=layers, max_size=layers))
    return problem(
        memory,
        speed,
        [norm / 16 for norm in norms],
        draw(st.none() | st.floats(1e-3, 1e6)),
        costs,
        local_steps=draw(st.integers(1, 200)),
        reward_offset_s=draw(st.floats(1e-6, 10)),
    )


def transcription(problem, largest_a=10**9):
    """Algorithm 1, line by line; None for a device whose set C_i stays empty."""
    costs, L = problem.costs, problem.costs.num_layers  # noqa: N806
    m_f, m_o = costs.fixed_bytes, costs.bytes_per_lora_layer
    m_q = costs.bytes_saved_per_quantized_layer
    c_f, c_d, c_a = (
        costs.forward_flops,
        costs.flops_per_lora_layer,
        costs.flops_per_quantized_layer,
    )
    M, q = problem.memory_budget_bytes.tolist(), problem.flops_per_second.tolist()  # noqa: N806
    g = list(problem.gradient_norms)
    t_avg, c = problem.mean_completion_time_s, problem.reward_offset_s
    C = []  # noqa: N806
    for i in range(len(M)):
        C_i = []  # noqa: N806
        a_cur = 0
        for d in range(1, L + 1):
            for a in range(a_cur, d - 1 + 1):
                if a <= largest_a and m_f + m_o * d - m_q * a <= M[i]:
                    C_i.append((d, a))
                    a_cur = a
                    break
        C.append(C_i)
    t = [
        {(d, a): problem.local_steps * (c_f + c_d * d + c_a * a) / q[i] for d, a in C[i]}
        for i in range(len(M))
    ]
    G = {d: sum(g[layer] for layer in range(L - d, L)) for d in range(1, L + 1)}  # noqa: N806
    chosen = []
    for i in range(len(M)):
        R = {pair: G[pair[0]] / (abs(t[i][pair] - t_avg) + c) for pair in C[i]}  # noqa: N806
        chosen.append(max(R, key=lambda pair: (R[pair], -pair[0])) if R else None)
    return chosen


def pairs(selection):
    found = zip(selection.depth.tolist(), selection.quantized.tolist(), strict=True)
    return [pair if pair[0] else None for pair in found]


@settings(max_examples=200, deadline=None)
@given(problems())
def test_equals_a_line_by_line_transcription(case):
    assert pairs(select_configurations(case)) == transcription(case)
    without = select_configurations(case, may_quantize=False)
    assert pairs(without) == transcription(case, largest_a=0)


@settings(max_examples=150, deadline=None)
@given(problems(max_devices=2))
def test_equals_brute_force_over_the_fewest_quantized_layers(case):
    costs, setting = case.costs, MethodSetting(costs=case.costs, local_steps=case.local_steps)
    for device, chosen in enumerate(pairs(select_configurations(case))):
        rewards = {}
        for depth in range(1, costs.num_layers + 1):
            for quantized in range(depth):
                config = LayerConfig(depth, quantized)
                assignment = Assignment.from_layer_config(config, costs.num_layers)
                if costs.price(assignment).bytes <= case.memory_budget_bytes[device]:
                    time = setting.completion_time_s(
                        assignment, float(case.flops_per_second[device])
                    )
                    gap = abs(time - case.mean_completion_time_s)
                    gain = sum(case.gradient_norms[costs.num_layers - depth :])
                    rewards[depth, quantized] = gain / (gap + case.reward_offset_s)
                    break  # more quantized layers are not looked at
        best = [pair for pair in rewards if rewards[pair] == max(rewards.values())]
        assert chosen == min(best, default=None)


@pytest.mark.parametrize("seed", range(4))
def test_equals_the_transcription_on_thousands_of_real_sizes(seed):
    rng = np.random.default_rng(seed)
    for _ in range(5):
        memory = rng.integers(10**9, 9 * 10**9, 100)
        speed = rng.uniform(1e11, 4e12, 100)
        case = problem(memory, speed, rng.integers(1, 99, 24), None, LARGE, local_steps=123)
        case = replace(case, mean_completion_time_s=float(rng.uniform(50, 5000)))
        assert pairs(select_configurations(case)) == transcription(case)


@settings(max_examples=100, deadline=None)
@given(problems())
def test_what_is_chosen_fits_and_is_priced_as_every_method_is(case):
    selection = select_configurations(case)
    setting = MethodSetting(costs=case.costs, local_steps=case.local_steps)
    for i in np.flatnonzero(selection.takes_part):
        config = LayerConfig(int(selection.depth[i]), int(selection.quantized[i]))
        assignment = Assignment.from_layer_config(config, case.costs.num_layers)
        price = case.costs.price(assignment)
        assert selection.memory_bytes[i] == price.bytes <= case.memory_budget_bytes[i]
        time = setting.completion_time_s(assignment, float(case.flops_per_second[i]))
        assert selection.completion_time_s[i] == time
        gain = sum(case.gradient_norms[case.costs.num_layers - config.depth :])
        assert selection.expected_gain[i] == gain
        gap = abs(time - case.mean_completion_time_s)
        assert selection.reward[i] == gain / (gap + case.reward_offset_s)
    out = ~selection.takes_part
    assert (deepest_unquantized(case)[out] == 0).all()
    assert np.isnan(selection.reward[out]).all()


@settings(max_examples=100, deadline=None)
@given(problems(max_devices=12), st.integers(1, 13))
def test_chunks_do_not_change_the_choice(case, chunk_size):
    whole, parts = select_configurations(case), select_configurations(case, chunk_size=chunk_size)
    for name in vars(whole):
        np.testing.assert_array_equal(getattr(parts, name), getattr(whole, name))


def test_memory_grows_by_the_result_alone():
    def peak_bytes(num_devices):
        rng = np.random.default_rng(0)
        memory = rng.integers(2 * 10**9, 9 * 10**9, num_devices)
        case = problem(memory, rng.uniform(1e11, 4e12, num_devices), costs=LARGE)
        tracemalloc.start()
        try:
            selection = select_configurations(case)
            return tracemalloc.get_traced_memory()[1], selection
        finally:
            tracemalloc.stop()

    (half, _), (whole, selection) = peak_bytes(50_000), peak_bytes(100_000)
    assert selection.takes_part.all()
    assert len(np.unique(selection.depth)) > 5
    # One table of 24 candidates a device would be 192 bytes.
    assert (whole - half) / 50_000 < 150


def test_one_byte_decides():
    # (3, 0) needs 800 bytes, (3, 1) 740 and (3, 2) 680.
    memory = [800, 799, 740, 739, 680, 679, 600, 599]
    table = feasible_quantized(COSTS, np.array(memory))
    assert table[:, 2].tolist() == [0, 1, 1, 2, 2, -1, -1, -1]
    assert table[:, 0].tolist() == [0, 0, 0, 0, 0, 0, 0, -1]
    without = feasible_quantized(COSTS, np.array(memory), may_quantize=False)
    assert without[:, 2].tolist() == [0, -1, -1, -1, -1, -1, -1, -1]


@pytest.mark.parametrize("budget", [10**15, 2**63 - 1, 10**30])
def test_budgets_of_any_size(budget):
    costs = replace(LARGE, fixed_bytes=10**15 - 24 * 250_000_000)
    selection = select_configurations(problem([budget], [1e12], mean=1e9, costs=costs))
    assert pairs(selection) == [(24, 0)]
    one_less = problem([10**15 - 1], [1e12], mean=1e9, costs=costs)
    assert feasible_quantized(costs, one_less.memory_budget_bytes)[0, -1] == 1


def test_ties_go_to_the_smaller_depth():
    # c = 100, times 1100, 1200, …: 1 / (0 + 100) = 2 / (100 + 100) = 3 / (200 + 100).
    tied = problem([2000], [1.0], mean=1100.0, reward_offset_s=100.0)
    assert np.unique(candidate_rewards(tied)).tolist() == [0.01]
    assert pairs(select_configurations(tied)) == [(1, 0)]
    no_gain = problem([2000, 700], [1.0, 9.0], [0.0] * 12)
    assert pairs(select_configurations(no_gain)) == [(1, 0), (1, 0)]


def test_devices_that_fit_nothing_are_left_out_or_named():
    case = problem([900, 599, 0], [1.0, 1.0, 1.0])
    selection = select_configurations(case)
    assert selection.takes_part.tolist() == [True, False, False]
    assert np.isnan(selection.completion_time_s).tolist() == [False, True, True]
    assert selection.memory_bytes.tolist() == [900, 0, 0]
    assert selection.mean_waiting_time_s == 0
    with pytest.raises(InputError, match=r"'b, c' .* 600 bytes or more"):
        require_all(selection, ["a", "b", "c"], case)
    require_all(select_configurations(problem([900], [1.0])), ["a"], case)
    nobody = select_configurations(problem([1, 2], [1.0, 1.0]))
    assert pairs(nobody) == [None, None]
    assert np.isnan(nobody.round_time_s)


def test_times_gains_and_waiting_by_hand():
    # 10 local steps: (1000 + 100 d + 50 a) / q. Device 2 needs a = 2 for its depth 3.
    case = problem([1700, 680], [1000.0, 500.0], [1.0] * 9 + [4.0, 2.0, 1.0], 26.0, local_steps=10)
    assert case.gain_of_depth[:4].tolist() == [1, 3, 7, 8]
    assert candidate_times_s(case)[1, :4].tolist()[:3] == [22, 25, 28]
    selection = select_at_depths(case, np.array([5, 3]))
    assert pairs(selection) == [(5, 0), (3, 2)]
    assert selection.completion_time_s.tolist() == [15, 28]
    assert selection.memory_bytes.tolist() == [1000, 680]
    assert selection.expected_gain.tolist() == [9, 7]
    assert selection.reward.tolist() == [9 / (11 + 1e-4), 7 / (2 + 1e-4)]
    assert selection.round_time_s == 28
    assert selection.mean_waiting_time_s == 6.5
    assert selection.mean_expected_gain == 8
    with pytest.raises(InputError, match="a depth that fits device 1"):
        select_at_depths(case, np.array([5, 4]))


@given(st.integers(1, 12), st.floats(1, 100), st.lists(st.floats(0.5, 2), min_size=12, max_size=12))
def test_a_mean_time_that_can_be_met_is_a_fixed_point_of_equal_devices(depth, speed, norms):
    case = problem([2000] * 3, [speed] * 3, norms, (1000 + 100 * depth) / speed)
    for _ in range(3):
        selection = select_configurations(case)
        assert pairs(selection) == [(depth, 0)] * 3
        mean = float(selection.completion_time_s.mean())
        case = replace(case, mean_completion_time_s=mean)


@pytest.mark.parametrize(
    ("mean", "expected"),
    [
        (1099.0, 1),  # between the forward pass (1000) and depth 1 (1100): restrained
        (990.0, 4),  # slower than the mean at every depth: the deepest unquantized depth
        (670.0, 4),
        (660.0, 7),  # a larger gap: beyond it, 7 / (1950 - mean) above 4 / (1400 - mean)
        (560.0, 7),
        (540.0, 8),  # as deep as quantization allows
        (100.0, 8),
    ],
)
def test_a_straggler_is_sent_deeper_the_further_it_is_behind(mean, expected):
    # It holds 4 layers; (5, 2), (6, 4), (7, 5), (8, 7) fit with quantization.
    case = problem([900], [1.0], mean=mean)
    assert deepest_unquantized(case).tolist() == [4]
    assert pairs(select_configurations(case))[0][0] == expected


def test_a_device_that_can_meet_the_mean_time_chooses_by_the_gap_alone():
    for quantized, depth in ((0, 3), (2, 5), (7, 8)):
        mean = 1000.0 + 100 * depth + 50 * quantized
        assert pairs(select_configurations(problem([900], [1.0], mean=mean))) == [
            (depth, quantized)
        ]


def test_first_mean_time_is_that_of_the_deepest_unquantized_depths():
    # Depths 12, 4, and none: (2200 / 10 + 1400 / 5) / 2.
    case = problem([5000, 950, 599], [10.0, 5.0, 1.0])
    assert case.mean_completion_time_s == 250
    scaled = problem([5000, 950, 599], [10.0, 5.0, 1.0], first_mean_time_scale=2.0)
    assert scaled.mean_completion_time_s == 500


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"norms": [1.0] * 11}, "gradient_norms"),
        ({"norms": [1.0] * 13}, "gradient_norms"),
        ({"norms": [1.0] * 11 + [-0.5]}, r"gradient_norms\[11\] = -0.5"),
        ({"norms": [float("nan")] + [1.0] * 11}, r"gradient_norms\[0\] = nan"),
        ({"norms": [float("inf")] + [1.0] * 11}, r"gradient_norms\[0\] = inf"),
        ({"speed": [0.0]}, "flops_per_second"),
        ({"speed": [-3.0]}, "flops_per_second"),
        ({"speed": [float("nan")]}, "flops_per_second"),
        ({"speed": [1e-300]}, "flops_per_second"),
        ({"speed": [1.0, 2.0]}, "flops_per_second = '2 rates'"),
        ({"mean": float("inf")}, "mean_completion_time_s"),
        ({"mean": -1.0}, "mean_completion_time_s"),
        ({"local_steps": 0}, "local_steps"),
        ({"reward_offset_s": 0.0}, "reward_offset_s"),
        ({"reward_offset_s": 1e-320}, "reward_offset_s"),
        ({"costs": replace(COSTS, bytes_per_lora_layer=2**62)}, "2\\^63 bytes"),
        ({"costs": replace(COSTS, forward_flops=10**400)}, "FLOPs"),
    ],
)
def test_inputs_that_cannot_be_used(settings, field):
    with pytest.raises(InputError, match=field):
        problem(**{"memory": [900], "speed": [1.0], **settings})
