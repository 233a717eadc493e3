"""The formulas of time to accuracy against hand-computed examples and a plain loop."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedquad.config import InputError
from fedquad.report.metrics import (
    average_waiting_time_s,
    common_target,
    smooth,
    time_to_accuracy,
)

ACCURACIES = st.lists(st.integers(0, 20).map(lambda hits: hits / 20), min_size=1, max_size=12)


def test_three_rounds_are_averaged_and_two_at_the_ends():
    assert smooth(np.array([0.2, 0.5, 0.8, 0.2])) == pytest.approx([0.35, 0.5, 0.5, 0.5])
    assert smooth(np.array([0.2, 0.6])) == pytest.approx([0.4, 0.4])
    assert smooth(np.array([0.7])) == pytest.approx([0.7])


@given(ACCURACIES)
def test_smoothing_stays_within_the_curve_and_serves_every_row_alike(accuracy):
    curve = np.array(accuracy)
    smoothed = smooth(np.stack([curve, 1 - curve]))
    assert smoothed[0] == pytest.approx(smooth(curve))
    assert smoothed.sum(axis=0) == pytest.approx(np.ones(len(curve)))
    assert curve.min() - 1e-12 <= smoothed[0].min()
    assert smoothed[0].max() <= curve.max() + 1e-12


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (0.30, 10.0),  # the first round's end counts, nothing before it
        (0.40, 10.0),
        (0.45, 15.0),  # half way from 0.4 to 0.5, from 10 s to 20 s
        (0.50, 20.0),
        (0.60, 55.0),  # the dip after 0.5 is not below what is reached later
        (0.61, np.inf),
    ],
)
def test_time_is_linear_between_the_ends_of_rounds(target, expected):
    time_s = np.array([10.0, 20.0, 30.0, 55.0])
    accuracy = np.array([0.4, 0.5, 0.45, 0.6])
    assert time_to_accuracy(time_s, accuracy, target) == pytest.approx(expected)


def by_loop(time_s, accuracy, target):
    for at, reached in enumerate(accuracy):
        if reached >= target:
            if at == 0:
                return time_s[0]
            share = (target - accuracy[at - 1]) / (reached - accuracy[at - 1])
            return time_s[at - 1] + share * (time_s[at] - time_s[at - 1])
    return float("inf")


@given(ACCURACIES, st.integers(0, 21).map(lambda hits: hits / 20), st.integers(0, 99))
def test_time_equals_a_plain_loop_for_many_curves_at_once(accuracy, target, seed):
    rng = np.random.default_rng(seed)
    curves = np.stack([accuracy, accuracy[::-1], rng.permutation(accuracy)])
    time_s = np.cumsum(rng.uniform(1, 5, curves.shape), axis=1)
    expected = [by_loop(t, a, target) for t, a in zip(time_s, curves, strict=True)]
    assert time_to_accuracy(time_s, curves, target) == pytest.approx(expected)
    # A target of its own for each of two replicates.
    both = time_to_accuracy(time_s[:, None], curves[:, None], np.array([target, 0.0]))
    assert both[:, 0] == pytest.approx(expected)
    assert both[:, 1] == pytest.approx(time_s[:, 0])


@given(st.lists(ACCURACIES.filter(lambda curve: len(curve) >= 3), min_size=1, max_size=5))
def test_the_target_is_the_highest_that_every_curve_reaches(curves):
    curves = np.stack([np.resize(curve, 6) for curve in curves])
    target = common_target(curves)
    assert target == min(max(curve) for curve in curves)
    time_s = np.broadcast_to(np.arange(1.0, 7.0), curves.shape)
    assert np.isfinite(time_to_accuracy(time_s, curves, target)).all()
    above = np.nextafter(target, 2)
    assert not np.isfinite(time_to_accuracy(time_s, curves, above)).all()


def test_waiting_time_is_averaged_over_rounds_then_seeds():
    rounds = pd.DataFrame(
        {
            "method": ["fedra"] * 5 + ["fedquad"],
            "seed": [0, 0, 0, 1, 1, 0],
            # A round without participants has no waiting time.
            "mean_waiting_time_s": [10.0, 20.0, 30.0, 40.0, float("nan"), 7.0],
        }
    )
    waiting_s = average_waiting_time_s(rounds, ["method"])
    assert waiting_s.to_dict() == {"fedra": 30.0, "fedquad": 7.0}
    with pytest.raises(InputError, match="empty"):
        average_waiting_time_s(rounds.iloc[:0], ["method"])
