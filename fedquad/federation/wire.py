"""A payload on the wire: the header's length, a JSON header, and safetensors bytes. No pickle."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from fedquad.config import InputError

# A full adapter of RoBERTa-large at rank 16, with its head, is about 11 MB.
MAX_PAYLOAD_BYTES = 2**30
MAX_HEADER_BYTES = 2**24

_LENGTH_BYTES = 8
_SHOWN_CHARACTERS = 200


class WireError(InputError):
    """Something received that cannot be used; names the field, the value and what is accepted."""

    def __init__(self, field: str, value: object, accepted: str) -> None:
        super().__init__(_brief(field), _Shown(_brief(repr(value))), accepted)


class _Shown(str):
    """A value as the other side, or a message of bounded length, shows it."""

    __slots__ = ()
    __repr__ = str.__str__


def shown(text: str) -> str:
    """A value whose repr is this text: what another process showed of it."""
    return _Shown(text)


def _brief(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "…"


@dataclass(frozen=True)
class Message:
    """A decoded payload, whose parts are checked as they are taken out.

    Attributes
    ----------
    kind : str
    fields : mapping of str to JSON value
    tensors : mapping of str to Tensor
        On the CPU, of any shape, type and value.
    """

    kind: str
    fields: Mapping[str, Any]
    tensors: Mapping[str, Tensor] = field(default_factory=dict)

    def require_kind(self, *kinds: str) -> None:
        """Raise `WireError` unless it is one of these kinds."""
        if self.kind not in kinds:
            raise WireError("kind", self.kind, " or ".join(kinds))

    def get(self, name: str) -> Any:
        """Any JSON value."""
        if name not in self.fields:
            raise WireError(name, "missing", f"a field of {self.kind!r}")
        return self.fields[name]

    def integer(self, name: str, low: int = 0) -> int:
        """An integer of at least ``low``."""
        return require_integer(name, self.get(name), low)

    def number(self, name: str) -> float:
        """A finite number."""
        return require_finite_number(name, self.get(name))

    def text(self, name: str) -> str:
        """A string."""
        value = self.get(name)
        if not isinstance(value, str):
            raise WireError(name, value, "a string")
        return value

    def integers(self, name: str) -> tuple[int, ...]:
        """A list of integers of at least 0."""
        return tuple(require_integer(name, value) for value in require_list(name, self.get(name)))

    def vector(self, name: str, dtype: torch.dtype) -> Tensor:
        """A tensor of one dimension and this type, with any values."""
        tensor = self.tensors.get(name)
        if tensor is None:
            raise WireError(name, "missing", f"a tensor of {self.kind!r}")
        if tensor.dtype != dtype or tensor.dim() != 1:
            found = f"{tensor.dtype} of shape {tuple(tensor.shape)}"
            raise WireError(name, found, f"{dtype} of one dimension")
        return tensor


def require_integer(name: str, value: object, low: int = 0) -> int:
    """The value, if it is an integer of at least ``low``; `WireError` otherwise."""
    # 64 bits: what numpy and torch take for an index.
    if type(value) is not int or not low <= value < 2**63:
        raise WireError(name, value, f"an integer >= {low}")
    return value


def require_finite_number(name: str, value: object) -> float:
    """The value as a float, if it is a finite number; `WireError` otherwise."""
    try:
        if type(value) not in (int, float) or not math.isfinite(value):
            raise WireError(name, value, "a finite number")
        return float(value)
    except OverflowError:
        raise WireError(name, value, "a number that fits in 64 bits") from None


def require_list(name: str, value: object) -> list[Any]:
    """The value, if it is a list; `WireError` otherwise."""
    if not isinstance(value, list):
        raise WireError(name, value, "a list")
    return value


def encode(
    kind: str, fields: Mapping[str, Any], tensors: Mapping[str, Tensor] | None = None
) -> bytes:
    """A payload: 8 bytes of the header's length, little-endian; the header; the tensors.

    The header is a JSON object of the kind, the fields, and the tensors' names in
    their order. The same message is the same bytes.

    Nothing is checked here: what cannot be used is refused, and reported, by the
    side that receives it.
    """
    tensors = tensors or {}
    # safetensors has an order of its own when it saves, and none when it loads.
    header = json.dumps({"kind": kind, **fields, "tensors": list(tensors)}).encode()
    flat = {name: t.detach().to("cpu").contiguous() for name, t in tensors.items()}
    body = safetensors.torch.save(flat) if flat else b""
    return len(header).to_bytes(_LENGTH_BYTES, "little") + header + body


def decode(payload: bytes) -> Message:
    """The inverse of `encode`; tensors come in the order in which they were sent.

    Raises
    ------
    WireError
        Bytes that are no payload, or too many.
    """
    if not _LENGTH_BYTES <= len(payload) <= MAX_PAYLOAD_BYTES:
        accepted = f"from {_LENGTH_BYTES} to {MAX_PAYLOAD_BYTES} bytes"
        raise WireError("payload", f"{len(payload)} bytes", accepted)
    length = int.from_bytes(payload[:_LENGTH_BYTES], "little")
    end = _LENGTH_BYTES + length
    if not length <= MAX_HEADER_BYTES or end > len(payload):
        accepted = f"at most {min(MAX_HEADER_BYTES, len(payload) - _LENGTH_BYTES)} bytes"
        raise WireError("header length", length, accepted)
    try:
        fields = json.loads(payload[_LENGTH_BYTES:end])
    except (ValueError, RecursionError) as error:
        raise WireError("header", payload[_LENGTH_BYTES:end], f"JSON ({error})") from None
    if not isinstance(fields, dict) or not isinstance(fields.get("kind"), str):
        raise WireError("header", fields, 'a JSON object with a string "kind"')
    tensors, names = _tensors(payload[end:]), fields.pop("tensors", None)
    for name in require_list("tensors", names):
        if not isinstance(name, str) or name not in tensors:
            raise WireError("tensors", names, "the names of all tensors in the payload")
    if len(names) != len(tensors) or len(set(names)) != len(names):
        raise WireError("tensors", names, "the names of all tensors in the payload, none twice")
    return Message(fields.pop("kind"), fields, {name: tensors[name] for name in names})


def _tensors(body: bytes) -> dict[str, Tensor]:
    if not body:
        return {}
    try:
        return safetensors.torch.load(body)
    # KeyError: a type that torch lacks; RuntimeError: one that torch cannot view.
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise WireError("tensors", f"{len(body)} bytes", f"safetensors ({error})") from None
