"""Local fine-tuning in the memory there really is: a device falls back to less, and reports it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from fedquad.config import Assignment
from fedquad.cost.layer_costs import LayerCosts
from fedquad.federation.device import DeviceHost
from fedquad.federation.jobs import DeviceJob
from fedquad.fleet.device_memory import DeviceMemory, MemoryLimitError, give_back, is_out_of_memory
from fedquad.methods.method import LocalUpdate, Method
from fedquad.model.backbone import find_layers


@dataclass(frozen=True, kw_only=True)
class Fallback:
    """What a device did in place of what it was assigned.

    Attributes
    ----------
    assignment : Assignment
        What it did.
    reasons : tuple of str
        Why not each of the larger ones, from what was assigned downward.
    too_many_bytes : int or None
        Price of the smallest one that ran out of memory though its price fitted:
        the device holds less than it measures.
    """

    assignment: Assignment
    reasons: tuple[str, ...]
    too_many_bytes: int | None


def fine_tune_within(
    host: DeviceHost,
    job: DeviceJob,
    *,
    memory: DeviceMemory,
    costs: LayerCosts,
    method: Method,
) -> tuple[LocalUpdate, Fallback | None]:
    """One device's local steps under what it was assigned, or the next smaller that fits.

    An assignment is priced against the memory before it starts, and watched while
    it trains. One that runs out is given up, and `Method.smaller` says what follows;
    the steps then start anew, as if it had been assigned: the update is the same
    bytes.

    Parameters
    ----------
    costs : LayerCosts
        Of the model that is trained, at its batch size.

    Returns
    -------
    update : LocalUpdate
        Its ``assignment`` is what was done.
    fallback : Fallback or None
        None where that is what was asked for.

    Raises
    ------
    MemoryLimitError
        Not even the smallest one fits.
    DivergenceError
        As `DeviceHost.fine_tune`.
    """
    assignment: Assignment | None = job.assignment
    reasons: list[str] = []
    too_many_bytes: int | None = None
    while assignment is not None:
        needed, budget = costs.price(assignment).bytes, memory.budget_bytes()
        if needed > budget:
            reason = f"needs {needed:,} bytes, {budget:,} are there"
        else:
            try:
                with memory.watched(find_layers(host.model.get_base_model())):
                    update = host.fine_tune(replace(job, assignment=assignment))
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                reason = f"ran out of memory ({str(error).splitlines()[0]})"
                too_many_bytes = needed
            else:
                if not reasons:
                    return update, None
                fallback = Fallback(
                    assignment=assignment, reasons=tuple(reasons), too_many_bytes=too_many_bytes
                )
                return update, fallback
            # Out here the error is gone, and what its traceback held alive.
            host.model.zero_grad(set_to_none=True)
            give_back()
        reasons.append(f"{in_words(assignment)}: {reason}")
        assignment = method.smaller(assignment)
    raise MemoryLimitError("; ".join(reasons))


def in_words(assignment: Assignment) -> str:
    """An assignment's size: what decides about its memory."""
    return (
        f"{len(assignment.trainable_layers)} trained, {len(assignment.quantized_layers)} quantized"
        f" of {len(assignment.active_layers)} layers"
    )
