"""Triton kernels and their plain-PyTorch reference, imported as ``fedquad.kernels``.

The folder shares its name with a package on PyPI that transformers looks for.
Whoever has the repository root on ``sys.path`` (a script started there, a
notebook, pytest) would hand transformers this folder for ``import kernels``.
Under that name it therefore steps aside, see `_step_aside`.

Functions that are not called as their file are here too, imported on first
use, so that this package imports neither torch nor triton. The fused
operations are in `gelu`, `layer_norm`, `softmax` and `attention`, each with a
function of that name: a package can hold one thing under a name, and holds the
file.
"""

from __future__ import annotations


def _step_aside() -> None:
    """Hand the name ``kernels`` to the next such package on ``sys.path``.

    Replacing the entry in ``sys.modules`` while a module is being executed is
    supported by the import system: importers get the replacement, and its
    submodules are found on its own ``__path__``.
    """
    import sys
    from importlib.machinery import PathFinder
    from importlib.util import module_from_spec
    from pathlib import Path

    here = Path(__file__).resolve().parent
    others = [entry for entry in sys.path if Path(entry).resolve() != here.parent]
    spec = PathFinder.find_spec(__name__, others)
    if spec is None or spec.loader is None or spec.origin is None:
        return
    module = module_from_spec(spec)
    sys.modules[__name__] = module
    spec.loader.exec_module(module)


if __name__ == "kernels":
    # What transformers reads when no such package is installed: it parses the version (5.10 raises
    # on a missing one) and takes a package below its minimum for absent.
    __version__ = "0"
    _step_aside()


_PUBLIC = {
    "dequantize_blocks": "block_quantization",
    "lora_weight_grad": "lora",
    "pack_bits": "bit_packing",
    "quantize_blocks": "block_quantization",
    "quantized_linear": "lora",
    "unpack_bits": "bit_packing",
}

__all__ = list(_PUBLIC)


def __getattr__(name: str) -> object:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
