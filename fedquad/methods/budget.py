"""The budget policies of the baselines: `layers` and `strict`."""

from __future__ import annotations

from fedquad.config import Assignment
from fedquad.fleet.fleet import DeviceStatus
from fedquad.methods.method import MethodSetting


def under_policy(
    setting: MethodSetting, status: DeviceStatus, assignment: Assignment | None
) -> Assignment | None:
    """What is left of a baseline's choice under the run's budget policy.

    ``layers`` lets it stand: its memory is priced and an overrun reported.
    ``strict`` leaves the device out (None) where it overruns M_i. A device that
    cannot hold even one layer, d_i = 0, is left out under both, as every method
    leaves it out, so that all methods are compared on the same devices.
    """
    if assignment is None or status.depth_budget < 1:
        return None
    if setting.budget_policy == "strict":
        is_overrun = setting.costs.price(assignment).bytes > status.memory_budget_bytes
        return None if is_overrun else assignment
    return assignment
