"""Are the embedded tasks fair: learnable by the embedded encoder, and not solved by it?"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd

from fedquad.config import Profile
from fedquad.runs.finetune import load_or_run
from fedquad.runs.plans import full_depth_config
from fedquad.runs.store import RunStore
from fedquad.tasks.microworld import MICRO_TASKS
from fedquad.tasks.task import load_task

# Ten times smaller than LoRA's: every weight moves.
FULL_TUNING_RATE_SHARE = 0.1


def check_tasks(profile: Profile, store: RunStore, output: Path, *, workers: int = 1):
    """Fine-tune on every micro-world task, with LoRA on all layers and fully.

    Held-out training rows are evaluated on, so that encoder and tasks can be
    settled without a look at the rows that the figures are about.

    Parameters
    ----------
    profile : Profile
        Steps, batch size and learning rate (a tenth of it for full tuning).
    output : Path
        The csv file written.

    Returns
    -------
    DataFrame
        ``task, tuning, steps, chance_percent, accuracy_percent, loss``.
    """
    base = replace(full_depth_config(profile), evaluate_on="holdout")
    full = replace(
        base,
        tuning="full",
        trainable_layers=None,
        learning_rate=FULL_TUNING_RATE_SHARE * base.learning_rate,
    )
    configs = [replace(one, task=task) for task in MICRO_TASKS for one in (base, full)]
    results = load_or_run(configs, store, workers=workers)
    table = pd.DataFrame(
        {
            "task": result.config.task,
            "tuning": result.config.tuning,
            "steps": result.config.num_steps,
            "chance_percent": 100 / len(load_task(result.config.task).label_names),
            "accuracy_percent": 100 * result.accuracy,
            "loss": result.loss,
        }
        for result in results
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(output, index=False)
    return table
