"""What a device sends, or the server, is checked before it is used; on the wire and off it."""

from __future__ import annotations

import math
from numbers import Integral, Real

import numpy as np
import torch

from fedquad.config import InputError
from fedquad.federation.jobs import DeviceJob
from fedquad.federation.wire import WireError
from fedquad.methods.method import LocalUpdate
from fedquad.model.adapter import Adapter


def check_update(update: LocalUpdate, job: DeviceJob, global_adapter: Adapter) -> None:
    """Raise `WireError` unless an update can be what this job asked for.

    Its layers are among those the job trains, each with all tensors of the
    global adapter, of the job's rank or a lower one; every number is finite.
    """
    assignment = job.assignment
    _require("device", update.device, update.device == job.device, str(job.device))
    same = update.assignment == assignment
    _require("assignment", update.assignment, same, str(assignment))
    trained = set(assignment.trainable_layers)
    layers = tuple(update.adapter.lora)
    among = f"among {assignment.trainable_layers}, at least one"
    _require("layers", layers, bool(layers) and trained.issuperset(layers), among)
    check_tensors(update.adapter, global_adapter, assignment.lora_rank)
    samples = update.num_samples
    is_count = isinstance(samples, Integral) and samples >= 1
    _require("num_samples", samples, is_count, "an integer >= 1")
    _require("train_loss", update.train_loss, _is_finite(update.train_loss), "a finite number")
    for layer, norm in update.gradient_norms.items():
        _require("layer of a gradient norm", layer, layer in trained, among)
        is_norm = _is_finite(norm) and norm >= 0
        _require(f"gradient norm of layer {layer}", norm, is_norm, "a finite number >= 0")


def check_global(adapter: Adapter, before: Adapter) -> None:
    """Raise `WireError` unless an adapter can take the place of the global one before it."""
    layers = tuple(adapter.lora)
    _require("layers", layers, set(layers) == set(before.lora), str(tuple(before.lora)))
    check_tensors(adapter, before, before.rank)
    rank = adapter.rank
    _require("adapter rank", rank, rank == before.rank, str(before.rank))


def check_tensors(adapter: Adapter, global_adapter: Adapter, max_rank: int) -> None:
    """Raise `WireError` unless names, types, shapes and values fit the global adapter's.

    The adapter may have fewer layers, at least one, and a lower rank, the same in
    all its tensors.
    """
    found = adapter.state()
    try:
        expected = global_adapter.layers(adapter.lora).state()
        for name in found.keys() ^ expected.keys():
            known = "this tensor" if name in expected else "no such tensor"
            raise WireError("adapter tensor", name, f"{known}, as in the global adapter")
        for name, tensor in found.items():
            there = expected[name]
            if tensor.dtype != there.dtype or tensor.dim() != there.dim():
                value = f"{tensor.dtype}, {tensor.dim()} dimensions"
                raise WireError(name, value, f"{there.dtype}, {there.dim()} dimensions")
        rank, limit = adapter.rank, min(max_rank, global_adapter.rank)
        _require("adapter rank", rank, 1 <= rank <= limit, f"from 1 to {limit}")
        expected = global_adapter.layers(adapter.lora).truncate_rank(rank).state()
    except WireError:
        raise
    except InputError as error:  # of `layers` and `rank`
        raise WireError(error.field, error.value, error.accepted) from None
    for name, tensor in found.items():
        shape, accepted = tuple(tensor.shape), tuple(expected[name].shape)
        _require(name, shape, shape == accepted, str(accepted))
        finite = torch.isfinite(tensor)
        if not finite.all():
            raise WireError(name, tensor[~finite][0].item(), "finite values")


def check_squares(squares: np.ndarray, job: DeviceJob) -> None:
    """Raise `WireError` unless these can be squared gradient norms of all L layers."""
    shape, accepted = (squares.dtype, squares.shape), (job.assignment.num_layers,)
    is_vector = squares.dtype == np.float64 and squares.shape == accepted
    _require("squared norms", shape, is_vector, f"float64 of shape {accepted}")
    bad = squares[~(np.isfinite(squares) & (squares >= 0))]
    _require("squared norms", bad[:1].tolist(), not bad.size, "finite numbers >= 0")


def _is_finite(value: object) -> bool:
    return isinstance(value, Real) and math.isfinite(value)


def _require(field: str, value: object, holds: bool, accepted: str) -> None:
    if not holds:
        raise WireError(field, value, accepted)
