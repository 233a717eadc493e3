"""The round loop: status, assignment, local fine-tuning, aggregation, evaluation, record."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import safetensors.torch
from safetensors import SafetensorError

from fedquad.config import Assignment, InputError
from fedquad.federation.executor import Executor
from fedquad.federation.jobs import DeviceJob, Failure
from fedquad.federation.round_record import AdapterSizes, UpdateSummary, round_row
from fedquad.federation.setting import FederatedSetting
from fedquad.methods.method import History
from fedquad.model.adapter import Adapter
from fedquad.runs.run import Run
from fedquad.training.local import DivergenceError

OnRow = Callable[[dict[str, Any]], None]

_log = logging.getLogger(__name__)


class Server:
    """The server of a run: the global adapter, what it has learned, and the clock.

    Parameters
    ----------
    setting : FederatedSetting
    executor : Executor
        Where devices run, holding the fresh global adapter. The result does not
        depend on it.
    min_updates : int
        Updates that a round in which devices took part needs; below it the run
        stops, to go on from the round before.
    """

    def __init__(
        self,
        setting: FederatedSetting,
        executor: Executor,
        *,
        min_updates: int = 1,
    ) -> None:
        self.setting = setting
        self.round_idx = 0
        self.global_adapter = executor.global_adapter()
        self._executor = executor
        self._min_updates = min_updates
        self._mean_completion_time_s: float | None = None
        self._gradient_norms: dict[int, float] = {}  # last known value of each layer
        self._sim_time_s = 0.0
        self._sizes = AdapterSizes(self.global_adapter)

    def go_on(self, run: Run, log_round: OnRow, on_round: OnRow) -> None:
        """Play the rounds from the checkpoint of ``run``, if it has one, to the last.

        The same rows of results come out however often it was stopped between.

        Parameters
        ----------
        run : Run
            Open for writing.
        log_round : callable
            Called with each row before it is stored: the final one closes the run.
        on_round : callable
            Called with each row when it is safe, and before the first of them
            with the last one that was there already, if any.

        Raises
        ------
        DivergenceError
            Fewer devices than ``min_updates`` sent something that can be used.
            What was stored before stands, and the run can go on.
        """
        self._restore(run)
        self._executor.broadcast(self.global_adapter)
        if run.rows:
            on_round(run.rows[-1])
        while self.round_idx < self.setting.config.num_rounds:
            row = self.play_round()
            log_round(row)
            run.append(row)
            if not row.get("final"):
                run.save_checkpoint(self._state())
            on_round(row)

    def play_round(self) -> dict[str, Any]:
        """One round from status to evaluation; its row of results."""
        setting = self.setting
        statuses = setting.fleet.statuses(self.round_idx)
        probe_assignments = setting.method.probe(statuses, self.round_idx)
        probes = self._probe(probe_assignments)
        history = History(
            round_idx=self.round_idx,
            mean_completion_time_s=self._mean_completion_time_s,
            gradient_norms=self._known_norms(),
            probes=probes,
        )
        assignments = setting.method.assign(statuses, history)
        updates, failures = self._fine_tune(assignments)
        for device in failures:
            assignments[device] = None
        self._learn(updates)
        self._executor.broadcast(self.global_adapter)
        evaluation = self._executor.evaluate()
        row = round_row(
            setting,
            self._sizes,
            round_idx=self.round_idx,
            statuses=statuses,
            probed=probe_assignments,
            assignments=assignments,
            updates=updates,
            failures=failures,
            evaluation=evaluation,
            gradient_norms=self._known_norms(),
            sim_time_before_s=self._sim_time_s,
        )
        self._sim_time_s = row["sim_time_s"]
        if row["mean_completion_time_s"] is not None:  # a round that nobody could join has none
            self._mean_completion_time_s = row["mean_completion_time_s"]
        self.round_idx += 1
        return row

    def _probe(self, assignments: Sequence[Assignment | None]) -> dict[int, np.ndarray]:
        jobs = self._jobs(assignments)
        if not jobs:
            return {}
        answers = self._executor.probe(jobs)
        found = {}
        for job, answer in zip(jobs, answers, strict=True):
            if isinstance(answer, Failure):
                _log.warning("round %d: probe of %s", self.round_idx + 1, _words(answer))
            else:
                found[job.device] = answer
        return found

    def _fine_tune(
        self, assignments: Sequence[Assignment | None]
    ) -> tuple[dict[int, UpdateSummary], dict[int, str]]:
        """Run the devices and put their updates together, one at a time, in their order."""
        accumulator = self.setting.method.accumulator(self.global_adapter)
        updates: dict[int, UpdateSummary] = {}
        failures: dict[int, str] = {}
        jobs = self._jobs(assignments)
        for outcome in self._executor.fine_tune(jobs):
            if isinstance(outcome, Failure):
                _log.warning("round %d: left out %s", self.round_idx + 1, _words(outcome))
                failures[outcome.device] = outcome.reason
                continue
            accumulator.add(outcome)
            updates[outcome.device] = UpdateSummary(outcome)
        if jobs and len(updates) < self._min_updates:
            reason = next(iter(failures.values()), "no device answered")
            raise DivergenceError(
                f"round {self.round_idx + 1}: {len(updates)} of {len(jobs)} devices sent an "
                f"update that can be used, {self._min_updates} are needed ({reason})"
            )
        self.global_adapter = accumulator.finish()
        return updates, failures

    def _learn(self, updates: dict[int, UpdateSummary]) -> None:
        """g_l of this round, for the next one."""
        by_layer: dict[int, list[float]] = {}
        for update in updates.values():
            for layer, norm in update.gradient_norms.items():
                by_layer.setdefault(layer, []).append(norm)
        for layer, norms in sorted(by_layer.items()):
            self._gradient_norms[layer] = sum(norms) / len(norms)

    def _known_norms(self) -> np.ndarray:
        """g_l of every layer: the last known, else the mean of the known ones, else 1."""
        known = self._gradient_norms
        filler = sum(known.values()) / len(known) if known else 1.0
        return np.array([known.get(layer, filler) for layer in range(self.setting.num_layers)])

    def _jobs(self, assignments: Sequence[Assignment | None]) -> list[DeviceJob]:
        return [
            DeviceJob(device=device, round_idx=self.round_idx, assignment=assignment)
            for device, assignment in enumerate(assignments)
            if assignment is not None
        ]

    def _state(self) -> bytes:
        """What the next round needs: a line of JSON, then the adapter as safetensors."""
        state = {
            "round_idx": self.round_idx,
            "mean_completion_time_s": self._mean_completion_time_s,
            "gradient_norms": sorted(self._gradient_norms.items()),
            "sim_time_s": self._sim_time_s,
            "method": self.setting.method.state_dict(),
        }
        tensors = {name: t.contiguous() for name, t in self.global_adapter.state().items()}
        return json.dumps(state).encode() + b"\n" + safetensors.torch.save(tensors)

    def _restore(self, run: Run) -> None:
        """Bring the server and the rows to the last checkpoint."""
        if checkpoint := run.load_checkpoint():
            try:
                self._load(checkpoint)
            except (InputError, SafetensorError, ValueError, KeyError, TypeError) as error:
                _log.warning("%s: starting over, damaged checkpoint: %s", run.directory, error)
        run.rewind(self.round_idx)

    def _load(self, checkpoint: bytes) -> None:
        header, _, tensors = checkpoint.partition(b"\n")
        state = json.loads(header)
        adapter = Adapter.from_state(safetensors.torch.load(tensors), self.global_adapter.layout)
        _require_same_shapes(adapter, self.global_adapter)
        round_idx, sim_time_s = int(state["round_idx"]), float(state["sim_time_s"])
        norms = {int(layer): float(norm) for layer, norm in state["gradient_norms"]}
        self.setting.method.load_state_dict(state["method"])
        self.global_adapter = adapter
        self._mean_completion_time_s = state["mean_completion_time_s"]
        self._gradient_norms = norms
        self._sim_time_s, self.round_idx = sim_time_s, round_idx


def _words(failure: Failure) -> str:
    return f"device {failure.device}: {failure.reason}"


def _require_same_shapes(adapter: Adapter, like: Adapter) -> None:
    shapes = {name: tensor.shape for name, tensor in adapter.state().items()}
    if shapes != {name: tensor.shape for name, tensor in like.state().items()}:
        raise InputError("checkpoint", "its adapter", "tensors of the run's own names and shapes")
