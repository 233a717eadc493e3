import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedquad.config import InputError
from fedquad.fleet.clock import RoundTimes, clock_local_steps

times = st.lists(st.floats(0, 1e9), min_size=1, max_size=30)


def test_a_round_by_hand():
    round_times = RoundTimes([10.0, 4.0, 7.0])
    assert round_times.round_time_s == 10
    assert round_times.mean_completion_time_s == 7
    assert round_times.waiting_time_s.tolist() == [0, 6, 3]
    assert round_times.mean_waiting_time_s == 3


def test_a_round_without_participants_costs_no_time():
    round_times = RoundTimes([])
    assert round_times.round_time_s == 0
    assert round_times.mean_completion_time_s is None
    assert round_times.waiting_time_s.shape == (0,)
    assert round_times.mean_waiting_time_s == 0


@given(times)
def test_somebody_waits_for_nobody_and_nobody_less(completion_times):
    round_times = RoundTimes(completion_times)
    waiting = round_times.waiting_time_s
    assert waiting.min() == 0
    slowest, mean = round_times.round_time_s, round_times.mean_completion_time_s
    assert slowest == max(completion_times)
    assert round_times.mean_waiting_time_s == pytest.approx(slowest - mean, abs=1e-6)


@given(times, st.randoms())
def test_means_do_not_depend_on_the_order_of_the_devices(completion_times, random):
    shuffled = random.sample(completion_times, len(completion_times))
    one, other = RoundTimes(completion_times), RoundTimes(np.array(shuffled))
    assert one.mean_completion_time_s == other.mean_completion_time_s
    assert one.mean_waiting_time_s == other.mean_waiting_time_s


def test_times_are_the_clocks_own():
    mine = np.array([1.0, 2.0])
    round_times = RoundTimes(mine)
    mine[1] = 50
    assert round_times.round_time_s == 2
    with pytest.raises(ValueError, match="read-only"):
        round_times.completion_time_s[0] = 3


@pytest.mark.parametrize("bad", [[1.0, -1.0], [math.nan], [math.inf], [[1.0]], 3.0])
def test_times_that_are_none_are_refused(bad):
    with pytest.raises(InputError, match="completion_time_s"):
        RoundTimes(bad)


@pytest.mark.parametrize(
    ("task", "rows", "steps"),
    [("mnli", 392_702, 123), ("qqp", 363_846, 114), ("qnli", 104_743, 33), ("sst2", 67_349, 22)],
)
def test_the_papers_steps_are_an_epoch_of_a_hundredth_of_the_rows(task, rows, steps):
    assert clock_local_steps(task, 1) == clock_local_steps(f"micro-{task}", 10**6) == steps
    assert clock_local_steps("another task with as many rows", rows // 100) == steps


def test_other_tasks_take_an_epoch_of_what_a_device_has():
    assert clock_local_steps("own", 1) == 1
    assert clock_local_steps("own", 64) == 2
    assert clock_local_steps("own", 65) == 3
    assert clock_local_steps("own", 65, batch_size=8) == 9
    with pytest.raises(InputError, match="rows_per_device"):
        clock_local_steps("own", 0)
    with pytest.raises(InputError, match="batch_size"):
        clock_local_steps("own", 64, 0)
