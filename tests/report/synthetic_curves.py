"""Rounds of federated runs whose accuracy curves and times are given by formulas."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from fedquad.runs.results import pack

NUM_EVAL = 400
CLASSES = ("strong", "moderate", "weak")


@dataclass(frozen=True)
class Curve:
    """A method: accuracy rises from a third to ``final``, a share ``rate`` of the rest a round."""

    final: float
    rate: float
    round_time_s: float
    slowest_class: str = "weak"


# FedQuad is first everywhere; the paper's order of the others.
CURVES = {
    "fedquad": Curve(0.80, 0.35, 600.0, "moderate"),
    "fedra": Curve(0.70, 0.20, 1500.0),
    "inclusivefl": Curve(0.72, 0.20, 1300.0),
    "layersel": Curve(0.77, 0.30, 1200.0),
    "hetlora": Curve(0.78, 0.30, 950.0),
    "fedlora": Curve(0.81, 0.40, 2500.0),
    "fedquad-no-qd": Curve(0.795, 0.32, 650.0),
    "fedquad-no-ld": Curve(0.80, 0.35, 1900.0),
}
FIVE = ("fedquad", "fedra", "inclusivefl", "layersel", "hetlora")


def make_rounds(
    curves: Mapping[str, Curve],
    seeds: int = 3,
    *,
    task: str = "micro-mnli",
    num_rounds: int = 10,
    num_eval: int = NUM_EVAL,
    slower: float = 1.0,
    **settings: object,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rounds and devices, one device a class, as `federated_frames` gives what is read of them.

    Items are answered in one order of difficulty and every seed is a few items and
    a few percent of time off the next one: what differs between methods is the formula.
    ``slower`` stretches all times.
    """
    rounds, devices = [], []
    for method, curve in curves.items():
        for seed in range(seeds):
            named = {
                "run_id": "-".join(map(str, [method, task, seed, *settings.values()])),
                "method": method,
                "options": "",
                "task": task,
                "model": "embedded",
                "reference_model": "roberta-large",
                "heterogeneity": "high",
                "throughput_model": "fp16",
                "seed": seed,
            } | settings
            round_time_s = slower * curve.round_time_s * (1 + 0.04 * seed)
            for number in range(1, num_rounds + 1):
                share = curve.final - (curve.final - 1 / 3) * (1 - curve.rate) ** number
                correct = np.arange(num_eval) < round(num_eval * share) + 2 * seed
                times = pd.Series(0.4 * round_time_s, index=CLASSES)
                times[curve.slowest_class] = round_time_s
                rounds.append(
                    {
                        **named,
                        "round": number,
                        "accuracy": correct.mean(),
                        "sim_time_s": number * round_time_s,
                        "mean_waiting_time_s": float((round_time_s - times).mean()),
                        "num_eval": num_eval,
                        "correct": pack(correct),
                        "from_record": True,
                    }
                )
                devices.extend(
                    {
                        **named,
                        "round": number,
                        "device_id": name,
                        "device_class": name,
                        "participated": True,
                        "completion_time_s": seconds,
                    }
                    for name, seconds in times.items()
                )
    return pd.DataFrame(rounds), pd.DataFrame(devices)


def joined(*tables: tuple[pd.DataFrame, pd.DataFrame]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Several pairs of rounds and devices, one below the other."""
    rounds, devices = zip(*tables, strict=True)
    return pd.concat(rounds, ignore_index=True), pd.concat(devices, ignore_index=True)


def main_rounds(seeds: int = 3, **options: object) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Every run of Figs. 7, 8, 10 and Tables III and IV; baselines lag more as levels rise."""
    with_reference = {name: CURVES[name] for name in (*FIVE, "fedlora")}
    five = {name: CURVES[name] for name in FIVE}
    ablations = {name: CURVES[name] for name in ("fedquad-no-qd", "fedquad-no-ld")}
    tasks = ("micro-mnli", "micro-qqp", "micro-qnli", "micro-sst2")
    parts = [make_rounds(with_reference, seeds, task=task, **options) for task in tasks]
    parts += [make_rounds(ablations, seeds, task=task, **options) for task in tasks[:2]]
    for model, reference in (("small-bert", "bert-large"), ("small-deberta", "deberta-v3-large")):
        backbone = {"model": model, "reference_model": reference}
        parts.append(make_rounds(five, seeds, **backbone, **options))
    for level, share in (("low", 0.4), ("medium", 0.7)):
        milder = {
            name: replace(c, round_time_s=c.round_time_s * share ** (1 if name == "fedquad" else 2))
            for name, c in five.items()
        }
        parts.append(make_rounds(milder, seeds, heterogeneity=level, **options))
    for model, slower in (("fp32", 4.0), ("roofline", 2.0)):
        parts.append(make_rounds(five, seeds, throughput_model=model, slower=slower, **options))
    return joined(*parts)
