from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedquad.config import InputError
from fedquad.training.local import cosine_rate, row_order
from fedquad.training.schedule import step_seed

SEEDS = st.integers(0, 2**40)


def test_the_rate_falls_along_half_a_cosine():
    rates = [cosine_rate(step, 100, 1e-3) for step in range(101)]
    assert rates[0] == 1e-3
    assert rates[50] == pytest.approx(5e-4)
    assert rates[25] == pytest.approx(1e-3 * (2 + 2**0.5) / 4)
    assert rates[100] == pytest.approx(0, abs=1e-12)
    assert all(a > b for a, b in pairwise(rates))


@given(st.integers(1, 200), st.integers(1, 40), SEEDS)
def test_an_epoch_has_no_row_twice_and_drops_less_than_a_batch(num_rows, batch_size, seed):
    steps = max(1, num_rows // batch_size)
    epochs = [
        [row_order(num_rows, batch_size, seed, epoch * steps + i) for i in range(steps)]
        for epoch in range(2)
    ]
    for batches in epochs:
        assert {len(batch) for batch in batches} == {min(batch_size, num_rows)}
        rows = np.concatenate(batches)
        assert len(set(rows)) == len(rows) > num_rows - max(batch_size, 1)
        assert set(rows) <= set(range(num_rows))


@given(SEEDS, st.integers(0, 10_000))
def test_a_step_needs_nothing_but_seed_and_number(seed, step):
    rows = row_order(100, 8, seed, step).copy()
    row_order(100, 8, seed + 1, 0)
    row_order(50, 8, seed, 5)
    assert (row_order(100, 8, seed, step) == rows).all()
    assert (row_order(100, 8, (seed,), step) == rows).all()


def test_epochs_seeds_and_devices_are_shuffled_differently():
    orders = {
        tuple(row_order(64, 64, seed, step))
        for seed in (0, 1, (0, 1), (0, 1, 2))
        for step in (0, 1)
    }
    assert len(orders) == 8
    assert tuple(range(64)) not in orders
    seeds = {step_seed(seed, step) for seed in (0, 1, (0, 1)) for step in range(100)}
    assert len(seeds) == 300


def test_every_row_is_trained_on_in_the_long_run():
    seen = np.zeros(70, dtype=int)
    for step in range(200):
        seen[row_order(70, 32, 0, step)] += 1
    assert seen.min() > 50


def test_no_rows_are_an_error():
    with pytest.raises(InputError, match="num_rows"):
        row_order(0, 8, 0, 0)
