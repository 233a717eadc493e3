"""The learning rate of a profile, chosen once on rows that no figure is evaluated on."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from fedquad import paths
from fedquad.config import Profile
from fedquad.runs.finetune import load_or_run
from fedquad.runs.plans import full_depth_config
from fedquad.runs.store import RunStore

RATES = (1e-3, 3e-3, 1e-2)


def search_learning_rate(profile: Profile, *, workers: int = 1) -> pd.DataFrame:
    """Fine-tune all layers at each of `RATES` and evaluate on held-out training rows.

    The rate of the best accuracy (ties: the smaller) is what the profile's
    ``learning_rate`` has to be; the paper's own 1e-3 is for encoders a hundred
    times larger. The table is written to
    ``data/learning_rates/<profile>.csv``.

    Parameters
    ----------
    profile : Profile
        Its first task and first seed are searched on.
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
    best = max(results, key=lambda result: (result.accuracy, -result.config.learning_rate))
    table = pd.DataFrame(
        {
            "task": result.config.task,
            "model": result.config.model,
            "steps": result.config.num_steps,
            "learning_rate": result.config.learning_rate,
            "accuracy": result.accuracy,
            "loss": result.loss,
            "chosen": result is best,
        }
        for result in results
    )
    folder = paths.project_root() / "data" / "learning_rates"
    folder.mkdir(parents=True, exist_ok=True)
    table.to_csv(folder / f"{profile.name}.csv", index=False)
    return table
