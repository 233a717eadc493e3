"""The devices of a run: simulated Jetsons, or those of a file."""

from __future__ import annotations

from fedquad.config import FederatedConfig
from fedquad.cost.layer_costs import LayerCosts
from fedquad.fleet.fleet_file import FixedFleet, read_fleet, write_fleet
from fedquad.fleet.jetson_fleet import JetsonFleet
from fedquad.fleet.status import DeviceStatus, Fleet, depth_budget

__all__ = [
    "DeviceStatus",
    "FixedFleet",
    "Fleet",
    "JetsonFleet",
    "depth_budget",
    "make_fleet",
    "read_fleet",
    "write_fleet",
]


def make_fleet(
    config: FederatedConfig,
    costs: LayerCosts,
    arithmetic_intensity: float,
    reference_num_layers: int = 24,
) -> Fleet:
    """The fleet that a run's settings describe.

    Parameters
    ----------
    config : FederatedConfig
        A ``fleet`` file has its own devices: their number, heterogeneity and the
        throughput model then play no part.
    costs : LayerCosts
        Of the trained model's L layers, at the reference model's scale.
    arithmetic_intensity : float
        FLOPs per byte of the reference model; the roofline alone uses it.
    reference_num_layers : int
        L_ref.

    Raises
    ------
    InputError
        A fleet file that `read_fleet` refuses.
    """
    if config.fleet is not None:
        return read_fleet(config.fleet, costs)
    is_roofline = config.throughput_model == "roofline"
    return JetsonFleet(
        config.num_devices,
        config.heterogeneity,
        costs,
        reference_num_layers=reference_num_layers,
        throughput_model=config.throughput_model,
        arithmetic_intensity=arithmetic_intensity if is_roofline else None,
        seed=config.seed,
    )
