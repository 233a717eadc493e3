"""A limit on the mean waiting time, against lowering the slowest device one depth at a time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedquad.config import InputError
from fedquad.methods.waiting_limit import limit_waiting


@st.composite
def choices(draw):
    """Whole seconds that rise with depth, and a depth for each device."""
    num_layers = draw(st.integers(1, 5))
    steps = st.lists(st.integers(1, 20), min_size=num_layers, max_size=num_layers)
    times = np.cumsum(draw(st.lists(steps, min_size=1, max_size=5)), axis=1).astype(float)
    depth = np.array([draw(st.integers(0, num_layers)) for _ in times])
    times[np.arange(1, num_layers + 1) > np.maximum(depth, 1)[:, None]] = np.nan
    return times, depth, draw(st.integers(1, 40)) / 4


def lowering_one_at_a_time(times, depth, limit):
    """Depths on the way, each with its waiting time as n times itself."""
    depth = depth.copy()
    there = np.flatnonzero(depth)
    path = []
    while True:
        now = times[there, depth[there] - 1]
        path.append((depth.copy(), len(there) * now.max() - now.sum()))
        slowest = there[now == now.max()]
        if path[-1][1] <= limit * len(there) or depth[slowest].min() == 1:
            return path
        depth[slowest[0]] -= 1


@settings(max_examples=150, deadline=None)
@given(choices())
def test_equals_lowering_the_slowest_again_and_again(case):
    times, depth, limit = case
    repair = limit_waiting(times, depth, limit)
    if not depth.any():
        assert (repair.lowered_layers, repair.limit_met) == (0, True)
        return
    path = lowering_one_at_a_time(times, depth, limit)
    assert repair.limit_met == (path[-1][1] <= limit * np.count_nonzero(depth))
    assert repair.lowered_layers == (depth - repair.depth).sum()
    there = np.flatnonzero(depth)
    assert np.array_equal(np.flatnonzero(repair.depth), there)
    if repair.limit_met:
        assert np.array_equal(repair.depth, path[-1][0])
    else:
        now = times[there, repair.depth[there] - 1]
        assert len(there) * now.max() - now.sum() == min(waiting for _, waiting in path)


def test_by_hand():
    times = np.array([[4.0, 6.0, 8.0], [4.0, 5.0, 9.0], [7.0, 14.0, np.nan]])
    # 14 - (8 + 9 + 14) / 3 = 3.67; at 9 seconds 9 - (8 + 9 + 7) / 3 = 1; at 8, 8 - 20 / 3.
    assert limit_waiting(times, np.array([3, 3, 2]), 4.0) == (pytest.approx([3, 3, 2]), 0, True)
    assert limit_waiting(times, np.array([3, 3, 2]), 1.0) == (pytest.approx([3, 3, 1]), 1, True)
    # Below 1 there is no help: at 7 seconds it is 7 - (6 + 5 + 7) / 3 = 1 again, never less.
    assert limit_waiting(times, np.array([3, 3, 2]), 0.5) == (pytest.approx([3, 3, 1]), 1, False)


def test_no_layer_is_taken_from_a_device_whose_time_does_not_depend_on_depth():
    times = np.array([[9.0, 9.0, 9.0], [1.0, 2.0, 3.0]])
    repair = limit_waiting(times, np.array([3, 3]), 0.1)
    assert repair.depth.tolist() == [3, 3]
    assert not repair.limit_met


def test_no_limit_is_no_limit_of_zero():
    with pytest.raises(InputError, match="waiting_limit_s"):
        limit_waiting(np.ones((1, 1)), np.array([1]), 0.0)
