"""Seed-averaged curves and their bootstrap, and times to a common target from them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from synthetic_curves import CURVES, FIVE, Curve, make_rounds

from fedquad.config import InputError
from fedquad.report.curves import AccuracyCurves
from fedquad.report.metrics import common_target, smooth, time_to_accuracy
from fedquad.report.time_to_accuracy import TimeToAccuracy, compare

BY = ("heterogeneity", "method")
FIVE_CURVES = {name: CURVES[name] for name in FIVE}


def random_curves(num_groups=3, num_seeds=3, num_rounds=5, num_items=120, seed=0):
    rng = np.random.default_rng(seed)
    rates = np.linspace(0.4, 0.7, num_rounds) + rng.uniform(-0.05, 0.05, (num_groups, num_seeds, 1))
    correct = rng.random((num_groups, num_seeds, num_rounds, num_items)) < rates[..., None]
    time_s = np.cumsum(rng.uniform(5, 15, (num_groups, num_seeds, num_rounds)), axis=-1)
    return correct, time_s


def test_seeds_are_averaged_round_by_round():
    correct = np.zeros((1, 2, 3, 4), dtype=bool)
    correct[0, 0, :, :1] = True  # 25 % in every round
    correct[0, 1, 2] = True  # 0, 0, 100 %
    time_s = np.array([[[10.0, 20.0, 30.0], [20.0, 40.0, 70.0]]])
    curves = AccuracyCurves(correct, time_s, ("a",))
    assert curves.time_s[0] == pytest.approx([15, 30, 50])
    assert curves.accuracy[0] == pytest.approx(smooth(np.array([0.125, 0.125, 0.625])))
    assert curves.accuracy_by_seed("a")[1] == pytest.approx([0, 1 / 3, 0.5])


def test_replicates_spread_like_a_plain_loop():
    correct, time_s = random_curves()
    curves = AccuracyCurves(correct, time_s, ("a", "b", "c"))
    times = TimeToAccuracy(curves)
    rng = np.random.default_rng(5)
    naive = []
    for _ in range(2000):
        seeds, items = rng.integers(3, size=3), rng.integers(120, size=120)
        accuracy = smooth(correct[:, seeds][..., items].mean(axis=(1, 3)))
        reached_s = time_to_accuracy(
            time_s[:, seeds].mean(axis=1), accuracy, common_target(accuracy)
        )
        naive.append([accuracy[0, -1], *reached_s])
    naive = np.array(naive).T
    drawn_s, accuracy = curves.replicates
    assert drawn_s.shape == accuracy.shape == (3, 2000, 5)
    last = accuracy[0, :, -1]
    assert last.mean() == pytest.approx(naive[0].mean(), abs=0.005)
    assert last.std() == pytest.approx(naive[0].std(), rel=0.08)
    for row, group in enumerate("abc"):
        low, high = np.quantile(naive[1 + row], [0.025, 0.975])
        estimate = times.time_s(group)
        assert estimate.low == pytest.approx(low, abs=0.1 * (high - low) + 0.5)
        assert estimate.high == pytest.approx(high, abs=0.1 * (high - low) + 0.5)


def test_the_same_answers_in_twice_the_time_are_exactly_half_as_fast():
    correct, time_s = random_curves(num_groups=1)
    curves = AccuracyCurves(
        np.repeat(correct, 2, axis=0), np.concatenate([time_s, 2 * time_s]), ("fast", "slow")
    )
    speedup = TimeToAccuracy(curves).speedup("slow", fast="fast")
    assert (speedup.low, speedup.value, speedup.high) == pytest.approx((2, 2, 2))
    assert speedup.num_seeds == 3


def test_every_replicate_of_the_rule_reaches_its_target_and_an_outsider_may_not():
    correct, time_s = random_curves(num_groups=3, num_rounds=8)
    correct[2] = correct[2] & (np.arange(correct.shape[-1]) < 20)  # never above 17 %
    curves = AccuracyCurves(correct, time_s, ("a", "b", "hopeless"))
    times = TimeToAccuracy(curves, rule=("a", "b"))
    for group in ("a", "b"):
        estimate = times.time_s(group)
        assert 0 < estimate.low <= estimate.high < np.inf
    outsider = times.time_s("hopeless")
    assert (outsider.low, outsider.value, outsider.high) == (np.inf,) * 3
    assert times.speedup("hopeless", fast="a").value == np.inf
    # In the rule it lowers the target to what it can reach.
    lowered = TimeToAccuracy(curves)
    assert lowered.target.value < times.target.value
    assert np.isfinite(lowered.time_s("hopeless").high)


def test_a_growth_of_speedups_is_a_product_of_four_times():
    correct, time_s = random_curves(num_groups=4)
    times = TimeToAccuracy(AccuracyCurves(correct, time_s, tuple("abcd")))
    growth = times.product({"a": 1, "b": -1, "c": -1, "d": 1})
    one, other = times.speedup("a", fast="b"), times.speedup("c", fast="d")
    assert growth.value == pytest.approx(one.value / other.value)
    assert times.speedup("a", fast="a").low == 1


def test_the_sweep_agrees_with_the_times_at_the_common_target():
    rounds, _ = make_rounds(FIVE_CURVES)
    times = compare(rounds, task="micro-mnli", methods=FIVE)
    group, fast = ("high", "hetlora"), ("high", "fedquad")
    curves = times.curves
    target = common_target(curves.accuracy)
    sweep = times.speedups_at([0.5, target, 0.79, 0.9], group, fast=fast)
    # HetLoRA ends at 78 %: what it never reaches is left out.
    assert list(sweep["target_percent"]) == pytest.approx([50, 100 * target])
    assert sweep["speedup"].iloc[1] == pytest.approx(times.speedup(group, fast=fast).value)
    known = sweep.dropna()
    assert (known["low"] <= known["speedup"]).all()
    assert (known["speedup"] <= known["high"]).all()


def test_ends_of_the_sweep_are_empty_where_too_few_replicates_reach_the_target():
    rounds, _ = make_rounds({"fedquad": CURVES["fedquad"], "fedra": CURVES["fedra"]})
    times = compare(rounds, task="micro-mnli", methods=("fedquad", "fedra"))
    best = times.curves.accuracy[times.curves.row(("high", "fedra"))].max()
    sweep = times.speedups_at([best], ("high", "fedra"), fast=("high", "fedquad"))
    assert np.isfinite(sweep["speedup"]).all()
    assert sweep[["low", "high"]].isna().all(axis=None)


def test_the_target_spans_the_levels_that_have_every_method_and_seed():
    rounds, _ = make_rounds(FIVE_CURVES)
    poor = FIVE_CURVES | {"fedra": Curve(0.55, 0.2, 900.0)}
    low, _ = make_rounds(poor, heterogeneity="low")
    alone = compare(rounds, task="micro-mnli", methods=FIVE)

    def with_low(part):
        return compare(pd.concat([rounds, part]), task="micro-mnli", methods=FIVE)

    spanned = with_low(low)
    assert spanned.target.value < alone.target.value
    assert spanned.time_s(("high", "fedra")).value < alone.time_s(("high", "fedra")).value
    for incomplete in (low[low["method"] != "hetlora"], low[low["seed"] < 2]):
        ignored = with_low(incomplete)
        assert ignored.target == alone.target
        assert ("low", "fedra") not in ignored.curves.groups


def test_only_seeds_that_every_method_has_are_compared():
    rounds, _ = make_rounds(FIVE_CURVES)
    cut = rounds[(rounds["method"] != "layersel") | (rounds["seed"] != 1)]
    assert compare(cut, task="micro-mnli", methods=FIVE).num_seeds == 2
    none = cut[(cut["method"] != "fedra") | (cut["seed"] == 1)]
    with pytest.raises(InputError, match="a seed of every method"):
        compare(none, task="micro-mnli", methods=FIVE)
    without = rounds[rounds["method"] != "fedra"]
    assert ("high", "fedra") not in compare(without, task="micro-mnli", methods=FIVE).curves.groups


@pytest.mark.parametrize(
    ("edit", "match"),
    [
        (lambda df: df[(df["round"] != 4) | (df["seed"] != 1)], "there for every group"),
        (lambda df: df[df["method"] != "fedra"].iloc[[0, 0]], "once"),
        (lambda df: df.assign(num_eval=df["seed"] + 400), "one number"),
        (lambda df: df.assign(correct="00"), "bytes"),
    ],
)
def test_incomplete_or_contradictory_rounds_are_refused(edit, match):
    rounds, _ = make_rounds(FIVE_CURVES)
    with pytest.raises(InputError, match=match):
        AccuracyCurves.from_frame(edit(rounds), BY)


def test_arrays_of_other_shapes_and_unknown_groups_are_refused():
    correct, time_s = random_curves()
    with pytest.raises(InputError, match=r"correct\.shape"):
        AccuracyCurves(correct, time_s, ("a", "b"))
    with pytest.raises(InputError, match=r"time_s\.shape"):
        AccuracyCurves(correct, time_s[:, :, :-1], ("a", "b", "c"))
    with pytest.raises(InputError, match="num_replicates"):
        AccuracyCurves(correct, time_s, ("a", "b", "c"), num_replicates=10)
    with pytest.raises(InputError, match="group"):
        AccuracyCurves(correct, time_s, ("a", "b", "c")).row("d")
    with pytest.raises(InputError, match="rule"):
        TimeToAccuracy(AccuracyCurves(correct, time_s, ("a", "b", "c")), rule=())
