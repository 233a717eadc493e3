"""Checks of values from outside, and the error that names what would be accepted."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable


class InputError(ValueError):
    """A value from outside that cannot be used.

    The message names the field, the value and what would be accepted.
    """

    def __init__(self, field: str, value: object, accepted: str) -> None:
        super().__init__(f"{field} = {value!r} cannot be used: expected {accepted}")
        self.field = field
        self.value = value
        self.accepted = accepted

    def __reduce__(self) -> tuple:  # errors cross process boundaries
        return type(self), (self.field, self.value, self.accepted)


def require_int(field: str, value: object, low: int, high: int | None = None) -> None:
    """Raise `InputError` unless ``low <= value <= high`` and ``value`` is an int."""
    accepted = f"an integer >= {low}" if high is None else f"an integer from {low} to {high}"
    if not isinstance(value, int) or isinstance(value, bool):
        raise InputError(field, value, accepted)
    if value < low or (high is not None and value > high):
        raise InputError(field, value, accepted)


def require_positive(field: str, value: object) -> None:
    """Raise `InputError` unless ``value`` is a finite number above zero."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or value <= 0:
        raise InputError(field, value, "a finite number > 0")


def require_choice(field: str, value: object, choices: Iterable[str]) -> None:
    """Raise `InputError` unless ``value`` is one of ``choices``."""
    choices = list(choices)
    if value not in choices:
        raise InputError(field, value, "one of " + ", ".join(choices))


def require_layers(field: str, layers: object, num_layers: int | None = None) -> None:
    """Raise `InputError` unless ``layers`` is an ascending tuple of layer indices."""
    top = "" if num_layers is None else f" below {num_layers}"
    accepted = f"ascending layer indices from 0{top}, none twice"
    if not isinstance(layers, tuple) or not all(
        isinstance(layer, int) and not isinstance(layer, bool) for layer in layers
    ):
        raise InputError(field, layers, accepted)
    ascending = all(a < b for a, b in itertools.pairwise(layers))
    in_range = all(layer >= 0 and (num_layers is None or layer < num_layers) for layer in layers)
    if not ascending or not in_range:
        raise InputError(field, layers, accepted)
