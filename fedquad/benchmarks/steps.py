"""Steps of one layer and of whole models: time, bytes kept, peak, error of the gradient."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch

from fedquad.benchmarks.guard import outcome, release
from fedquad.benchmarks.plan import Plan, group_of
from fedquad.benchmarks.profiling import profile_call
from fedquad.benchmarks.record import Record
from fedquad.benchmarks.timing import UNITS, Deadline, Stopwatch, quantiles, take_turns
from fedquad.benchmarks.workload import Workload
from fedquad.cost.random_model import Shape

_WARMUP = 3
# Equal layers are compiled once, but for what differs between the methods of one group.
_COMPILED_FORMS = 64


def run_layer(plan: Plan, record: Record, deadline: Deadline) -> None:
    """Time one layer of every model."""
    _run("layer", plan, record, deadline)


def run_steps(plan: Plan, record: Record, deadline: Deadline) -> None:
    """Time forward and backward of every model."""
    _run("steps", plan, record, deadline)


def _run(kind: str, plan: Plan, record: Record, deadline: Deadline) -> None:
    combinations = itertools.product(plan.sizes, plan.modes, plan.attentions, plan.dtypes)
    for (model, length), mode, attention, dtype in combinations:
        group = f"{kind} {model}, length {length}, {dtype}, {mode}, {attention} attention"
        if deadline.passed:
            return
        if record.has(group):
            continue
        common = {"kind": kind, "model": model, "batch_size": plan.batch_size, "length": length}
        common |= {"dtype": dtype, "mode": mode, "attention": attention}
        with group_of(record, group) as rows:
            for row in _Group(plan, common).measure(deadline):
                rows.append({**common, **row})


class _Group:
    """Methods of one setting, in turns on one model each."""

    def __init__(self, plan: Plan, common: dict[str, Any]) -> None:
        self._plan, self._common = plan, common
        self._rows: dict[str, dict[str, Any]] = {}
        self._workloads: dict[str, Workload] = {}

    def measure(self, deadline: Deadline) -> list[dict[str, Any]]:
        try:
            with torch._dynamo.config.patch(recompile_limit=_COMPILED_FORMS):
                self._measure(deadline)
        finally:
            for workload in self._workloads.values():
                workload.close()
            self._workloads.clear()
            torch._dynamo.reset()  # compiled code holds on to tensors
        return list(self._rows.values())

    def _measure(self, deadline: Deadline) -> None:
        for method in self._plan.methods:
            self._guarded(method, self._prepare)
        for method in list(self._workloads):
            self._guarded(method, self._weigh)
        # Compiled once more, without dropout, it would take long; and of a layer alone, with any
        # gradient from above, the error tells nothing.
        if self._common["kind"] == "steps" and self._common["mode"] == "eager":
            self._compare_gradients()
        calls = {
            method: {"forward": workload.forward, "backward": workload.backward}
            for method, workload in self._workloads.items()
        }
        stopwatch = Stopwatch(self._plan.torch_device)
        turns = take_turns(stopwatch, calls, repeats=self._plan.repeats, deadline=deadline)
        for method, error in turns.failed.items():
            self._drop(method, error)
        for method in self._workloads:
            self._rows[method] |= {"status": "ok", **turns.summary(method)}
            for unit in UNITS if "none" in self._workloads else ():
                ratios = turns.ratios(method, "none", "full", unit)
                self._rows[method] |= quantiles(ratios, f"full_{unit}_over_none")
        if self._plan.profile and stopwatch.on_gpu and not deadline.passed:
            for method in self._workloads:
                self._profile(method)

    def _prepare(self, method: str) -> None:
        self._rows[method] = {"method": method}
        self._workloads[method] = workload = Workload(
            self._common["model"],
            Shape(self._common["batch_size"], self._common["length"]),
            method=method,
            dtype=self._common["dtype"],
            mode=self._common["mode"],
            attention=self._common["attention"],
            torch_device=self._plan.torch_device,
            one_layer=self._common["kind"] == "layer",
        )
        for _ in range(_WARMUP):
            workload.forward()
            workload.backward()

    def _weigh(self, method: str) -> None:
        is_eager = self._common["mode"] == "eager"
        self._rows[method] |= self._workloads[method].memory(eager=is_eager)

    def _compare_gradients(self) -> None:
        exact = None
        for method in list(self._workloads):
            gradient = self._guarded(method, self._gradient)
            if method == "none":
                exact = gradient
            elif exact is not None and gradient is not None:
                error = (gradient - exact).norm() / exact.norm()
                self._rows[method]["lora_gradient_error"] = float(error)

    def _gradient(self, method: str) -> torch.Tensor:
        return self._workloads[method].lora_gradient()

    def _profile(self, method: str) -> None:
        workload = self._workloads[method]

        def step() -> None:
            workload.forward()
            workload.backward()

        try:
            self._rows[method] |= profile_call(step)
        except Exception as error:  # no CUPTI, say: the times stand without it
            self._rows[method]["profile_message"] = outcome(error)["message"]

    def _guarded(self, method: str, action: Callable[[str], Any]) -> Any:
        """What ``action`` gives, or None where it fails, and the method with it."""
        try:
            return action(method)
        except Exception as error:
            self._drop(method, error.with_traceback(None))  # its frames hold tensors
            return None

    def _drop(self, method: str, error: Exception) -> None:
        self._rows[method] |= outcome(error)
        workload = self._workloads.pop(method, None)
        if workload is not None:
            workload.close()
        del workload
        release()
