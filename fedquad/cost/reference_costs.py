"""Costs of the models whose memory and speed a simulated run stands for, counted once.

`python -m fedquad.cost.reference_costs` counts the models of `COMMITTED_MODELS`
again (minutes) and rewrites their files in ``data/layer_costs``; names after it
restrict it to those.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from fedquad.config import InputError, require_choice, require_positive
from fedquad.config.federated import QUANTIZATION_PRICES
from fedquad.cost.layer_costs import LayerCosts, fit_layer_costs
from fedquad.cost.quantization import measured_quantization_costs
from fedquad.model.pretrained import short_name
from fedquad.paths import package_data

COMMITTED_MODELS = ("bert-large", "roberta-large", "deberta-v3-large", "roberta-base")
BATCH_SIZE = 32  # the paper's, in all experiments
LENGTH = 128


@dataclass(frozen=True, kw_only=True)
class ReferenceCosts:
    """What a step of LoRA fine-tuning costs a model, as lines and as one intensity.

    Attributes
    ----------
    model : str
        Its short name where it has one.
    batch_size, length : int
        Rows a step, tokens a row.
    activation_bits : int
        Of the quantized activations in ``counted``.
    costs : LayerCosts
        With the paper's m_q and c_a.
    counted : LayerCosts
        The same with m_q and c_a as we count them.
    arithmetic_intensity : float
        FLOPs per byte of a step at depth L without quantization, for the roofline.
    bytes_r_squared, flops_r_squared : float
        R^2 of the lines in depth behind m_f, m_o and c_f, c_d.
    """

    model: str
    batch_size: int
    length: int
    activation_bits: int
    costs: LayerCosts
    counted: LayerCosts
    arithmetic_intensity: float
    bytes_r_squared: float
    flops_r_squared: float

    def __post_init__(self) -> None:
        require_positive("arithmetic_intensity", self.arithmetic_intensity)

    def price(self, quantization_price: str) -> LayerCosts:
        """The costs that `FederatedConfig.quantization_price` names: ``paper`` or ``counted``."""
        require_choice("quantization_price", quantization_price, QUANTIZATION_PRICES)
        return self.costs if quantization_price == "paper" else self.counted

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> ReferenceCosts:
        """Read what `to_json` wrote; `InputError` for other text, fields or values."""
        names = [field.name for field in fields(cls)]
        try:
            values = json.loads(text)
        except ValueError as error:
            raise InputError("reference costs", text[:80], "a JSON object") from error
        if not isinstance(values, dict) or sorted(values) != sorted(names):
            found = sorted(values) if isinstance(values, dict) else type(values).__name__
            raise InputError("reference costs", found, "the fields " + ", ".join(names))
        for name in ("costs", "counted"):
            values[name] = LayerCosts.from_json(json.dumps(values[name]))
        return cls(**values)


def reference_costs(
    model: str, batch_size: int = BATCH_SIZE, length: int = LENGTH, *, activation_bits: int = 8
) -> ReferenceCosts:
    """Costs of a model: read from ``data/layer_costs`` where they are there, else counted.

    Counting a large model takes a minute. Its steps stay in the cache of
    `step_cost`, so that the same model is counted once in a process.

    Parameters
    ----------
    model : str
        As in `step_cost`; any spelling of a known name.
    batch_size, length : int
        Rows, and tokens a row.
    activation_bits : {8, 4}
        Of the quantized activations in `ReferenceCosts.counted`.

    Raises
    ------
    InputError
        What `step_cost` refuses, or a model of fewer than 3 layers.
    """
    name = short_name(model) or model
    if are_committed(name, batch_size, length, activation_bits=activation_bits):
        return ReferenceCosts.from_json(costs_file(name).read_text(encoding="utf-8"))
    return count_reference_costs(name, batch_size, length, activation_bits=activation_bits)


def are_committed(
    model: str, batch_size: int = BATCH_SIZE, length: int = LENGTH, *, activation_bits: int = 8
) -> bool:
    """Whether `reference_costs` reads these rather than count them."""
    name = short_name(model) or model
    is_setting = (batch_size, length, activation_bits) == (BATCH_SIZE, LENGTH, 8)
    return is_setting and name in COMMITTED_MODELS and costs_file(name).is_file()


def count_reference_costs(
    model: str, batch_size: int = BATCH_SIZE, length: int = LENGTH, *, activation_bits: int = 8
) -> ReferenceCosts:
    """`reference_costs`, counted whatever is on disk."""
    fit = fit_layer_costs(model, batch_size, length)
    measured = measured_quantization_costs(model, batch_size, length, bits=activation_bits)
    return ReferenceCosts(
        model=short_name(model) or model,
        batch_size=batch_size,
        length=length,
        activation_bits=activation_bits,
        costs=fit.costs,
        counted=measured.applied(),
        arithmetic_intensity=fit.steps[-1].arithmetic_intensity,
        bytes_r_squared=fit.bytes_r_squared,
        flops_r_squared=fit.flops_r_squared,
    )


def costs_file(model: str) -> Path:
    """Where a model's committed costs lie."""
    return package_data() / "layer_costs" / f"{model}.json"


def main(models: Sequence[str] = ()) -> None:
    """Count models again (all of `COMMITTED_MODELS` by default) and rewrite their files."""
    for model in models:
        require_choice("model", model, COMMITTED_MODELS)
    for model in models or COMMITTED_MODELS:
        path = costs_file(model)
        path.parent.mkdir(exist_ok=True)
        path.write_text(count_reference_costs(model).to_json(), encoding="utf-8")
        print(path)


if __name__ == "__main__":
    main(sys.argv[1:])
