"""Ways to compute the same operation, and the sizes it has in a layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from fedquad.model.pretrained import architecture

Call = Callable[[], object]


class Implementation(NamedTuple):
    """One way to compute something, and the bytes it cannot avoid to read and write."""

    call: Call
    moved_bytes: int


@dataclass(frozen=True)
class KernelCase:
    """Ways to compute the same, timed in turns.

    Attributes
    ----------
    operation, phase : str
        Such as ``gelu`` and ``backward``.
    shape : str
        ``8192 x 4096``.
    implementations : dict
        ``fedquad``, and PyTorch's under names such as ``torch`` or ``sdpa``.
    """

    operation: str
    phase: str
    shape: str
    implementations: dict[str, Implementation] = field(repr=False)


@dataclass(frozen=True)
class ModelShape:
    """Sizes of the operations in a layer of a model.

    Attributes
    ----------
    tokens, hidden, intermediate : int
        Rows and columns of the hidden state, columns inside the feed-forward part.
    batch_size, heads, length, width : int
        Of attention; its probabilities are batch_size * heads * length rows.
    """

    batch_size: int
    heads: int
    length: int
    width: int
    hidden: int
    intermediate: int

    @classmethod
    def of(cls, model: str, batch_size: int, length: int) -> ModelShape:
        config = architecture(model)
        heads, hidden = config.num_attention_heads, config.hidden_size
        return cls(batch_size, heads, length, hidden // heads, hidden, config.intermediate_size)

    @property
    def tokens(self) -> int:
        return self.batch_size * self.length
