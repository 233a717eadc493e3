"""``fedquad tune`` and ``fedquad check-tasks``: what is settled before any figure is made."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def tune(
    *,
    profile: str = "reference",
    model: str | None = None,
    federated: Annotated[bool, Parameter(negative="")] = False,
    workers: int = 2,
) -> None:
    """Search the learning rate of a profile's model on held-out training rows.

    Writes data/learning_rates/PROFILE.csv, or PROFILE-MODEL.csv for another
    model than the profile's own, and prints it. The rates in
    fedquad/config/profiles.py are those chosen there.

    Parameters
    ----------
    profile
        Whose model, task, steps and batch size are used.
    model
        Another model, such as embedded-bert.
    federated
        For federated runs of the profile's own model: PROFILE-federated.csv.
    workers
        Processes that fine-tune side by side.
    """
    from fedquad.config import InputError, get_profile

    sizes = get_profile(profile)
    if federated:
        from fedquad.federation.learning_rate import search_federated_rate as search

        if model not in (None, sizes.model):
            raise InputError("model", model, f"{sizes.model}, the profile's own, with --federated")
    else:
        from fedquad.runs.learning_rate import search_learning_rate as search

        sizes = dataclasses.replace(sizes, model=model or sizes.model)
    print(search(sizes, workers=workers).to_string(index=False))


def check_tasks(
    *,
    profile: str = "reference",
    model: str = "embedded",
    output: Path | None = None,
    workers: int = 2,
) -> None:
    """Fine-tune an embedded encoder on every embedded task, with LoRA and fully.

    Shows that the tasks can be learned and are not solved, on held-out
    training rows. Prints the table and writes it as csv.

    Parameters
    ----------
    profile
        Whose steps and batch size are used.
    model
        The encoder. Its learning rate is the one that `fedquad tune` chose, or
        the profile's for the profile's own model.
    output
        The csv file, instead of data/encoders/MODEL/tasks.csv.
    workers
        Processes that fine-tune side by side.
    """
    from fedquad import paths
    from fedquad.config import get_profile
    from fedquad.runs.learnability import check_tasks as check
    from fedquad.runs.learning_rate import chosen_rate
    from fedquad.runs.store import RunStore

    sizes = get_profile(profile)
    if model != sizes.model:
        sizes = dataclasses.replace(sizes, model=model)
        sizes = dataclasses.replace(sizes, learning_rate=chosen_rate(sizes))
    table = check(
        sizes,
        RunStore(paths.runs_dir(profile)),
        output or paths.package_data() / "encoders" / model / "tasks.csv",
        workers=workers,
    )
    print(table.to_string(index=False))
