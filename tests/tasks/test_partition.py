"""Dirichlet partition: sizes, no row twice, determinism, and its limits."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fedquad.config import InputError
from fedquad.tasks.partition import dirichlet_partition

alphas = st.sampled_from([5e-324, 1e-12, 0.1, 1, 10.0, 1e6, 1e300, math.inf])
label_lists = st.lists(st.sampled_from([0, 1, 2, 7, -3]), min_size=1, max_size=120)


def shares(labels: np.ndarray, shards: list[np.ndarray]) -> np.ndarray:
    """Label shares of each device, (devices, labels)."""
    return np.array([np.bincount(labels[shard], minlength=labels.max() + 1) for shard in shards])


def balanced(num_labels: int, rows: int) -> np.ndarray:
    return np.arange(rows) % num_labels


@settings(deadline=None)
@given(labels=label_lists, num_devices=st.integers(1, 40), alpha=alphas, seed=st.integers(0, 2**63))
def test_every_device_gets_its_rows_and_no_row_twice(labels, num_devices, alpha, seed):
    assume(num_devices <= len(labels))
    shards = dirichlet_partition(labels, num_devices, alpha, seed)
    assert [len(shard) for shard in shards] == [len(labels) // num_devices] * num_devices
    rows = np.concatenate(shards)
    assert len(np.unique(rows)) == len(rows)
    assert rows.min() >= 0
    assert rows.max() < len(labels)
    for shard, again in zip(
        shards, dirichlet_partition(labels, num_devices, alpha, seed), strict=True
    ):
        assert np.issubdtype(shard.dtype, np.integer)
        np.testing.assert_array_equal(shard, again)
        np.testing.assert_array_equal(shard, np.sort(shard))


@settings(deadline=None)
@given(labels=label_lists, num_devices=st.integers(1, 40), seed=st.integers(0, 100))
def test_infinite_alpha_gives_the_prior_up_to_rounding(labels, num_devices, seed):
    assume(num_devices <= len(labels))
    labels = np.array(labels)
    rows = len(labels) // num_devices
    for shard in dirichlet_partition(labels, num_devices, math.inf, seed):
        for label in np.unique(labels):
            expected = rows * (labels == label).mean()
            assert abs((labels[shard] == label).sum() - expected) < 1 + 1 / num_devices + 1e-9


@pytest.mark.parametrize("num_labels", [2, 3, 5])
@pytest.mark.parametrize("seed", range(5))
def test_alpha_to_zero_gives_one_label_a_device(num_labels, seed):
    """Only a device at which a label runs out is mixed, which happens once a label."""
    labels = balanced(num_labels, 1500)
    mixes = shares(labels, dirichlet_partition(labels, 20, 1e-12, seed)) / 75
    assert (mixes.max(axis=1) < 1).sum() <= num_labels - 1


def test_large_alpha_comes_close_to_the_prior():
    """Dir(1e6 p) has a standard deviation of 0.0005; rounding adds 1 row of 500, leftovers few."""
    labels = np.repeat([0, 1, 2], [25_000, 15_000, 10_000])
    mixes = shares(labels, dirichlet_partition(labels, 100, 1e6, 0)) / 500
    np.testing.assert_allclose(mixes, np.tile([0.5, 0.3, 0.2], (100, 1)), atol=0.05)
    assert np.abs(mixes - [0.5, 0.3, 0.2]).mean() < 0.002


def test_spread_is_that_of_the_dirichlet_distribution():
    """Two labels at p = 1/2 and alpha = 10: share ~ Beta(5, 5), standard deviation 0.151.

    Over 2,000 devices it is estimated within 2 % (one sigma); the few devices that get what is
    left add less than 5 %.
    """
    labels = balanced(2, 200_000)
    mixes = shares(labels, dirichlet_partition(labels, 2000, 10, 0))[:, 0] / 100
    assert mixes.mean() == pytest.approx(0.5, abs=0.001)
    assert mixes.std() == pytest.approx(math.sqrt(0.25 / 11), rel=0.1)


def test_mixing_grows_with_alpha():
    labels = balanced(3, 30_000)
    distance = [
        np.abs(shares(labels, dirichlet_partition(labels, 100, alpha, 1)) / 300 - 1 / 3).mean()
        for alpha in (0.01, 0.1, 1, 10, 100, math.inf)
    ]
    assert distance == sorted(distance, reverse=True)
    assert distance[0] > 0.4  # 4/9 is one label a device
    assert distance[-1] == 0


def test_prior_of_unequal_labels_is_kept_on_average():
    labels = np.repeat([0, 1], [9_000, 1_000])
    shards = [dirichlet_partition(labels, 10, 1.0, seed)[3] for seed in range(300)]
    # One device's share has a standard deviation of 0.21; the mean of 300 one of 0.012.
    assert np.mean([(labels[shard] == 1).mean() for shard in shards]) == pytest.approx(
        0.1, abs=0.05
    )


def test_no_device_is_favoured():
    """Devices fill up in random order: the last index does not get the leftovers every time."""
    labels = balanced(2, 400)
    means = np.zeros(4)
    for seed in range(400):
        mixes = shares(labels, dirichlet_partition(labels, 4, 0.5, seed))[:, 0] / 100
        means += np.abs(mixes - 0.5) / 400
    # Mean distance about 0.3, standard deviation of one draw below 0.2: of the mean, 0.01.
    assert np.ptp(means) < 0.05


@pytest.mark.parametrize("alpha", [1e-9, 1.0, math.inf])
def test_one_label_only_and_one_device_only(alpha):
    shards = dirichlet_partition(np.full(10, 4), 3, alpha, 0)
    assert sorted(len(shard) for shard in shards) == [3, 3, 3]
    (everything,) = dirichlet_partition([1, 0, 1, 5], 1, alpha, 0)
    assert everything.tolist() == [0, 1, 2, 3]


def test_seeds_and_rows_within_a_label_differ():
    labels = np.zeros(100, dtype=np.int64)
    first, second = (dirichlet_partition(labels, 2, 1.0, seed)[0] for seed in (0, 1))
    assert set(first) != set(second)
    assert set(first) != set(range(50))


@pytest.mark.parametrize(
    ("field", "arguments"),
    [
        ("num_devices", ([0, 1], 3, 1.0, 0)),
        ("num_devices", (np.arange(0), 1, 1.0, 0)),
        ("num_devices", ([0, 1], 0, 1.0, 0)),
        ("num_devices", ([0, 1], 1.5, 1.0, 0)),
        ("alpha", ([0, 1], 1, 0.0, 0)),
        ("alpha", ([0, 1], 1, -1.0, 0)),
        ("alpha", ([0, 1], 1, math.nan, 0)),
        ("alpha", ([0, 1], 1, "10", 0)),
        ("seed", ([0, 1], 1, 1.0, -1)),
        ("labels", ([[0, 1]], 1, 1.0, 0)),
        ("labels", ([], 1, 1.0, 0)),
        ("labels", ([0.5, 1.0], 1, 1.0, 0)),
    ],
)
def test_bad_input_names_the_field(field, arguments):
    with pytest.raises(InputError) as caught:
        dirichlet_partition(*arguments)
    assert caught.value.field == field
