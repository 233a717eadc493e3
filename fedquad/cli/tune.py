"""``fedquad tune`` and ``fedquad check-tasks``: what is settled before any figure is made."""

from __future__ import annotations

from pathlib import Path


def tune(*, profile: str = "reference", workers: int = 2) -> None:
    """Search a profile's learning rate on held-out training rows.

    Writes data/learning_rates/PROFILE.csv and prints it. The profile's own
    rate in fedquad/config/profiles.py is the one chosen there.

    Parameters
    ----------
    profile
        Whose model, task, steps and batch size are used.
    workers
        Processes that fine-tune side by side.
    """
    from fedquad.config import get_profile
    from fedquad.runs.learning_rate import search_learning_rate

    print(search_learning_rate(get_profile(profile), workers=workers).to_string(index=False))


def check_tasks(
    *, profile: str = "reference", output: Path | None = None, workers: int = 2
) -> None:
    """Fine-tune the embedded encoder on every embedded task, with LoRA and fully.

    Shows that the tasks can be learned and are not solved, on held-out
    training rows. Prints the table and writes it as csv.

    Parameters
    ----------
    profile
        Whose steps, batch size and learning rate are used.
    output
        The csv file, instead of data/encoders/embedded/tasks.csv.
    workers
        Processes that fine-tune side by side.
    """
    from fedquad import paths
    from fedquad.config import get_profile
    from fedquad.runs.learnability import check_tasks as check
    from fedquad.runs.store import RunStore

    table = check(
        get_profile(profile),
        RunStore(paths.runs_dir(profile)),
        output or paths.package_data() / "encoders" / "embedded" / "tasks.csv",
        workers=workers,
    )
    print(table.to_string(index=False))
