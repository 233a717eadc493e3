from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from types import FunctionType, ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedquad.config import Assignment, InputError, LayerConfig
from fedquad.methods import create_method
from fedquad.methods.aggregation import LayerwiseMean
from fedquad.model.adapter import Adapter

BASELINES = ("fedlora", "fedra", "inclusivefl", "layersel", "hetlora")
DEEPEST = Assignment.from_layer_config(LayerConfig(4), 4, 4)


def test_a_layer_is_the_mean_over_its_holders_and_the_head_over_all(
    make_adapter, make_update, fills
):
    mean = LayerwiseMean(make_adapter({0: 7, 1: 7, 2: 7, 3: 7}, head=7))
    mean.add(make_update(DEEPEST, make_adapter({3: 1}, head=1)))
    mean.add(make_update(DEEPEST, make_adapter({2: 4, 3: 2}, head=2)))
    mean.add(make_update(DEEPEST, make_adapter({1: 5, 2: 8, 3: 6}, head=6)))
    assert fills(mean.finish()) == {0: 7, 1: 5, 2: 6, 3: 3, "head": 3}


def test_weights_count_only_among_the_holders(make_adapter, make_update, fills):
    mean = LayerwiseMean(
        make_adapter({0: 7, 1: 7}, head=7), weight_of=lambda update: update.num_samples
    )
    mean.add(make_update(DEEPEST, make_adapter({1: 8}, head=0), num_samples=3))
    mean.add(make_update(DEEPEST, make_adapter({0: 2, 1: 4}, head=8), num_samples=1))
    assert fills(mean.finish()) == {0: 2, 1: 7, "head": 2}


@settings(deadline=None, max_examples=50)
@given(holders=st.lists(st.sets(st.integers(0, 3)), min_size=1, max_size=6))
def test_it_is_the_mean_of_the_adapters_bit_for_bit(holders, make_adapter, make_update, same_bytes):
    before = make_adapter(seed=99)
    adapters = [make_adapter(seed=i).layers(layers) for i, layers in enumerate(holders)]
    mean, weighted = LayerwiseMean(before), LayerwiseMean(before, weight_of=lambda _: 1)
    for adapter in adapters:
        mean.add(make_update(DEEPEST, adapter))
        weighted.add(make_update(DEEPEST, adapter))
    expected = Adapter.mean(adapters)
    expected = replace(
        expected, lora={layer: expected.lora.get(layer, before.lora[layer]) for layer in range(4)}
    )
    assert same_bytes(mean.finish(), expected)
    assert same_bytes(weighted.finish(), expected)


def test_sums_run_in_fp32_and_the_result_has_the_global_dtype(make_adapter, make_update):
    def in_bfloat16(value):
        adapter = make_adapter({0: value}, head=value)
        return Adapter.from_state(
            {key: tensor.bfloat16() for key, tensor in adapter.state().items()}, adapter.layout
        )

    mean = LayerwiseMean(in_bfloat16(0))
    for value in (256, 1, 1, 1, 1):  # bf16 has 8 bits: 256 + 1 = 256 there
        mean.add(make_update(DEEPEST, in_bfloat16(value)))
    for tensor in mean.finish().state().values():
        assert tensor.dtype == torch.bfloat16
        assert (tensor == 52).all()


@pytest.mark.parametrize("name", BASELINES)
def test_without_updates_the_adapter_is_an_equal_copy(name, make_setting, make_adapter, same_bytes):
    before = make_adapter(seed=1)
    after = create_method(name, make_setting()).accumulator(before).finish()
    assert same_bytes(after, before)
    after.head["classifier.weight"].zero_()
    assert before.head["classifier.weight"].any()


@pytest.mark.parametrize("name", BASELINES)
def test_an_update_that_does_not_fit_is_refused_and_leaves_no_trace(
    name, make_setting, make_adapter, make_update, same_bytes
):
    accumulator = create_method(name, make_setting()).accumulator(make_adapter(seed=1))
    good = make_adapter(seed=2)
    accumulator.add(make_update(DEEPEST, good))
    before = accumulator.finish()
    extra_layer = make_adapter(5, seed=2)
    wider = make_adapter(seed=2, rank=5)
    no_value = replace(good, lora={**good.lora, 3: dict([*good.lora[3].items()][:2])})
    other_head = replace(good, head={"pooler.weight": good.head["classifier.weight"]})
    for bad in (extra_layer, wider, no_value, other_head):
        with pytest.raises(InputError):
            accumulator.add(make_update(DEEPEST, bad, device=3))
        assert same_bytes(accumulator.finish(), before)


def test_the_error_names_the_device_the_layer_and_what_fits(make_adapter, make_update):
    mean = LayerwiseMean(make_adapter())
    with pytest.raises(InputError, match=r"layer 7 of device 12 .* layers \[0, 1, 2, 3\]"):
        mean.add(make_update(DEEPEST, make_adapter({7: 1}), device=12))
    for weight in (0, -1, float("nan")):
        with pytest.raises(InputError, match="a number > 0"):
            LayerwiseMean(make_adapter(), lambda _, weight=weight: weight).add(
                make_update(DEEPEST, make_adapter())
            )


def held_bytes(holder) -> int:
    """Bytes of all tensors that an object refers to, through whatever it holds."""
    seen, waiting, total = set(), [holder], 0
    while waiting:
        item = waiting.pop()
        if id(item) in seen or isinstance(item, (type, ModuleType, FunctionType)):
            continue
        seen.add(id(item))
        if isinstance(item, torch.Tensor):
            total += item.nbytes
        else:
            waiting += gc.get_referents(item)
    return total


@pytest.mark.parametrize(("name", "count"), [("fedlora", 10_000), *((n, 500) for n in BASELINES)])
def test_no_update_is_held(name, count, make_setting, make_adapter, make_update):
    before = make_adapter(2, rank=2)
    accumulator = create_method(name, make_setting(2, lora_rank=2)).accumulator(before)
    deepest = Assignment.from_layer_config(LayerConfig(2), 2, 2)
    for device in range(count):
        sent = make_adapter({0: device, 1: 1}, rank=2, head=1)
        update = make_update(deepest, sent, device=device)
        tensors = [weakref.ref(tensor) for tensor in update.adapter.state().values()]
        accumulator.add(update)
        del update, sent
        assert all(tensor() is None for tensor in tensors)
    # The global adapter, which is the server's, and one adapter of sums.
    assert held_bytes(accumulator) == 2 * before.num_bytes


def test_one_adapter_is_held_per_sub_model_size(make_setting, make_adapter, make_update):
    method = create_method("inclusivefl", make_setting())
    before = make_adapter()
    accumulator = method.accumulator(before)
    sizes = [1, 3] * 50
    for device, size in enumerate(sizes):
        assignment = replace(
            DEEPEST, active_layers=tuple(range(size)), trainable_layers=tuple(range(size))
        )
        sent = make_adapter(seed=device).layers(range(size))
        accumulator.add(make_update(assignment, sent, device=device))
    sums = sum(before.layers(range(size)).num_bytes for size in (1, 3))
    assert held_bytes(accumulator) == before.num_bytes + sums


def test_equal_devices_that_hold_all_layers_end_the_same_under_three_methods(
    make_setting, make_statuses, make_history, make_adapter, make_update, same_bytes
):
    def one_round(name):
        method = create_method(name, make_setting())
        accumulator = method.accumulator(make_adapter(seed=1000))
        assignments = method.assign(make_statuses(4, 4, 4, 4, 4), make_history())
        for device, assignment in enumerate(assignments):
            trained = make_adapter(seed=device)
            sent = method.finish_update(make_adapter(seed=1000), trained, assignment)
            update = make_update(assignment, sent, device=device, num_samples=10 + device)
            accumulator.add(update)
        return assignments, accumulator.finish()

    assignments, adapter = one_round("fedlora")
    for name in ("fedra", "fedquad"):
        others, other = one_round(name)
        assert others == assignments
        assert same_bytes(other, adapter)
