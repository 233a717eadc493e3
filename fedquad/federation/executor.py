"""Where devices run: the contract, and the executor that runs them in this process."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Self, TypeVar

import numpy as np
import torch

from fedquad.federation.checks import check_global, check_squares, check_update
from fedquad.federation.jobs import DeviceJob, EvalBatch, Failure, Host
from fedquad.federation.wire import WireError
from fedquad.methods.method import LocalUpdate
from fedquad.model.adapter import Adapter
from fedquad.training.local import DivergenceError, Evaluation

T = TypeVar("T")


class Executor(ABC):
    """Runs devices and evaluates the global model, somewhere; the results are the same bytes.

    Used as a context manager, or closed with `close`.
    """

    @abstractmethod
    def global_adapter(self) -> Adapter:
        """The adapter of the last `broadcast`; before the first one, the fresh one."""

    @abstractmethod
    def broadcast(self, adapter: Adapter) -> None:
        """Give every worker the global adapter of the round.

        Raises
        ------
        WireError
            Other tensors than those of the adapter before, or values that are
            not finite.
        """

    @abstractmethod
    def fine_tune(self, jobs: Sequence[DeviceJob]) -> Iterator[LocalUpdate | Failure]:
        """Local fine-tuning of these devices: one update each, in the order of the jobs.

        A device that diverges, or whose update fails a check
        (`fedquad.federation.checks.check_update`), comes as a `Failure`. Updates
        are yielded as they come; few are held at a time, whatever the number of jobs.
        """

    @abstractmethod
    def probe(self, jobs: Sequence[DeviceJob]) -> list[np.ndarray | Failure]:
        """Squared gradient norms of each layer, shape (L,), in the order of the jobs."""

    @abstractmethod
    def evaluate(self) -> Evaluation:
        """The global adapter on the whole evaluation split."""

    @abstractmethod
    def close(self) -> None:
        """Give back what it holds; may be called twice."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class InProcessExecutor(Executor):
    """One device after the other in this process, on one torch thread.

    Parameters
    ----------
    host : Host
    """

    def __init__(self, host: Host) -> None:
        self._host = host

    def global_adapter(self) -> Adapter:
        return self._host.global_adapter()

    def broadcast(self, adapter: Adapter) -> None:
        check_global(adapter, self._host.global_adapter())
        self._host.receive(adapter)

    def fine_tune(self, jobs: Sequence[DeviceJob]) -> Iterator[LocalUpdate | Failure]:
        for job in jobs:
            yield self._or_failure(self._update, job)

    def probe(self, jobs: Sequence[DeviceJob]) -> list[np.ndarray | Failure]:
        return [self._or_failure(self._squares, job) for job in jobs]

    def evaluate(self) -> Evaluation:
        with one_thread():
            return joined(self._host.evaluate(range(self._host.num_eval_batches)))

    def close(self) -> None:
        """Nothing is held."""

    def _update(self, job: DeviceJob) -> LocalUpdate:
        update = self._host.fine_tune(job)
        check_update(update, job, self._host.global_adapter())
        return update

    def _squares(self, job: DeviceJob) -> np.ndarray:
        squares = self._host.probe(job)
        check_squares(squares, job)
        return squares

    def _or_failure(self, function: Callable[[DeviceJob], T], job: DeviceJob) -> T | Failure:
        try:
            with one_thread():
                return function(job)
        except (DivergenceError, WireError) as error:
            return Failure(device=job.device, reason=str(error))


@contextmanager
def one_thread() -> Iterator[None]:
    """One torch thread for as long as the block lasts: sums depend on their number."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def joined(parts: Iterable[EvalBatch]) -> Evaluation:
    """The evaluation of a whole split from its parts, in the order of the split.

    Raises
    ------
    WireError
        A row that is missing, or there twice.
    """
    parts = list(parts)
    rows = np.concatenate([part.rows for part in parts])
    order = np.argsort(rows)
    if not np.array_equal(rows[order], np.arange(len(rows))):
        raise WireError("rows evaluated", sorted(rows.tolist()), "each row of the split once")
    correct = np.concatenate([part.correct for part in parts])[order]
    losses = np.concatenate([part.losses for part in parts])[order]
    return Evaluation(float(correct.mean()), float(losses.mean()), correct)
