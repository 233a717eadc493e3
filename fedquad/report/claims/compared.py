"""What the claims on time to accuracy share: which runs are compared, and why one is slower."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from fedquad.report.claims.evidence import Evidence
from fedquad.report.claims.verdict import (
    REPRODUCED,
    Answer,
    Finding,
    NotAttemptedError,
    above,
    both,
    in_the_mean,
    verdict,
)
from fedquad.report.frames.federated import PAPER_METHODS, task_key
from fedquad.report.intervals import Estimate
from fedquad.report.metrics import average_waiting_time_s
from fedquad.report.style import LOOKS
from fedquad.report.time_to_accuracy import (
    LEVEL,
    REFERENCE_MODEL,
    THROUGHPUT_MODEL,
    TimeToAccuracy,
    compare,
)

BASELINES = PAPER_METHODS[1:]


class Comparison:
    """The compared methods on one task and backbone, as a figure's csv holds them.

    Parameters
    ----------
    evidence : Evidence
    figure : str
        Whose csv holds the runs.
    key : str
        The paper's name of the task (``mnli`` also stands for ``micro-mnli``).
    methods : sequence of str
        All of them must be there.
    levels : sequence of str
        Levels of heterogeneity that must be there.

    Raises
    ------
    NotAttemptedError
        Naming what is missing.
    """

    def __init__(
        self,
        evidence: Evidence,
        figure: str,
        key: str,
        *,
        methods: Sequence[str] = PAPER_METHODS,
        reference_model: str = REFERENCE_MODEL,
        throughput_model: str = THROUGHPUT_MODEL,
        levels: Sequence[str] = (LEVEL,),
    ) -> None:
        frame = evidence.frame(figure)
        chosen = frame["task"].isin(
            [name for name in frame["task"].unique() if task_key(name) == key]
        )
        chosen &= frame["reference_model"] == reference_model
        self.rows = frame[chosen & (frame["throughput_model"] == throughput_model)]
        where = key if reference_model == REFERENCE_MODEL else f"{key} with {reference_model}"
        if throughput_model != THROUGHPUT_MODEL:
            where += f" under {throughput_model}"
        for level in levels:
            there = set(self.rows.loc[self.rows["heterogeneity"] == level, "method"])
            missing = [LOOKS[method].label for method in methods if method not in there]
            if missing:
                names = "any method" if len(missing) == len(methods) else ", ".join(missing)
                raise NotAttemptedError(f"no run of {names} on {where} at {level} heterogeneity")
        seeds = (set(self._of(method)["seed"]) for method in methods)
        if not set.intersection(*seeds):
            raise NotAttemptedError(f"no seed that all methods have on {where}")
        self.task = self.rows["task"].iloc[0]
        self.times: TimeToAccuracy = evidence.once(
            ("compare", figure, self.task, tuple(methods), reference_model, throughput_model),
            lambda: compare(
                frame,
                task=self.task,
                methods=methods,
                reference_model=reference_model,
                throughput_model=throughput_model,
            ),
        )
        for level in levels:
            if (level, methods[0]) not in self.times.curves.groups:
                have = f"fewer seeds at {level} than at {LEVEL} heterogeneity"
                raise NotAttemptedError(f"{have} on {where}")

    def speedup(self, method: str, level: str = LEVEL) -> Estimate:
        """FedQuad's speed-up over a method."""
        return self.times.speedup((level, method), fast=(level, "fedquad"))

    def told(self, methods: Sequence[str], level: str = LEVEL) -> str:
        """How many rounds of what length methods take, who is last, and how long others wait."""
        return "; ".join(self._told(method, level) for method in methods)

    def _of(self, method: str, level: str = LEVEL) -> pd.DataFrame:
        rows = self.rows
        return rows[(rows["method"] == method) & (rows["heterogeneity"] == level)]

    def _told(self, method: str, level: str) -> str:
        rows = self._of(method, level)
        rounds = self.times.rounds((level, method))
        total_s = rows.groupby("seed")["sim_time_s"].max().mean()
        text = (
            f"{LOOKS[method].label}: {rounds:.1f} rounds of {total_s / rows['round'].max():.0f} s"
        )
        last = rows["slowest_class"].value_counts(normalize=True)
        if len(last):
            text += f", {last.index[0]} devices last in {100 * last.iloc[0]:.0f} %"
        waiting_s = average_waiting_time_s(rows, ["method"]).iloc[0]
        return f"{text}, mean wait {waiting_s:.0f} s"


def fastest(comparison: Comparison, *, level: str, quantity: str, paper: float | None) -> Finding:
    """FedQuad against the baseline that comes nearest to it.

    First, with the interval of every speed-up above 1; or first in the mean.
    """
    speedups = {method: comparison.speedup(method, level) for method in BASELINES}
    nearest = min(speedups, key=lambda method: speedups[method].value)
    finding = Finding(
        f"{quantity} over the nearest, {LOOKS[nearest].label}",
        speedups[nearest],
        reproduced=both(*(above(speedup, 1) for speedup in speedups.values())),
        qualitative=in_the_mean(speedups[nearest].value > 1),
        paper=paper,
        remark=f"target {comparison.times.target.value:.1f} %; "
        + ", ".join(f"{LOOKS[m].label} {told(s)}" for m, s in speedups.items()),
    )
    slower = [method for method, speedup in speedups.items() if above(speedup, 1) is not True]
    return explained(finding, comparison.told(["fedquad", *slower], level))


def explained(finding: Finding, text: str) -> Finding:
    """The finding with what the record says, unless the claim is reproduced."""
    if verdict(finding) == REPRODUCED:
        return finding
    return replace(finding, remark="; ".join(part for part in (finding.remark, text) if part))


def told(estimate: Estimate) -> str:
    """A factor with its interval, as text: ``1.85x [1.6, 2.1]``."""
    return f"{estimate.value:.2f}x [{estimate.low:.2f}, {estimate.high:.2f}]"


def with_fewest_seeds(estimate: Estimate, others: Sequence[Estimate]) -> Estimate:
    """The estimate that stands for several, with the seeds of the one that has fewest."""
    return replace(estimate, num_seeds=min(other.num_seeds for other in (estimate, *others)))


def any_of(*answers: Answer) -> Answer:
    """True as soon as one holds throughout, False when all fail throughout."""
    if any(answer is True for answer in answers):
        return True
    return None if None in answers else False


def cut_percent(speedup: Estimate) -> Estimate:
    """The share of a method's time that FedQuad saves, from its speed-up over it."""
    ends = [100 * (1 - 1 / factor) for factor in (speedup.value, speedup.low, speedup.high)]
    return Estimate(*ends, "percent", speedup.num_seeds)
