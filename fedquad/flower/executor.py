"""Devices on Flower's nodes: our executor's contract over a `Grid`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from flwr.app import ConfigRecord, RecordDict

from fedquad.federation import messages
from fedquad.federation.checks import check_global
from fedquad.federation.device import DeviceHost
from fedquad.federation.executor import Executor, joined, one_thread
from fedquad.federation.fallback import in_words
from fedquad.federation.jobs import DeviceJob, Failure
from fedquad.federation.wire import MAX_HEADER_BYTES, WireError
from fedquad.flower.nodes import FINE_TUNE, PROBE, Nodes, report_of
from fedquad.flower.payloads import ADAPTER, ANSWER, JOB, DeviceReport, require_part_of
from fedquad.flower.records import read, record
from fedquad.methods.method import LocalUpdate
from fedquad.model.adapter import Adapter
from fedquad.training.local import Evaluation

_log = logging.getLogger(__name__)


class FlowerExecutor(Executor):
    """Runs devices on Flower's nodes, and evaluates in this process.

    A device is sent what it runs of the global adapter, its job, and the run's
    settings. Updates are yielded in device order and checked as from any other
    worker. So the server's sums, and its results, are the same bytes.

    Parameters
    ----------
    nodes : Nodes
        Connected.
    host : DeviceHost
        Of the server: the fresh adapter, and the rows to evaluate on.
    on_report : callable, optional
        Called with a device's index and what it says of itself beside an answer;
        a `WireError` of it refuses the answer.

    Attributes
    ----------
    fallbacks : int
        Devices that did less than they were assigned, in all rounds.
    """

    def __init__(
        self,
        nodes: Nodes,
        host: DeviceHost,
        on_report: Callable[[int, DeviceReport], None] | None = None,
    ) -> None:
        self.fallbacks = 0
        self._nodes = nodes
        self._host = host
        self._on_report = on_report or (lambda device, report: None)
        # A round's downloads: devices with the same layers and rank share one, here and in Flower.
        self._downloads: dict[tuple[tuple[int, ...], int], ConfigRecord] = {}

    def global_adapter(self) -> Adapter:
        return self._host.global_adapter()

    def broadcast(self, adapter: Adapter) -> None:
        check_global(adapter, self._host.global_adapter())
        self._host.receive(adapter)
        self._downloads.clear()

    def fine_tune(self, jobs: Sequence[DeviceJob]) -> Iterator[LocalUpdate | Failure]:
        requests = ((job.device, self._request("fine_tune", job)) for job in jobs)
        for job, answer in zip(jobs, self._nodes.ask(FINE_TUNE, requests), strict=True):
            yield self._update(job, answer)

    def probe(self, jobs: Sequence[DeviceJob]) -> list[np.ndarray | Failure]:
        requests = ((job.device, self._request("probe", job)) for job in jobs)
        answers = zip(jobs, self._nodes.ask(PROBE, requests), strict=True)
        return [self._squares(job, answer) for job, answer in answers]

    def evaluate(self) -> Evaluation:
        with one_thread():
            return joined(self._host.evaluate(range(self._host.num_eval_batches)))

    def close(self) -> None:
        """Nodes are Flower's to end."""

    def _request(self, kind: str, job: DeviceJob) -> RecordDict:
        assignment = job.assignment
        key = assignment.active_layers, assignment.lora_rank
        if key not in self._downloads:
            part = self._host.global_adapter().layers(assignment.active_layers)
            part = part.truncate_rank(assignment.lora_rank)
            self._downloads[key] = record(messages.encode_adapter(part))
        job_record = record(messages.encode_job(kind, job))
        return RecordDict({JOB: job_record, ADAPTER: self._downloads[key]})

    def _update(self, job: DeviceJob, answer: RecordDict | Failure) -> LocalUpdate | Failure:
        if isinstance(answer, Failure):
            return answer
        try:
            report = report_of(answer)
            message = read(answer, ANSWER, self._max_update_bytes())
            if message.kind == "failure":
                outcome: LocalUpdate | Failure = messages.decode_failure(message, job)
            else:
                ran = job if report is None else self._ran(job, report)
                outcome = messages.decode_update(message, ran, self._host.global_adapter())
            if report is not None:
                self._on_report(job.device, report)
        except WireError as error:
            return Failure(device=job.device, reason=str(error))
        return outcome

    def _ran(self, job: DeviceJob, report: DeviceReport) -> DeviceJob:
        """The job as the device did it."""
        if report.ran is None:
            return job
        require_part_of(report.ran, job.assignment)
        self.fallbacks += 1
        _log.warning(
            "round %d: %s fell back to %s: %s",
            job.round_idx + 1,
            report.name,
            in_words(report.ran),
            "; ".join(report.fallback),
        )
        return DeviceJob(device=job.device, round_idx=job.round_idx, assignment=report.ran)

    def _squares(self, job: DeviceJob, answer: RecordDict | Failure) -> np.ndarray | Failure:
        if isinstance(answer, Failure):
            return answer
        try:
            message = read(answer, ANSWER, MAX_HEADER_BYTES)
            if message.kind == "failure":
                return messages.decode_failure(message, job)
            return messages.decode_squares(message, job)
        except WireError as error:
            return Failure(device=job.device, reason=str(error))

    def _max_update_bytes(self) -> int:
        """No update is larger than the global adapter and a header."""
        return self._host.global_adapter().num_bytes + MAX_HEADER_BYTES
