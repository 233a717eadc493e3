"""``fedquad run``: one federated run, stored and printed."""

from __future__ import annotations

import math
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from fedquad.cli.federated_options import (
    DEFAULT_OPTIONS,
    FederatedParameter,
    config_values,
    describe,
    describe_clock,
    federated_config,
    make_importable,
    parse_number,
    require_devices_of_fleet,
    seconds,
    shows_progress,
)
from fedquad.cli.options import print_json
from fedquad.config import FederatedConfig, require_int

if TYPE_CHECKING:  # they load torch
    from fedquad.federation.results import FederatedResult
    from fedquad.runs.store import RunStore

MAX_ROUNDS_PRINTED = 12


def run(
    options: FederatedParameter = DEFAULT_OPTIONS,
    *,
    method: str = "fedquad",
    option: Annotated[tuple[str, ...], Parameter(negative="", show_default=False)] = (),
    devices: int | None = None,
    seed: int = 0,
    workers: int = 1,
    torch_device: str = "cpu",
    fresh: Annotated[bool, Parameter(negative="")] = False,
    tables: Path | None = None,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Fine-tune a model on a fleet of devices by a method, and print every round.

    The run is stored under data/runs/local. The same settings again are read
    from there; a run that was cut off goes on after its last round.

    Parameters
    ----------
    method
        fedquad, fedquad-no-qd, fedquad-no-ld, fedlora, fedra, inclusivefl, layersel,
        hetlora; or module:Class of a method of your own.
    option
        A setting of the method's own, as NAME=VALUE; may be given several times.
    devices
        Simulated devices, 20 by default. A fleet has its own.
    seed
        Partition, fleet, head and LoRA initialisation, order of the rows, dropout.
    workers
        Processes that share the devices of a round. Results do not depend on it.
    torch_device
        cpu or cuda: where the devices are fine-tuned.
    fresh
        Compute it again, even if it is stored or was cut off.
    tables
        Folder for rounds.csv and devices.csv, one row a round and one a device and round.
    json
        Print one JSON object instead of a table.
    """
    from fedquad import paths
    from fedquad.federation.runs import run_settings
    from fedquad.runs.store import RunStore

    require_int("workers", workers, 1)
    make_importable([method])
    config = federated_config(
        options,
        method=method,
        method_options=tuple(parse_number("option", text, "NAME") for text in option),
        devices=devices,
        seed=seed,
    )
    settings = run_settings(config)
    require_devices_of_fleet(config, devices)
    store = RunStore(paths.runs_dir("local"))
    computing = {"workers": workers, "fresh": fresh, "torch_device": torch_device}
    result, went_on_from = _with_progress(config, store, settings, computing, shows_progress(json))
    written = [] if tables is None else [str(path) for path in result.save_tables(tables)]
    values = _values(result) | {
        "went_on_from_round": went_on_from,
        "folder": str(store.directory(settings)),
        "tables": written,
    }
    if json:
        print_json(values)
    else:
        _print_text(values, result)


class _Progress:
    """A bar over the rounds, with what the last one brought."""

    def __init__(self, num_rounds: int, was_cut_off: bool, is_shown: bool) -> None:
        from tqdm.auto import tqdm

        # Left to its default otherwise, so that $TQDM_DISABLE counts.
        hidden = {} if is_shown else {"disable": True}
        self.bar = tqdm(total=num_rounds, unit="round", desc="federated rounds", **hidden)
        self.went_on_from: int | None = None
        self._is_shown = is_shown
        self._stored_row_is_next = was_cut_off

    def __call__(self, row: dict[str, Any]) -> None:
        """Take the row of a round; before the first, that of the round a run goes on from."""
        if self._stored_row_is_next:
            self._stored_row_is_next = False
            self.went_on_from = self.bar.initial = row["round"]
            if self._is_shown:
                message = f"fedquad: going on from round {row['round']} of {self.bar.total}"
                self.bar.write(message, file=sys.stderr)
        self.bar.set_postfix_str(
            f"accuracy {100 * row['accuracy']:.1f} %, simulated {row['sim_time_s']:,.0f} s, "
            f"waiting {row['mean_waiting_time_s']:,.1f} s",
            refresh=False,
        )
        self.bar.update(row["round"] - self.bar.n)


def _with_progress(
    config: FederatedConfig,
    store: RunStore,
    settings: dict[str, Any],
    computing: dict[str, Any],
    is_shown: bool,
) -> tuple[FederatedResult, int | None]:
    """The run, and the round after which it went on if it had been cut off."""
    from tqdm.contrib.logging import logging_redirect_tqdm

    from fedquad.federation.runs import run_federated

    fresh = computing["fresh"]
    if not fresh and store.read(settings) is not None:
        return run_federated(config, store, **computing), None
    was_cut_off = not fresh and (store.directory(settings) / "checkpoint").exists()
    progress = _Progress(config.num_rounds, was_cut_off, is_shown)
    with ExitStack() as until_done:
        until_done.enter_context(progress.bar)
        until_done.enter_context(logging_redirect_tqdm())  # devices left out are named above it
        result = run_federated(config, store, on_round=progress, **computing)
    return result, progress.went_on_from


def _values(result: FederatedResult) -> dict[str, Any]:
    from fedquad.federation.results import ROUND_COLUMNS

    columns = [name for name in ROUND_COLUMNS if name != "correct"]
    return {
        "run_id": result.run_id,
        "from_record": result.from_record,
        "method": result.config.method,
        "config": config_values(result.config, result.num_devices),
        "accuracy": result.accuracy,
        "sim_time_s": result.sim_time_s,
        "mean_waiting_time_s": result.mean_waiting_time_s,
        "memory_overruns": sum(row["memory_overruns"] for row in result.rows),
        "failures": sum(row["failures"] for row in result.rows),
        "counts": result.rows[-1].get("counts", {}),
        "wall_time_s": result.telemetry["wall_time_s"],
        "attempts": result.telemetry["attempts"],
        "rounds": [{name: row[name] for name in columns} for row in result.rows],
    }


# Head of a column, its width, and how a round's value is written there.
_COLUMNS = {
    "round": ("round", 5, "{:d}"),
    "accuracy": ("accuracy", 9, "{:.2%}"),
    "loss": ("loss", 8, "{:.4f}"),
    "round_time_s": ("round s", 10, "{:,.1f}"),
    "sim_time_s": ("simulated s", 12, "{:,.1f}"),
    "mean_waiting_time_s": ("waiting s", 10, "{:,.1f}"),
    "mean_depth": ("depth", 6, "{:.2f}"),
    "mean_quantized": ("quantized", 10, "{:.2f}"),
    "participants": ("devices", 8, "{:d}"),
}


def _print_text(values: dict[str, Any], result: FederatedResult) -> None:
    from fedquad.methods import find_method

    label = find_method(result.config.method).label
    options = "".join(f", {name}={value:g}" for name, value in result.options.items())
    print(f"{label}{options}: {describe(result.config, result.num_devices)}, ", end="")
    print(f"seed {result.config.seed}")
    print(" ".join(f"{head:>{width}}" for head, width, _ in _COLUMNS.values()))
    rows = values["rounds"]
    for index in shown_rounds(len(rows)):
        print(" ".join(_cell(rows[index], name) for name in _COLUMNS))
    print(describe_clock(result.config))
    rows_evaluated = rows[-1]["num_eval"]
    print(f"  accuracy         {100 * values['accuracy']:.2f} % of {rows_evaluated} rows")
    print(f"  simulated time   {values['sim_time_s']:,.1f} s")
    print(f"  mean waiting     {seconds(values['mean_waiting_time_s'])} s a round")
    for column, word in (("upload_bytes", "uploaded"), ("download_bytes", "downloaded")):
        print(f"  {word:<16} {sum(row[column] for row in rows) / 1e6:,.1f} MB")
    print(f"  memory overruns  {values['memory_overruns']}")
    print(f"  devices failed   {values['failures']}")
    for name, count in values["counts"].items():
        print(f"  {name.replace('_', ' '):<16} {count}")
    origin = "read from the record, computed" if values["from_record"] else "computed"
    print(f"  wall time        {values['wall_time_s']:.1f} s, {origin} in {_attempts(values)}")
    print(f"  stored in        {values['folder']}")
    for path in values["tables"]:
        print(f"  table            {path}")


def shown_rounds(count: int) -> list[int]:
    """Indices of the rounds that are printed: all of a few, else every k-th and the last."""
    step = math.ceil((count - 1) / (MAX_ROUNDS_PRINTED - 1)) or 1
    return [*range(0, count - 1, step), count - 1]


def _cell(row: dict[str, Any], name: str) -> str:
    _, width, form = _COLUMNS[name]
    value = row[name]
    return f"{'-' if value is None else form.format(value):>{width}}"


def _attempts(values: dict[str, Any]) -> str:
    return "one go" if values["attempts"] == 1 else f"{values['attempts']} goes"
