"""What the server and its workers say to each other: every message, written and read."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import torch

from fedquad.config import Assignment, InputError
from fedquad.federation.checks import check_global, check_squares, check_tensors, check_update
from fedquad.federation.jobs import DeviceJob, EvalBatch, Failure, HostSpec
from fedquad.federation.wire import (
    MAX_PAYLOAD_BYTES,
    Message,
    WireError,
    encode,
    require_finite_number,
    require_integer,
    require_list,
    shown,
)
from fedquad.methods.method import LocalUpdate
from fedquad.model.adapter import Adapter, AdapterLayout

LEAVE = encode("leave", {})
RECEIVED = encode("received", {})


def encode_spec(spec: HostSpec) -> bytes:
    return encode("start", {"factory": spec.factory, "arguments": dict(spec.arguments)})


def decode_spec(message: Message) -> HostSpec:
    message.require_kind("start")
    arguments = message.get("arguments")
    if not isinstance(arguments, dict):
        raise WireError("arguments", arguments, "a JSON object")
    return HostSpec(factory=message.text("factory"), arguments=arguments)


def encode_ready(adapter: Adapter, num_eval_batches: int) -> bytes:
    """A worker's first answer: what its host starts from."""
    fields = {"num_eval_batches": num_eval_batches, "layout": asdict(adapter.layout)}
    return encode("ready", fields, adapter.state())


def decode_ready(message: Message) -> tuple[Adapter, int]:
    """The fresh adapter and the number of evaluation batches."""
    message.require_kind("ready")
    adapter = _adapter(message, _layout(message))
    layers = tuple(adapter.lora)
    if not layers or layers != tuple(range(len(layers))):
        raise WireError("layers", layers, "all layers from 0, at least one")
    check_tensors(adapter, adapter, MAX_PAYLOAD_BYTES)  # of whatever rank, one in all tensors
    return adapter, message.integer("num_eval_batches", 1)


def encode_adapter(adapter: Adapter) -> bytes:
    """The global adapter of a round, for every worker."""
    return encode("broadcast", {}, adapter.state())


def decode_adapter(message: Message, before: Adapter) -> Adapter:
    """The new global adapter, of the same names, types and shapes as the one before."""
    message.require_kind("broadcast")
    adapter = _adapter(message, before.layout)
    check_global(adapter, before)
    return adapter


def encode_job(kind: str, job: DeviceJob) -> bytes:
    """``fine_tune`` or ``probe``, and the device's job."""
    fields = {"device": job.device, "round_idx": job.round_idx}
    return encode(kind, {**fields, "assignment": asdict(job.assignment)})


def decode_job(message: Message) -> DeviceJob:
    message.require_kind("fine_tune", "probe")
    value = message.get("assignment")
    if not isinstance(value, dict):
        raise WireError("assignment", value, "a JSON object")
    parts = Message("assignment", value)
    try:
        assignment = Assignment(
            num_layers=parts.integer("num_layers", 1),
            active_layers=parts.integers("active_layers"),
            trainable_layers=parts.integers("trainable_layers"),
            quantized_layers=parts.integers("quantized_layers"),
            lora_rank=parts.integer("lora_rank", 1),
        )
    except WireError:
        raise
    except InputError as error:
        raise WireError(error.field, error.value, error.accepted) from None
    device, round_idx = message.integer("device"), message.integer("round_idx")
    return DeviceJob(device=device, round_idx=round_idx, assignment=assignment)


def encode_update(update: LocalUpdate, round_idx: int) -> bytes:
    fields = {
        "device": update.device,
        "round_idx": round_idx,
        "num_samples": int(update.num_samples),
        "gradient_norms": [(int(n), float(norm)) for n, norm in update.gradient_norms.items()],
        "train_loss": float(update.train_loss),
    }
    return encode("update", fields, update.adapter.state())


def decode_update(message: Message, job: DeviceJob, global_adapter: Adapter) -> LocalUpdate:
    """The update of this job; `WireError` for anything else."""
    message.require_kind("update")
    _require_asked(message, job)
    norms = {}
    for pair in require_list("gradient_norms", message.get("gradient_norms")):
        layer, norm = pair if isinstance(pair, list) and len(pair) == 2 else (None, None)
        layer = require_integer("layer of a gradient norm", layer)
        norms[layer] = require_finite_number(f"gradient norm of layer {layer}", norm)
    update = LocalUpdate(
        device=job.device,
        assignment=job.assignment,
        adapter=_adapter(message, global_adapter.layout),
        num_samples=message.integer("num_samples", 1),
        gradient_norms=norms,
        train_loss=message.number("train_loss"),
    )
    check_update(update, job, global_adapter)
    return update


def encode_squares(squares: np.ndarray, job: DeviceJob) -> bytes:
    """Squared gradient norms of a probe, shape (L,)."""
    fields = {"device": job.device, "round_idx": job.round_idx}
    return encode("squares", fields, {"squares": torch.tensor(squares)})


def decode_squares(message: Message, job: DeviceJob) -> np.ndarray:
    message.require_kind("squares")
    _require_asked(message, job)
    squares = message.vector("squares", torch.float64).numpy()
    check_squares(squares, job)
    return squares


def encode_failure(failure: Failure, round_idx: int) -> bytes:
    return encode("failure", {**asdict(failure), "round_idx": round_idx})


def decode_failure(message: Message, job: DeviceJob) -> Failure:
    message.require_kind("failure")
    _require_asked(message, job)
    return Failure(device=job.device, reason=message.text("reason"))


def encode_eval_request(batches: Sequence[int]) -> bytes:
    return encode("evaluate", {"batches": list(batches)})


def encode_eval(parts: Sequence[EvalBatch]) -> bytes:
    tensors = {}
    for idx, part in enumerate(parts):
        tensors[f"{idx}.rows"] = torch.tensor(part.rows, dtype=torch.int64)
        tensors[f"{idx}.correct"] = torch.tensor(part.correct, dtype=torch.uint8)
        tensors[f"{idx}.losses"] = torch.tensor(part.losses, dtype=torch.float64)
    return encode("evaluation", {"parts": len(parts)}, tensors)


def decode_eval(message: Message, num_parts: int) -> list[EvalBatch]:
    """As many parts as were asked for. Losses may be infinite: a model can diverge."""
    message.require_kind("evaluation")
    if message.get("parts") != num_parts:
        raise WireError("parts", message.get("parts"), str(num_parts))
    parts = []
    for idx in range(num_parts):
        rows = message.vector(f"{idx}.rows", torch.int64).numpy()
        correct = message.vector(f"{idx}.correct", torch.uint8).numpy()
        losses = message.vector(f"{idx}.losses", torch.float64).numpy()
        if not len(rows) == len(correct) == len(losses):
            sizes = (len(rows), len(correct), len(losses))
            raise WireError(f"{idx}.rows, correct, losses", sizes, "one value a row in each")
        if rows.min(initial=0) < 0:
            raise WireError(f"{idx}.rows", rows.min(), "indices >= 0")
        if correct.max(initial=0) > 1:
            raise WireError(f"{idx}.correct", correct.max(), "0 or 1")
        parts.append(EvalBatch(rows=rows, correct=correct.astype(bool), losses=losses))
    return parts


def encode_error(error: BaseException) -> bytes:
    """An exception in a worker, with its traceback as text."""
    fields = {"type": type(error).__name__, "text": str(error)}
    fields["traceback"] = "".join(traceback.format_exception(error))
    if isinstance(error, InputError):
        fields |= {"field": error.field, "value": repr(error.value), "accepted": error.accepted}
    return encode("error", fields)


def decode_error(message: Message) -> InputError | RuntimeError:
    """An `InputError` as it was; any other kind as a `RuntimeError` with the same text."""
    message.require_kind("error")
    error: InputError | RuntimeError
    if "field" in message.fields:
        value = shown(message.text("value"))
        error = InputError(message.text("field"), value, message.text("accepted"))
    else:
        error = RuntimeError(f"{message.text('type')}: {message.text('text')}")
    error.add_note(f"In the worker:\n{message.text('traceback')}")
    return error


def _adapter(message: Message, layout: AdapterLayout) -> Adapter:
    try:
        return Adapter.from_state(message.tensors, layout)
    except InputError as error:
        raise WireError(error.field, error.value, error.accepted) from None


def _layout(message: Message) -> AdapterLayout:
    value = message.get("layout")
    if not isinstance(value, dict):
        raise WireError("layout", value, "a JSON object")
    parts = Message("layout", value)
    heads = require_list("head_modules", parts.get("head_modules"))
    is_transposed = parts.get("fan_in_fan_out")
    if not all(isinstance(name, str) for name in heads):
        raise WireError("head_modules", heads, "a list of strings")
    if not isinstance(is_transposed, bool):
        raise WireError("fan_in_fan_out", is_transposed, "true or false")
    return AdapterLayout(
        layers_path=parts.text("layers_path"),
        head_modules=tuple(heads),
        scaling=parts.number("scaling"),
        fan_in_fan_out=is_transposed,
        base_model=parts.text("base_model"),
    )


def _require_asked(message: Message, job: DeviceJob) -> None:
    for name, asked in (("device", job.device), ("round_idx", job.round_idx)):
        if message.integer(name) != asked:
            raise WireError(name, message.get(name), f"{asked}, which was asked for")
