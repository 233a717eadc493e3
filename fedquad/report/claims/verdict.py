"""What a condition says about an interval, and what two conditions say about a claim.

A condition has three answers. It is True when it holds on the whole interval,
False when it holds nowhere on it, and None when the interval straddles.
"In the mean" looks at the point estimate alone. "Intervals apart" means that
the 95 % interval of the paired difference lies on one side of zero: paired by
seed and test item, that is the sharper form of two intervals not overlapping.
"""

from __future__ import annotations

from dataclasses import dataclass

from fedquad.report.intervals import Estimate

REPRODUCED = "reproduced"
QUALITATIVELY = "qualitatively"
NOT_REPRODUCED = "not reproduced"
INCONCLUSIVE = "inconclusive"
NOT_ATTEMPTED = "not attempted"
VERDICTS = (REPRODUCED, QUALITATIVELY, NOT_REPRODUCED, INCONCLUSIVE, NOT_ATTEMPTED)

MIN_SEEDS = 3

Answer = bool | None


class NotAttemptedError(Exception):
    """A claim cannot be judged from what is there; the message is the reason."""


@dataclass(frozen=True)
class Finding:
    """What a predicate found.

    Parameters
    ----------
    quantity : str
        What ``estimate`` is, in words.
    estimate : Estimate
        Our value.
    reproduced, qualitative : bool or None
        Answers of the claim's two conditions.
    paper : float or None
        The paper's value in the estimate's unit; None where it states none.
    remark : str
        What a reader should know beside the numbers.
    missing : str
        What a claim on all tasks lacks; "" if it lacks nothing.
    """

    quantity: str
    estimate: Estimate
    reproduced: Answer
    qualitative: Answer
    paper: float | None = None
    remark: str = ""
    missing: str = ""


def at_least(estimate: Estimate, bound: float) -> Answer:
    """``value >= bound`` on the whole interval."""
    return _everywhere(estimate.low >= bound, estimate.high >= bound)


def above(estimate: Estimate, bound: float) -> Answer:
    """``value > bound`` on the whole interval."""
    return _everywhere(estimate.low > bound, estimate.high > bound)


def at_most(estimate: Estimate, bound: float) -> Answer:
    """``value <= bound`` on the whole interval."""
    return _everywhere(estimate.high <= bound, estimate.low <= bound)


def below(estimate: Estimate, bound: float) -> Answer:
    """``value < bound`` on the whole interval."""
    return _everywhere(estimate.high < bound, estimate.low < bound)


def between(estimate: Estimate, low: float, high: float) -> Answer:
    """``low <= value <= high`` on the whole interval."""
    return both(at_least(estimate, low), at_most(estimate, high))


def within(estimate: Estimate, target: float, percent: float) -> Answer:
    """Within ``percent`` % of ``target`` (relative) on the whole interval."""
    margin = abs(target) * percent / 100
    return between(estimate, target - margin, target + margin)


def in_the_mean(condition: bool) -> Answer:
    """A condition that the claim puts on the point estimate."""
    return bool(condition)


def both(*answers: Answer) -> Answer:
    """All conditions together: False as soon as one fails throughout."""
    if any(answer is False for answer in answers):
        return False
    return None if None in answers else True


def _everywhere(at_worst: bool, at_best: bool) -> Answer:
    """True if it holds even at the interval's worse end, False if not even at the better one."""
    if at_worst:
        return True
    return None if at_best else False


def verdict(finding: Finding) -> str:
    """The verdict of a finding.

    *reproduced* and *qualitatively* need their condition on the whole
    interval; if neither holds, a condition that straddles makes it
    *inconclusive*; else it is *not reproduced*. A finding from runs with fewer
    than three seeds is *not attempted*, and so is one that lacks a part of what
    the claim is about, unless it fails already on the parts that are there.
    """
    seeds = finding.estimate.num_seeds
    if seeds is not None and seeds < MIN_SEEDS:
        return not_attempted(f"{seeds} seed" if seeds == 1 else f"{seeds} seeds")
    fails = finding.reproduced is False and finding.qualitative is False
    if finding.missing and not fails:
        return not_attempted(finding.missing)
    if finding.reproduced:
        return REPRODUCED
    if finding.qualitative:
        return QUALITATIVELY
    if finding.reproduced is None or finding.qualitative is None:
        return INCONCLUSIVE
    return NOT_REPRODUCED


def not_attempted(reason: str) -> str:
    """The verdict of a claim that was not judged, with its reason."""
    return f"{NOT_ATTEMPTED} ({reason})"
