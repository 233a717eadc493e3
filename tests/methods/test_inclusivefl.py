from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedquad.config import InputError
from fedquad.methods import create_method
from fedquad.methods.aggregation import LayerwiseMean

BEFORE = {0: 10, 1: 20, 2: 30, 3: 40}


@pytest.fixture(scope="module")
def one_round(make_setting, make_statuses, make_history, make_adapter, make_update):
    """``one_round([{0: 12}, …], beta)``: the next global adapter from what devices have trained."""

    def run(trained, **options):
        method = create_method("inclusivefl", make_setting(len(BEFORE)), options)
        statuses = make_statuses(*(len(values) for values in trained))
        assignments = method.assign(statuses, make_history())
        accumulator = method.accumulator(make_adapter(BEFORE, head=0))
        for device, (assignment, values) in enumerate(zip(assignments, trained, strict=True)):
            adapter = make_adapter(values, head=device)
            sent = method.finish_update(adapter, adapter, assignment)
            accumulator.add(make_update(assignment, sent, device, num_samples=5 + device))
        return accumulator.finish()

    return run


def test_a_device_gets_the_first_layers(make_setting, make_statuses, make_history):
    method = create_method("inclusivefl", make_setting(4))
    assignments = method.assign(make_statuses(1, 4, 2), make_history())
    assert [a.active_layers for a in assignments] == [(0,), (0, 1, 2, 3), (0, 1)]
    assert [a.trainable_layers for a in assignments] == [(0,), (0, 1, 2, 3), (0, 1)]


def test_two_sizes_by_hand(one_round, fills):
    after = fills(one_round([{0: 12}, {0: 14}, {0: 11, 1: 24, 2: 37}]))
    # The top layer of size 1 moved by 3 in the mean, the three of size 3 by 1, 4 and 7, so by 4:
    # 0.8 * 3 + 0.2 * 4 = 3.2 for two devices, 1 for the third.
    assert after.pop(0) == pytest.approx(10 + (3.2 + 3.2 + 1) / 3, rel=1e-6)
    assert after == {1: 24, 2: 37, 3: 40, "head": 1}


def test_only_the_next_larger_size_hands_down_and_as_it_came(one_round, fills):
    trained = [{0: 11}, {0: 11, 1: 23}, {0: 11, 1: 21, 2: 31, 3: 41 + 8}]
    after = fills(one_round(trained, beta=0.5))
    # Size 1 learns from size 2's layers 0 and 1, which moved by 1 and 3 before its own top
    # layer was distilled: 0.5 * 1 + 0.5 * 2.
    assert after[0] == pytest.approx(10 + (1.5 + 1 + 1) / 3, rel=1e-6)
    # Size 2's top layer learns from size 4's layers 1 to 3, which moved by 1, 1 and 9.
    assert after[1] == pytest.approx(20 + (0.5 * 3 + 0.5 * 11 / 3 + 1) / 2, rel=1e-6)
    assert (after[2], after[3]) == (31, 49)


def by_the_formula(trained, beta):
    """The docstring's formula on plain numbers, layer by layer and device by device."""
    sizes = sorted({len(values) for values in trained})
    moved = {
        k: np.mean([[v[n] - BEFORE[n] for n in range(k)] for v in trained if len(v) == k], axis=0)
        for k in sizes
    }
    after = {}
    for layer, before in BEFORE.items():
        updates = []
        for values in trained:
            k = len(values)
            larger = [size for size in sizes if size > k]
            if layer == k - 1 and larger:
                mean = moved[larger[0]][k - 1 : larger[0]].mean()
                updates.append((1 - beta) * moved[k][layer] + beta * mean)
            elif layer < k:
                updates.append(values[layer] - before)
        after[layer] = before + np.mean(updates) if updates else before
    return after


@settings(deadline=None, max_examples=60)
@given(data=st.data(), beta=st.sampled_from([0.0, 0.2, 1.0]))
def test_any_round_is_the_formula(data, beta, one_round, fills):
    sizes = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=6))
    value = st.integers(0, 60)
    trained = [{layer: data.draw(value) for layer in range(size)} for size in sizes]
    after = fills(one_round(trained, beta=beta))
    expected = by_the_formula(trained, beta)
    assert {n: after[n] for n in expected} == pytest.approx(expected, rel=1e-5, abs=1e-5)
    assert after["head"] == pytest.approx((len(sizes) - 1) / 2)


def test_devices_of_one_size_are_averaged_as_by_eq_19_bit_for_bit(
    make_setting, make_statuses, make_history, make_adapter, make_update, same_bytes
):
    method = create_method("inclusivefl", make_setting(4))
    before = make_adapter(seed=1000)
    plain, accumulator = LayerwiseMean(before), method.accumulator(before)
    for device, assignment in enumerate(method.assign(make_statuses(3, 3, 3), make_history())):
        sent = make_adapter(seed=device).layers(range(3))
        for mean in (plain, accumulator):
            mean.add(make_update(assignment, sent, device))
    assert same_bytes(accumulator.finish(), plain.finish())


def test_an_update_that_is_no_prefix_is_refused(
    make_setting, make_statuses, make_history, make_adapter, make_update
):
    method = create_method("inclusivefl", make_setting(4))
    (assignment,) = method.assign(make_statuses(2), make_history())
    accumulator = method.accumulator(make_adapter())
    with pytest.raises(InputError, match=r"layers of device 3 .* the first 2"):
        accumulator.add(make_update(assignment, make_adapter().layers((0, 2)), device=3))
