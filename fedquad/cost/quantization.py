"""Our own m_q and c_a, counted on fake tensors, beside the paper's measured shares."""

from __future__ import annotations

from dataclasses import dataclass, replace

from fedquad.cost.accounting import StepCost, step_cost
from fedquad.cost.layer_costs import (
    QUANTIZATION_BYTES_SHARE,
    QUANTIZATION_FLOPS_SHARE,
    LayerCosts,
    fit_layer_costs,
    fit_line,
)


@dataclass(frozen=True, kw_only=True)
class QuantizationCosts:
    """What quantizing one more layer saves and costs, counted.

    Attributes
    ----------
    bits, block_size : int
        Of the stored activations.
    num_quantized : tuple of int
        The numbers of quantized layers a that were counted, at depth L.
    steps : tuple of StepCost
        The accounting at each of them.
    layer_costs : LayerCosts
        The same model's constants, with the paper's m_q and c_a.
    bytes_saved_per_quantized_layer : int
        m_q: slope of the total bytes over a.
    flops_per_quantized_layer : int
        c_a. Quantizing and dequantizing move bytes and compute next to nothing,
        so they are priced as what the device could have computed meanwhile: the
        bytes that the operations of a step read and write more for each quantized
        layer, times the FLOPs per byte of the step without quantization. On the
        roofline below the ridge, where q = bandwidth * FLOPs per byte, c_a / q is
        exactly the time to move those bytes.
    bytes_r_squared : float
        R^2 of the line of the total bytes over a.
    """

    bits: int
    block_size: int
    num_quantized: tuple[int, ...]
    steps: tuple[StepCost, ...]
    layer_costs: LayerCosts
    bytes_saved_per_quantized_layer: int
    flops_per_quantized_layer: int
    bytes_r_squared: float

    @property
    def bytes_share(self) -> float:
        """m_q / m_o; the paper's is 0.58."""
        return self.bytes_saved_per_quantized_layer / self.layer_costs.bytes_per_lora_layer

    @property
    def flops_share(self) -> float:
        """c_a over a step's FLOPs per layer at depth L; the paper's is 0.36."""
        costs = self.layer_costs
        step = costs.forward_flops + costs.num_layers * costs.flops_per_lora_layer
        return self.flops_per_quantized_layer * costs.num_layers / step

    def applied(self) -> LayerCosts:
        """`layer_costs` with our m_q and c_a in the place of the paper's."""
        return replace(
            self.layer_costs,
            bytes_saved_per_quantized_layer=self.bytes_saved_per_quantized_layer,
            flops_per_quantized_layer=self.flops_per_quantized_layer,
        )

    def summary(self) -> dict[str, int | float]:
        """Both constants as shares, ours and the paper's, as plain JSON values."""
        return {
            "bits": self.bits,
            "block_size": self.block_size,
            "bytes_saved_per_quantized_layer": self.bytes_saved_per_quantized_layer,
            "flops_per_quantized_layer": self.flops_per_quantized_layer,
            "bytes_share": self.bytes_share,
            "bytes_share_paper": QUANTIZATION_BYTES_SHARE,
            "flops_share": self.flops_share,
            "flops_share_paper": QUANTIZATION_FLOPS_SHARE,
            "bytes_r_squared": self.bytes_r_squared,
        }


def measured_quantization_costs(
    model: str,
    batch_size: int = 32,
    length: int = 128,
    *,
    bits: int = 8,
    block_size: int = 32,
    **settings,
) -> QuantizationCosts:
    """Count m_q and c_a of a model at depth L, over a from 0 to L - 1.

    Parameters
    ----------
    model, batch_size, length
        As in `step_cost`.
    bits, block_size : int
        Of the stored activations.
    **settings
        ``lora_rank``, ``dtype``, ``attention``, ``num_labels`` of `step_cost`.

    Raises
    ------
    InputError
        What `fit_layer_costs` and `step_cost` refuse.
    """
    costs = fit_layer_costs(model, batch_size, length, **settings).costs
    top = costs.num_layers - 1
    counts = tuple(sorted({0, 1, top // 2, top}))  # a line: its ends, and points to see that it is
    steps = tuple(
        step_cost(
            model,
            batch_size=batch_size,
            length=length,
            quantized_layers=tuple(range(count)),
            activation_bits=bits,
            block_size=block_size,
            **settings,
        )
        for count in counts
    )
    _, saved, r_squared = fit_line(counts, [-step.total_bytes for step in steps])
    _, moved, _ = fit_line(counts, [step.operand_bytes for step in steps])
    return QuantizationCosts(
        bits=bits,
        block_size=block_size,
        num_quantized=counts,
        steps=steps,
        layer_costs=costs,
        bytes_saved_per_quantized_layer=round(saved),
        flops_per_quantized_layer=round(moved * steps[0].arithmetic_intensity),
        bytes_r_squared=r_squared,
    )
