"""``fedquad compare``: several methods on the same fleet, and how fast each one learns."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from fedquad.cli.federated_options import (
    DEFAULT_OPTIONS,
    FederatedOptions,
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
from fedquad.config import FederatedConfig, InputError, require_int

if TYPE_CHECKING:  # they load torch
    from fedquad.federation.results import FederatedResult
    from fedquad.report.intervals import Estimate

DEFAULT_METHODS = ("fedquad", "fedra", "inclusivefl", "layersel", "hetlora")


def compare(
    options: FederatedParameter = DEFAULT_OPTIONS,
    *,
    methods: Annotated[
        tuple[str, ...], Parameter(negative="", consume_multiple=True)
    ] = DEFAULT_METHODS,
    option: Annotated[tuple[str, ...], Parameter(negative="", show_default=False)] = (),
    devices: int | None = None,
    seeds: Annotated[tuple[int, ...], Parameter(negative="", consume_multiple=True)] = (0,),
    workers: int = 2,
    torch_device: str = "cpu",
    fresh: Annotated[bool, Parameter(negative="")] = False,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Run several methods under the same settings and compare how fast they learn.

    The target is the paper's: the highest accuracy that every method reaches, on
    curves averaged over the seeds and lightly smoothed. Speed-ups are those of
    fedquad, or of the first method if fedquad is not among them. Runs are stored
    and read as by `fedquad run`.

    Parameters
    ----------
    methods
        As in --methods fedquad fedra; each as for `fedquad run`.
    option
        A setting of one method's own, as METHOD.NAME=VALUE; may be given several times.
    devices
        Simulated devices, 20 by default. A fleet has its own.
    seeds
        As in --seeds 0 1 2: each method runs with every one of them.
    workers
        Processes that compute runs side by side. Results do not depend on it.
    torch_device
        cpu or cuda: where the devices are fine-tuned.
    fresh
        Compute again what is stored.
    json
        Print one JSON object instead of a table.
    """
    from fedquad import paths
    from fedquad.federation.runs import load_or_federate
    from fedquad.runs.store import RunStore

    require_int("workers", workers, 1)
    _require_distinct("methods", methods)
    _require_distinct("seeds", seeds)
    make_importable(methods)
    configs = _configs(options, methods, _options_by_method(option, methods), devices, seeds)
    _require_different_runs(configs)
    require_devices_of_fleet(configs[0], devices)
    results = load_or_federate(
        configs,
        RunStore(paths.runs_dir("local")),
        workers=workers,
        fresh=fresh,
        progress=shows_progress(json),
        torch_device=torch_device,
    )
    values = _values(results, methods)
    if json:
        print_json(values)
    else:
        _print_text(values, results[0])


def _require_distinct(field: str, values: tuple) -> None:
    if not values or len(set(values)) < len(values):
        raise InputError(field, values, "at least one, none twice")


def _options_by_method(texts: tuple[str, ...], methods: tuple[str, ...]) -> dict[str, list]:
    found: dict[str, list] = {method: [] for method in methods}
    for text in texts:
        path, value = parse_number("option", text, "METHOD.NAME")
        method, _, name = path.rpartition(".")
        if method not in found:
            accepted = f"METHOD.NAME=VALUE, METHOD one of {', '.join(methods)}"
            raise InputError("option", text, accepted)
        found[method].append((name, value))
    return found


def _configs(
    options: FederatedOptions,
    methods: tuple[str, ...],
    method_options: dict[str, list],
    devices: int | None,
    seeds: tuple[int, ...],
) -> list[FederatedConfig]:
    return [
        federated_config(
            options,
            method=method,
            method_options=tuple(method_options[method]),
            devices=devices,
            seed=seed,
        )
        for method in methods
        for seed in seeds
    ]


def _require_different_runs(configs: list[FederatedConfig]) -> None:
    """Names and options of all methods, checked before the first of them is computed."""
    from fedquad.methods import find_method, normalised_options

    names = {config.method: find_method(config.method).name for config in configs}
    if len(set(names.values())) < len(names):
        raise InputError("methods", tuple(names), "none twice, as a name and as module:Class")
    for config in configs:
        normalised_options(config.method, dict(config.method_options))


def _values(results: list[FederatedResult], methods: tuple[str, ...]) -> dict[str, Any]:
    from fedquad.federation.results import federated_frames
    from fedquad.methods import find_method
    from fedquad.report.curves import AccuracyCurves
    from fedquad.report.metrics import average_waiting_time_s
    from fedquad.report.time_to_accuracy import TimeToAccuracy

    rounds, _ = federated_frames(results)
    times = TimeToAccuracy(AccuracyCurves.from_frame(rounds, ("method",)))
    waiting_s = average_waiting_time_s(rounds, ("method",))
    fast = "fedquad" if "fedquad" in methods else methods[0]
    rows = []
    for method in methods:
        group, runs = (method,), [one for one in results if one.config.method == method]
        row = {
            "method": method,
            "label": find_method(method).label,
            "time_to_accuracy_s": _interval(times.time_s(group)),
            "rounds_to_accuracy": _finite(times.rounds(group)),
            "speedup": _interval(times.speedup(group, fast=(fast,))),
            "final_accuracy_percent": _interval(times.final_accuracy(group)),
            "mean_waiting_time_s": _finite(waiting_s[method]),
            "memory_overruns": _total(runs, "memory_overruns"),
            "failures": _total(runs, "failures"),
            "options": runs[0].options,
            "run_ids": [one.run_id for one in runs],
            "from_record": [one.from_record for one in runs],
        }
        rows.append(row)
    config = config_values(results[0].config, results[0].num_devices)
    of_one_run = ("method", "method_options", "seed")
    return {
        "config": {name: value for name, value in config.items() if name not in of_one_run},
        "seeds": list(dict.fromkeys(one.config.seed for one in results)),
        "target_percent": _interval(times.target),
        "speedup_of": fast,
        "methods": rows,
    }


def _interval(estimate: Estimate) -> dict[str, float | None]:
    """Value and ends of a 95 % interval; None where a target is never reached."""
    return {name: _finite(getattr(estimate, name)) for name in ("value", "low", "high")}


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _total(runs: list[FederatedResult], column: str) -> int:
    return sum(row[column] for one in runs for row in one.rows)


def _print_text(values: dict[str, Any], first: FederatedResult) -> None:
    seeds, rows = values["seeds"], values["methods"]
    word = "seed" if len(seeds) == 1 else "seeds"
    print(f"{describe(first.config, first.num_devices)}, {word} {' '.join(map(str, seeds))}")
    print(describe_clock(first.config))
    target = _text(values["target_percent"])
    print(f"target {target} %: the highest accuracy that every method reaches")
    fast = next(row["label"] for row in rows if row["method"] == values["speedup_of"])
    heads = ("time to target s", f"{fast} is x times as fast", "final accuracy %")
    print(f"{'method':<16}" + "".join(f"{head:>30}" for head in heads) + f"{'waiting s':>12}")
    for row in rows:
        columns = ("time_to_accuracy_s", "speedup", "final_accuracy_percent")
        cells = "".join(f"{_text(row[name]):>30}" for name in columns)
        print(f"{row['label']:<16}{cells}{seconds(row['mean_waiting_time_s']):>12}")
    if len(seeds) == 1:
        print("in brackets: 95 % intervals over the evaluation rows alone, there is one seed")
    else:
        print(f"in brackets: 95 % intervals over {len(seeds)} seeds and the evaluation rows")
    for row in rows:
        for count, what in ((row["memory_overruns"], "overran"), (row["failures"], "failed")):
            if count:
                print(f"{row['label']}: {count} times a device {what}")
    stored = sum(map(sum, (row["from_record"] for row in rows)))
    total = sum(len(row["run_ids"]) for row in rows)
    print(f"{stored} of {total} runs were read from data/runs/local, the others are stored there")


def _text(interval: dict[str, float | None]) -> str:
    value, low, high = (
        "never" if end is None else f"{end:,.4g}" if abs(end) < 1e4 else f"{end:,.0f}"
        for end in interval.values()
    )
    return value if low == high == value else f"{value} [{low}, {high}]"
