"""The six constants of Eqs. 6 and 11, and the price of any assignment."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from fedquad.config import Assignment, InputError, LayerConfig, require_int
from fedquad.cost.accounting import StepCost, step_cost

# A quantized layer keeps 58 % less, and quantizing all of them costs 36 % more time (Section II-C).
QUANTIZATION_BYTES_SHARE = 0.58
QUANTIZATION_FLOPS_SHARE = 0.36


class Price(NamedTuple):
    """Memory of a device, and FLOPs of one local step."""

    bytes: int
    flops: int


@dataclass(frozen=True, kw_only=True)
class LayerCosts:
    """Cost of a training step as a line in LoRA depth and number of quantized layers.

    Attributes
    ----------
    num_layers : int
        L.
    fixed_bytes : int
        m_f: weights, head, and what does not depend on depth.
    bytes_per_lora_layer : int
        m_o: what one more layer keeps for backward, its gradients and optimizer.
    bytes_saved_per_quantized_layer : int
        m_q, at most m_o.
    forward_flops : int
        c_f: the forward pass over all layers.
    flops_per_lora_layer : int
        c_d: backward through one more layer.
    flops_per_quantized_layer : int
        c_a: quantizing and dequantizing one layer, as FLOPs at the same rate.
    """

    num_layers: int
    fixed_bytes: int
    bytes_per_lora_layer: int
    bytes_saved_per_quantized_layer: int
    forward_flops: int
    flops_per_lora_layer: int
    flops_per_quantized_layer: int

    def __post_init__(self) -> None:
        for field in ("num_layers", "bytes_per_lora_layer", "forward_flops"):
            require_int(field, getattr(self, field), 1)
        for field in ("fixed_bytes", "flops_per_lora_layer", "flops_per_quantized_layer"):
            require_int(field, getattr(self, field), 0)
        saved = self.bytes_saved_per_quantized_layer
        require_int("bytes_saved_per_quantized_layer", saved, 0, self.bytes_per_lora_layer)

    def memory_bytes(self, depth: Any, quantized: Any = 0) -> Any:
        """Left side of Eq. (11), m_f + m_o d - m_q a: of whole numbers, arrays or columns."""
        kept = self.bytes_per_lora_layer * depth
        return self.fixed_bytes + kept - self.bytes_saved_per_quantized_layer * quantized

    def step_flops(self, depth: Any, quantized: Any = 0) -> Any:
        """Eq. (6), c_f + c_d d + c_a a of one local step: of whole numbers, arrays or columns."""
        backward = self.flops_per_lora_layer * depth
        return self.forward_flops + backward + self.flops_per_quantized_layer * quantized

    def price(self, assignment: Assignment) -> Price:
        """Bytes and FLOPs per step of what a device is assigned, for any method.

        bytes = m_f + m_o * kept - m_q * a and flops = c_f * k / L + c_d * kept + c_a * a,
        with k active layers, ``kept`` active layers from the lowest trainable one
        upward, and a quantized layers. For FedQuad's (d, a), where k = L and
        kept = d, these are Eqs. 11 and 6. Fixed bytes do not shrink with a
        sub-model, and the LoRA rank has no price.

        Raises
        ------
        InputError
            The assignment is for another number of layers.
        """
        if assignment.num_layers != self.num_layers:
            accepted = f"{self.num_layers}, the layers these costs are for"
            raise InputError("num_layers", assignment.num_layers, accepted)
        active = assignment.active_layers
        lowest = min(assignment.trainable_layers, default=self.num_layers)
        num_kept = sum(layer >= lowest for layer in active)
        num_quantized = len(assignment.quantized_layers)
        forward = round(Fraction(self.forward_flops * len(active), self.num_layers))
        skipped = self.forward_flops - forward
        return Price(
            bytes=self.memory_bytes(num_kept, num_quantized),
            flops=self.step_flops(num_kept, num_quantized) - skipped,
        )

    def of_layers(self, num_layers: int) -> LayerCosts:
        """The same model cut into another number of layers, for an encoder that stands for it.

        Each of the ``num_layers`` layers counts as L / num_layers of these; what
        all layers cost together stays the same, up to rounding.
        """
        require_int("num_layers", num_layers, 1)
        share = Fraction(self.num_layers, num_layers)
        scaled = (
            "bytes_per_lora_layer",
            "bytes_saved_per_quantized_layer",
            "flops_per_lora_layer",
            "flops_per_quantized_layer",
        )
        values = {name: round(getattr(self, name) * share) for name in scaled}
        return replace(self, num_layers=num_layers, **values)

    @classmethod
    def from_accounting(
        cls, model: str, batch_size: int = 32, length: int = 128, **settings
    ) -> LayerCosts:
        """The constants of a model, as `fit_layer_costs` fits them."""
        return fit_layer_costs(model, batch_size, length, **settings).costs

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2)

    @classmethod
    def from_json(cls, text: str) -> LayerCosts:
        """Read what `to_json` wrote; `InputError` for other text, fields or values."""
        names = [field.name for field in fields(cls)]
        try:
            values = json.loads(text)
        except ValueError as error:
            raise InputError("layer costs", text[:80], "a JSON object") from error
        if not isinstance(values, dict) or sorted(values) != sorted(names):
            found = sorted(values) if isinstance(values, dict) else type(values).__name__
            raise InputError("layer costs", found, "the fields " + ", ".join(names))
        return cls(**values)


@dataclass(frozen=True)
class LayerCostFit:
    """`LayerCosts`, and how well lines describe the accounting they come from.

    Attributes
    ----------
    depths : tuple of int
        2 … L: the lowest trainable layer keeps a little less than the others, and
        at depth 1 it is all there is.
    steps : tuple of StepCost
        The accounting at each depth.
    bytes_r_squared, flops_r_squared : float
        R^2 of the lines in depth.
    """

    costs: LayerCosts
    depths: tuple[int, ...]
    steps: tuple[StepCost, ...]
    bytes_r_squared: float
    flops_r_squared: float


def fit_layer_costs(
    model: str, batch_size: int = 32, length: int = 128, **settings
) -> LayerCostFit:
    """Fit m_f, m_o (total bytes) and c_f, c_d (FLOPs of a step) over depth 2 … L.

    m_q = 0.58 m_o and c_a = 0.36 (c_f + L c_d) / L follow from the paper's
    measurements. All are rounded to whole bytes and FLOPs.

    Parameters
    ----------
    model, batch_size, length
        As in `step_cost`.
    **settings
        ``lora_rank``, ``dtype``, ``attention``, ``num_labels`` of `step_cost`.

    Raises
    ------
    InputError
        What `step_cost` refuses, or a model of fewer than 3 layers.
    """
    num_layers = _layer_count(model, batch_size, length, settings)
    depths = tuple(range(2, num_layers + 1))
    steps = tuple(
        step_cost(
            model,
            batch_size=batch_size,
            length=length,
            trainable_layers=LayerConfig(depth).trainable_layers(num_layers),
            **settings,
        )
        for depth in depths
    )
    fixed, per_layer, bytes_r_squared = fit_line(depths, [step.total_bytes for step in steps])
    forward, per_depth, flops_r_squared = fit_line(depths, [step.total_flops for step in steps])
    fixed, per_layer, forward, per_depth = map(round, (fixed, per_layer, forward, per_depth))
    costs = LayerCosts(
        num_layers=num_layers,
        fixed_bytes=fixed,
        bytes_per_lora_layer=per_layer,
        bytes_saved_per_quantized_layer=round(QUANTIZATION_BYTES_SHARE * per_layer),
        forward_flops=forward,
        flops_per_lora_layer=per_depth,
        flops_per_quantized_layer=round(
            QUANTIZATION_FLOPS_SHARE * (forward + num_layers * per_depth) / num_layers
        ),
    )
    return LayerCostFit(costs, depths, steps, bytes_r_squared, flops_r_squared)


def fit_line(x, y) -> tuple[float, float, float]:
    """Least squares: intercept, slope and R^2 of y over x (R^2 is 1 for a constant y)."""
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    slope, intercept = np.polyfit(x, y, 1)
    residual = np.square(y - intercept - slope * x).sum()
    total = np.square(y - y.mean()).sum()
    return float(intercept), float(slope), float(1 - residual / total) if total else 1.0


def _layer_count(model: str, batch_size: int, length: int, settings: dict) -> int:
    whole = step_cost(model, batch_size=batch_size, length=length, **settings)
    num_layers = len(whole.activation_bytes_by_layer)
    if num_layers < 3:
        accepted = f"a model of 3 layers or more to fit a line, this one has {num_layers}"
        raise InputError("model", model, accepted)
    return num_layers
