"""What the paper measures: accuracy over simulated time, time to accuracy, waiting time.

Everything here is one formula on arrays; which runs it is applied to, and its
intervals, are `fedquad.report.curves` and `fedquad.report.time_to_accuracy`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from fedquad.config import InputError

ABLATION_METHODS = ("fedquad", "fedquad-no-qd", "fedquad-no-ld")


def smooth(accuracy: np.ndarray) -> np.ndarray:
    """Centred moving average over three rounds; over two at the first and the last one.

    A single round is up to a few points off its neighbours, and the first
    lucky one would decide when a target counts as reached.

    Parameters
    ----------
    accuracy : np.ndarray
        Shape ``(..., rounds)``.

    Returns
    -------
    np.ndarray
        Of the same shape; a curve of one round is left as it is.
    """
    total = np.array(accuracy, dtype=float)
    count = np.ones(total.shape[-1])
    total[..., 1:] += accuracy[..., :-1]
    total[..., :-1] += accuracy[..., 1:]
    count[1:] += 1
    count[:-1] += 1
    return total / count


def time_to_accuracy(
    time_s: np.ndarray, accuracy: np.ndarray, target: np.ndarray | float
) -> np.ndarray:
    """First time at which a curve reaches a target, linear between the ends of two rounds.

    The model before the first round has no accuracy: nothing is interpolated
    from there, and a target that the first round reaches is reached at its end.

    Parameters
    ----------
    time_s : np.ndarray
        End of each round on the virtual clock, shape ``(..., rounds)``.
    accuracy : np.ndarray
        Of the curve, smoothed, in the same shape.
    target : np.ndarray or float
        In the unit of ``accuracy``, shape ``(...)``.

    Returns
    -------
    np.ndarray
        Seconds, shape ``(...)``; infinite where the target is never reached.
    """
    target = np.asarray(target, dtype=float)
    reached = accuracy >= target[..., None]
    after = reached.argmax(axis=-1)[..., None]
    before = np.maximum(after - 1, 0)
    (early_s, late_s), (low, high) = (
        [np.take_along_axis(values, at, axis=-1)[..., 0] for at in (before, after)]
        for values in np.broadcast_arrays(time_s, accuracy)
    )
    rise = high - low
    # Nothing rises when the first round reaches it: both ends are that round's.
    share = np.divide(target - low, rise, out=np.ones_like(rise), where=rise > 0)
    return np.where(reached.any(axis=-1), early_s + share * (late_s - early_s), np.inf)


def common_target(accuracy: np.ndarray) -> np.ndarray:
    """The paper's target: the highest accuracy that every compared curve reaches.

    Parameters
    ----------
    accuracy : np.ndarray
        Smoothed curves, shape ``(curves, ..., rounds)``.

    Returns
    -------
    np.ndarray
        The smallest of the curves' largest values, shape ``(...)``.
    """
    return np.asarray(accuracy).max(axis=-1).min(axis=0)


def average_waiting_time_s(rounds: pd.DataFrame, by: Sequence[str]) -> pd.Series:
    """The paper's average waiting time: the mean of w_h (Eq. 13) over the rounds of a run.

    A round that nobody took part in has no waiting time and is left out.

    Parameters
    ----------
    rounds : DataFrame
        With ``seed`` and ``mean_waiting_time_s``, one row per run and round.
    by : sequence of str
        Columns that name the runs whose seeds are averaged.

    Returns
    -------
    Series
        Seconds by ``by``: the mean over rounds, then over seeds.
    """
    if rounds.empty:
        raise InputError("rounds", "an empty frame", "at least one round")
    of_runs = rounds.groupby([*by, "seed"], sort=False)["mean_waiting_time_s"].mean()
    return of_runs.groupby(list(by), sort=False).mean()
