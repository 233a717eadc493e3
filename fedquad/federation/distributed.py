"""Devices in worker processes, through torch.distributed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from fedquad.config import require_int
from fedquad.federation import messages
from fedquad.federation.checks import check_global
from fedquad.federation.executor import Executor, joined
from fedquad.federation.jobs import DeviceJob, EvalBatch, Failure, HostSpec
from fedquad.federation.local_workers import LocalWorkers
from fedquad.federation.wire import Message, WireError, decode
from fedquad.methods.method import LocalUpdate
from fedquad.model.adapter import Adapter
from fedquad.runs.pool import WorkerError
from fedquad.training.local import Evaluation

# Evaluation batches are handed out in this many portions a worker: small enough that all end
# at about the same time, large enough that the messages do not count.
_EVAL_PORTIONS = 8


class DistributedExecutor(Executor):
    """Devices, probes and evaluation shared out among worker processes on this machine.

    A worker gets its next device when it has answered. Answers are yielded in
    the order of the devices, and checked then. Never are more than two updates a
    worker on their way or waiting for their turn, so memory does not grow with
    the number of devices.

    Parameters
    ----------
    spec : HostSpec
        How each worker makes its host.
    workers : int

    Raises
    ------
    InputError, WorkerError
        What went wrong in a worker while it made its host.

    Notes
    -----
    A worker that dies ends the executor with a `WorkerError`, from whichever call
    is being made. An error inside a worker comes out of the call that asked for it.
    """

    def __init__(self, spec: HostSpec, workers: int) -> None:
        require_int("workers", workers, 1)
        self._workers = LocalWorkers(workers)
        self._calls = 0
        try:
            ready = self._ask_all(messages.encode_spec(spec))
            if any(payload != ready[0] for payload in ready):
                raise WorkerError("the workers' hosts do not start from the same adapter")
            message = self._decoded(ready[0])
            self._global, self._num_eval_batches = messages.decode_ready(message)
        except BaseException:
            self.close()
            raise

    def global_adapter(self) -> Adapter:
        return self._global

    def broadcast(self, adapter: Adapter) -> None:
        check_global(adapter, self._global)
        for payload in self._ask_all(messages.encode_adapter(adapter)):
            self._decoded(payload).require_kind("received")
        self._global = adapter

    def fine_tune(self, jobs: Sequence[DeviceJob]) -> Iterator[LocalUpdate | Failure]:
        requests = (messages.encode_job("fine_tune", job) for job in jobs)
        for job, payload in zip(jobs, self._ask(requests), strict=True):
            yield self._update(payload, job)

    def probe(self, jobs: Sequence[DeviceJob]) -> list[np.ndarray | Failure]:
        requests = (messages.encode_job("probe", job) for job in jobs)
        answers = zip(jobs, self._ask(requests), strict=True)
        return [self._squares(payload, job) for job, payload in answers]

    def evaluate(self) -> Evaluation:
        size = max(1, self._num_eval_batches // (_EVAL_PORTIONS * len(self._workers.ranks)))
        starts = range(0, self._num_eval_batches, size)
        portions = [range(n, min(n + size, self._num_eval_batches)) for n in starts]
        requests = (messages.encode_eval_request(portion) for portion in portions)
        parts: list[EvalBatch] = []
        for portion, payload in zip(portions, self._ask(requests), strict=True):
            parts += messages.decode_eval(self._decoded(payload), len(portion))
        return joined(parts)

    def close(self) -> None:
        """End the workers; those that compute are not waited for."""
        self._workers.close()

    def _update(self, payload: bytes, job: DeviceJob) -> LocalUpdate | Failure:
        try:
            message = self._decoded(payload)
            if message.kind == "failure":
                return messages.decode_failure(message, job)
            return messages.decode_update(message, job, self._global)
        except WireError as error:
            return Failure(device=job.device, reason=str(error))

    def _squares(self, payload: bytes, job: DeviceJob) -> np.ndarray | Failure:
        try:
            message = self._decoded(payload)
            if message.kind == "failure":
                return messages.decode_failure(message, job)
            return messages.decode_squares(message, job)
        except WireError as error:
            return Failure(device=job.device, reason=str(error))

    def _decoded(self, payload: bytes) -> Message:
        """The message, unless it is an error of a worker, which is raised here."""
        message = decode(payload)
        if message.kind == "error":
            error = messages.decode_error(message)
            if isinstance(error, RuntimeError):
                raise WorkerError(f"in a worker: {error}") from error
            raise error
        return message

    def _ask_all(self, request: bytes) -> list[bytes]:
        """Every worker's answer to the same request."""
        self._settle()
        for rank in self._workers.ranks:
            self._workers.ask(rank, request)
        answers = dict(self._workers.next_answer() for _ in self._workers.ranks)
        return [answers[rank] for rank in self._workers.ranks]

    def _ask(self, requests: Iterable[bytes]) -> Iterator[bytes]:
        """The answers to many requests, in order; whichever worker is free gets the next."""
        self._settle()
        call, requests = self._calls, iter(requests)
        limit = 2 * len(self._workers.ranks)
        number_of: dict[int, int] = {}  # of the request that a worker is at, by rank
        answers: dict[int, bytes] = {}
        sent = used = 0
        while True:
            while answer := self._workers.next_answer(wait=False):
                answers[number_of.pop(answer[0])] = answer[1]
            for rank in self._workers.idle():
                if sent - used < limit and (request := next(requests, None)) is not None:
                    self._workers.ask(rank, request)
                    number_of[rank], sent = sent, sent + 1
            if used in answers:
                yield answers.pop(used)
                used += 1
                if call != self._calls:
                    raise RuntimeError("another call was made before all answers were taken")
            elif used == sent:
                return
            else:
                rank, payload = self._workers.next_answer()
                answers[number_of.pop(rank)] = payload

    def _settle(self) -> None:
        """Wait for answers that nobody wants any more, of a call that was given up."""
        self._calls += 1
        while len(self._workers.idle()) < len(self._workers.ranks):
            self._workers.next_answer()
