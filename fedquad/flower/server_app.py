"""The ServerApp: our round loop on Flower's nodes."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import psutil
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedquad.config import InputError
from fedquad.federation.device import DeviceHost
from fedquad.federation.executor import one_thread
from fedquad.federation.results import FederatedResult, federated_result
from fedquad.federation.runs import run_settings
from fedquad.federation.server import Server
from fedquad.federation.setting import FederatedSetting
from fedquad.flower.executor import FlowerExecutor
from fedquad.flower.fleet import DeployedSetting, NodeFleet
from fedquad.flower.nodes import Nodes
from fedquad.flower.payloads import DeviceReport, RunSpec
from fedquad.flower.run_config import RunConfig
from fedquad.runs.environment import describe_environment
from fedquad.runs.run import Run
from fedquad.runs.store import RunStore

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """The run that the run config describes; what goes wrong fails Flower's run, too."""
    options = RunConfig.read(context.run_config)
    result = run_on(grid, options, say=lambda line: print(line, flush=True))
    failures = sum(row["failures"] for row in result.rows)
    print(
        f"{result.config.method}: accuracy {result.accuracy:.2%} after {len(result.rows)} rounds, "
        f"{failures} devices failed in all",
        flush=True,
    )


def run_on(grid: Grid, options: RunConfig, say: Callable[[str], None]) -> FederatedResult:
    """Play a run on a federation's nodes, or read it from the store.

    Parameters
    ----------
    grid : Grid
    options : RunConfig
    say : callable
        Called with a line for people, of each round.

    Raises
    ------
    InputError
        Settings that no run can have, or not enough devices.
    DivergenceError
        Fewer devices than ``min_updates`` sent something that can be used.
    StoreError
        As `fedquad.federation.runs.run_federated`.
    """
    setting, settings, executor = _on_nodes(grid, options)
    store = RunStore(options.store)
    with store.open(settings, setting.sources(), fresh=options.fresh) as run:
        if not run.is_complete:
            server = Server(setting, executor, min_updates=options.min_updates)
            _go_on(server, executor, setting, run, say)
            if options.adapter is not None:
                server.global_adapter.save(options.adapter)
                say(f"the global adapter is in {options.adapter}")
    say(f"stored in {store.directory(settings)}")
    return federated_result(options.config, store.read(settings), from_record=False)


def _on_nodes(
    grid: Grid, options: RunConfig
) -> tuple[FederatedSetting, dict[str, Any], FlowerExecutor]:
    """The run's setting, the settings it is stored under, and its executor, connected."""
    is_real = options.status == "measured"
    make = DeployedSetting if is_real else FederatedSetting
    setting = make(options.config)
    spec = RunSpec(
        config=options.config,
        label_names=setting.task.label_names,
        costs=setting.costs if is_real else None,
    )
    nodes = Nodes(
        grid,
        spec.encode(),
        answer_timeout_s=options.answer_timeout_s,
        max_under_way=options.max_under_way,
    )
    settings = run_settings(options.config)
    if not is_real:
        setting.require_usable()
        reports = nodes.connect(setting.num_devices, options.connect_timeout_s, order=int)
        _require_partitions(reports, setting.num_devices)
        return setting, settings, FlowerExecutor(nodes, _host(setting))
    reports = nodes.connect(options.config.num_devices, options.connect_timeout_s, order=str)
    setting.fleet = NodeFleet(nodes, reports, setting.costs)
    setting.require_usable()
    # Their rows, memory and speed are their own: it is no run of simulated devices.
    settings |= {"num_devices": None, "deployment": [report.name for report in reports]}
    return setting, settings, FlowerExecutor(nodes, _host(setting), setting.fleet.take)


def _host(setting: FederatedSetting) -> DeviceHost:
    with one_thread():
        return DeviceHost(setting)


def _require_partitions(reports: list[DeviceReport], num_devices: int) -> None:
    if (found := [int(report.name) for report in reports]) != list(range(num_devices)):
        accepted = f"{num_devices} nodes, as many as num-devices says, with partition ids from 0"
        raise InputError("nodes of the simulation", found, accepted)


def _go_on(
    server: Server,
    executor: FlowerExecutor,
    setting: FederatedSetting,
    run: Run,
    say: Callable[[str], None],
) -> None:
    started = time.perf_counter()
    run.log(
        event="started",
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        task_source=setting.task.source,
        rows_evaluated=len(setting.task.eval),
        environment=describe_environment("cpu") | {"threads": 1},
    )

    def before_round_is_stored(row: dict[str, Any]) -> None:
        run.log(
            event="round",
            round=row["round"],
            wall_time_s=round(time.perf_counter() - started, 3),
            rss_bytes=psutil.Process().memory_info().rss,
            fallbacks=executor.fallbacks,
        )

    def on_round(row: dict[str, Any]) -> None:
        say(
            f"round {row['round']} of {setting.config.num_rounds}: "
            f"accuracy {row['accuracy']:.2%}, {row['participants']} devices, "
            f"{row['failures']} failed, {time.perf_counter() - started:.1f} s"
        )

    server.go_on(run, before_round_is_stored, on_round)
