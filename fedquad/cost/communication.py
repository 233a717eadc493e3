"""What a round sends over the network, how long that takes, and its share of the round."""

from __future__ import annotations

from dataclasses import dataclass

from fedquad.config import require_choice, require_int, require_positive
from fedquad.cost.accounting import StepCost, step_cost

# Mbit/s in each direction (the paper names the networks, not their rates).
NETWORK_RATES_MBIT_S = {"3G": 3.0, "4G": 20.0}
# Samples per device / batch of 32, for 100 devices on MNLI.
MNLI_LOCAL_STEPS = 123
_BYTES_PER_VALUE = 4  # adapters and weights travel in fp32


@dataclass(frozen=True, kw_only=True)
class RoundTraffic:
    """Bytes one device receives and sends in a round.

    Attributes
    ----------
    tuning : {"lora", "full"}
    parameters : int
        Of the model without LoRA.
    trainable_parameters : int
        What the device trains.
    download_bytes : int
        LoRA: the adapter of all layers and the head, since the forward pass uses
        all of it. Full: every weight.
    upload_bytes : int
        LoRA: the trained layers' adapter and the head. Full: every weight.
    """

    tuning: str
    parameters: int
    trainable_parameters: int
    download_bytes: int
    upload_bytes: int

    @property
    def total_bytes(self) -> int:
        """Down and up."""
        return self.download_bytes + self.upload_bytes

    @property
    def trainable_share(self) -> float:
        """Trainable parameters as a fraction of the model's."""
        return self.trainable_parameters / self.parameters


@dataclass(frozen=True, kw_only=True)
class RoundShare:
    """How a device's round divides into computing and sending."""

    tuning: str
    network: str
    rate_mbit_s: float
    traffic: RoundTraffic
    communication_time_s: float
    compute_time_s: float

    @property
    def share(self) -> float:
        """Communication as a fraction of the round."""
        return self.communication_time_s / (self.communication_time_s + self.compute_time_s)


def round_traffic(
    model: str,
    *,
    tuning: str = "lora",
    trainable_layers: tuple[int, ...] | None = None,
    lora_rank: int = 16,
    num_labels: int = 3,
) -> RoundTraffic:
    """Bytes of a round, parameters as in `fedquad.cost.accounting.step_cost`.

    Raises
    ------
    InputError
        What `step_cost` refuses.
    """

    def count(tuning: str, layers: tuple[int, ...] | None = None) -> StepCost:
        return step_cost(
            model,
            batch_size=1,
            length=8,
            tuning=tuning,
            trainable_layers=layers,
            lora_rank=lora_rank,
            num_labels=num_labels,
        )

    trained = count(tuning, trainable_layers)
    return RoundTraffic(
        tuning=tuning,
        parameters=count("full").parameters,
        trainable_parameters=trained.trainable_parameters,
        download_bytes=count(tuning).trainable_parameters * _BYTES_PER_VALUE,
        upload_bytes=trained.trainable_parameters * _BYTES_PER_VALUE,
    )


def transfer_time_s(num_bytes: int, rate_mbit_s: float) -> float:
    """Seconds to send ``num_bytes`` at a rate in 10^6 bits a second."""
    require_int("num_bytes", num_bytes, 0)
    require_positive("rate_mbit_s", rate_mbit_s)
    return num_bytes * 8 / (rate_mbit_s * 1e6)


def round_share(
    model: str,
    *,
    flops_per_second: float,
    network: str,
    rate_mbit_s: float | None = None,
    local_steps: int = MNLI_LOCAL_STEPS,
    batch_size: int = 32,
    length: int = 256,
    **settings,
) -> RoundShare:
    """Split one device's round of ``local_steps`` steps into computing and sending.

    Parameters
    ----------
    model : str
    flops_per_second : float
        q of the device, `fedquad.fleet.jetson.flops_per_second`.
    network : str
        A key of `NETWORK_RATES_MBIT_S`, or any label if ``rate_mbit_s`` is given.
    rate_mbit_s : float or None
        Each way.
    local_steps, batch_size, length : int
        Steps of the round and the batches they take.
    **settings
        ``tuning``, ``trainable_layers``, ``lora_rank``, ``num_labels`` of `step_cost`.

    Raises
    ------
    InputError
        A network without a known rate, or what `step_cost` refuses.
    """
    if rate_mbit_s is None:
        require_choice("network", network, NETWORK_RATES_MBIT_S)
        rate_mbit_s = NETWORK_RATES_MBIT_S[network]
    require_positive("flops_per_second", flops_per_second)
    require_int("local_steps", local_steps, 1)
    traffic = round_traffic(model, **settings)
    step = step_cost(model, batch_size=batch_size, length=length, **settings)
    return RoundShare(
        tuning=traffic.tuning,
        network=network,
        rate_mbit_s=rate_mbit_s,
        traffic=traffic,
        communication_time_s=transfer_time_s(traffic.total_bytes, rate_mbit_s),
        compute_time_s=local_steps * step.total_flops / flops_per_second,
    )
