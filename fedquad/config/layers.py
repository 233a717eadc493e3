"""Which layers a device runs, trains and quantizes."""

from __future__ import annotations

from dataclasses import dataclass

from fedquad.config.validation import InputError, require_int, require_layers


@dataclass(frozen=True)
class LayerConfig:
    """What FedQuad gives a device: the pair (d, a) of Eq. (15).

    Parameters
    ----------
    depth : int
        LoRA depth d: how many layers, counted from the output, are trained.
    quantized : int
        Quantized layers a: how many of them, counted from the lowest trained
        one, keep their saved activations as INT8; ``0 <= a <= d - 1``, since
        the output layer is never quantized.
    """

    depth: int
    quantized: int = 0

    def __post_init__(self) -> None:
        require_int("depth", self.depth, 1)
        require_int("quantized", self.quantized, 0, self.depth - 1)

    def trainable_layers(self, num_layers: int) -> tuple[int, ...]:
        """L_t of Section III-D: layers ``L - d .. L - 1``."""
        require_int("depth", self.depth, 1, num_layers)
        return tuple(range(num_layers - self.depth, num_layers))

    def quantized_layers(self, num_layers: int) -> tuple[int, ...]:
        """L_q of Section III-D: layers ``L - d .. L - d + a - 1``."""
        return self.trainable_layers(num_layers)[: self.quantized]


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """What one device does in one round, for any method.

    Layers are indices in ``0 .. num_layers - 1``, ascending. ``active_layers``
    are run forward (a sub-model skips the others), ``trainable_layers`` get
    LoRA gradients, ``quantized_layers`` keep their activations as INT8.
    """

    num_layers: int
    active_layers: tuple[int, ...]
    trainable_layers: tuple[int, ...]
    quantized_layers: tuple[int, ...] = ()
    lora_rank: int = 16

    def __post_init__(self) -> None:
        require_int("num_layers", self.num_layers, 1)
        require_int("lora_rank", self.lora_rank, 1)
        for field in ("active_layers", "trainable_layers", "quantized_layers"):
            require_layers(field, getattr(self, field), self.num_layers)
        active = set(self.active_layers)
        for field in ("trainable_layers", "quantized_layers"):
            if not set(getattr(self, field)) <= active:
                raise InputError(field, getattr(self, field), f"a subset of {self.active_layers}")
        lowest = min(self.trainable_layers, default=self.num_layers)
        if any(layer < lowest for layer in self.quantized_layers):
            raise InputError(
                "quantized_layers",
                self.quantized_layers,
                f"layers from {lowest}, the lowest trainable one, upward "
                "(those below keep nothing to quantize)",
            )

    @classmethod
    def from_layer_config(
        cls, config: LayerConfig, num_layers: int, lora_rank: int = 16
    ) -> Assignment:
        """FedQuad's own assignment: all layers active, (d, a) as in Section III-D."""
        return cls(
            num_layers=num_layers,
            active_layers=tuple(range(num_layers)),
            trainable_layers=config.trainable_layers(num_layers),
            quantized_layers=config.quantized_layers(num_layers),
            lora_rank=lora_rank,
        )
