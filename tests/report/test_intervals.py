"""The bootstrap against closed forms, brute force and simulation."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedquad.config import InputError
from fedquad.report.intervals import Bootstrap, decode_correct, interval


@given(st.lists(st.booleans(), min_size=1, max_size=100))
def test_packed_answers_come_back(answers):
    packed = np.packbits(answers).tobytes().hex()
    assert decode_correct(packed, len(answers)).tolist() == answers


@pytest.mark.parametrize(("packed", "num_eval"), [("ff", 9), ("ffff", 8), ("xyz", 8), (1.5, 8)])
def test_answers_of_another_length_or_alphabet_are_refused(packed, num_eval):
    with pytest.raises(InputError, match="correct"):
        decode_correct(packed, num_eval)


@pytest.mark.parametrize("accuracy", [0.3, 0.7, 0.9])
def test_one_seed_gives_the_binomial_interval_of_the_test_set(accuracy):
    num_items = 1000
    correct = (np.arange(num_items) < accuracy * num_items)[None, None]
    estimate = Bootstrap(correct, ("a",)).estimate("a")
    half_width = 100 * 1.96 * np.sqrt(accuracy * (1 - accuracy) / num_items)
    assert estimate.value == pytest.approx(100 * accuracy)
    assert estimate.low == pytest.approx(100 * accuracy - half_width, abs=0.15 * half_width)
    assert estimate.high == pytest.approx(100 * accuracy + half_width, abs=0.15 * half_width)
    assert estimate.num_seeds == 1


def test_replicates_spread_like_a_plain_loop():
    rng = np.random.default_rng(3)
    rates = np.array([[0.55, 0.65, 0.75], [0.5, 0.7, 0.6]])
    correct = rng.random((2, 3, 150)) < rates[..., None]
    bootstrap = Bootstrap(correct, ("a", "b"))
    naive = []
    for _ in range(3000):
        seeds, items = rng.integers(3, size=3), rng.integers(150, size=150)
        naive.append(correct[:, seeds][:, :, items].mean(axis=(1, 2)))
    naive = np.array(naive).T
    for row, group in enumerate(("a", "b")):
        replicates = bootstrap.replicates(group)
        assert replicates.mean() == pytest.approx(naive[row].mean(), abs=0.005)
        assert replicates.std() == pytest.approx(naive[row].std(), rel=0.06)
    difference = bootstrap.replicates("a") - bootstrap.replicates("b")
    assert difference.std() == pytest.approx((naive[0] - naive[1]).std(), rel=0.06)


def test_equal_answers_differ_by_exactly_nothing():
    correct = np.random.default_rng(0).random((1, 3, 200)) < 0.6
    bootstrap = Bootstrap(np.repeat(correct, 2, axis=0), ("a", "b"))
    gap = bootstrap.contrast({"a": 1, "b": -1})
    assert (gap.value, gap.low, gap.high) == (0, 0, 0)


def test_pairing_narrows_the_interval_of_a_difference():
    difficulty = np.random.default_rng(1).random(500)
    correct = np.stack([difficulty < 0.7, difficulty < 0.68])[:, None]
    bootstrap = Bootstrap(correct, ("a", "b"))
    gap = bootstrap.contrast({"a": 1, "b": -1})
    alone = bootstrap.estimate("a")
    assert gap.low > 0
    assert gap.high - gap.low < 0.5 * (alone.high - alone.low)


def test_seeds_that_differ_widen_the_interval():
    items = np.arange(400)
    apart = np.stack([items < 200, items < 280, items < 360])[None]
    alike = np.stack([items < 280] * 3)[None]
    wide, narrow = (Bootstrap(correct, ("a",)).estimate("a") for correct in (apart, alike))
    assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)


def test_the_same_answers_give_the_same_interval():
    correct = np.random.default_rng(5).random((2, 3, 300)) < 0.5
    first, second = (Bootstrap(correct, ("a", "b")).estimate("a") for _ in range(2))
    assert first == second


def test_memory_bound_does_not_change_the_result(monkeypatch):
    correct = np.random.default_rng(6).random((2, 2, 50)) < 0.5
    whole = Bootstrap(correct, ("a", "b")).replicates("b")
    monkeypatch.setattr("fedquad.report.intervals.MAX_CHUNK_ENTRIES", 50 * 777)
    assert np.array_equal(whole, Bootstrap(correct, ("a", "b")).replicates("b"))


def test_ratio_of_two_gains():
    items = np.arange(1000)
    correct = np.stack([items < 500, items < 700, items < 720])[:, None]
    ratio = Bootstrap(correct, (1, 8, 12)).ratio({12: 1, 8: -1}, {8: 1, 1: -1})
    assert ratio.value == pytest.approx(10)
    assert 3 < ratio.low < 10 < ratio.high < 20


@pytest.mark.parametrize(("num_seeds", "seed_spread"), [(1, 0.0), (3, 0.0), (3, 0.015), (5, 0.015)])
def test_coverage_is_near_nominal(num_seeds, seed_spread):
    """95 % intervals hold the mean accuracy in at least 88 % of simulated experiments.

    Seeds and items are crossed, so with little spread between seeds the
    interval is on the safe side.
    """
    rng = np.random.default_rng(11)
    covered = paired = 0
    trials, num_items = 120, 300
    for _ in range(trials):
        rates = 0.7 + 0.2 * np.tanh(rng.normal(size=num_items))
        shift = rng.normal(0, seed_spread, (2, num_seeds, 1)) - [[[0.0]], [[0.05]]]
        correct = rng.random((2, num_seeds, num_items)) < np.clip(rates + shift, 0, 1)
        bootstrap = Bootstrap(correct, ("a", "b"), num_replicates=2000)
        estimate, gap = bootstrap.estimate("a"), bootstrap.contrast({"a": 1, "b": -1})
        covered += estimate.low <= 70 <= estimate.high
        paired += gap.low <= 5 <= gap.high
    assert covered >= 0.88 * trials
    assert paired >= 0.88 * trials


@settings(max_examples=30)
@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=50))
def test_interval_lies_within_its_values(values):
    low, high = interval(np.array(values))
    assert min(values) - 1e-9 <= low <= high <= max(values) + 1e-9


def test_frame_with_a_missing_run_is_refused_by_name(runs_of):
    df = runs_of({(0,): 0.5, (1,): 0.6}, seeds=3).iloc[:-1]
    with pytest.raises(InputError, match=r"\('1', 2\)"):
        Bootstrap.from_frame(df, "layers")


def test_frame_with_a_run_twice_is_refused(runs_of):
    df = runs_of({(0,): 0.5}, seeds=2)
    with pytest.raises(InputError, match="once"):
        Bootstrap.from_frame(pd.concat([df, df.iloc[:1]]), "layers")


def test_runs_on_different_test_sets_are_refused(runs_of):
    df = pd.concat([runs_of({(0,): 0.5}, 2), runs_of({(1,): 0.5}, 2, num_eval=80)])
    with pytest.raises(InputError, match="num_eval"):
        Bootstrap.from_frame(df, "layers")


def test_too_few_replicates_are_refused():
    with pytest.raises(InputError, match="num_replicates"):
        Bootstrap(np.ones((1, 1, 4), bool), ("a",), num_replicates=100)
