"""Claims on Algorithm 1 and Fig. 6: who is given which depth, and who is held back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd

from fedquad.config.federated import THROUGHPUT_MODELS, FederatedConfig
from fedquad.report.claims.evidence import Evidence, Predicate
from fedquad.report.claims.verdict import (
    Finding,
    NotAttemptedError,
    above,
    at_most,
    below,
    in_the_mean,
    verdict,
)
from fedquad.report.frames.federated import DEVICE_CLASSES
from fedquad.report.intervals import Estimate
from fedquad.report.seed_intervals import over_seeds

CONFIGURATIONS = "fig06_configurations"
DEFAULT_THROUGHPUT = FederatedConfig.throughput_model
FIRST_ROUNDS = 5  # "after the fifth"
HELD_PERCENT = 25

FindOn = Callable[[pd.DataFrame], Finding]


def minimal_quantized(evidence: Evidence) -> Finding:
    """Share of devices and rounds whose a is the fewest that fits at their d, by enumeration.

    Every stored round counts, whatever the task, the seed or the throughput model.
    """
    df = evidence.frame(CONFIGURATIONS)
    fewest = np.full(len(df), -1)
    for quantized in range(int(df["num_layers"].max()) - 1, -1, -1):
        needed = (
            df["fixed_bytes"]
            + df["bytes_per_lora_layer"] * df["depth"]
            - df["bytes_saved_per_quantized_layer"] * quantized
        )
        fits = (needed <= df["memory_budget_bytes"]) & (quantized <= df["depth"] - 1)
        fewest[fits.to_numpy()] = quantized
    equal = fewest == df["quantized"].to_numpy()
    rounds = len(df[["task", "throughput_model", "seed", "round"]].drop_duplicates())
    share = Estimate.exact(100 * equal.mean(), "percent")
    return Finding(
        "share of choices with the fewest quantized layers that fit",
        share,
        reproduced=bool(equal.all()),
        qualitative=False,
        remark=f"{int(equal.sum())} of {len(df)} choices in {rounds} rounds, each by enumeration",
    )


def class_means(df: pd.DataFrame, column: str, classes: tuple[str, ...]) -> np.ndarray:
    """Mean over the devices of a class, shape ``(seeds, rounds, classes)``.

    `NotAttemptedError` where a class has no device in some round of some seed.
    """
    means = df.groupby(["seed", "round", "device_class"])[column].mean().unstack()
    absent = [name for name in classes if name not in means or means[name].isna().any()]
    if absent:
        raise NotAttemptedError(f"no {' or '.join(absent)} device in some round")
    seeds = means.index.get_level_values("seed").unique()
    rounds = means.index.get_level_values("round").unique()
    if len(means) != len(seeds) * len(rounds):
        raise NotAttemptedError("seeds with different numbers of rounds")
    return means[list(classes)].to_numpy().reshape(len(seeds), len(rounds), len(classes))


def _late(df: pd.DataFrame) -> pd.DataFrame:
    late = df[df["round"] > FIRST_ROUNDS]
    if late.empty:
        raise NotAttemptedError(f"no round after the {FIRST_ROUNDS}th")
    return late


def strong_deeper(df: pd.DataFrame) -> Finding:
    """The smallest step of mean depth between neighbouring classes, over the later rounds."""
    depth = class_means(_late(df), "depth", DEVICE_CLASSES)
    margin = over_seeds(
        depth, lambda mean: (mean[..., :-1] - mean[..., 1:]).min(axis=(1, 2)), "layers"
    )
    everywhere = class_means(df, "depth", DEVICE_CLASSES).mean(axis=(0, 1))
    told = ", ".join(
        f"{name} {mean:.1f}" for name, mean in zip(DEVICE_CLASSES, everywhere, strict=True)
    )
    remark = f"mean depth over all rounds: {told}"
    steps = (depth[..., :-1] - depth[..., 1:]).mean(axis=0)
    reversed_ = int((steps.min(axis=1) <= 0).sum())
    if reversed_:
        remark += (
            f"; a class is not above the next weaker one in {reversed_} of {len(steps)} rounds"
        )
    return Finding(
        f"smallest lead in depth of a class over the next weaker one, after round {FIRST_ROUNDS}",
        margin,
        reproduced=above(margin, 0),
        qualitative=in_the_mean(everywhere[0] > everywhere[-1]),
        remark=remark,
    )


def quantization_deepens(df: pd.DataFrame) -> Finding:
    """Mean depth of the strong devices beyond their mean unquantized budget."""
    depth, budget, quantized = (
        class_means(df, column, ("strong",))[..., 0]
        for column in ("depth", "depth_budget", "quantized")
    )
    beyond = over_seeds(depth - budget, lambda mean: mean.mean(axis=1), "layers")
    furthest = over_seeds(depth - budget, lambda mean: mean.max(axis=1), "layers")
    deepest = int(df["num_layers"].iloc[0])
    full = 100 * (df.loc[df["device_class"] == "strong", "depth_budget"] == deepest).mean()
    return Finding(
        "depth of strong devices beyond their unquantized budget",
        beyond,
        reproduced=above(beyond, 0),
        qualitative=above(furthest, 0),
        remark=f"mean depth {depth.mean():.1f}, budget {budget.mean():.1f}, quantized "
        f"{quantized.mean():.1f} of {deepest} layers; {full:.0f} % could hold all layers "
        "unquantized",
    )


def weak_restrained(df: pd.DataFrame) -> Finding:
    """Mean distance of weak devices' completion times from the round's mean, in percent of it.

    Per device and round, after the fifth. Beside it the same distance if every device
    took its deepest unquantized depth, from the mean of such a round.
    """
    late = _late(df)
    if "weak" not in set(late["device_class"]):
        raise NotAttemptedError("no weak device")
    distances = {
        column: _weak_distance(late, column)
        for column in ("completion_time_s", "unquantized_time_s")
    }
    pairs = np.stack(list(distances.values()), axis=1)
    held = over_seeds(pairs, lambda mean: mean[:, 0], "percent")
    beyond = over_seeds(pairs, lambda mean: mean[:, 0] - mean[:, 1], "points")
    weak = late[late["device_class"] == "weak"]
    ratio = weak["completion_time_s"].mean() / late["completion_time_s"].mean()
    return Finding(
        f"mean distance of weak devices from the round's mean time, after round {FIRST_ROUNDS}",
        held,
        reproduced=at_most(held, HELD_PERCENT),
        qualitative=below(beyond, 0),
        remark=f"{pairs[:, 1].mean():.1f} % without Algorithm 1, every device at its deepest "
        f"unquantized depth; on average a weak device takes {ratio:.2f}x the mean, at depth "
        f"{weak['depth'].mean():.1f} of a budget of {weak['depth_budget'].mean():.1f}",
    )


def _weak_distance(df: pd.DataFrame, column: str) -> np.ndarray:
    """Mean over weak devices and rounds of |t - mean| / mean in percent, shape ``(seeds,)``."""
    mean = df.groupby(["seed", "round"])[column].transform("mean")
    percent = 100 * (df[column] - mean).abs() / mean
    weak = df["device_class"] == "weak"
    return percent[weak].groupby(df.loc[weak, "seed"]).mean().to_numpy()


def _on_mnli(find: FindOn) -> Predicate:
    """Judged on the first task under the default throughput model.

    Its other tasks, and the other throughput models on the first task, are told with
    the verdict that they would get.
    """

    def predicate(evidence: Evidence) -> Finding:
        df = evidence.frame(CONFIGURATIONS)
        default = df[df["throughput_model"] == DEFAULT_THROUGHPUT]
        if default.empty:
            raise NotAttemptedError(f"no runs with {DEFAULT_THROUGHPUT}")
        first, *others = default["task"].drop_duplicates()
        judged = find(default[default["task"] == first])
        told = [judged.remark]
        told += [_told(find, default[default["task"] == task], task) for task in others]
        for model in THROUGHPUT_MODELS:
            rows = df[(df["throughput_model"] == model) & (df["task"] == first)]
            if model != DEFAULT_THROUGHPUT and len(rows):
                told.append(_told(find, rows, f"with {model}"))
        return replace(judged, remark="; ".join(told))

    return predicate


def _told(find: FindOn, rows: pd.DataFrame, name: str) -> str:
    try:
        found = find(rows)
    except NotAttemptedError as error:
        return f"{name}: not attempted ({error})"
    value = found.estimate
    interval = f"{value.value:.1f} [{value.low:.1f}, {value.high:.1f}] {value.unit}"
    return f"{name}: {interval}, {verdict(found)}"


PREDICATES: dict[str, Predicate] = {
    "acs-minimal-a": minimal_quantized,
    "acs-strong-deeper": _on_mnli(strong_deeper),
    "acs-quant-deepens": _on_mnli(quantization_deepens),
    "acs-restrains-weak": _on_mnli(weak_restrained),
}
