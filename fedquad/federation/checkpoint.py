"""What a server must know to go on after a round, as bytes that say when they are damaged."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import safetensors.torch
from safetensors import SafetensorError

from fedquad.config import InputError
from fedquad.federation.checks import check_global
from fedquad.model.adapter import Adapter


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A server between two rounds.

    Attributes
    ----------
    adapter : Adapter
        The global one.
    round_idx : int
        Of the round that comes next, from 0.
    sim_time_s : float
        Virtual seconds until then.
    mean_completion_time_s : float or None
        t_avg of the last round that had one.
    gradient_norms : dict of int to float
        Last known g_l of each layer that was ever trained.
    method : dict
        The method's own state, as JSON values.
    """

    adapter: Adapter
    round_idx: int = 0
    sim_time_s: float = 0.0
    mean_completion_time_s: float | None = None
    gradient_norms: Mapping[int, float] = field(default_factory=dict)
    method: Mapping[str, Any] = field(default_factory=dict)

    def encode(self) -> bytes:
        """A line with the SHA-256 of the rest, a line of JSON, the adapter as safetensors."""
        state = {
            "round_idx": self.round_idx,
            "sim_time_s": self.sim_time_s,
            "mean_completion_time_s": self.mean_completion_time_s,
            "gradient_norms": sorted(self.gradient_norms.items()),
            "method": dict(self.method),
        }
        tensors = {name: tensor.contiguous() for name, tensor in self.adapter.state().items()}
        content = json.dumps(state).encode() + b"\n" + safetensors.torch.save(tensors)
        return _digest(content) + b"\n" + content

    @classmethod
    def decode(cls, encoded: bytes, like: Adapter) -> Checkpoint:
        """The inverse of `encode`, for a run whose global adapter is ``like`` this one.

        Raises
        ------
        InputError
            Damaged bytes, or those of another version or of another model.
        """
        digest, _, content = encoded.partition(b"\n")
        if digest != _digest(content):
            raise InputError("checkpoint", f"{len(encoded)} bytes", "all that was saved, unchanged")
        header, _, tensors = content.partition(b"\n")
        try:
            state = json.loads(header)
            found = safetensors.torch.load(tensors)
            # In the order of the model, which safetensors does not keep: sums go along it.
            names = dict.fromkeys((*like.state(), *found))
            state_of = {name: found[name] for name in names if name in found}
            adapter = Adapter.from_state(state_of, like.layout)
            norms = {int(layer): float(norm) for layer, norm in state.pop("gradient_norms")}
            checkpoint = cls(adapter=adapter, gradient_norms=norms, **state)
        except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
            accepted = f"one of this version of the library ({error})"
            raise InputError("checkpoint", f"{len(encoded)} bytes", accepted) from error
        check_global(adapter, like)
        return checkpoint


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()
