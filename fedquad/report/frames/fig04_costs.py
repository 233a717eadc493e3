"""Frames of Fig. 4, costs: bytes of quantized layers, bytes and seconds of its configurations.

What a quantized layer saves is told twice, in column ``saving``: ``counted`` is
the accounting of the blocks that are really stored, ``paper`` takes the paper's
58 % of m_o (Eq. 11), which is what the simulated fleet uses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from fedquad.config import InputError, LayerConfig
from fedquad.cost.accounting import StepCost
from fedquad.cost.layer_costs import LayerCosts
from fedquad.report.frames.costs import accounting_rows, measured_rows, percent_of
from fedquad.report.paper import reported_value

# The paper relates the latency of its last point to that of the second one.
LATENCY_BASELINE = 1


def quantized_memory_frame(
    costs: Mapping[int, StepCost],
    layer_costs: LayerCosts,
    checkpointed: StepCost,
    *,
    model: str,
    batch_size: int,
    length: int,
    profile: str,
) -> pd.DataFrame:
    """Fig. 4(a), memory: bytes of a step at full depth against the number of quantized layers.

    Parameters
    ----------
    costs : mapping
        Number of quantized layers, counted from the first layer -> cost of one
        step; 0 among them.
    layer_costs : LayerCosts
        Of the same model and shape; its saving per quantized layer is the paper's.
    checkpointed : StepCost
        The same step with every layer checkpointed and none quantized.

    Returns
    -------
    DataFrame
        A row per number and ``saving``, and one of saving ``checkpointing``.
        ``total`` is in bytes, ``kept_bytes`` what stays for backward,
        ``percent`` relative to no quantization, and ``cut_percent`` the mean
        cut of what the quantized layers keep.
    """
    if 0 not in costs:
        raise InputError("costs", sorted(costs), "numbers of quantized layers, 0 among them")
    plain = costs[0]
    saved_by_paper = layer_costs.bytes_saved_per_quantized_layer
    kept = {("counted", count): cost.activation_bytes for count, cost in costs.items()}
    kept |= {("paper", count): plain.activation_bytes - count * saved_by_paper for count in costs}
    kept["checkpointing", 0] = checkpointed.activation_bytes
    rows = []
    for (saving, quantized), kept_bytes in kept.items():
        saved = plain.activation_bytes - kept_bytes
        unquantized = sum(plain.activation_bytes_by_layer[:quantized])
        rows.append(
            {
                "model": model,
                "quantized": quantized,
                "saving": saving,
                "source": "accounting",
                "unit": "byte",
                "kept_bytes": kept_bytes,
                "total": plain.total_bytes - saved,
                "percent": 100 * (1 - saved / plain.total_bytes),
                "cut_percent": 100 * saved / unquantized if quantized else float("nan"),
            }
        )
    frame = pd.DataFrame(rows).assign(batch_size=batch_size, length=length)
    frame["paper_cut_percent"] = reported_value("fig04a-mem-cut")
    return frame.assign(from_record=False, profile=profile)


def synergy_cost_frame(
    costs: Mapping[LayerConfig, StepCost],
    layer_costs: LayerCosts,
    *,
    model: str,
    batch_size: int,
    length: int,
    profile: str,
    measured: pd.DataFrame | None = None,
    measured_points: Sequence[LayerConfig] = (),
    from_record: bool = False,
) -> pd.DataFrame:
    """Fig. 4(b), memory and latency of the configurations.

    Parameters
    ----------
    costs : mapping
        (d, a) of ``model``, in the order of the points -> cost of one step with
        its layers quantized.
    layer_costs : LayerCosts
        Prices the FLOPs (Eq. 6) and the paper's saving (Eq. 11). What PyTorch
        counts are products of matrices, and quantizing has none.
    measured : DataFrame or None
        See `fedquad.report.frames.costs.measured_rows`; configurations in column
        ``setting``, as `point_label` writes them.
    measured_points : sequence of LayerConfig
        The same points in the model that was timed, which may have another
        number of layers.

    Returns
    -------
    DataFrame
        Rows of source ``accounting`` (bytes; for each ``saving``), ``flops``
        (``forward + backward + quantization``) and ``measured`` (seconds), by
        ``position`` of the point. ``percent`` relates bytes to the first point,
        which is the budget, and latency to the second, as the paper does.
    """
    if len(costs) <= LATENCY_BASELINE:
        raise InputError("costs", [*map(point_label, costs)], "at least two configurations")
    points = list(costs)
    counted = accounting_rows("point", {point_label(point): costs[point] for point in points})
    blocks = [
        _at_points(rows, points).assign(model=model, batch_size=batch_size, length=length)
        for rows in (
            counted.assign(saving="counted"),
            pd.DataFrame([_equation_11(point, layer_costs) for point in points]),
            pd.DataFrame([_equation_6(point, layer_costs) for point in points]),
        )
    ]
    blocks = [block.assign(from_record=False) for block in blocks]
    if measured is not None:
        rows = measured_rows("setting", measured).rename(columns={"setting": "point"})
        blocks.append(_at_points(rows, measured_points).assign(from_record=from_record))
    frame = pd.concat(blocks, ignore_index=True).assign(profile=profile)
    bytes_rows = frame["source"] == "accounting"
    frame["percent"] = float("nan")
    for rows in (bytes_rows & (frame["saving"] == saving) for saving in ("counted", "paper")):
        frame.loc[rows, "percent"] = percent_of(frame[rows], "position", {"accounting": 0})
    baseline = dict.fromkeys(["flops", "measured"], LATENCY_BASELINE)
    frame.loc[~bytes_rows, "percent"] = percent_of(frame[~bytes_rows], "position", baseline)
    rise = {LATENCY_BASELINE: 100.0, 2: 100 + reported_value("fig04b-lat-8-5-to-10-9")}
    frame["paper_percent"] = frame["position"].map(rise).where(~bytes_rows)
    leading = ["model", "position", "point", "depth", "quantized", "source", "saving", "unit"]
    return frame[leading + [column for column in frame if column not in leading]]


def point_label(point: LayerConfig) -> str:
    """A configuration as the paper writes it: ``(8, 5)``."""
    return f"({point.depth}, {point.quantized})"


def _at_points(rows: pd.DataFrame, points: Sequence[LayerConfig]) -> pd.DataFrame:
    """The rows of these points, in their order, with ``position``, ``depth``, ``quantized``."""
    named = [
        {"point": point_label(p), "position": at, "depth": p.depth, "quantized": p.quantized}
        for at, p in enumerate(points)
    ]
    return pd.DataFrame(named).merge(rows, on="point")


def _equation_11(point: LayerConfig, layer_costs: LayerCosts) -> dict[str, object]:
    """Bytes of a point: m_f + m_o d - m_q a with the paper's m_q."""
    total = layer_costs.memory_bytes(point.depth, point.quantized)
    row = {"point": point_label(point), "source": "accounting", "saving": "paper"}
    return {**row, "total": total, "unit": "byte"}


def _equation_6(point: LayerConfig, layer_costs: LayerCosts) -> dict[str, object]:
    """FLOPs of a point: c_f + c_d d + c_a a."""
    parts = {
        "forward": layer_costs.forward_flops,
        "backward": layer_costs.flops_per_lora_layer * point.depth,
        "quantization": layer_costs.flops_per_quantized_layer * point.quantized,
    }
    row = {"point": point_label(point), "source": "flops"}
    return {**row, **parts, "total": sum(parts.values()), "unit": "flop"}
