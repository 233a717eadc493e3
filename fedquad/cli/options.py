"""Options that commands share, and options made from the dataclasses of `fedquad.config`."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_type_hints

from fedquad.config import InputError, LayerConfig


@dataclass(frozen=True, kw_only=True)
class LayerChoice:
    """Which layers are trained and quantized: LoRA on all, none quantized, unless one says so.

    Parameters
    ----------
    depth : int or None
        LoRA depth d: LoRA on the last d layers, counted from the output.
    layers : str or None
        LoRA on these layers, counted from 0 at the input: "0-3" or "0-3,8".
    full : bool
        Full fine-tuning: every weight.
    quantized : int
        Quantized layers a: so many, counted from the lowest trained one, keep
        their activations as quantized blocks. The output layer never does.
    """

    depth: int | None = None
    layers: str | None = None
    full: bool = False
    quantized: int = 0

    def __post_init__(self) -> None:
        chosen = [self.depth is not None, self.layers is not None, self.full]
        if sum(chosen) > 1:
            raise InputError(
                "depth, layers, full",
                (self.depth, self.layers, self.full),
                "at most one of --depth, --layers and --full",
            )

    @property
    def tuning(self) -> str:
        return "full" if self.full else "lora"

    def trainable_layers(self, count_layers: Callable[[], int]) -> tuple[int, ...] | None:
        """Ascending layer indices, or None for all layers.

        Parameters
        ----------
        count_layers : callable
            Gives the model's number of layers; called only if it matters.

        Raises
        ------
        InputError
            For a depth or a layer that the model does not have.
        """
        if self.depth is not None:
            num_layers = count_layers()
            if not 1 <= self.depth <= num_layers:
                raise InputError("depth", self.depth, f"an integer from 1 to {num_layers}")
            return LayerConfig(self.depth).trainable_layers(num_layers)
        if self.layers is not None:
            return parse_layers(self.layers, count_layers())
        return None

    def quantized_layers(self, count_layers: Callable[[], int]) -> tuple[int, ...]:
        """The quantized layers, ascending, from the lowest trained one upward.

        Parameters
        ----------
        count_layers : callable
            As for `trainable_layers`.

        Raises
        ------
        InputError
            For more layers than lie between the lowest trained one and the output layer.
        """
        if self.quantized == 0:
            return ()
        num_layers = count_layers()
        lowest = (self.trainable_layers(lambda: num_layers) or (0,))[0]
        top = num_layers - 1 - lowest
        if not 0 < self.quantized <= top:
            accepted = f"an integer from 0 to {top}, from layer {lowest} to below the output layer"
            raise InputError("quantized", self.quantized, accepted)
        return tuple(range(lowest, lowest + self.quantized))

    def describe(self) -> str:
        """The choice in words."""
        if self.full:
            trained = "full fine-tuning"
        elif self.depth is not None:
            trained = f"LoRA depth {self.depth}"
        else:
            which = "all layers" if self.layers is None else f"layers {self.layers}"
            trained = f"LoRA on {which}"
        if self.quantized == 0:
            return trained
        layers = "layer" if self.quantized == 1 else "layers"
        return f"{trained}, {self.quantized} {layers} quantized"


ALL_LAYERS = LayerChoice()


def parse_layers(text: str, num_layers: int) -> tuple[int, ...]:
    """Layer indices from text: ``"0-3,8"`` is ``(0, 1, 2, 3, 8)``."""
    accepted = (
        f'ranges of layers from 0 to {num_layers - 1} in ascending order, as "0-3" or "0-3,8"'
    )
    layers: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if match is None:
            raise InputError("layers", text, accepted)
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first or last >= num_layers or (layers and first <= layers[-1]):
            raise InputError("layers", text, accepted)
        layers.extend(range(first, last + 1))
    return tuple(layers)


def options_from(config_class: type, name: str, *, without: tuple[str, ...]) -> type:
    """A dataclass of options with the fields, defaults and docs of ``config_class``.

    Parameters
    ----------
    config_class : type
        A dataclass with a default for every field.
    name : str
        Name of the new class.
    without : tuple of str
        Fields that the command sets from options of its own.
    """
    hints = get_type_hints(config_class)
    fields = [
        (field.name, hints[field.name], dataclasses.field(default=field.default))
        for field in dataclasses.fields(config_class)
        if field.name not in without
    ]
    options = dataclasses.make_dataclass(name, fields, frozen=True, kw_only=True)
    options.__doc__ = config_class.__doc__
    options.__module__ = __name__  # else "types", which cyclopts takes for a builtin
    return options


def print_json(values: Any) -> None:
    """The only thing a command with ``--json`` writes to stdout."""
    print(json.dumps(values, indent=2, allow_nan=False))
