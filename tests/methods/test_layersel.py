from __future__ import annotations

import numpy as np
import pytest

from fedquad.methods import create_method

IMPORTANCE = {
    0: np.array([9.0, 1.0, 2.0, 3.0]),
    1: np.array([1.0, 8.0, 2.0, 4.0]),
    2: np.array([5.0, 5.0, 5.0, 0.5]),
}


def trained_layers(assignments):
    return [None if a is None else a.trainable_layers for a in assignments]


def test_the_probe_is_a_step_of_full_depth(make_setting, make_statuses):
    setting = make_setting(4)
    probes = create_method("layersel", setting).probe(make_statuses(1, 4, 0), round_idx=5)
    assert trained_layers(probes) == [(0, 1, 2, 3), (0, 1, 2, 3), None]
    # m_f + L m_o and c_f + L c_d.
    assert setting.costs.price(probes[0]) == (140, 120)


def test_under_strict_probe_and_choice_stay_in_the_layers_that_fit(
    make_setting, make_statuses, make_history
):
    method = create_method("layersel", make_setting(4, budget_policy="strict"))
    statuses = make_statuses(1, 2, 4)
    assert trained_layers(method.probe(statuses, 0)) == [(3,), (2, 3), (0, 1, 2, 3)]
    assignments = method.assign(statuses, make_history(probes=IMPORTANCE))
    assert trained_layers(assignments) == [(3,), (2, 3), (0, 1, 2, 3)]
    assert all(a.active_layers == (0, 1, 2, 3) for a in assignments)


def test_the_most_important_layers_are_trained_wherever_they_are(
    make_setting, make_statuses, make_history
):
    setting = make_setting(4)
    statuses = make_statuses(1, 2, 2)
    assignments = create_method("layersel", setting).assign(
        statuses, make_history(probes=IMPORTANCE)
    )
    assert trained_layers(assignments) == [(0,), (1, 3), (1, 2)]
    assert all(a.active_layers == (0, 1, 2, 3) for a in assignments)
    # Layer 0 alone keeps all four layers: an overrun of a device that can hold one.
    assert setting.costs.price(assignments[0]).bytes > statuses[0].memory_budget_bytes


def test_balance_draws_the_choices_together(make_setting, make_statuses, make_history):
    statuses = make_statuses(1, 1, 1)

    def choice(balance):
        method = create_method("layersel", make_setting(4), {"balance": balance})
        return trained_layers(method.assign(statuses, make_history(probes=IMPORTANCE)))

    assert choice(0) == [(0,), (1,), (2,)]
    # Each pair apart costs 2 balance: 9 + 8 + 5 with one pair alike is 22 - 4 balance,
    # all on layer 0 is 9 + 1 + 5, all on layer 1 is 1 + 8 + 5.
    assert choice(1.7) in ([(0,), (1,), (0,)], [(0,), (1,), (1,)])
    assert choice(1.8) == [(0,), (0,), (0,)]


def test_a_device_without_a_probe_is_left_out(make_setting, make_statuses, make_history):
    method = create_method("layersel", make_setting(4))
    probes = {0: IMPORTANCE[0], 2: IMPORTANCE[2]}
    assignments = method.assign(make_statuses(1, 1, 0), make_history(probes=probes))
    assert trained_layers(assignments) == [(0,), None, None]
    assert method.assign(make_statuses(1, 1), make_history()) == [None, None]


def test_the_mean_is_weighted_by_samples_among_those_who_chose_the_layer(
    make_setting, make_statuses, make_history, make_adapter, make_update, fills
):
    method = create_method("layersel", make_setting(4))
    assignments = method.assign(make_statuses(1, 2, 2), make_history(probes=IMPORTANCE))
    accumulator = method.accumulator(make_adapter(dict.fromkeys(range(4), 100), head=100))
    # All run all layers, so they have all of them; they send what they trained.
    for device, (assignment, samples) in enumerate(zip(assignments, (10, 30, 60), strict=True)):
        trained = make_adapter(dict.fromkeys(range(4), device + 1), head=device + 1)
        sent = method.finish_update(trained, trained, assignment)
        accumulator.add(make_update(assignment, sent, device, num_samples=samples))
    after = fills(accumulator.finish())
    assert after.pop("head") == pytest.approx(0.1 * 1 + 0.3 * 2 + 0.6 * 3)
    assert after.pop(1) == pytest.approx((30 * 2 + 60 * 3) / 90)
    assert after == {0: 1, 2: 3, 3: 2}
