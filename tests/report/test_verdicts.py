"""Conditions on intervals, and verdicts from two of them."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedquad.report.claims.verdict import (
    Finding,
    above,
    at_least,
    at_most,
    below,
    between,
    both,
    verdict,
    within,
)
from fedquad.report.intervals import Estimate

ANSWERS = (True, False, None)


def estimate(low: float, high: float, num_seeds: int | None = 3) -> Estimate:
    return Estimate((low + high) / 2, low, high, "points", num_seeds)


@given(st.floats(-10, 10), st.floats(0, 5), st.floats(-10, 10))
def test_conditions_mean_the_same_as_checking_every_point(low, width, bound):
    ends = estimate(low, low + width)
    points = [ends.low, ends.value, ends.high]
    for condition, test in (
        (at_least, lambda x: x >= bound),
        (above, lambda x: x > bound),
        (at_most, lambda x: x <= bound),
        (below, lambda x: x < bound),
    ):
        held = [test(point) for point in points]
        expected = True if all(held) else None if any(held) else False
        assert condition(ends, bound) is expected


def test_between_is_undecided_where_the_interval_covers_the_whole_range():
    assert between(estimate(0, 10), 4, 6) is None
    assert between(estimate(4, 6), 4, 6) is True
    assert between(estimate(7, 9), 4, 6) is False
    assert between(estimate(5, 9), 4, 6) is None


def test_within_is_relative_and_includes_its_edge():
    assert within(Estimate.exact(94, "MB"), 100, 6) is True
    assert within(Estimate.exact(93.99, "MB"), 100, 6) is False


@pytest.mark.parametrize(("first", "second"), [*itertools.product(ANSWERS, ANSWERS)])
def test_both_fails_with_either_and_is_undecided_only_without_a_failure(first, second):
    expected = False if False in (first, second) else None if None in (first, second) else True
    assert both(first, second) is expected


@pytest.mark.parametrize(
    ("reproduced", "qualitative", "expected"),
    [
        (True, True, "reproduced"),
        (True, False, "reproduced"),
        (False, True, "qualitatively"),
        (None, True, "qualitatively"),
        (None, False, "inconclusive"),
        (False, None, "inconclusive"),
        (None, None, "inconclusive"),
        (False, False, "not reproduced"),
    ],
)
def test_verdict_of_two_conditions(reproduced, qualitative, expected):
    assert verdict(Finding("gap", estimate(0, 1), reproduced, qualitative)) == expected


@pytest.mark.parametrize(
    ("num_seeds", "expected"),
    [
        (1, "not attempted (1 seed)"),
        (2, "not attempted (2 seeds)"),
        (3, "reproduced"),
        (None, "reproduced"),
    ],
)
def test_trained_findings_need_three_seeds(num_seeds, expected):
    assert verdict(Finding("gap", estimate(1, 2, num_seeds), True, True)) == expected
