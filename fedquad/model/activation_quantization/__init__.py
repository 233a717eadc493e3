"""Activations of chosen layers, kept as INT8 blocks between forward and backward."""

from fedquad.model.activation_quantization.quantizer import (
    ActivationQuantizer,
    quantize_activations,
)
from fedquad.model.activation_quantization.recording import ActivationRecord
from fedquad.model.activation_quantization.settings import QuantizationSettings

__all__ = [
    "ActivationQuantizer",
    "ActivationRecord",
    "QuantizationSettings",
    "quantize_activations",
]
