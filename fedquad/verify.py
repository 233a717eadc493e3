"""Compute a few stored records again and compare: is what is committed what the code gives?"""

from __future__ import annotations

import dataclasses
import math
import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pandas as pd

from fedquad import paths
from fedquad.config import FederatedConfig, FineTuneConfig, InputError, Profile, require_int
from fedquad.federation.record_differences import accounting_differences
from fedquad.federation.runs import load_or_federate
from fedquad.federation.setting import FederatedSetting, config_from_json
from fedquad.federation.setting import all_settings as federated_settings
from fedquad.model.pretrained import find_pretrained
from fedquad.runs.environment import same_arithmetic
from fedquad.runs.finetune import load_or_run
from fedquad.runs.results import all_settings as finetune_settings
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


@dataclass(frozen=True)
class _Kind:
    """A kind of experiment: how its records are computed again."""

    config_of: Callable[[dict[str, Any]], Any]
    all_settings: Callable[[Sequence[Any]], list[dict[str, Any]]]
    sources: Callable[[Any], dict[str, str]]
    compute: Callable[..., Any]


def verify(
    profile: Profile, sample: int = 3, seed: int | None = None, *, workers: int = 1
) -> pd.DataFrame:
    """Recompute records of a profile, drawn at random, into a temporary store.

    The rule is ``bytes`` where the record was made on this kind of CPU with
    this torch: the results must be equal to the byte. Elsewhere rounding
    differs and training goes its own way, so the rule is ``interval``: the
    accuracies may differ by what two test sets of that size would, 95 %. What a
    federated record says of the fleet, and of the cost of what a device was
    assigned, must be the same everywhere.

    Parameters
    ----------
    profile : Profile
        Its records are read from `fedquad.paths.runs_dir`.
    sample : int
        Records to draw, of central and of federated runs in turn; all of them if
        there are fewer.
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
    records = store.finished()
    drawn = _draw(records, sample, random.Random(seed))
    if not drawn:
        accepted = f"a profile with finished runs in {store.root}"
        raise InputError("profile", profile.name, accepted)
    rows = {}
    for name, kind in _KINDS.items():
        of_kind = [record for record in drawn if record.settings["experiment"] == name]
        reasons = {record.run_id: _reason_to_skip(record, kind) for record in of_kind}
        usable = [record for record in of_kind if reasons[record.run_id] is None]
        with tempfile.TemporaryDirectory() as folder:
            scratch = RunStore(Path(folder))
            configs = [kind.config_of(record.settings) for record in usable]
            kind.compute(configs, scratch, workers=workers)
            for record in of_kind:
                reason, again = reasons[record.run_id], scratch.read(record.settings)
                rows[record.run_id] = _skipped(record, reason) if reason else _row(record, again)
    return pd.DataFrame([rows[record.run_id] for record in drawn], columns=list(COLUMNS))


def difference_limit(accuracy_a: float, accuracy_b: float, num_eval: int) -> float:
    """Half width of the 95 % interval of the difference of two accuracies of ``num_eval`` rows."""
    variance = accuracy_a * (1 - accuracy_a) + accuracy_b * (1 - accuracy_b)
    return 1.96 * math.sqrt(variance / num_eval)


def config_of(settings: dict[str, Any]) -> FineTuneConfig | FederatedConfig:
    """The configuration that a record's settings came from; `all_settings` the other way."""
    return _KINDS[settings["experiment"]].config_of(settings)


def _draw(records: Sequence[StoredRun], sample: int, chance: random.Random) -> list[StoredRun]:
    """Some of each kind in turn, in a random order, the first kind drawn too."""
    by_kind = [
        [record for record in records if record.settings["experiment"] == name] for name in _KINDS
    ]
    for group in (*by_kind, by_kind):
        chance.shuffle(group)
    in_turn = [record for turn in zip_longest(*by_kind) for record in turn if record is not None]
    return in_turn[:sample]


def _reason_to_skip(stored: StoredRun, kind: _Kind) -> str | None:
    """Why a record cannot be computed again here, found out before anything is computed."""
    try:
        config = kind.config_of(stored.settings)
        [settings] = kind.all_settings([config])
        if settings != stored.settings:
            changed = [key for key in settings if settings[key] != stored.settings.get(key)]
            return f"other settings than here: {', '.join(changed)}"
        sources = kind.sources(config)
    except InputError as error:
        return str(error)
    changed = [key for key in sources if sources[key] != stored.sources.get(key)]
    if changed:
        return f"the data, the weights or the costs here are other ones: {', '.join(changed)}"
    return None


def _skipped(stored: StoredRun, reason: str) -> dict[str, Any]:
    accuracy = stored.rows[-1]["accuracy"]
    return {
        "run": stored.directory.name,
        "verdict": "skipped",
        "detail": reason,
        "recorded_accuracy": accuracy,
    }


def _row(stored: StoredRun, again: StoredRun) -> dict[str, Any]:
    row = {
        "run": stored.directory.name,
        "recorded_accuracy": stored.rows[-1]["accuracy"],
        "recomputed_accuracy": again.rows[-1]["accuracy"],
    }
    environments = _environments(stored)
    here = _environments(again)[-1]
    if not all(same_arithmetic(there, here) for there in environments):
        return row | _within(stored, again, environments[-1])
    equal = again.results_sha256 == stored.results_sha256
    return row | {
        "rule": "bytes",
        "verdict": "same" if equal else "differs",
        "detail": f"results.jsonl on {here['cpu']}, torch {here['torch']}",
    }


def _environments(stored: StoredRun) -> list[dict[str, Any]]:
    """Of each attempt at a run."""
    return [line["environment"] for line in stored.telemetry if line["event"] == "started"]


def _within(stored: StoredRun, again: StoredRun, environment: dict[str, Any]) -> dict[str, Any]:
    recorded, recomputed = stored.rows[-1]["accuracy"], again.rows[-1]["accuracy"]
    limit = difference_limit(recorded, recomputed, stored.rows[-1]["num_eval"])
    differences = accounting_differences(stored.rows, again.rows)
    close = abs(recorded - recomputed) <= limit and not differences
    where = f"recorded on {environment['cpu']}, torch {environment['torch']}"
    return {
        "rule": "interval",
        "verdict": "within" if close else "differs",
        "detail": "; ".join([where, *differences[:3]]),
        "difference_limit": limit,
    }


def _finetune_config(settings: dict[str, Any]) -> FineTuneConfig:
    fields = {field.name for field in dataclasses.fields(FineTuneConfig)}
    values = {name: value for name, value in settings.items() if name in fields}
    for name in ("trainable_layers", "quantized_layers"):  # lists in JSON
        if values.get(name) is not None:
            values[name] = tuple(values[name])
    return FineTuneConfig(**values | {"model": _model_name(settings)})


def _federated_config(settings: dict[str, Any]) -> FederatedConfig:
    return config_from_json(settings | {"model": _model_name(settings)})


def _model_name(settings: dict[str, Any]) -> str:
    return settings["model"].partition("@")[0]


def _finetune_sources(config: FineTuneConfig) -> dict[str, str]:
    return {
        "task": load_task(config.task).fingerprint,
        "model": find_pretrained(config.model).sha256,
    }


_KINDS = {
    "FineTuneConfig": _Kind(_finetune_config, finetune_settings, _finetune_sources, load_or_run),
    "FederatedConfig": _Kind(
        _federated_config,
        federated_settings,
        lambda config: FederatedSetting(config).sources(),
        load_or_federate,
    ),
}
