"""The code that walkthroughs show does what the library does; the method in them keeps its word."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import BertConfig, BertForSequenceClassification

from fedquad.config import Assignment, InputError, LayerConfig
from fedquad.cost.layer_costs import LayerCosts
from fedquad.cost.tracing import SavedBytes
from fedquad.fleet.fleet import DeviceStatus, depth_budget
from fedquad.methods.aggregation import LayerwiseMean
from fedquad.methods.method import REGISTERED, History, LocalUpdate, MethodSetting
from fedquad.methods.selection import select_configurations
from fedquad.methods.selection_problem import SelectionProblem
from fedquad.model.adapter import Adapter
from fedquad.model.backbone import find_layers
from fedquad.model.lora import attach_lora, set_lora_depth, set_trainable_layers

NUM_LAYERS = 3
COSTS = LayerCosts(
    num_layers=12,
    fixed_bytes=1_440_000_000,
    bytes_per_lora_layer=190_000_000,
    bytes_saved_per_quantized_layer=110_200_000,
    forward_flops=1_000_000_000_000,
    flops_per_lora_layer=90_000_000_000,
    flops_per_quantized_layer=62_400_000_000,
)
SETTING = MethodSetting(costs=COSTS, local_steps=7)
HISTORY = History(round_idx=0, mean_completion_time_s=None, gradient_norms=np.ones(12))
BUDGETS = st.integers(1_400_000_000, 4_000_000_000)
SPEEDS = st.floats(1e11, 1e13)
DEVICES = st.lists(st.tuples(BUDGETS, SPEEDS), min_size=1, max_size=6)


@pytest.fixture
def model():
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}
    config = BertConfig(vocab_size=50, num_hidden_layers=NUM_LAYERS, num_labels=3, **sizes)
    return attach_lora(BertForSequenceClassification(config), rank=4, alpha=4)


@pytest.fixture
def batch():
    ids = torch.arange(4 * 9).view(4, 9) % 50
    return {"input_ids": ids, "labels": torch.tensor([0, 1, 2, 0])}


@pytest.fixture
def my_method(example):
    """The example's module; its method is unknown again afterwards."""
    before = dict(REGISTERED)
    yield example("my_method")
    REGISTERED.clear()
    REGISTERED.update(before)


@given(
    costs=st.tuples(*[st.integers(1, 1000)] * 5),
    saved_share=st.floats(0, 1),
    norms=st.lists(st.integers(0, 5), min_size=4, max_size=4),
    budget=st.integers(0, 6000),
    speed=st.floats(0.5, 100),
    mean_time_s=st.floats(0, 5000),
)
def test_the_page_of_algorithm_1_chooses_what_the_library_chooses(
    example, costs, saved_share, norms, budget, speed, mean_time_s
):
    algorithm_one = example("algorithm_one")
    fixed, per_layer, forward, backward, quantization = costs
    costs = LayerCosts(
        num_layers=4,
        fixed_bytes=fixed,
        bytes_per_lora_layer=per_layer,
        bytes_saved_per_quantized_layer=int(saved_share * per_layer),
        forward_flops=forward,
        flops_per_lora_layer=backward,
        flops_per_quantized_layer=quantization,
    )
    found = algorithm_one.candidates(
        costs,
        budget_bytes=budget,
        flops_per_second=speed,
        gradient_norms=norms,
        mean_time_s=mean_time_s,
    )
    library = select_configurations(
        SelectionProblem(
            costs=costs,
            memory_budget_bytes=[budget],
            flops_per_second=[speed],
            gradient_norms=norms,
            mean_completion_time_s=mean_time_s,
        )
    )
    if not found:
        assert library.depth[0] == 0
        return
    best = algorithm_one.choose(found)
    assert (best.depth, best.quantized) == (library.depth[0], library.quantized[0])
    assert best.memory_bytes == library.memory_bytes[0] <= budget
    assert (best.completion_time_s, best.gain) == (
        library.completion_time_s[0],
        library.expected_gain[0],
    )


def test_paper_and_pencil():
    """The numbers that the walkthrough works out in its text."""
    toy = LayerCosts(
        num_layers=4,
        fixed_bytes=2_000,
        bytes_per_lora_layer=1_000,
        bytes_saved_per_quantized_layer=500,
        forward_flops=40,
        flops_per_lora_layer=10,
        flops_per_quantized_layer=5,
    )
    problem = SelectionProblem(
        costs=toy,
        memory_budget_bytes=[4_500, 4_000],
        flops_per_second=[10.0, 10.0],
        gradient_norms=[1.0, 2.0, 3.0, 4.0],
        mean_completion_time_s=7.4,
    )
    chosen = select_configurations(problem)
    assert chosen.depth.tolist() == [3, 3]
    assert chosen.quantized.tolist() == [1, 2]
    assert chosen.completion_time_s.tolist() == [7.5, 8.0]
    assert chosen.reward == pytest.approx([9 / 0.1, 9 / 0.6], rel=1e-2)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_kept_bytes_are_those_of_the_librarys_count(example, model, batch, depth):
    kept_for_backward = example("kept_for_backward")
    set_lora_depth(model, depth)
    with SavedBytes(find_layers(model), [*model.parameters(), *model.buffers()]) as counted:
        loss = model(**batch).loss
    kept = kept_for_backward.kept_bytes(model, batch)
    assert kept == counted.by_layer
    assert kept[: NUM_LAYERS - depth] == [0] * (NUM_LAYERS - depth)
    assert min(kept[NUM_LAYERS - depth :]) > 0
    assert loss.requires_grad
    assert not any(layer._forward_hooks for layer in find_layers(model))


def test_the_lowest_trained_layer_decides_what_is_kept(example, model, batch):
    kept_bytes = example("kept_for_backward").kept_bytes
    set_trainable_layers(model, (0,))
    lowest_alone = sum(kept_bytes(model, batch))
    set_lora_depth(model, NUM_LAYERS)
    everything = sum(kept_bytes(model, batch))
    set_lora_depth(model, 1)
    assert sum(kept_bytes(model, batch)) < lowest_alone / 2
    assert 0.8 * everything < lowest_alone <= everything


def random_update(adapter, device, depth):
    generator = torch.Generator().manual_seed(device)
    state = {n: torch.randn(t.shape, generator=generator) for n, t in adapter.state().items()}
    layers = LayerConfig(depth).trainable_layers(NUM_LAYERS)
    return LocalUpdate(
        device=device,
        assignment=Assignment.from_layer_config(LayerConfig(depth), NUM_LAYERS, 4),
        adapter=Adapter.from_state(state, adapter.layout).layers(layers),
        num_samples=1,
        gradient_norms=dict.fromkeys(layers, 1.0),
        train_loss=1.0,
    )


def test_the_mean_by_hand_is_the_servers_bit_for_bit(example, model):
    one_round = example("one_round")
    before = Adapter.from_model(model)
    updates = [random_update(before, device, depth) for device, depth in enumerate((1, 2, 2))]
    accumulator = LayerwiseMean(before)
    for update in updates:
        accumulator.add(update)
    by_hand, library = one_round.aggregate(before, updates), accumulator.finish()
    for name, tensor in library.state().items():
        assert torch.equal(by_hand.state()[name], tensor), name
    assert one_round.distance(by_hand, library) == 0
    assert [len(one_round.holders(updates, layer)) for layer in range(3)] == [0, 2, 3]


def statuses_of(devices):
    return [
        DeviceStatus(
            device_id=f"device {at}",
            depth_budget=depth_budget(budget, COSTS),
            memory_budget_bytes=budget,
            flops_per_second=speed,
        )
        for at, (budget, speed) in enumerate(devices)
    ]


@given(devices=DEVICES, slack=st.sampled_from([1.0, 1.5, 3.0]))
def test_the_example_method_fits_and_fills_the_shortest_round(example, devices, slack):
    before = dict(REGISTERED)
    method = example("my_method").FillTheRound(SETTING, slack=slack)
    statuses = statuses_of(devices)
    chosen = method.assign(statuses, HISTORY)
    one_layer = Assignment.from_layer_config(LayerConfig(1), 12)
    fits = [status for status in statuses if status.depth_budget > 0]
    least = [SETTING.completion_time_s(one_layer, status.flops_per_second) for status in fits]
    limit_s = slack * max(least, default=0)
    for status, assignment in zip(statuses, chosen, strict=True):
        assert (assignment is None) == (status.depth_budget == 0)
        if assignment is None:
            continue
        possible = [
            option.trainable_layers
            for depth in range(1, 13)
            for quantized in range(depth)
            for option in [Assignment.from_layer_config(LayerConfig(depth, quantized), 12)]
            if COSTS.price(option).bytes <= status.memory_budget_bytes
            and SETTING.completion_time_s(option, status.flops_per_second) <= limit_s
        ]
        assert COSTS.price(assignment).bytes <= status.memory_budget_bytes
        assert SETTING.completion_time_s(assignment, status.flops_per_second) <= limit_s
        assert len(assignment.trainable_layers) == max(map(len, possible))
    REGISTERED.clear()
    REGISTERED.update(before)


def test_the_example_method_has_a_name_an_option_and_its_limits(my_method):
    assert REGISTERED["fill-the-round"] is my_method.FillTheRound
    assert my_method.FillTheRound.defaults == {"slack": 1.0}
    with pytest.raises(InputError, match="slack"):
        my_method.FillTheRound(SETTING, slack=0.0)
