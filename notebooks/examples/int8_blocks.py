"""INT8 blocks in plain PyTorch: the arithmetic of the kernels, short enough to read and to change.

The library does the same faster and for every case (`fedquad.kernels`,
`fedquad.quantize_activations`): this file is what the walkthrough shows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from fedquad.model.lora import lora_tensors


def quantize(matrix: Tensor, *, bits: int = 8, block_size: int = 32) -> tuple[Tensor, Tensor]:
    """Whole numbers from -127 to 127 (8 bits), and one scale for every square block.

    A ragged edge is filled up with zeros: codes have shape (block rows, block
    size, block columns, block size), scales (block rows, 1, block columns, 1).
    """
    rows, cols = matrix.shape
    blocks = pad(matrix.float(), (0, -cols % block_size, 0, -rows % block_size))
    blocks = blocks.unflatten(0, (-1, block_size)).unflatten(-1, (-1, block_size))
    largest_code = 2 ** (bits - 1) - 1
    scales = blocks.abs().amax(dim=(1, 3), keepdim=True) / largest_code
    safe = torch.where(scales > 0, scales, 1)  # a block of zeros stays one
    return torch.round(blocks / safe).to(torch.int8), scales


def dequantize(codes: Tensor, scales: Tensor, shape: tuple[int, int]) -> Tensor:
    """The matrix again, each element within half a scale of what it was."""
    matrix = (codes * scales).flatten(2, 3).flatten(0, 1)
    return matrix[: shape[0], : shape[1]]


def round_trip(tensor: Tensor, *, bits: int = 8, block_size: int = 32) -> Tensor:
    """What backward gets to see instead of ``tensor``."""
    matrix = tensor.flatten(0, -2)
    codes, scales = quantize(matrix, bits=bits, block_size=block_size)
    return dequantize(codes, scales, matrix.shape).view(tensor.shape)


def errors_in_scales(matrix: Tensor, *, block_size: int = 32) -> Tensor:
    """Rounding error of each element as a fraction of its block's scale."""
    codes, scales = quantize(matrix, block_size=block_size)
    largest = torch.where(scales > 0, scales, 1).expand(codes.shape)
    each = largest.flatten(2, 3).flatten(0, 1)[: matrix.shape[0], : matrix.shape[1]]
    return (dequantize(codes, scales, matrix.shape) - matrix) / each


def relative_error(before: Tensor, after: Tensor) -> float:
    """Length of the difference over the length of ``before``."""
    return float((after - before).norm() / before.norm())


def blocks_for_backward(
    model: nn.Module, *, bits: int = 8
) -> torch.autograd.graph.saved_tensors_hooks:
    """A context in which what autograd keeps is kept as blocks, but for weights and statistics.

    A weight needs no copy: it is there anyway. A frozen layer keeps
    ``weight.t()``, which is no parameter but has the storage of one. Statistics
    are a mean and a deviation for each token: few numbers, on which much depends.
    """
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}

    def pack(tensor: Tensor) -> object:
        is_weight = tensor.untyped_storage().data_ptr() in weights
        is_statistic = tensor.dim() < 2 or tensor.shape[-1] == 1
        if is_weight or is_statistic or not tensor.is_floating_point():
            return tensor
        return *quantize(tensor.flatten(0, -2), bits=bits), tensor.shape

    def unpack(kept: object) -> Tensor:
        if isinstance(kept, Tensor):
            return kept
        codes, scales, shape = kept
        return dequantize(codes, scales, (shape[:-1].numel(), shape[-1])).view(shape)

    return torch.autograd.graph.saved_tensors_hooks(pack, unpack)


@contextmanager
def outputs_of(layer: nn.Module) -> Iterator[dict[str, Tensor]]:
    """The output of every module inside a layer, by name, of the forward that runs meanwhile."""
    outputs: dict[str, Tensor] = {}

    def keep(name: str):
        def hook(module: nn.Module, inputs: tuple, output: object) -> None:
            if isinstance(output, Tensor):
                outputs[name] = output.detach()

        return hook

    handles = [module.register_forward_hook(keep(name)) for name, module in layer.named_modules()]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def lora_gradients(model: nn.Module, batch: dict[str, Tensor]) -> dict[int, Tensor]:
    """Gradient of each layer's LoRA tensors, in one row; the same dropout in every call."""
    model.train().zero_grad()
    torch.manual_seed(0)
    model(**batch).loss.backward()
    return {
        layer: torch.cat([weight.grad.flatten() for weight in weights.values()])
        for layer, weights in lora_tensors(model).items()
    }
