"""Frames of the sensitivity notebook: what one varied setting does, and the distance to optima."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from fedquad.config import FederatedConfig, InputError
from fedquad.methods.registry import find_method
from fedquad.methods.yardstick import Yardstick
from fedquad.report.frames.federated import RUN_COLUMNS

# Settings that can be varied: a run counts where all others stand at their defaults.
_VARIED = (
    "heterogeneity",
    "throughput_model",
    "budget_policy",
    "quantization_price",
    "rate_schedule",
    "partition_alpha",
    "lora_rank",
)
# The same for all runs of a profile.
_SIZES = ("model", "reference_model", "num_devices", "num_rounds", "local_steps")


def sensitivity_frame(rounds: pd.DataFrame, by: str, *, profile: str) -> pd.DataFrame:
    """What every run came to, against one setting that differs between them.

    Parameters
    ----------
    rounds : DataFrame
        As `fedquad.federation.results.federated_frames` makes it. Runs with another
        setting or option than ``by`` off its default are left out, and so are methods
        that were run at one value only.
    by : str
        A setting of the run (``partition_alpha``, ``throughput_model``, …) or an
        option of a method (``reward_offset_s``, ``first_mean_time_scale``, …).

    Returns
    -------
    DataFrame
        One row a run: ``setting``, ``setting_value`` as text, its ``position`` among
        the values in ascending order (names in the table's order), ``is_default``;
        then accuracy after the last round, total simulated time, mean over the rounds
        of waiting time, depth and quantized layers, and the sum of memory overruns.

    Raises
    ------
    InputError
        For a setting that no run has, no method that was run at two values, or runs
        of different sizes.
    """
    runs = _compared(rounds, by)
    if runs.empty:
        raise InputError("runs", f"no method at two values of {by}", "at least one")
    _require_one_size(runs, by)
    ordered = list(dict.fromkeys(runs["value"]))
    if all(isinstance(value, int | float | np.number) for value in ordered):
        ordered.sort()
    last = runs.sort_values("round", kind="stable").groupby("run_id", sort=False).tail(1)
    by_run = runs.groupby("run_id")
    last = last.set_index("run_id")
    frame = last[[*RUN_COLUMNS, "accuracy", "num_eval", "correct", "sim_time_s"]].copy()
    for column in ("mean_waiting_time_s", "mean_depth", "mean_quantized", "participants"):
        frame[column] = by_run[column].mean()
    frame["memory_overruns"] = by_run["memory_overruns"].sum()
    frame["num_rounds"] = by_run["round"].nunique()
    frame["from_record"] = by_run["from_record"].all()
    frame.insert(0, "profile", profile)
    frame.insert(1, "setting", by)
    frame.insert(2, "setting_value", [_text(value) for value in last["value"]])
    frame.insert(3, "position", [ordered.index(value) for value in last["value"]])
    frame.insert(4, "is_default", (last["value"] == last["default"]).to_numpy())
    methods = {method: at for at, method in enumerate(dict.fromkeys(frame["method"]))}
    frame = frame.assign(rank=frame["method"].map(methods))
    frame = frame.sort_values(["rank", "position", "seed"], kind="stable")
    return frame.drop(columns="rank").reset_index(drop=True)


def sensitivity_frames(
    rounds: pd.DataFrame, settings: Iterable[str], *, profile: str
) -> pd.DataFrame:
    """`sensitivity_frame` of each of these settings that was varied, one below the other.

    Raises
    ------
    InputError
        When none was, or for what `sensitivity_frame` refuses.
    """
    settings = list(settings)
    options = {
        name for method in rounds["method"].unique() for name in find_method(method).defaults
    }
    known = [by for by in settings if by in (*_VARIED, *_SIZES) or by in options]
    varied = [by for by in known if not _compared(rounds, by).empty]
    if not varied:
        accepted = "a method at two values of one of " + ", ".join(settings)
        raise InputError("runs", "nothing varied", accepted)
    parts = [sensitivity_frame(rounds, by, profile=profile) for by in varied]
    return pd.concat(parts, ignore_index=True)


def _compared(rounds: pd.DataFrame, by: str) -> pd.DataFrame:
    """Rows of the methods that were run at two values or more, all else at its default."""
    values, defaults = _values_of(rounds, by)
    runs = rounds.assign(value=values, default=defaults)[values.notna() & _else_default(rounds, by)]
    return runs[runs.groupby("method")["value"].transform("nunique") > 1]


def _values_of(rounds: pd.DataFrame, by: str) -> tuple[pd.Series, pd.Series]:
    """Value and default of the setting in every row; None where a method has no such option."""
    if by in (*_VARIED, *_SIZES):
        return rounds[by], pd.Series(getattr(FederatedConfig, by), index=rounds.index)
    options = rounds["options"].fillna("").map(parse_options)
    defaults = pd.Series(
        [find_method(method).defaults.get(by) for method in rounds["method"]], index=rounds.index
    )
    if defaults.isna().all():
        known = sorted(
            {name for m in rounds["method"].unique() for name in find_method(m).defaults}
        )
        raise InputError("by", by, "one of " + ", ".join([*_VARIED, *_SIZES, *known]))
    pairs = zip(options, defaults, strict=True)
    values = [chosen.get(by, default) for chosen, default in pairs]
    return pd.Series(values, index=rounds.index), defaults


def _else_default(rounds: pd.DataFrame, by: str) -> pd.Series:
    """Whether everything but ``by`` stands at its default."""
    options = rounds["options"].fillna("").map(parse_options)
    stands = options.map(lambda chosen: not set(chosen) - {by})
    for name in _VARIED:
        if name != by:
            stands &= rounds[name] == getattr(FederatedConfig, name)
    return stands


def parse_options(text: str) -> dict[str, float]:
    """A method's options from their text in the tables: ``"beta=0.5,gamma=0.9"``."""
    pairs = [part.partition("=") for part in text.split(",") if part]
    return {name: float(value) for name, _, value in pairs}


def _require_one_size(runs: pd.DataFrame, by: str) -> None:
    for name in _SIZES:
        if name != by and runs[name].nunique() > 1:
            raise InputError(name, sorted(map(str, runs[name].unique())), f"one value, beside {by}")
    keys = ["task", "method", "value", "seed"]
    twice = runs.drop_duplicates("run_id")
    twice = twice[twice.duplicated(keys)]
    if len(twice):
        raise InputError("runs", twice[keys].iloc[0].to_dict(), "each of them once")


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, int | float | np.number) else str(value)


def yardstick_frame(
    yardsticks: Mapping[int, Yardstick], *, model: str, profile: str
) -> pd.DataFrame:
    """How far Algorithm 1 is from two optima, round by round.

    Parameters
    ----------
    yardsticks : mapping of int to Yardstick
        Round -> its yardstick, from `fedquad.methods.yardstick.measure_yardstick` on the
        problem of `fedquad.report.frames.selection.round_problem`.
    model : str
        The reference model of the costs.

    Returns
    -------
    DataFrame
        One row a round and choice (``greedy``, ``fastest``, ``most_rewarding``), with
        ``round_time_s``, ``mean_waiting_time_s``, ``mean_expected_gain`` and
        ``reward_percent``, the mean over devices of the reward as a percentage of the
        highest one there is.
    """
    if not yardsticks:
        raise InputError("yardsticks", dict(yardsticks), "at least one round")
    rows = []
    for round_number, yardstick in yardsticks.items():
        there = yardstick.greedy.takes_part
        highest = yardstick.most_rewarding.reward[there]
        for choice in ("greedy", "fastest", "most_rewarding"):
            selection = getattr(yardstick, choice)
            reached = selection.reward[there]
            shares = np.divide(reached, highest, out=np.ones_like(reached), where=highest > 0)
            rows.append(
                {
                    "profile": profile,
                    "model": model,
                    "round": round_number,
                    "choice": choice,
                    "num_devices": int(there.sum()),
                    "round_time_s": selection.round_time_s,
                    "mean_waiting_time_s": selection.mean_waiting_time_s,
                    "mean_expected_gain": selection.mean_expected_gain,
                    "reward_percent": 100 * float(shares.mean()),
                    "from_record": False,
                }
            )
    return pd.DataFrame(rows)
