"""``fedquad reproduce``: figures and tables of the paper."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter


def reproduce(
    *items: str,
    profile: str = "embedded",
    fresh: Annotated[bool, Parameter(negative="")] = False,
    workers: int = 2,
    task: str | None = None,
    seeds: Annotated[tuple[int, ...] | None, Parameter(negative="", consume_multiple=True)] = None,
    torch_device: str = "cpu",
    recorded_only: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Make figures and tables of the paper in figures/PROFILE.

    What they need is computed first, or read from data/runs/PROFILE; then
    their notebooks are executed one after the other.

    Parameters
    ----------
    items
        fig01, fig02, fig03, tab02, …; everything if none is named.
    profile
        smoke, embedded, reference, glue or paper: which model and data, how much of it.
    fresh
        Compute again what is stored.
    workers
        Processes that fine-tune side by side. Results do not depend on it.
    task
        Instead of the profile's task: a name or a folder. Files then go to
        figures/PROFILE/TASK.
    seeds
        Instead of the profile's seeds, as in --seeds 0 1 2.
    torch_device
        cpu or cuda: where fine-tuning runs and steps are timed.
    recorded_only
        Draw federated figures from the stored runs alone; nothing federated is computed.
    """
    from fedquad.reproduce import reproduce as make

    make(
        items,
        profile,
        fresh=fresh,
        workers=workers,
        task=task,
        seeds=seeds,
        torch_device=torch_device,
        recorded_only=recorded_only,
    )
