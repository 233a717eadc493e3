"""Federated runs as stored runs: computed once, resumed after a kill, read ever after."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from fedquad.config import FederatedConfig, require_int
from fedquad.cost.latency import checked_device
from fedquad.federation.device import DeviceHost
from fedquad.federation.distributed import DistributedExecutor, HostSpec
from fedquad.federation.executor import Executor, InProcessExecutor
from fedquad.federation.results import FederatedResult, federated_result
from fedquad.federation.server import Server
from fedquad.federation.setting import (
    FederatedSetting,
    all_settings,
    config_to_json,
    costs_at_hand,
)
from fedquad.runs.collection import Experiment
from fedquad.runs.environment import describe_environment
from fedquad.runs.pool import Report
from fedquad.runs.run import Run
from fedquad.runs.store import RunStore

__all__ = ["FederatedResult", "load_or_federate", "run_federated", "run_settings"]

OnRound = Callable[[dict[str, Any]], None]


def run_settings(config: FederatedConfig) -> dict[str, Any]:
    """The settings that the id of a run is the hash of."""
    return all_settings([config])[0]


def load_or_federate(
    configs: Iterable[FederatedConfig],
    store: RunStore,
    *,
    workers: int = 1,
    fresh: bool = False,
    progress: bool = True,
    torch_device: str = "cpu",
    recorded_only: bool = False,
) -> list[FederatedResult]:
    """Results of all these runs: read where the store has them, computed where not.

    Runs go side by side, each in one process; `run_federated` spreads the devices
    of one run over processes instead. The results are the same bytes.

    Parameters
    ----------
    configs : iterable of FederatedConfig
        Equal ones are run once.
    store : RunStore
    workers : int
        Processes, of one torch thread each.
    fresh : bool
        Compute again what is stored. A stored run stands until the new one is finished.
    progress : bool
        Show a bar over the rounds of all runs that have to be computed.
    torch_device : str
        ``cpu`` or ``cuda``.
    recorded_only : bool
        Compute nothing: runs that are not stored are left out.

    Returns
    -------
    list of FederatedResult
        In the order of ``configs``.

    Raises
    ------
    StoreError
        A record is damaged, was made from other data or costs, is being computed
        by another process, or cannot be written.
    InputError
        What is needed for computing cannot be had, or settings do not go together.
    DivergenceError
        No device of a round sent anything that can be used.
    WorkerError
        A worker process died. Finished rounds are kept.
    """
    return _FEDERATION.load_or_run(
        configs,
        store,
        workers=workers,
        fresh=fresh,
        progress=progress,
        torch_device=torch_device,
        recorded_only=recorded_only,
    )


def run_federated(
    config: FederatedConfig,
    store: RunStore,
    *,
    workers: int = 1,
    on_round: OnRound | None = None,
    fresh: bool = False,
    torch_device: str = "cpu",
) -> FederatedResult:
    """One run: read from the store, or computed from its last checkpoint on.

    Parameters
    ----------
    workers : int
        Processes that share the devices of each round; 1 runs them in this one.
    on_round : callable, optional
        Called with the row of each round that is computed, and before the first
        of them with the last one that was there already, if any.

    Raises
    ------
    StoreError, InputError, DivergenceError, WorkerError
        As `load_or_federate`.
    """
    require_int("workers", workers, 1)
    settings = run_settings(config)
    if not fresh and (result := _FEDERATION.read(config, store)):
        return result
    checked_device(torch_device)
    setting = FederatedSetting(config)
    setting.require_usable()
    workers = min(workers, setting.num_devices)
    # The executor first: what cannot run is refused before anything is stored of it.
    with (
        _make_executor(setting, workers, torch_device) as executor,
        store.open(settings, setting.sources(), fresh=fresh) as run,
    ):
        if not run.is_complete:
            _go_on(setting, executor, run, on_round, torch_device)
    return federated_result(config, store.read(settings), from_record=False)


def _make_executor(setting: FederatedSetting, workers: int, torch_device: str) -> Executor:
    if workers == 1:
        return InProcessExecutor(DeviceHost(setting, torch_device))
    arguments = {"config": config_to_json(setting.config), "torch_device": torch_device}
    spec = HostSpec(factory="fedquad.federation.device:host_from_json", arguments=arguments)
    return DistributedExecutor(spec, workers)


def _go_on(
    setting: FederatedSetting,
    executor: Executor,
    run: Run,
    on_round: OnRound | None,
    torch_device: str,
) -> None:
    server = Server(setting, executor)
    started = time.perf_counter()
    run.log(
        event="started",
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        task_source=setting.task.source,
        rows_per_device=len(setting.task.train) // setting.num_devices,
        rows_evaluated=len(setting.task.eval),
        environment=describe_environment(torch_device) | {"threads": 1},
    )

    def before_round_is_stored(row: dict[str, Any]) -> None:
        run.log(
            event="round",
            round=row["round"],
            wall_time_s=round(time.perf_counter() - started, 3),
            rss_bytes=psutil.Process().memory_info().rss,
        )

    server.go_on(run, before_round_is_stored, on_round or (lambda row: None))


def _compute(item: tuple[FederatedConfig, Path, bool, str], report: Report) -> None:
    config, root, fresh, torch_device = item
    run_federated(
        config,
        RunStore(root),
        on_round=lambda row: report(row["round"]),
        fresh=fresh,
        torch_device=torch_device,
    )


_FEDERATION = Experiment(
    all_settings=all_settings,
    compute=_compute,
    result_of=federated_result,
    length=lambda config: config.num_rounds,
    sources_at_hand=costs_at_hand,
    unit="round",
    description="federated rounds",
)
