import dataclasses
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedquad.config import Assignment, InputError, LayerConfig
from fedquad.cost.layer_costs import LayerCosts
from fedquad.fleet.jetson import JETSON_MODES, flops_per_second, get_mode
from fedquad.fleet.jetson_fleet import JetsonFleet, class_counts

RANGES = {"strong": (18, 24), "moderate": (11, 17), "weak": (4, 10)}
BOARDS = {"strong": "AGX", "moderate": "NX", "weak": "TX2"}


def of_layers(costs, num_layers):
    return dataclasses.replace(costs, num_layers=num_layers)


@pytest.mark.parametrize(
    ("heterogeneity", "num_devices", "expected"),
    [
        ("low", 100, (100, 0, 0)),
        ("medium", 100, (50, 50, 0)),
        ("high", 100, (30, 30, 40)),
        ("high", 20, (6, 6, 8)),
        ("medium", 7, (4, 3, 0)),  # equal remainders: the stronger class
        ("high", 1, (0, 0, 1)),  # 0.3, 0.3, 0.4
        ("high", 2, (1, 0, 1)),  # 0.6, 0.6, 0.8
        ("high", 8, (3, 2, 3)),  # 2.4, 2.4, 3.2
    ],
)
def test_class_counts(costs, heterogeneity, num_devices, expected):
    assert class_counts(num_devices, heterogeneity) == expected
    statuses = JetsonFleet(num_devices, heterogeneity, costs).statuses(0)
    found = Counter(status.device_class for status in statuses)
    assert tuple(found[name] for name in RANGES) == expected


@given(st.integers(1, 10_000), st.sampled_from(["low", "medium", "high"]))
def test_classes_share_all_devices_to_within_one(num_devices, heterogeneity):
    shares = {"low": (1, 0, 0), "medium": (0.5, 0.5, 0), "high": (0.3, 0.3, 0.4)}[heterogeneity]
    counts = class_counts(num_devices, heterogeneity)
    assert sum(counts) == num_devices
    for count, share in zip(counts, shares, strict=True):
        assert abs(count - share * num_devices) < 1


def test_any_round_is_the_same_whatever_was_asked_before(costs):
    fleet = JetsonFleet(30, "high", costs, seed=5)
    forward = [fleet.statuses(h) for h in range(25)]
    assert JetsonFleet(30, "high", costs, seed=5).statuses(7) == forward[7]
    assert [fleet.statuses(h) for h in reversed(range(25))] == forward[::-1]


def test_class_and_name_stay_and_the_rest_changes(costs):
    fleet = JetsonFleet(40, "high", costs, seed=1)
    rounds = [fleet.statuses(h) for h in range(12)]
    identity = [[(s.device_id, s.device_class) for s in statuses] for statuses in rounds]
    assert all(names == identity[0] for names in identity)
    assert len({name for name, _ in identity[0]}) == fleet.num_devices == 40
    budgets = [tuple(s.memory_budget_bytes for s in statuses) for statuses in rounds]
    assert len(set(budgets)) == 12


def test_a_mode_stays_for_ten_rounds_and_is_drawn_anew(costs):
    fleet = JetsonFleet(40, "high", costs, seed=1)
    modes = [tuple(s.mode for s in fleet.statuses(h)) for h in range(40)]
    for start in range(0, 40, 10):
        assert len(set(modes[start : start + 10])) == 1
    assert len({modes[start] for start in range(0, 40, 10)}) == 4


def test_seeds_differ_in_classes_memory_and_modes(costs):
    def columns(seed):
        statuses = JetsonFleet(60, "high", costs, seed=seed).statuses(3)
        names = ("device_class", "memory_budget_bytes", "mode")
        return [tuple(getattr(s, name) for s in statuses) for name in names]

    first, second = columns(0), columns(1)
    assert columns(0) == first
    assert all(a != b for a, b in zip(first, second, strict=True))


def test_traces_do_not_depend_on_the_throughput_model(costs):
    fp16 = JetsonFleet(30, "high", costs, seed=2).statuses(11)
    fp32 = JetsonFleet(30, "high", costs, seed=2, throughput_model="fp32").statuses(11)
    for one, other in zip(fp16, fp32, strict=True):
        assert dataclasses.replace(one, flops_per_second=other.flops_per_second) == other


@pytest.mark.parametrize("heterogeneity", ["low", "medium", "high"])
def test_depths_and_modes_are_uniform_in_what_the_class_has(costs, heterogeneity):
    fleet = JetsonFleet(2000, heterogeneity, of_layers(costs, 24), seed=4)
    depths, modes = defaultdict(list), defaultdict(list)
    for status in fleet.statuses(0) + fleet.statuses(10):
        depths[status.device_class].append(status.depth_budget)
        modes[status.device_class].append(status.mode)
    for name, drawn in depths.items():
        low, high = RANGES[name]
        shares = np.bincount(drawn, minlength=high + 1)[low:] / len(drawn)
        assert set(drawn) == set(range(low, high + 1))
        np.testing.assert_allclose(shares, 1 / 7, atol=0.05)
    for name, drawn in modes.items():
        expected = [mode.name for mode in JETSON_MODES if mode.device == BOARDS[name]]
        counts = Counter(drawn)
        assert set(counts) == set(expected)
        shares = [count / len(drawn) for count in counts.values()]
        np.testing.assert_allclose(shares, 1 / len(expected), atol=0.05)


def test_consecutive_rounds_are_not_correlated(costs):
    fleet = JetsonFleet(2000, "low", of_layers(costs, 24), seed=4)
    first, second = (
        [status.depth_budget for status in fleet.statuses(round_idx)] for round_idx in (0, 1)
    )
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.1


@given(
    num_layers=st.integers(1, 48),
    reference_num_layers=st.integers(1, 48),
    fixed_bytes=st.integers(0, 10**12),
    per_layer=st.integers(1, 10**12),
    seed=st.integers(0, 2**32),
)
def test_memory_holds_its_depth_budget_and_not_one_layer_more(
    num_layers, reference_num_layers, fixed_bytes, per_layer, seed
):
    costs = LayerCosts(
        num_layers=num_layers,
        fixed_bytes=fixed_bytes,
        bytes_per_lora_layer=per_layer,
        bytes_saved_per_quantized_layer=0,
        forward_flops=1,
        flops_per_lora_layer=0,
        flops_per_quantized_layer=0,
    )
    fleet = JetsonFleet(10, "high", costs, reference_num_layers=reference_num_layers, seed=seed)

    def bytes_at(depth):
        assignment = Assignment.from_layer_config(LayerConfig(depth), num_layers)
        return costs.price(assignment).bytes

    for status in fleet.statuses(3):
        depth = status.depth_budget
        assert 1 <= depth <= num_layers
        assert bytes_at(depth) == status.memory_budget_bytes
        assert depth == num_layers or bytes_at(depth + 1) > status.memory_budget_bytes


@pytest.mark.parametrize(
    ("num_layers", "expected"),
    [
        (24, {"strong": (18, 24), "moderate": (11, 17), "weak": (4, 10)}),
        (12, {"strong": (9, 12), "moderate": (6, 9), "weak": (2, 5)}),
        (6, {"strong": (5, 6), "moderate": (3, 4), "weak": (1, 3)}),
        (1, {"strong": (1, 1), "moderate": (1, 1), "weak": (1, 1)}),
    ],
)
def test_class_ranges_in_layers_of_a_smaller_encoder(costs, num_layers, expected):
    fleet = JetsonFleet(100, "high", of_layers(costs, num_layers))
    depths = defaultdict(set)
    for round_idx in range(10):
        for status in fleet.statuses(round_idx):
            depths[status.device_class].add(status.depth_budget)
    assert {name: (min(drawn), max(drawn)) for name, drawn in depths.items()} == expected


def test_a_smaller_encoder_gets_the_rounded_share_of_the_same_draw(costs):
    whole = JetsonFleet(100, "high", of_layers(costs, 24), seed=9).statuses(2)
    small = JetsonFleet(100, "high", costs, seed=9).statuses(2)
    for one, other in zip(whole, small, strict=True):
        assert other.depth_budget == max(1, int(one.depth_budget * 12 / 24 + 0.5))


def test_a_reference_model_of_12_layers_has_half_the_range(costs):
    fleet = JetsonFleet(400, "high", costs, reference_num_layers=12)
    depths = defaultdict(set)
    for status in fleet.statuses(0):
        depths[status.device_class].add(status.depth_budget)
    assert depths == {
        "strong": set(range(9, 13)),
        "moderate": set(range(6, 10)),
        "weak": set(range(2, 6)),
    }


@pytest.mark.parametrize(
    ("throughput_model", "intensity"), [("fp16", None), ("fp32", None), ("roofline", 3.0)]
)
def test_throughput_is_that_of_the_mode(costs, throughput_model, intensity):
    fleet = JetsonFleet(
        50, "high", costs, throughput_model=throughput_model, arithmetic_intensity=intensity
    )
    for status in fleet.statuses(0):
        mode = get_mode(status.mode)
        assert mode.device == BOARDS[status.device_class]
        assert status.flops_per_second == flops_per_second(mode, throughput_model, intensity)


def test_a_large_fleet_has_distinct_names_in_order(costs):
    statuses = JetsonFleet(20_000, "high", costs).statuses(0)
    names = [status.device_id for status in statuses]
    assert len(set(names)) == 20_000
    assert names == sorted(names)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_devices", 0),
        ("num_devices", 2.5),
        ("heterogeneity", "extreme"),
        ("reference_num_layers", 0),
        ("throughput_model", "int8"),
        ("arithmetic_intensity", 3.0),
        ("seed", -1),
    ],
)
def test_bad_arguments_are_refused(costs, field, value):
    arguments = {"num_devices": 3, "heterogeneity": "high", "costs": costs, field: value}
    with pytest.raises(InputError, match=field):
        JetsonFleet(**arguments)


@pytest.mark.parametrize("round_idx", [-1, 1.0])
def test_bad_rounds_are_refused(costs, round_idx):
    with pytest.raises(InputError, match="round_idx"):
        JetsonFleet(3, "high", costs).statuses(round_idx)
