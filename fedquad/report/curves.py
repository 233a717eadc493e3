"""Accuracy over simulated time, averaged over seeds, with a bootstrap of whole curves."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import pandas as pd

from fedquad.config import InputError, require_int
from fedquad.report.intervals import decode_correct, resample
from fedquad.report.metrics import smooth

NUM_REPLICATES = 2000


class AccuracyCurves:
    """Curves of one task under several methods (and levels of heterogeneity).

    Seeds differ in their times too. A curve is averaged over them round by
    round: accuracy and time at the end of round h are the seeds' means at the
    end of round h. The accuracy is then smoothed (`fedquad.report.metrics.smooth`).

    A replicate of the bootstrap draws seeds and, independently, test items with
    replacement (see `fedquad.report.intervals.Bootstrap`), once for all curves
    and rounds, and averages and smooths again: whatever is computed from
    replicates is paired.

    Parameters
    ----------
    correct : np.ndarray
        Booleans of shape ``(groups, seeds, rounds, items)``.
    time_s : np.ndarray
        End of each round, shape ``(groups, seeds, rounds)``.
    groups : tuple
        A name for each row of the first axis.
    num_replicates : int
        At least 2000.

    Attributes
    ----------
    time_s, accuracy : np.ndarray
        The curves, shape ``(groups, rounds)``; accuracy is a fraction.
    """

    def __init__(
        self,
        correct: np.ndarray,
        time_s: np.ndarray,
        groups: tuple,
        *,
        num_replicates: int = NUM_REPLICATES,
    ) -> None:
        require_int("num_replicates", num_replicates, 2000)
        if correct.ndim != 4 or correct.shape[0] != len(groups) or 0 in correct.shape:
            accepted = f"({len(groups)}, seeds, rounds, items), none of them 0"
            raise InputError("correct.shape", correct.shape, accepted)
        if time_s.shape != correct.shape[:3]:
            raise InputError("time_s.shape", time_s.shape, f"{correct.shape[:3]}, as `correct`")
        self.groups = tuple(groups)
        self.num_seeds, self.num_rounds = correct.shape[1:3]
        self.time_s = time_s.mean(axis=1)
        self.accuracy = smooth(correct.mean(axis=(1, 3)))
        self._correct, self._time_s, self._num_replicates = correct, time_s, num_replicates

    @classmethod
    def from_frame(cls, df: pd.DataFrame, by: Sequence[str]) -> AccuracyCurves:
        """Curves of the runs of one task; groups are tuples of the values of ``by``.

        Parameters
        ----------
        df : DataFrame
            Columns ``by``, ``seed``, ``round`` (from 1), ``sim_time_s``,
            ``num_eval``, ``correct`` (hexadecimal): one row per run and round.
        by : sequence of str
            Columns that name the group.

        Raises
        ------
        InputError
            When a group lacks a seed or a round that another has, one is there
            twice, or the runs were evaluated on different numbers of items.
        """
        if df["num_eval"].nunique() != 1:
            raise InputError("num_eval", sorted(set(df["num_eval"])), "one number for all runs")
        keys = [*by, "seed", "round"]
        if df.duplicated(keys).any():
            twice = df.loc[df.duplicated(keys), keys].to_dict("records")[0]
            raise InputError("rounds", twice, f"each of ({', '.join(keys)}) once")
        groups = list(df[list(by)].drop_duplicates().itertuples(index=False, name=None))
        seeds, last_round = sorted(df["seed"].unique()), int(df["round"].max())
        shape = (len(groups), len(seeds), last_round)
        index = pd.MultiIndex.from_tuples(
            [(*g, s, h) for g in groups for s in seeds for h in range(1, last_round + 1)],
            names=keys,
        )
        rows = df.set_index(keys)
        missing = index[~index.isin(rows.index)]
        if len(missing):
            raise InputError(f"rounds, as ({', '.join(keys)})", missing[0], "there for every group")
        rows = rows.loc[index]
        num_eval = int(df["num_eval"].iloc[0])
        answers = np.array([decode_correct(packed, num_eval) for packed in rows["correct"]])
        correct = answers.reshape(*shape, num_eval)
        return cls(correct, rows["sim_time_s"].to_numpy(float).reshape(shape), tuple(groups))

    def row(self, group: object) -> int:
        """Position of a group; `InputError` for one that is not there."""
        if group not in self.groups:
            raise InputError("group", group, "one of " + ", ".join(map(str, self.groups)))
        return self.groups.index(group)

    def accuracy_by_seed(self, group: object) -> np.ndarray:
        """The smoothed curve of each seed alone, shape ``(seeds, rounds)``."""
        return smooth(self._correct[self.row(group)].mean(axis=-1))

    @cached_property
    def replicates(self) -> tuple[np.ndarray, np.ndarray]:
        """Times and smoothed accuracies of the drawn curves, ``(groups, replicates, rounds)``."""
        num_groups, num_seeds, num_rounds, num_items = self._correct.shape
        # The accuracies of every round are groups of their own: one product serves all.
        by_round = self._correct.transpose(0, 2, 1, 3).reshape(-1, num_seeds, num_items)
        drawn, seed_weights = resample(by_round, self._num_replicates)
        drawn = drawn.reshape(num_groups, num_rounds, -1).transpose(0, 2, 1)
        time_s = np.einsum("bs,gsh->gbh", seed_weights / num_seeds, self._time_s)
        return time_s, smooth(drawn)
