"""Compute a few stored records again and compare: is what is committed what the code gives?"""

from __future__ import annotations

import dataclasses
import math
import random
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd

from fedquad import paths
from fedquad.config import FineTuneConfig, InputError, Profile, require_int
from fedquad.model.pretrained import find_pretrained
from fedquad.runs.environment import same_arithmetic
from fedquad.runs.finetune import load_or_run
from fedquad.runs.results import FineTuneResult, result_of, run_settings
from fedquad.runs.store import RunStore, StoredRun
from fedquad.tasks.task import load_task

COLUMNS = (
    "run",
    "rule",
    "verdict",
    "detail",
    "recorded_accuracy",
    "recomputed_accuracy",
    "difference_limit",
)


def verify(
    profile: Profile, sample: int = 3, seed: int | None = None, *, workers: int = 1
) -> pd.DataFrame:
    """Recompute records of a profile, drawn at random, into a temporary store.

    The rule is ``bytes`` where the record was made on this kind of CPU with
    this torch: the results must be equal to the byte. Elsewhere rounding
    differs and training goes its own way, so the rule is ``interval``: the
    accuracies may differ by what two test sets of that size would, 95 %.

    Parameters
    ----------
    profile : Profile
        Its records are read from `fedquad.paths.runs_dir`.
    sample : int
        Records to draw; all of them if there are fewer.
    seed : int or None
        Of the draw; None takes another one each time.
    workers : int
        As in `load_or_run`.

    Returns
    -------
    DataFrame
        One row a record: ``run, rule, verdict`` (``same``, ``within``,
        ``differs`` or ``skipped``), ``detail, recorded_accuracy,
        recomputed_accuracy, difference_limit``.

    Raises
    ------
    InputError
        If the profile has no finished record.
    """
    require_int("sample", sample, 1)
    store = RunStore(paths.runs_dir(profile.name))
    records = [run for run in store.finished() if run.settings["experiment"] == "FineTuneConfig"]
    if not records:
        accepted = f"a profile with finished runs in {store.root}"
        raise InputError("profile", profile.name, accepted)
    drawn = random.Random(seed).sample(records, min(sample, len(records)))
    reasons = [_reason_to_skip(record) for record in drawn]
    configs = [
        config_of(record.settings)
        for record, reason in zip(drawn, reasons, strict=True)
        if reason is None
    ]
    with tempfile.TemporaryDirectory() as folder:
        scratch = RunStore(Path(folder))
        again = iter(load_or_run(configs, scratch, workers=workers))
        rows = [
            _compare(record, next(again), scratch) if reason is None else _skipped(record, reason)
            for record, reason in zip(drawn, reasons, strict=True)
        ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def difference_limit(accuracy_a: float, accuracy_b: float, num_eval: int) -> float:
    """Half width of the 95 % interval of the difference of two accuracies of ``num_eval`` rows."""
    variance = accuracy_a * (1 - accuracy_a) + accuracy_b * (1 - accuracy_b)
    return 1.96 * math.sqrt(variance / num_eval)


def _reason_to_skip(stored: StoredRun) -> str | None:
    """Why a record cannot be computed again here, found out before anything is computed."""
    config = config_of(stored.settings)
    try:
        settings = run_settings(config)
        if settings != stored.settings:
            changed = [key for key in settings if settings[key] != stored.settings.get(key)]
            return f"other settings than here: {', '.join(changed)}"
        weights = find_pretrained(config.model).sha256
        content = load_task(config.task).fingerprint
    except InputError as error:
        return str(error)
    if {"task": content, "model": weights} != stored.sources:
        return "the data or the weights here are other ones"
    return None


def _skipped(stored: StoredRun, reason: str) -> dict[str, Any]:
    accuracy = stored.rows[-1]["accuracy"]
    return {
        "run": stored.directory.name,
        "verdict": "skipped",
        "detail": reason,
        "recorded_accuracy": accuracy,
    }


def _compare(stored: StoredRun, again: FineTuneResult, scratch: RunStore) -> dict[str, Any]:
    recorded = result_of(again.config, stored, from_record=True)
    row = {
        "run": stored.directory.name,
        "recorded_accuracy": recorded.accuracy,
        "recomputed_accuracy": again.accuracy,
    }
    here = again.telemetry["environment"]
    if not same_arithmetic(recorded.telemetry["environment"], here):
        return row | _within(recorded, again)
    equal = scratch.read(stored.settings).results_sha256 == stored.results_sha256
    return row | {
        "rule": "bytes",
        "verdict": "same" if equal else "differs",
        "detail": f"results.jsonl on {here['cpu']}, torch {here['torch']}",
    }


def _within(recorded: FineTuneResult, again: FineTuneResult) -> dict[str, Any]:
    limit = difference_limit(recorded.accuracy, again.accuracy, len(recorded.correct))
    close = abs(recorded.accuracy - again.accuracy) <= limit
    environment = recorded.telemetry["environment"]
    return {
        "rule": "interval",
        "verdict": "within" if close else "differs",
        "detail": f"recorded on {environment['cpu']}, torch {environment['torch']}",
        "difference_limit": limit,
    }


def config_of(settings: dict[str, Any]) -> FineTuneConfig:
    """The configuration that a record's settings came from; `all_settings` the other way."""
    fields = {field.name for field in dataclasses.fields(FineTuneConfig)}
    values = {name: value for name, value in settings.items() if name in fields}
    for name in ("trainable_layers", "quantized_layers"):  # lists in JSON
        if values.get(name) is not None:
            values[name] = tuple(values[name])
    return FineTuneConfig(**values | {"model": values["model"].partition("@")[0]})
