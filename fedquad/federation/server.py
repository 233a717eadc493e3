"""The round loop: status, assignment, local fine-tuning, aggregation, evaluation, record."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fedquad.config import Assignment, InputError
from fedquad.federation.checkpoint import Checkpoint
from fedquad.federation.executor import Executor
from fedquad.federation.jobs import DeviceJob, Failure
from fedquad.federation.round_record import AdapterSizes, UpdateSummary, round_row
from fedquad.federation.setting import FederatedSetting
from fedquad.fleet.fleet import DeviceStatus
from fedquad.methods.method import History
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
        Updates that a round in which devices were asked for something needs; below
        it the run stops, to go on from the round before.
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
                run.save_checkpoint(self.checkpoint().encode())
            on_round(row)

    def play_round(self) -> dict[str, Any]:
        """One round from status to evaluation; its row of results."""
        setting = self.setting
        statuses = setting.fleet.statuses(self.round_idx)
        probe_assignments = setting.method.probe(statuses, self.round_idx)
        probes, failed_probes = self._probe(statuses, probe_assignments)
        history = History(
            round_idx=self.round_idx,
            mean_completion_time_s=self._mean_completion_time_s,
            gradient_norms=self._known_norms(),
            probes=probes,
        )
        assignments = setting.method.assign(statuses, history)
        _require_one_each("assignments", assignments, statuses)
        updates, failures = self._fine_tune(statuses, assignments, failed_probes)
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

    def _probe(
        self, statuses: Sequence[DeviceStatus], assignments: Sequence[Assignment | None]
    ) -> tuple[dict[int, np.ndarray], dict[int, str]]:
        """What the devices measured, and why some could not."""
        if assignments:
            _require_one_each("probes", assignments, statuses)
        found: dict[int, np.ndarray] = {}
        failures: dict[int, str] = {}
        if jobs := self._jobs(assignments):
            for job, answer in zip(jobs, self._executor.probe(jobs), strict=True):
                if isinstance(answer, Failure):
                    failures[job.device] = self._left_out(answer, statuses)
                else:
                    found[job.device] = answer
        return found, failures

    def _fine_tune(
        self,
        statuses: Sequence[DeviceStatus],
        assignments: Sequence[Assignment | None],
        failed_probes: dict[int, str],
    ) -> tuple[dict[int, UpdateSummary], dict[int, str]]:
        """Run the devices and put their updates together, one at a time, in their order.

        Returns what the record keeps of each update, and why devices failed, those
        whose probe did included: nothing that they were assigned is asked of them.
        """
        accumulator = self.setting.method.accumulator(self.global_adapter)
        updates: dict[int, UpdateSummary] = {}
        failures = dict(failed_probes)
        jobs = [job for job in self._jobs(assignments) if job.device not in failures]
        num_asked = len(jobs) + len(failures)
        for outcome in self._executor.fine_tune(jobs):
            if isinstance(outcome, Failure):
                failures[outcome.device] = self._left_out(outcome, statuses)
                continue
            accumulator.add(outcome)
            updates[outcome.device] = UpdateSummary(outcome)
        if num_asked and len(updates) < self._min_updates:
            reason = next(iter(failures.values()), "no more devices took part")
            raise DivergenceError(
                f"round {self.round_idx + 1}: {len(updates)} of {num_asked} devices sent an "
                f"update that can be used, {self._min_updates} needed ({reason})"
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
            self._gradient_norms[layer] = math.fsum(norms) / len(norms)

    def _known_norms(self) -> np.ndarray:
        """g_l of every layer: the last known, else the mean of the known ones, else 1."""
        known = self._gradient_norms
        # Rounded once: a resumed run knows the layers in another order.
        filler = math.fsum(known.values()) / len(known) if known else 1.0
        return np.array([known.get(layer, filler) for layer in range(self.setting.num_layers)])

    def _left_out(self, failure: Failure, statuses: Sequence[DeviceStatus]) -> str:
        """The reason of a failure, once it is in the log."""
        name = statuses[failure.device].device_id
        _log.warning("round %d: left out %s: %s", self.round_idx + 1, name, failure.reason)
        return failure.reason

    def _jobs(self, assignments: Sequence[Assignment | None]) -> list[DeviceJob]:
        return [
            DeviceJob(device=device, round_idx=self.round_idx, assignment=assignment)
            for device, assignment in enumerate(assignments)
            if assignment is not None
        ]

    def checkpoint(self) -> Checkpoint:
        """What `go_on` needs to go on from here."""
        return Checkpoint(
            adapter=self.global_adapter,
            round_idx=self.round_idx,
            sim_time_s=self._sim_time_s,
            mean_completion_time_s=self._mean_completion_time_s,
            gradient_norms=self._gradient_norms,
            method=self.setting.method.state_dict(),
        )

    def _restore(self, run: Run) -> None:
        """Bring the server and the rows to the last checkpoint; to the start if it is damaged."""
        if encoded := run.load_checkpoint():
            try:
                self._load(Checkpoint.decode(encoded, self.global_adapter), len(run.rows))
            except InputError as error:
                _log.warning("%s: starting over, damaged checkpoint: %s", run.directory, error)
        run.rewind(self.round_idx)

    def _load(self, checkpoint: Checkpoint, num_rows: int) -> None:
        if checkpoint.round_idx > num_rows:
            accepted = f"one after at most {num_rows} rounds, whose results are there"
            raise InputError("checkpoint", f"after round {checkpoint.round_idx}", accepted)
        self.setting.method.load_state_dict(checkpoint.method)
        self.global_adapter = checkpoint.adapter
        self.round_idx = checkpoint.round_idx
        self._sim_time_s = checkpoint.sim_time_s
        self._mean_completion_time_s = checkpoint.mean_completion_time_s
        self._gradient_norms = dict(checkpoint.gradient_norms)


def _require_one_each(
    what: str, assignments: Sequence[Assignment | None], statuses: Sequence[DeviceStatus]
) -> None:
    """Raise `InputError` unless a method says something of every device, before any has run."""
    if len(assignments) != len(statuses):
        raise InputError(f"{what} of a round", len(assignments), f"{len(statuses)}, one a device")
