"""The learning rate of federated runs, chosen once on rows that no figure is evaluated on."""

from __future__ import annotations

import pandas as pd

from fedquad import paths
from fedquad.config import Profile
from fedquad.federation.plans import tuning_configs
from fedquad.federation.runs import load_or_federate
from fedquad.runs.learning_rate import write_rates
from fedquad.runs.store import RunStore

# Lower than those of central runs: the optimizer's state is fresh in every round, and its first
# steps are as long as the rate whatever the gradient is.
RATES = (3e-4, 1e-3, 3e-3)


def search_federated_rate(profile: Profile, *, workers: int = 1) -> pd.DataFrame:
    """Run FedLoRA, which no device limits, at each of `RATES`; evaluate on held-out training rows.

    The rate of the best accuracy (ties: the smaller) is the one that
    ``profile.federated`` has to have for the model. The table is written to
    ``data/learning_rates/<profile>-federated.csv``.

    Parameters
    ----------
    profile : Profile
        Its first federated task and seed are searched on, with its model and sizes.
    workers : int
        Processes side by side.

    Returns
    -------
    DataFrame
        ``task, model, rounds, local_steps, learning_rate, accuracy, loss, chosen``, a row a
        rate; accuracy and loss are means over the last quarter of the rounds.
    """
    configs = tuning_configs(profile, RATES)
    results = load_or_federate(configs, RunStore(paths.runs_dir(profile.name)), workers=workers)
    rows = []
    for result in results:
        last = result.rounds().tail(max(1, result.config.num_rounds // 4))
        rows.append(
            {
                "task": result.config.task,
                "model": result.config.model,
                "rounds": result.config.num_rounds,
                "local_steps": result.config.local_steps,
                "learning_rate": result.config.learning_rate,
                "accuracy": last["accuracy"].mean(),
                "loss": last["loss"].mean(),
            }
        )
    return write_rates(rows, f"{profile.name}-federated.csv")
