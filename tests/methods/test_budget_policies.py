from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedquad.methods import create_method

BASELINES = ("fedlora", "fedra", "inclusivefl", "layersel", "hetlora")
NUM_LAYERS = 6


def assign(method, statuses, make_history, round_idx=0):
    """A round's assignments; what is probed has a random importance, the rest 0."""
    probes = {}
    for device, probe in enumerate(method.probe(statuses, round_idx)):
        if probe is not None:
            rng = np.random.default_rng((round_idx, device))
            probes[device] = np.zeros(NUM_LAYERS)
            probes[device][[*probe.trainable_layers]] = rng.exponential(
                size=len(probe.trainable_layers)
            )
    return method.assign(statuses, make_history(round_idx, NUM_LAYERS, probes))


@pytest.mark.parametrize("name", BASELINES)
@settings(deadline=None, max_examples=40)
@given(
    depths=st.lists(st.integers(0, NUM_LAYERS), min_size=1, max_size=8),
    round_idx=st.integers(0, 50),
    seed=st.integers(0, 1000),
)
def test_what_is_assigned_respects_the_budget(
    name, depths, round_idx, seed, make_setting, make_statuses, make_history
):
    statuses = make_statuses(*depths)
    by_policy = {}
    for policy in ("layers", "strict"):
        setting = make_setting(NUM_LAYERS, budget_policy=policy, seed=seed)
        method = create_method(name, setting)
        by_policy[policy] = assign(method, statuses, make_history, round_idx)
        assert len(by_policy[policy]) == len(statuses)
    for status, loose, strict in zip(statuses, *by_policy.values(), strict=True):
        if status.depth_budget == 0:
            assert loose is None
            assert strict is None
            continue
        # layers: d_i layers' worth, for HetLoRA of rank instead; FedLoRA knows no budget.
        depth = status.depth_budget
        if name in ("fedra", "inclusivefl", "layersel"):
            assert len(loose.trainable_layers) == depth
        if name in ("fedra", "inclusivefl"):
            assert loose.active_layers == loose.trainable_layers
        else:
            assert loose.active_layers == tuple(range(NUM_LAYERS))
        full_rank = setting.lora_rank
        expected_rank = max(1, int(full_rank * depth / NUM_LAYERS + 0.5))
        assert loose.lora_rank == (expected_rank if name == "hetlora" else full_rank)
        # strict: nothing overruns, and what fits is the same choice.
        if strict is not None:
            assert setting.costs.price(strict).bytes <= status.memory_budget_bytes
        if setting.costs.price(loose).bytes <= status.memory_budget_bytes:
            assert strict == loose
        elif name == "layersel":
            assert strict.trainable_layers == tuple(range(NUM_LAYERS - depth, NUM_LAYERS))
        else:
            assert strict is None


@pytest.mark.parametrize("name", ["fedlora", "hetlora"])
def test_all_layers_overrun_what_holds_fewer(name, make_setting, make_statuses, make_history):
    statuses = make_statuses(6, 5, 1)
    loose = create_method(name, make_setting(6)).assign(statuses, make_history(num_layers=6))
    assert [a.trainable_layers for a in loose] == [tuple(range(6))] * 3
    strict = create_method(name, make_setting(6, budget_policy="strict"))
    assert [a is None for a in strict.assign(statuses, make_history())] == [False, True, True]


@pytest.mark.parametrize("name", BASELINES)
def test_what_a_device_does_does_not_depend_on_what_was_assigned_before(
    name, make_setting, make_statuses, make_history
):
    statuses = make_statuses(3, 6, 2)
    setting = make_setting(NUM_LAYERS)
    used, fresh = create_method(name, setting), create_method(name, setting)
    for round_idx in range(4):
        assign(used, statuses, make_history, round_idx)
    fresh.load_state_dict(used.state_dict())
    expected = assign(used, statuses, make_history, 4)
    assert assign(fresh, statuses, make_history, 4) == expected
