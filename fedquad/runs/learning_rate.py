"""The learning rate of an encoder, chosen once on rows that no figure is evaluated on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd

from fedquad import paths
from fedquad.config import PROFILES, InputError, Profile
from fedquad.runs.finetune import load_or_run
from fedquad.runs.plans import full_depth_config
from fedquad.runs.store import RunStore

RATES = (1e-3, 3e-3, 1e-2)


def rate_file_name(profile: Profile) -> str:
    """``reference.csv`` for a profile's own model, ``reference-embedded-bert.csv`` for another."""
    own_model = PROFILES[profile.name].model
    suffix = "" if profile.model == own_model else f"-{profile.model}"
    return f"{profile.name}{suffix}.csv"


def chosen_rate(profile: Profile) -> float:
    """The committed choice for a profile's model, in ``data/learning_rates``.

    Raises
    ------
    InputError
        Nothing was searched for this model, or no row of its table is the one chosen.
    """
    path = paths.package_data() / "learning_rates" / rate_file_name(profile)
    if not path.is_file():
        accepted = (
            f"a model with {path.name}: `fedquad tune --profile {profile.name} "
            f"--model {profile.model}` makes it"
        )
        raise InputError("model", profile.model, accepted)
    table = pd.read_csv(path)
    rates = table.loc[table["chosen"], "learning_rate"]
    if len(rates) != 1:
        raise InputError("chosen", len(rates), f"one row of {path.name} that is chosen")
    return float(rates.item())


def search_learning_rate(profile: Profile, *, workers: int = 1) -> pd.DataFrame:
    """Fine-tune all layers at each of `RATES` and evaluate on held-out training rows.

    The rate of the best accuracy (ties: the smaller) is what the profile's
    ``learning_rate`` has to be; the paper's own 1e-3 is for encoders a hundred
    times larger. The table is written to
    ``data/learning_rates/<profile>.csv``, with the model in the file's name if
    it is not the profile's own (`rate_file_name`).

    Parameters
    ----------
    profile : Profile
        Its first task and first seed are searched on, with its model.
    workers : int
        Processes side by side.

    Returns
    -------
    DataFrame
        ``task, model, steps, learning_rate, accuracy, loss, chosen``, a row a rate.
    """
    base = replace(full_depth_config(profile), evaluate_on="holdout")
    configs = [replace(base, learning_rate=rate) for rate in RATES]
    results = load_or_run(configs, RunStore(paths.runs_dir(profile.name)), workers=workers)
    rows = [
        {
            "task": result.config.task,
            "model": result.config.model,
            "steps": result.config.num_steps,
            "learning_rate": result.config.learning_rate,
            "accuracy": result.accuracy,
            "loss": result.loss,
        }
        for result in results
    ]
    return write_rates(rows, rate_file_name(profile))


def write_rates(rows: list[dict[str, Any]], name: str) -> pd.DataFrame:
    """Mark the row of the best accuracy as chosen (ties: the smaller rate) and write the table."""
    best = max(rows, key=lambda row: (row["accuracy"], -row["learning_rate"]))
    table = pd.DataFrame([row | {"chosen": row is best} for row in rows])
    folder = paths.project_root() / "data" / "learning_rates"
    folder.mkdir(parents=True, exist_ok=True)
    table.to_csv(folder / name, index=False)
    return table
