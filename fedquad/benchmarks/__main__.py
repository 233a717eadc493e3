"""``python -m fedquad.benchmarks``: measure, or write the report from what was measured."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from fedquad.config import InputError, require_int, require_positive
from fedquad.paths import project_root

KINDS = ("kernels", "layer", "steps", "gradients")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; exit status 2 and one line for input that cannot be used."""
    options = _parser().parse_args(arguments)
    try:
        if options.what == "report":
            from fedquad.benchmarks.report import write_report

            for path in write_report(options.folder):
                print(path)
        elif options.what == "federation":
            _measure_federation(options)
        elif options.what == "flower":
            _measure_whole_runs(options)
        else:
            _measure(options)
    except InputError as error:
        sys.exit(f"fedquad.benchmarks: {error}")


def _measure(options: argparse.Namespace) -> None:
    import torch

    from fedquad.benchmarks.gradients import run_gradients
    from fedquad.benchmarks.kernels import run_kernels
    from fedquad.benchmarks.machine import default_name, describe_machine
    from fedquad.benchmarks.plan import plan_from
    from fedquad.benchmarks.record import Record
    from fedquad.benchmarks.steps import run_layer, run_steps
    from fedquad.benchmarks.timing import Deadline

    if options.time_limit is not None:
        require_positive("time_limit", options.time_limit)
    require_int("threads", options.threads, 1)
    torch.set_num_threads(options.threads)
    deadline = Deadline(options.time_limit)
    plan = plan_from(options)
    if torch.device(plan.torch_device).type == "cuda":
        torch.set_float32_matmul_precision("high")  # fp32 products in TF32, as stated in the report
    path = options.output or options.folder / default_name(plan.torch_device)
    record = Record(path, describe_machine(plan.torch_device), fresh=options.fresh)
    runs = dict(zip(KINDS, (run_kernels, run_layer, run_steps, run_gradients), strict=True))
    print(f"{record.machine['device']} -> {path}", flush=True)
    for kind in KINDS if options.what == "all" else (options.what,):
        runs[kind](plan, record, deadline)
    if deadline.passed:
        print("stopped at the time limit; the same command goes on from here", flush=True)


def _measure_federation(options: argparse.Namespace) -> None:
    import torch

    # They bring peft, which a machine for the kernels need not have.
    from fedquad.benchmarks import federation, server_work
    from fedquad.benchmarks.machine import FEDERATED_CODE, default_name, describe_machine
    from fedquad.benchmarks.record import Record
    from fedquad.benchmarks.timing import Deadline

    if options.time_limit is not None:
        require_positive("time_limit", options.time_limit)
    torch.set_num_threads(1)  # the bare loop is compared with a worker, which has one
    plan = federation.federation_plan_from(options)
    path = options.output or options.folder / default_name("cpu", "federation")
    machine = describe_machine("cpu", FEDERATED_CODE) | {"threads": 1}
    record = Record(path, machine, fresh=options.fresh)
    print(f"{record.machine['device']} -> {path}", flush=True)
    deadline = Deadline(options.time_limit)
    runs = (
        federation.run_round,
        federation.run_workers,
        server_work.run_selection,
        server_work.run_aggregation,
        server_work.run_server,
    )
    for run in runs:
        run(plan, record, deadline)


def _measure_whole_runs(options: argparse.Namespace) -> None:
    import importlib.util

    from fedquad.benchmarks import whole_runs
    from fedquad.benchmarks.machine import FEDERATED_CODE, default_name, describe_machine
    from fedquad.benchmarks.record import Record
    from fedquad.benchmarks.timing import Deadline

    if importlib.util.find_spec("flwr") is None:
        raise InputError("flower", "not installed", "pip install 'fedquad[flower]'")
    plan = whole_runs.whole_runs_plan_from(options)
    path = options.output or options.folder / default_name("cpu", "flower")
    machine = describe_machine("cpu", (*FEDERATED_CODE, "flower")) | {"threads": 1}
    record = Record(path, machine, fresh=options.fresh)
    print(f"{record.machine['device']} -> {path}", flush=True)
    whole_runs.run_whole_runs(plan, record, Deadline(options.time_limit))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m fedquad.benchmarks",
        description="Time kernels, one layer and whole models, the federated engine, or whole runs "
        "beside Flower's; a file per machine, resumable.",
    )
    parser.add_argument("what", choices=(*KINDS, "all", "federation", "flower", "report"))
    parser.add_argument("--torch-device", default="cpu", help="cpu, cuda or cuda:1")
    parser.add_argument("--output", type=Path, help="JSON file, named after the card by default")
    folder = project_root() / "data" / "benchmarks"
    parser.add_argument("--folder", type=Path, default=folder, help="of the JSON files")
    parser.add_argument("--fresh", action="store_true", help="begin the file anew")
    parser.add_argument("--time-limit", type=float, metavar="SECONDS", help="stop cleanly then")
    parser.add_argument("--repeats", type=int, help="measurements of each setting")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch on the CPU")
    for name in ("models", "dtypes", "modes", "attentions", "methods"):
        parser.add_argument(f"--{name}", nargs="+", metavar=name[:-1].upper())
    parser.add_argument("--lengths", nargs="+", type=int, metavar="LENGTH")
    parser.add_argument(
        "--devices", nargs="+", type=int, metavar="N", help="of the server's rounds"
    )
    parser.add_argument("--updates", type=int, help="that are aggregated")
    parser.add_argument("--rounds", type=int, help="of whole runs")
    parser.add_argument("--local-steps", nargs="+", type=int, metavar="N", help="of whole runs")
    parser.add_argument("--no-profile", action="store_true", help="do not sum kernels by CUPTI")
    return parser


if __name__ == "__main__":
    main()
