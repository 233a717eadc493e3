"""What a device reports before a round, and what every fleet of devices can do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from fedquad.cost.layer_costs import LayerCosts


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


class Fleet(ABC):
    """The devices of a run. A fleet keeps no state: any round can be asked for, in any order."""

    @property
    @abstractmethod
    def num_devices(self) -> int:
        """n."""

    @abstractmethod
    def statuses(self, round_idx: int) -> list[DeviceStatus]:
        """What the devices report before a round.

        Parameters
        ----------
        round_idx : int
            h, from 0.

        Returns
        -------
        list of DeviceStatus, length n
            Every round in the same order.
        """


def depth_budget(memory_budget_bytes: int, costs: LayerCosts) -> int:
    """d_i: the largest d in 0 … L with m_f + m_o * d <= M_i (Eq. 11 with a = 0)."""
    spare_bytes = memory_budget_bytes - costs.fixed_bytes
    return min(costs.num_layers, max(0, spare_bytes // costs.bytes_per_lora_layer))
