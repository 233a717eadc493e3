"""Central fine-tuning as stored runs: computed once, resumed after a kill, read ever after."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from fedquad.config import FineTuneConfig
from fedquad.model.backbone import load_backbone
from fedquad.runs.central import CentralRun
from fedquad.runs.collection import Experiment
from fedquad.runs.pool import Report
from fedquad.runs.results import (
    FineTuneResult,
    all_settings,
    result_of,
    results_frame,
    run_settings,
)
from fedquad.runs.store import RunStore
from fedquad.tasks.task import load_task, with_holdout

__all__ = ["FineTuneResult", "finetune", "load_or_run", "results_frame", "run_settings"]


def load_or_run(
    configs: Iterable[FineTuneConfig],
    store: RunStore,
    *,
    workers: int = 1,
    fresh: bool = False,
    progress: bool = True,
    torch_device: str = "cpu",
) -> list[FineTuneResult]:
    """Results of all these runs: read where the store has them, computed where not.

    Parameters
    ----------
    configs : iterable of FineTuneConfig
        Equal ones are run once.
    store : RunStore
    workers : int
        Processes that compute side by side. The results are the same bytes for any number.
    fresh : bool
        Compute again what is stored. A stored run stands until the new one is finished.
    progress : bool
        Show a bar over the optimizer steps of all runs that have to be computed.
    torch_device : str
        ``cpu`` or ``cuda``.

    Returns
    -------
    list of FineTuneResult
        In the order of ``configs``.

    Raises
    ------
    StoreError
        A record is damaged, was made from other data, is being computed by
        another process, or cannot be written.
    InputError
        A task or a model that is needed for computing cannot be had.
    WorkerError
        A worker process died. Finished runs are kept, the others resume.
    """
    return _FINE_TUNING.load_or_run(
        configs,
        store,
        workers=workers,
        fresh=fresh,
        progress=progress,
        torch_device=torch_device,
    )


def finetune(
    config: FineTuneConfig,
    store: RunStore,
    *,
    on_step: Report | None = None,
    fresh: bool = False,
    torch_device: str = "cpu",
) -> FineTuneResult:
    """One run: read from the store, or computed from its last checkpoint on.

    `load_or_run` is the same for many, with one torch thread. Here the bytes
    of the result are those of the caller's number of threads.

    Parameters
    ----------
    on_step : callable, optional
        Called with the number of steps taken, after each and when resuming.

    Raises
    ------
    InputError, StoreError
        As `load_or_run`.
    DivergenceError
        The loss is not finite any more.
    """
    settings = run_settings(config)
    if not fresh and (result := _FINE_TUNING.read(config, store)):
        return result
    task = load_task(
        config.task, train_samples=config.train_samples, eval_samples=config.eval_samples
    )
    if config.evaluate_on == "holdout":
        task = with_holdout(task)
    backbone = load_backbone(config.model, num_labels=len(task.label_names), seed=config.seed)
    sources = {"task": task.fingerprint, "model": backbone.fingerprint}
    central = CentralRun(config, task, backbone, torch_device)
    with store.open(settings, sources, fresh=fresh) as run:
        if not run.is_complete:
            central.go_on(run, on_step or (lambda steps: None))
    return result_of(config, store.read(settings), from_record=False)


def _compute(item: tuple[FineTuneConfig, Path, bool, str], report: Report) -> None:
    config, root, fresh, torch_device = item
    finetune(config, RunStore(root), on_step=report, fresh=fresh, torch_device=torch_device)


_FINE_TUNING = Experiment(
    all_settings=all_settings,
    compute=_compute,
    result_of=result_of,
    length=lambda config: config.num_steps,
    unit="step",
    description="fine-tuning",
)
