"""The simulated devices of a run: who they are and what they report each round."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class DeviceStatus:
    """What a device reports to the server before a round (Section III-B).

    Attributes
    ----------
    device_id : str
        Its name.
    device_class : str
        ``strong``, ``moderate`` or ``weak``; empty for a fleet from a file.
    mode : str
        Its Jetson mode; empty for a fleet from a file.
    depth_budget : int
        d_i: the deepest unquantized LoRA depth that fits its memory, in layers of
        the trained model; 0 if not even one layer fits.
    memory_budget_bytes : int
        M_i.
    flops_per_second : float
        q_i.
    """

    device_id: str
    device_class: str = ""
    mode: str = ""
    depth_budget: int
    memory_budget_bytes: int
    flops_per_second: float
