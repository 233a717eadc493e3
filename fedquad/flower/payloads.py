"""What server and nodes say to each other beside jobs and updates: the run, a device's report."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from fedquad.config import Assignment, FederatedConfig, InputError
from fedquad.cost.layer_costs import LayerCosts
from fedquad.federation.fallback import Fallback
from fedquad.federation.messages import decode_job
from fedquad.federation.setting import config_from_json, config_to_json
from fedquad.federation.wire import Message, WireError, encode, require_list

# Names of a message's parts.
RUN, JOB, ADAPTER, ANSWER, REPORT = "run", "job", "adapter", "answer", "report"


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """What a node must know of a run.

    Attributes
    ----------
    config : FederatedConfig
    label_names : tuple of str
    costs : LayerCosts or None
        Of the trained model, where devices are real; None where they are simulated.
    """

    config: FederatedConfig
    label_names: tuple[str, ...] = ()
    costs: LayerCosts | None = None

    def encode(self) -> bytes:
        costs = None if self.costs is None else json.loads(self.costs.to_json())
        fields = {"config": config_to_json(self.config), "label_names": list(self.label_names)}
        return encode("run", {**fields, "costs": costs})

    @classmethod
    def decode(cls, message: Message) -> RunSpec:
        """The inverse; `WireError` for anything else, and for code of somebody's own.

        A method outside of the library would be imported by its name: a node runs
        none that a server names.
        """
        message.require_kind("run")
        values, costs = message.get("config"), message.get("costs")
        names = require_list("label_names", message.get("label_names"))
        if not all(isinstance(name, str) for name in names):
            raise WireError("label_names", names, "strings")
        try:
            config = config_from_json(values)
            read = None if costs is None else LayerCosts.from_json(json.dumps(costs))
        except InputError as error:
            raise WireError(error.field, error.value, error.accepted) from None
        except (TypeError, ValueError, AttributeError) as error:
            raise WireError("config", values, f"settings of a run ({error})") from None
        if not isinstance(config.method, str) or ":" in config.method:
            raise WireError("method", config.method, "a method of the library, by its name")
        return cls(config=config, label_names=tuple(names), costs=read)


@dataclass(frozen=True, kw_only=True)
class DeviceReport:
    """What a device says of itself.

    Attributes
    ----------
    name : str
        Simulated: its number.
    memory_budget_bytes : int
        M_i as measured; 0 where it is simulated.
    flops_per_second : float
        q_i as measured; 1 where it is simulated.
    fallback : tuple of str
        Why it did less than it was asked for, if it did.
    ran : Assignment or None
        And what it did then.
    """

    name: str
    memory_budget_bytes: int = 0
    flops_per_second: float = 1.0
    fallback: tuple[str, ...] = ()
    ran: Assignment | None = None

    def with_fallback(self, fallback: Fallback | None) -> DeviceReport:
        if fallback is None:
            return self
        values = {**vars(self), "fallback": fallback.reasons, "ran": fallback.assignment}
        return DeviceReport(**values)

    def encode(self) -> bytes:
        ran = None if self.ran is None else asdict(self.ran)
        return encode("report", {**vars(self), "fallback": list(self.fallback), "ran": ran})

    @classmethod
    def decode(cls, message: Message) -> DeviceReport:
        """The inverse; `WireError` for anything else."""
        message.require_kind("report")
        name = message.text("name")
        if not name.strip() or not name.isprintable():
            raise WireError("name", name, "printable characters, at least one")
        speed = message.number("flops_per_second")
        if speed <= 0:
            raise WireError("flops_per_second", speed, "a number > 0")
        reasons = require_list("fallback", message.get("fallback"))
        if not all(isinstance(reason, str) for reason in reasons):
            raise WireError("fallback", reasons, "strings")
        return cls(
            name=name,
            memory_budget_bytes=message.integer("memory_budget_bytes"),
            flops_per_second=speed,
            fallback=tuple(reasons),
            ran=_assignment(message.get("ran")),
        )


def require_part_of(ran: Assignment, asked: Assignment) -> None:
    """Raise `WireError` unless a device could fall back to this from what it was asked for."""
    is_part = (
        ran.num_layers == asked.num_layers
        and ran.lora_rank == asked.lora_rank
        and set(ran.active_layers) <= set(asked.active_layers)
        and set(ran.trainable_layers) <= set(asked.trainable_layers)
        and bool(ran.trainable_layers)
    )
    if not is_part:
        raise WireError("assignment that was done", ran, f"a part of {asked}")


def _assignment(value: Any) -> Assignment | None:
    if value is None:
        return None
    fields = {"device": 0, "round_idx": 0, "assignment": value}
    return decode_job(Message("fine_tune", fields)).assignment
