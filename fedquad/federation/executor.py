"""Where devices run: the contract, and the executor that runs them in this process."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self

import numpy as np

from fedquad.federation.jobs import DeviceJob, Failure
from fedquad.methods.method import LocalUpdate
from fedquad.model.adapter import Adapter
from fedquad.training.local import Evaluation


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
