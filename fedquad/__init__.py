"""FedQuad: LoRA depth and activation quantization for federated fine-tuning, by experiment.

Public names are imported on first use, so that ``import fedquad`` and the
command line answer without waiting for torch and transformers.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

# In a checkout that is not installed, `fedquad.kernels` and `fedquad.data` stand beside this
# package; on installing, setuptools' package-dir puts them inside. So a plain copy runs, too.
_checkout = Path(__file__).resolve().parent.parent
if (_checkout / "kernels" / "__init__.py").is_file() and (_checkout / "pyproject.toml").is_file():
    __path__.append(str(_checkout))

__version__ = "0.1.0"

_PUBLIC = {
    "Assignment": "fedquad.config",
    "FineTuneConfig": "fedquad.config",
    "InputError": "fedquad.config",
    "LayerConfig": "fedquad.config",
    "Profile": "fedquad.config",
    "get_profile": "fedquad.config",
    "quantize_activations": "fedquad.model.activation_quantization",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> object:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'fedquad' has no attribute {name!r}")
    value = getattr(import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
