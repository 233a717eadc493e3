"""Triton where it is installed; kernels can be defined, and never launched, where it is not.

Triton has wheels for Linux only. Everything here runs elsewhere too, on the
plain PyTorch reference.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

try:
    import triton
    import triton.language as tl
except ImportError:  # pragma: no cover - on systems without triton
    triton = None
    tl = None

__all__ = ["Variant", "has_triton", "jit", "tl", "triton"]


def has_triton() -> bool:
    """Whether kernels can be compiled and launched here."""
    return triton is not None


def jit(function: Callable) -> Any:
    """`triton.jit`, or the function itself where there is no Triton to launch it."""
    return function if triton is None else triton.jit(function)


@dataclass(frozen=True)
class Variant:
    """One specialisation of a kernel, as its launcher uses it on a GPU.

    Every operation lists some, so that all kernels can be compiled for a GPU
    that is not there.

    Attributes
    ----------
    kernel : JITFunction
    signature : mapping
        Argument name to Triton type, such as ``{"x_ptr": "*fp32", "rows": "i32"}``,
        ``"constexpr"`` for those in ``constants``.
    constants : mapping
        Values of the constexpr arguments.
    divisible_by_16 : tuple of str
        Arguments known to be multiples of 16 (aligned pointers, row strides).
    num_warps : int
    vectorised : bool
        Whether its loads and stores of tiles must move more than 32 bits a thread.
    """

    kernel: Any
    signature: Mapping[str, str]
    constants: Mapping[str, Any] = field(default_factory=dict)
    divisible_by_16: tuple[str, ...] = ()
    num_warps: int = 4
    vectorised: bool = True
