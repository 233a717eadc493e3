"""Frames of the walkthrough of activation quantization: one layer, one tensor, one gradient."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd
from torch import Tensor

from fedquad.config import InputError
from fedquad.model.activation_quantization import ActivationRecord

HISTOGRAM_BINS = 40


def kept_bytes_frame(record: ActivationRecord, *, model: str, profile: str) -> pd.DataFrame:
    """What one quantized layer keeps for backward, operation by operation.

    Parameters
    ----------
    record : ActivationRecord
        Of one forward pass with one quantized layer.

    Returns
    -------
    DataFrame
        ``layer, place, kept_bytes, unquantized_bytes``; ``place`` is the module
        and its operation. What keeps nothing of its own is left out.

    Raises
    ------
    InputError
        When another number of layers was recorded.
    """
    frame = pd.DataFrame(record.rows)
    if frame.empty or frame["layer"].nunique() != 1:
        layers = [] if frame.empty else sorted(frame["layer"].unique().tolist())
        raise InputError("recorded layers", layers, "exactly one")
    frame = frame[frame["unquantized_bytes"] > 0]
    modules = frame["module"].str.replace(".default", "", regex=False)
    frame.insert(1, "place", modules + " " + frame["operation"])
    return _measured(frame.drop(columns=["module", "operation"]), model, profile)


def heat_map_frame(before: Tensor, after: Tensor, *, model: str, profile: str) -> pd.DataFrame:
    """Every element of a piece of an activation, before and after the round trip.

    Parameters
    ----------
    before, after : Tensor
        Of one shape (rows, cols).

    Returns
    -------
    DataFrame
        ``row, col, before, after``, values to six decimals.
    """
    if before.dim() != 2 or before.shape != after.shape:
        shapes = (tuple(before.shape), tuple(after.shape))
        raise InputError("before, after", shapes, "two matrices of one shape")
    rows, cols = np.indices(before.shape)
    # Doubles of six decimals: a csv of thousands of elements stays small, and reads back exactly.
    values = {
        name: tensor.double().numpy().round(6)
        for name, tensor in (("before", before), ("after", after))
    }
    columns = {"row": rows, "col": cols, **values}
    frame = pd.DataFrame({name: column.ravel() for name, column in columns.items()})
    return _measured(frame, model, profile)


def rounding_error_frame(errors: Mapping[str, Tensor], *, model: str, profile: str) -> pd.DataFrame:
    """How often a rounding error of each size occurs.

    Parameters
    ----------
    errors : mapping of str to Tensor
        Name of a tensor -> error of each element, in scales of its block; none
        exceeds one half.

    Returns
    -------
    DataFrame
        ``tensor, error_scales`` (middle of the bin) and ``density``, 1 where all
        errors are equally likely.
    """
    edges = np.linspace(-0.5, 0.5, HISTOGRAM_BINS + 1)
    blocks = []
    for name, error in errors.items():
        density, _ = np.histogram(error.numpy(), edges, density=True)
        middle = (edges[1:] + edges[:-1]) / 2
        blocks.append(pd.DataFrame({"tensor": name, "error_scales": middle, "density": density}))
    return _measured(pd.concat(blocks, ignore_index=True), model, profile)


def block_size_frame(
    rows: Iterable[tuple[str, int, int, float]], *, model: str, profile: str
) -> pd.DataFrame:
    """Relative error against the size of the blocks.

    Parameters
    ----------
    rows : iterable of (tensor, bits, block size, relative error)

    Returns
    -------
    DataFrame
        ``tensor, bits, block_size, error_percent`` and ``bytes_per_element``, the
        fp32 scale of each block included.
    """
    frame = pd.DataFrame(rows, columns=["tensor", "bits", "block_size", "error_percent"])
    frame["error_percent"] *= 100
    frame["bytes_per_element"] = frame["bits"] / 8 + 4 / frame["block_size"] ** 2
    return _measured(frame, model, profile)


def gradient_error_frame(
    exact: Mapping[int, Tensor],
    quantized: Mapping[int, Mapping[int, Tensor]],
    *,
    model: str,
    profile: str,
) -> pd.DataFrame:
    """How far the LoRA gradient of each layer moves.

    Parameters
    ----------
    exact : mapping
        Layer -> its gradient without quantization.
    quantized : mapping
        Bits -> the same with quantized activations.

    Returns
    -------
    DataFrame
        ``bits, layer, error_percent``: length of the difference over the length
        of the exact gradient.
    """
    rows = [
        {
            "bits": bits,
            "layer": layer,
            "error_percent": float(100 * (gradient - exact[layer]).norm() / exact[layer].norm()),
        }
        for bits, gradients in quantized.items()
        for layer, gradient in gradients.items()
    ]
    return _measured(pd.DataFrame(rows), model, profile)


def _measured(frame: pd.DataFrame, model: str, profile: str) -> pd.DataFrame:
    """With what a figure's stamp says."""
    origin = {"source": "measured", "model": model, "torch_device": "cpu", "from_record": False}
    return frame.reset_index(drop=True).assign(**origin, profile=profile)
