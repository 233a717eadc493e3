"""What the server asks of workers, what they hand back, and what a worker holds to do it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from fedquad.config import Assignment
from fedquad.methods.method import LocalUpdate
from fedquad.model.adapter import Adapter


@dataclass(frozen=True, kw_only=True)
class DeviceJob:
    """One device's part of a round: local fine-tuning, or a probe.

    Attributes
    ----------
    device : int
        Index of the device, from 0.
    round_idx : int
        h, from 0.
    assignment : Assignment
    """

    device: int
    round_idx: int
    assignment: Assignment


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A device whose update cannot be used, and the reason in words."""

    device: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class EvalBatch:
    """The global model on some rows of the evaluation split.

    Attributes
    ----------
    rows : ndarray of int64, shape (n,)
        Their indices in the split.
    correct : ndarray of bool, shape (n,)
    losses : ndarray of float64, shape (n,)
        Cross-entropy of each row; not finite where the global model diverged.
    """

    rows: np.ndarray
    correct: np.ndarray
    losses: np.ndarray


class Host(Protocol):
    """What one worker holds: a model and everybody's rows. It can be any of the devices.

    What it returns depends on the arguments and on the global adapter that it
    received last, never on what it did before: so it does not matter which worker
    runs which device.
    """

    @property
    def num_eval_batches(self) -> int:
        """Parts of the evaluation split, the same for any number of workers."""
        ...

    def global_adapter(self) -> Adapter:
        """The global adapter it received last, at first the fresh one."""
        ...

    def receive(self, global_adapter: Adapter) -> None:
        """Take the global adapter that the devices start from and that is evaluated."""
        ...

    def fine_tune(self, job: DeviceJob) -> LocalUpdate:
        """Local fine-tuning; may raise `fedquad.training.local.DivergenceError`."""
        ...

    def probe(self, job: DeviceJob) -> np.ndarray:
        """Squared gradient norms, float64 of shape (L,); may raise `DivergenceError`."""
        ...

    def evaluate(self, batches: Sequence[int]) -> list[EvalBatch]:
        """The global model on these parts of the evaluation split, in the order given."""
        ...


@dataclass(frozen=True, kw_only=True)
class HostSpec:
    """How a worker process makes its host.

    Attributes
    ----------
    factory : str
        ``module:function``, importable in the worker.
    arguments : mapping
        JSON values; the function's only argument.
    """

    factory: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
