"""Time to a common accuracy and what follows from it, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from fedquad.config import InputError
from fedquad.config.federated import HETEROGENEITY_LEVELS
from fedquad.report.curves import AccuracyCurves
from fedquad.report.intervals import CONFIDENCE, Estimate
from fedquad.report.metrics import common_target, time_to_accuracy

# The setting of the paper's main results, and of every figure that names no other.
LEVEL = "high"
THROUGHPUT_MODEL = "fp16"
REFERENCE_MODEL = "roberta-large"

Group = tuple[str, str]
"""Level of heterogeneity and method."""


class TimeToAccuracy:
    """Times at which curves reach the highest accuracy that all of them reach.

    Every replicate of the bootstrap has a target of its own, so that every
    curve of the rule reaches it there too.

    Parameters
    ----------
    curves : AccuracyCurves
    rule : sequence, optional
        The groups that set the target; all by default. A group outside of it may
        never reach the target: its time is then infinite.
    """

    def __init__(self, curves: AccuracyCurves, rule: Sequence[object] | None = None) -> None:
        self.curves = curves
        rows = [curves.row(group) for group in (curves.groups if rule is None else rule)]
        if not rows:
            raise InputError("rule", "no group", "at least one")
        time_s, accuracy = curves.replicates
        targets = common_target(accuracy[rows])
        self._target = float(common_target(curves.accuracy[rows]))
        self.target = _estimate(100 * self._target, 100 * targets, "percent", curves.num_seeds)
        self._times_s = time_to_accuracy(time_s, accuracy, targets)
        self._time_s = time_to_accuracy(curves.time_s, curves.accuracy, self._target)

    @property
    def num_seeds(self) -> int:
        """Seeds behind every estimate."""
        return self.curves.num_seeds

    def time_s(self, group: object) -> Estimate:
        """Seconds on the virtual clock until the group reaches the target."""
        return self.product({group: 1}, unit="s")

    def speedup(self, group: object, *, fast: object) -> Estimate:
        """Time of ``group`` over the time of ``fast``: how many times as fast that is."""
        if group == fast:
            return Estimate(1.0, 1.0, 1.0, "x", self.num_seeds)
        return self.product({group: 1, fast: -1})

    def product(self, exponents: Mapping[object, int], unit: str = "x") -> Estimate:
        """Product of times to the target, each to a power, with its paired interval.

        ``{a: 1, b: -1}`` is a speed-up; a speed-up over another one has four entries.
        """
        rows = [self.curves.row(group) for group in exponents]
        powers = np.array(list(exponents.values()), dtype=float)
        # Infinity over infinity is no number; it can only come from outside the rule.
        with np.errstate(divide="ignore", invalid="ignore"):
            value = np.prod(self._time_s[rows] ** powers)
            values = np.prod(self._times_s[rows] ** powers[:, None], axis=0)
        return _estimate(value, values, unit, self.num_seeds)

    def rounds(self, group: object) -> float:
        """Rounds until the group reaches the target, at the point estimate."""
        row = self.curves.row(group)
        numbers = np.arange(1, self.curves.num_rounds + 1)
        return float(time_to_accuracy(numbers, self.curves.accuracy[row], self._target))

    def final_accuracy(self, group: object) -> Estimate:
        """Table IV's final accuracy: the last point of the smoothed curve, in percent."""
        return self.final_contrast({group: 1.0}, unit="percent")

    def final_contrast(self, weights: Mapping[object, float], unit: str = "points") -> Estimate:
        """A weighted sum of final accuracies, times 100, with its paired interval."""
        rows = [self.curves.row(group) for group in weights]
        factors = 100 * np.array(list(weights.values()))
        value = factors @ self.curves.accuracy[rows, -1]
        values = factors @ self.curves.replicates[1][rows, :, -1]
        return _estimate(value, values, unit, self.num_seeds)

    def speedups_at(self, targets: Sequence[float], group: object, *, fast: object) -> pd.DataFrame:
        """Speed-up against the target accuracy, which is then the same in all replicates.

        Parameters
        ----------
        targets : sequence of float
            Accuracies as fractions.

        Returns
        -------
        DataFrame
            ``target_percent, speedup, low, high``, without the targets that one of
            the two never reaches. The ends are empty where that is so in more
            replicates than the interval leaves out.
        """
        rows = [self.curves.row(name) for name in (group, fast)]
        time_s, accuracy = (part[rows] for part in self.curves.replicates)
        found = []
        for target in targets:
            slow_s, fast_s = time_to_accuracy(
                self.curves.time_s[rows], self.curves.accuracy[rows], target
            )
            if not np.isfinite([slow_s, fast_s]).all():
                continue
            slow, quick = time_to_accuracy(time_s, accuracy, target)
            reached = np.isfinite(slow) & np.isfinite(quick)
            ends = (float("nan"), float("nan"))
            if reached.mean() > CONFIDENCE + (1 - CONFIDENCE) / 2:
                ends = _interval(slow[reached] / quick[reached])
            found.append((100 * float(target), float(slow_s / fast_s), *ends))
        return pd.DataFrame(found, columns=["target_percent", "speedup", "low", "high"])


def compare(
    df: pd.DataFrame,
    *,
    task: str,
    methods: Sequence[str],
    reference_model: str = REFERENCE_MODEL,
    throughput_model: str = THROUGHPUT_MODEL,
    level: str = LEVEL,
) -> TimeToAccuracy:
    """Compare methods on one task and backbone; groups are (level, method).

    The target is one for all levels of heterogeneity: those at which every one
    of the methods has the seeds that all have at ``level``.

    Parameters
    ----------
    df : DataFrame
        As `fedquad.report.frames.accuracy_curves_frame` makes it.
    methods : sequence of str
        Those that set the target; one without a run at ``level`` is left out.
    level : str
        The level that has to be there.

    Raises
    ------
    InputError
        When no seed is there for all of the methods.
    """
    chosen = (df["task"] == task) & (df["reference_model"] == reference_model)
    chosen &= (df["throughput_model"] == throughput_model) & df["method"].isin(methods)
    rows = df[chosen]
    seeds_of = {pair: set(runs["seed"]) for pair, runs in rows.groupby(["heterogeneity", "method"])}
    present = [method for method in methods if (level, method) in seeds_of]
    seeds = set.intersection(*(seeds_of[level, method] for method in present)) if present else set()
    if not seeds:
        accepted = f"a seed of every method at {level} heterogeneity"
        raise InputError(
            f"runs of {task} ({reference_model}, {throughput_model})", "none", accepted
        )
    levels = [
        name
        for name in HETEROGENEITY_LEVELS
        if all(seeds <= seeds_of.get((name, method), set()) for method in present)
    ]
    rows = rows[rows["seed"].isin(seeds) & rows["heterogeneity"].isin(levels)]
    rows = rows[rows["method"].isin(present)]
    return TimeToAccuracy(AccuracyCurves.from_frame(rows, ("heterogeneity", "method")))


def _estimate(value: float, values: np.ndarray, unit: str, num_seeds: int) -> Estimate:
    return Estimate(float(value), *_interval(values), unit, num_seeds)


def _interval(values: np.ndarray) -> tuple[float, float]:
    """The central 95 % of replicates, of which some may be infinite.

    The ends are replicates themselves: interpolating towards an infinite one
    would give no number.
    """
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values, [tail, 1 - tail], method="inverted_cdf")
    return float(low), float(high)
