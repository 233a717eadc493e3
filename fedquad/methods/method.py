"""What every federated method is: the contract between a method and the round loop."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
from peft import PeftModel
from torch import Tensor

from fedquad.config import Assignment, InputError
from fedquad.cost.layer_costs import LayerCosts
from fedquad.fleet.fleet import DeviceStatus
from fedquad.model.adapter import Adapter

Penalty = Callable[[PeftModel], Tensor]
"""A term that is added to the local loss: from the model in training to a scalar."""

REGISTERED: dict[str, type[Method]] = {}
"""Every method that is defined, by name; read it as `fedquad.methods.METHODS`."""


@dataclass(frozen=True, kw_only=True)
class MethodSetting:
    """What a method knows from the start.

    Attributes
    ----------
    costs : LayerCosts
        Of the trained model's L layers, at the reference model's scale.
    local_steps : int
        Steps of a round on the virtual clock.
    lora_rank : int
        r of the global adapter, the largest a device can get.
    budget_policy : {"layers", "strict"}
    seed : int
        Of what a method draws at random, together with the round and the device.
    """

    costs: LayerCosts
    local_steps: int
    lora_rank: int = 16
    budget_policy: str = "layers"
    seed: int = 0

    @property
    def num_layers(self) -> int:
        """L."""
        return self.costs.num_layers

    def completion_time_s(self, assignment: Assignment, flops_per_second: float) -> float:
        """t_i of Eqs. 7 and 12: seconds of a round's local steps."""
        return self.local_steps * self.costs.price(assignment).flops / flops_per_second


@dataclass(frozen=True, kw_only=True)
class History:
    """What the server has learned from the rounds before.

    Attributes
    ----------
    round_idx : int
        h, of the round that is to be assigned, from 0.
    mean_completion_time_s : float or None
        t_avg of the round before; None before the first round.
    gradient_norms : ndarray of float64, shape (L,)
        g_l: the last known value of each layer, the mean of the known ones where
        a layer was never trained, ones before the first round.
    probes : mapping of int to ndarray of float64, shape (L,)
        Per device, squared gradient norm of each layer at the current global
        weights, where the method asked for it; 0 where a layer was not probed.
    """

    round_idx: int
    mean_completion_time_s: float | None
    gradient_norms: np.ndarray
    probes: Mapping[int, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class LocalUpdate:
    """What a device sends back after its local steps.

    Attributes
    ----------
    device : int
        Index of the device, from 0.
    assignment : Assignment
        What it was told to do.
    adapter : Adapter
        LoRA of the layers it trained, and the head.
    num_samples : int
        Rows of its shard.
    gradient_norms : dict of int to float
        g_l of each layer it trained: mean over the local steps.
    train_loss : float
        Mean over the local steps.
    """

    device: int
    assignment: Assignment
    adapter: Adapter
    num_samples: int
    gradient_norms: dict[int, float]
    train_loss: float

    @property
    def lora_rank(self) -> int:
        """Of the tensors it sends, which may be lower than what it was assigned."""
        return self.adapter.rank


class Accumulator(ABC):
    """The server's running sum over one round's updates.

    Holds one adapter (one per sub-model size), never the updates. They come in
    the order of the devices; the result then is the same bytes every time.
    """

    @abstractmethod
    def add(self, update: LocalUpdate) -> None:
        """Take one device's update; nothing of it is kept but sums."""

    @abstractmethod
    def finish(self) -> Adapter:
        """The new global adapter, all L layers and the head.

        A layer that nobody trained keeps its value; without any update the
        global adapter is what it was.
        """


class Method(ABC):
    """A way to fine-tune on devices that differ: who trains what, and how it is put together.

    A method is one file: a subclass with a ``name`` of its own registers itself in
    `fedquad.methods.METHODS`. Its own settings are keyword arguments with
    defaults in its constructor and listed in ``defaults``; a run can set them
    (``FederatedConfig.method_options``). Its ``label`` in figures is its name
    unless it states one.

    Parameters
    ----------
    setting : MethodSetting
    """

    name: ClassVar[str]
    label: ClassVar[str]
    defaults: ClassVar[dict[str, float]] = {}
    # Whether its choices depend on how fast devices are; if not, a run can be given another clock.
    looks_at_time: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" not in cls.__dict__:  # a common base of several methods
            return
        if not isinstance(cls.name, str) or not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", cls.name):
            raise InputError("method name", cls.name, "lower-case words and digits, joined by -")
        if "label" not in cls.__dict__:
            cls.label = cls.name
        other = REGISTERED.get(cls.name)
        # The same class again is a cell or a module that was run twice.
        if other and (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
            taken = f"a name other than that of {other.__module__}.{other.__qualname__}"
            raise InputError("method name", cls.name, taken)
        REGISTERED[cls.name] = cls

    def __init__(self, setting: MethodSetting) -> None:
        self.setting = setting

    def probe(self, statuses: Sequence[DeviceStatus], round_idx: int) -> list[Assignment | None]:
        """What each device should measure before the assignment.

        One batch is run forward and backward under the assignment that stands at
        a device's place, at the current global weights and without a step; its
        squared gradient norms come in `History.probes`. It is priced as one local
        step, in time and in memory. An empty list (the default) asks for nothing.
        """
        return []

    @abstractmethod
    def assign(self, statuses: Sequence[DeviceStatus], history: History) -> list[Assignment | None]:
        """What each device does this round; None leaves it out.

        Parameters
        ----------
        statuses : sequence of DeviceStatus
            One a device, in device order.
        history : History

        Returns
        -------
        list of Assignment or None
            In device order.
        """

    def penalty(self, assignment: Assignment) -> Penalty | None:
        """The method's own term of the local loss under an assignment; none by default.

        Called where the device runs, on a method made from the same settings:
        it must not depend on what `assign` has seen.
        """
        return None

    def finish_update(self, received: Adapter, trained: Adapter, assignment: Assignment) -> Adapter:
        """What a device sends, from what it got and what it has after its steps.

        Both adapters hold the layers it runs, at the assigned rank. The default
        sends the layers that were trained, and the head. Called where the device
        runs, like `penalty`.
        """
        return trained.layers(assignment.trainable_layers)

    @abstractmethod
    def accumulator(self, global_adapter: Adapter) -> Accumulator:
        """A running sum for one round, which ends in the next global adapter."""

    def counts(self) -> dict[str, int]:
        """What it has counted up to this round, for the record; nothing by default."""
        return {}

    def smaller(self, assignment: Assignment) -> Assignment | None:
        """What a device does instead that ran out of memory; None if there is nothing smaller.

        Its layers are among those of the assignment. The default drops the lowest
        trained layer, and so what it kept for backward. Called where the device
        runs, like `penalty`.
        """
        if len(assignment.trainable_layers) == 1:
            return None
        trained = assignment.trainable_layers[1:]
        quantized = tuple(n for n in assignment.quantized_layers if n >= trained[0])
        return replace(assignment, trainable_layers=trained, quantized_layers=quantized)

    def state_dict(self) -> dict[str, Any]:
        """What it keeps between rounds, as JSON values; nothing by default."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`; `InputError` for what it did not write."""
        if state:
            raise InputError(f"state of {self.name}", sorted(state), "{}: it keeps nothing")
