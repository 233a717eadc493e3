import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedquad.config import Assignment, InputError, LayerConfig
from fedquad.cost.accounting import step_cost
from fedquad.cost.layer_costs import LayerCosts, fit_layer_costs, fit_line


@st.composite
def layer_costs(draw):
    per_layer = draw(st.integers(1, 10**12))
    return LayerCosts(
        num_layers=draw(st.integers(1, 48)),
        fixed_bytes=draw(st.integers(0, 10**13)),
        bytes_per_lora_layer=per_layer,
        bytes_saved_per_quantized_layer=draw(st.integers(0, per_layer)),
        forward_flops=draw(st.integers(1, 10**18)),
        flops_per_lora_layer=draw(st.integers(0, 10**17)),
        flops_per_quantized_layer=draw(st.integers(0, 10**17)),
    )


COSTS = LayerCosts(
    num_layers=12,
    fixed_bytes=500,
    bytes_per_lora_layer=190,
    bytes_saved_per_quantized_layer=110,
    forward_flops=1200,
    flops_per_lora_layer=60,
    flops_per_quantized_layer=40,
)


def assign(active, trainable, quantized=()):
    return Assignment(
        num_layers=12,
        active_layers=active,
        trainable_layers=trainable,
        quantized_layers=quantized,
    )


@given(costs=layer_costs(), data=st.data())
def test_fedquad_configurations_cost_equations_6_and_11(costs, data):
    depth = data.draw(st.integers(1, costs.num_layers))
    quantized = data.draw(st.integers(0, depth - 1))
    config = LayerConfig(depth, quantized)
    price = costs.price(Assignment.from_layer_config(config, costs.num_layers))
    assert price.flops == (
        costs.forward_flops
        + costs.flops_per_lora_layer * depth
        + costs.flops_per_quantized_layer * quantized
    )
    assert price.bytes == (
        costs.fixed_bytes
        + costs.bytes_per_lora_layer * depth
        - costs.bytes_saved_per_quantized_layer * quantized
    )
    assert isinstance(price.bytes, int)
    assert isinstance(price.flops, int)


@given(
    active=st.sets(st.integers(0, 11), min_size=1),
    rank=st.integers(1, 16),
)
def test_a_trained_sub_model_costs_in_proportion_to_its_layers(active, rank):
    layers = tuple(sorted(active))
    price = COSTS.price(
        Assignment(num_layers=12, active_layers=layers, trainable_layers=layers, lora_rank=rank)
    )
    assert price == (500 + 190 * len(layers), 100 * len(layers) + 60 * len(layers))


def test_active_layers_above_the_lowest_trainable_one_are_kept():
    everything = tuple(range(12))
    assert COSTS.price(assign(everything, (4, 9))) == (500 + 190 * 8, 1200 + 60 * 8)
    skipping = assign((0, 2, 3, 7, 11), (3, 11), (7,))
    assert COSTS.price(skipping) == (500 + 190 * 3 - 110, 500 + 60 * 3 + 40)
    assert COSTS.price(assign(everything, ())) == (500, 1200)


def test_another_number_of_layers_is_refused():
    other = Assignment.from_layer_config(LayerConfig(2), 6)
    with pytest.raises(InputError, match="num_layers = 6"):
        COSTS.price(other)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_layers", 0),
        ("fixed_bytes", -1),
        ("fixed_bytes", 1.5),
        ("bytes_per_lora_layer", 0),
        ("bytes_saved_per_quantized_layer", 191),
        ("forward_flops", 0),
        ("flops_per_lora_layer", -1),
        ("flops_per_quantized_layer", True),
    ],
)
def test_bad_constants_are_refused(field, value):
    with pytest.raises(InputError, match=field):
        dataclasses.replace(COSTS, **{field: value})


@given(layer_costs())
def test_json_round_trip(costs):
    assert LayerCosts.from_json(costs.to_json()) == costs


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        json.dumps({**dataclasses.asdict(COSTS), "extra": 1}),
        COSTS.to_json().replace("500", '"500"'),
    ],
)
def test_other_json_is_refused(text):
    with pytest.raises(InputError):
        LayerCosts.from_json(text)


@pytest.mark.parametrize("family", ["roberta", "deberta-v2"])
def test_fit_meets_the_accounting_at_every_depth(family, small_model):
    folder = small_model(family, dropout=0.1, num_layers=5)
    fit = fit_layer_costs(folder, 2, 16)
    assert fit.depths == (2, 3, 4, 5)
    assert fit.bytes_r_squared > 0.999
    assert fit.flops_r_squared > 0.999
    costs = LayerCosts.from_accounting(folder, 2, 16)
    assert costs == fit.costs
    for depth in fit.depths:
        layers = LayerConfig(depth).trainable_layers(5)
        cost = step_cost(folder, batch_size=2, length=16, trainable_layers=layers)
        price = costs.price(Assignment.from_layer_config(LayerConfig(depth), 5))
        assert price.bytes == pytest.approx(cost.total_bytes, abs=5)
        assert price.flops == pytest.approx(cost.total_flops, abs=5)
    saved = costs.bytes_saved_per_quantized_layer
    assert saved == pytest.approx(0.58 * costs.bytes_per_lora_layer, abs=1)
    whole = costs.forward_flops + 5 * costs.flops_per_lora_layer
    assert 5 * costs.flops_per_quantized_layer == pytest.approx(0.36 * whole, abs=5)


def test_settings_of_the_step_reach_the_fit(small_model):
    folder = small_model("bert", num_layers=3)
    eager = LayerCosts.from_accounting(folder, 2, 32)
    sdpa = LayerCosts.from_accounting(folder, 2, 32, attention="sdpa")
    assert sdpa.bytes_per_lora_layer < eager.bytes_per_lora_layer


def test_two_layers_are_too_few_for_a_line(small_model):
    with pytest.raises(InputError, match="3 layers or more"):
        LayerCosts.from_accounting(small_model(num_layers=2), 2, 16)


@pytest.mark.slow
def test_paper_slope_within_six_percent():
    fit = fit_layer_costs("roberta-base", 32, 128)
    assert fit.costs.bytes_per_lora_layer == pytest.approx(199e6, rel=0.06)
    assert fit.bytes_r_squared >= 0.999
    assert fit.flops_r_squared >= 0.999


def test_line_through_noisy_points():
    assert fit_line([0, 1, 2], [1, 3, 5]) == pytest.approx((1, 2, 1))
    intercept, slope, r_squared = fit_line([0, 1, 2, 3], [0, 2, 1, 3])
    assert (intercept, slope, r_squared) == pytest.approx((0.3, 0.8, 0.64))
    assert fit_line([1, 2, 3], [4, 4, 4]) == pytest.approx((4, 0, 1))
