"""Kernels: bytes a second, beside what a plain copy of as many bytes reaches in the same run."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch

from fedquad.benchmarks.guard import outcome
from fedquad.benchmarks.kernel_case import KernelCase, ModelShape
from fedquad.benchmarks.kernel_cases import kernel_cases
from fedquad.benchmarks.plan import Plan, group_of
from fedquad.benchmarks.record import Record
from fedquad.benchmarks.timing import Deadline, Stopwatch, quantiles, take_turns
from fedquad.cost.accounting import DTYPES

_COPY = "copy of as many bytes"


def run_kernels(plan: Plan, record: Record, deadline: Deadline) -> None:
    """Time every operation at the sizes of the plan's models."""
    stopwatch = Stopwatch(plan.torch_device, flush_cache=True)
    for (model, length), dtype in itertools.product(plan.sizes, plan.dtypes):
        shape = ModelShape.of(model, plan.batch_size, length)
        common = {"kind": "kernel", "model": model, "batch_size": plan.batch_size}
        common |= {"length": length, "dtype": dtype}
        for operation, make in kernel_cases(shape, DTYPES[dtype], plan.torch_device):
            group = f"kernel {operation}, {model}, length {length}, {dtype}"
            if deadline.passed:
                return
            if record.has(group):
                continue
            with group_of(record, group) as rows:
                for row in _timed(operation, make, stopwatch, plan.repeats, deadline):
                    rows.append({**common, **row})


def _timed(
    operation: str,
    make: Callable[[], list[KernelCase]],
    stopwatch: Stopwatch,
    repeats: int,
    deadline: Deadline,
) -> Iterator[dict[str, Any]]:
    try:
        cases = make()
    except Exception as error:
        yield {"operation": operation, **outcome(error)}
        return
    for case in cases:
        yield from _case_rows(case, stopwatch, repeats, deadline)


def _case_rows(
    case: KernelCase, stopwatch: Stopwatch, repeats: int, deadline: Deadline
) -> list[dict[str, Any]]:
    calls: dict[str, Any] = {}
    failed: dict[str, Exception] = {}
    for name, implementation in case.implementations.items():
        try:
            for _ in range(3):  # compiles, and lets clocks rise
                implementation.call()
        except Exception as error:
            failed[name] = error.with_traceback(None)
            continue
        calls[name] = {case.phase: implementation.call}
        copy = _copy_of(implementation.moved_bytes, stopwatch.device)
        calls[f"{name}, {_COPY}"] = {case.phase: copy}
    turns = take_turns(stopwatch, calls, repeats=repeats, deadline=deadline)
    failed |= turns.failed
    unit = "device_s" if stopwatch.on_gpu else "wall_s"
    rows = []
    for name, implementation in case.implementations.items():
        row = {"operation": case.operation, "phase": case.phase, "shape": case.shape}
        row |= {"implementation": name, "moved_bytes": implementation.moved_bytes}
        if name in failed:
            rows.append({**row, **outcome(failed[name])})
            continue
        times = _without_phase(turns.summary(name), case.phase)
        shares = turns.ratios(f"{name}, {_COPY}", name, case.phase, unit)
        row |= {"status": "ok", **times, **quantiles(shares, "share_of_copy")}
        rows.append({**row, "gb_per_s": 1e-9 * implementation.moved_bytes / times[unit]})
    return rows


def _copy_of(moved_bytes: int, device: torch.device):
    """A copy that reads one half of the bytes and writes the other."""
    # Not of zeros, which some memories move faster.
    source = torch.empty(max(moved_bytes // 2, 1), dtype=torch.uint8, device=device).random_()
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def _without_phase(times: dict[str, Any], phase: str) -> dict[str, Any]:
    return {name.removeprefix(f"{phase}_"): value for name, value in times.items()}
