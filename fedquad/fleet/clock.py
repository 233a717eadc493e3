"""The virtual clock: how long a round takes, and how long its devices wait."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property

import numpy as np

from fedquad.config import InputError, require_int

# One epoch of a hundredth of the training rows at batch 32; also for the micro-world's namesakes.
PAPER_LOCAL_STEPS = {"mnli": 123, "qqp": 114, "qnli": 33, "sst2": 22}


class RoundTimes:
    """Completion and waiting times of one synchronous round (Eqs. 12 to 14).

    A round without participants costs no time. Sums are rounded once, so that
    they do not depend on the order of the devices.

    Parameters
    ----------
    completion_time_s : array_like of float, shape (n,)
        t_i of the devices that take part.

    Raises
    ------
    InputError
        A time that is negative or not finite.
    """

    def __init__(self, completion_time_s: Sequence[float] | np.ndarray) -> None:
        times = np.array(completion_time_s, dtype=np.float64)
        if times.ndim != 1 or not np.isfinite(times).all() or (times < 0).any():
            accepted = "one finite number of seconds >= 0 a device"
            raise InputError("completion_time_s", times, accepted)
        times.flags.writeable = False
        self.completion_time_s = times

    @cached_property
    def round_time_s(self) -> float:
        """t_h: that of the slowest device."""
        return float(self.completion_time_s.max(initial=0.0))

    @cached_property
    def mean_completion_time_s(self) -> float | None:
        """t_avg; None without participants."""
        return _mean(self.completion_time_s) if len(self.completion_time_s) else None

    @cached_property
    def waiting_time_s(self) -> np.ndarray:
        """t_h - t_i of every device, shape (n,)."""
        return self.round_time_s - self.completion_time_s

    @cached_property
    def mean_waiting_time_s(self) -> float:
        """w_h of Eq. 13."""
        return _mean(self.waiting_time_s) if len(self.completion_time_s) else 0.0


def _mean(times_s: np.ndarray) -> float:
    return math.fsum(times_s) / len(times_s)


def clock_local_steps(task: str, rows_per_device: int, batch_size: int = 32) -> int:
    """Local steps of a round on the clock: one epoch of a device's rows.

    Parameters
    ----------
    task : str
        For GLUE's tasks and the micro-world's namesakes, the paper's steps: its
        100 devices share the whole of GLUE, whatever is trained here.
    rows_per_device : int
        Of any other task.
    batch_size : int
        Rows a step; the last one of an epoch may have fewer.
    """
    require_int("rows_per_device", rows_per_device, 1)
    require_int("batch_size", batch_size, 1)
    steps = math.ceil(rows_per_device / batch_size)
    return PAPER_LOCAL_STEPS.get(task.removeprefix("micro-"), steps)
