"""What is timed of each kernel: our call, PyTorch's, and the bytes that must be moved."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from fedquad.benchmarks.kernel_case import Call, Implementation, KernelCase, ModelShape
from fedquad.kernels.attention import attention
from fedquad.kernels.bit_packing import pack_bits, unpack_bits
from fedquad.kernels.block_quantization import dequantize_blocks, quantize_blocks
from fedquad.kernels.gelu import gelu
from fedquad.kernels.layer_norm import layer_norm
from fedquad.kernels.lora import lora_weight_grad
from fedquad.kernels.softmax import softmax

_EPS = 1e-5
_LORA_RANK = 16


def kernel_cases(
    shape: ModelShape, dtype: torch.dtype, torch_device: str
) -> Iterator[tuple[str, Callable[[], list[KernelCase]]]]:
    """Operations with what makes their cases; tensors are there only while one is timed."""
    make = _Maker(shape, dtype, torch_device)
    yield "quantize_blocks", make.blocks
    yield "pack_bits", make.bits
    yield "gelu", make.gelu
    yield "layer_norm", make.layer_norm
    yield "softmax", make.softmax
    yield "attention", make.attention
    yield "lora_weight_grad", make.lora_weight_grad


class _Maker:
    def __init__(self, shape: ModelShape, dtype: torch.dtype, torch_device: str) -> None:
        self.shape, self.dtype, self.device = shape, dtype, torch_device

    def blocks(self) -> list[KernelCase]:
        x = self._normal(self.shape.tokens, self.shape.intermediate)
        cases = []
        for bits in (8, 4):
            codes, scales = quantize_blocks(x, bits=bits)
            moved = _nbytes(x, codes, scales)
            ways = {
                "quantize_blocks": lambda bits=bits: quantize_blocks(x, bits=bits),
                "quantize_blocks, stochastic": lambda bits=bits: quantize_blocks(
                    x, bits=bits, seed=1
                ),
                "dequantize_blocks": lambda codes=codes, scales=scales, bits=bits: (
                    dequantize_blocks(codes, scales, cols=x.shape[1], bits=bits, dtype=x.dtype)
                ),
            }
            for name, call in ways.items():
                operation = name if bits == 8 else f"{name}, 4 bits"
                implementation = {"fedquad": Implementation(call, moved)}
                cases.append(KernelCase(operation, "forward", _text(x), implementation))
        return cases

    def bits(self) -> list[KernelCase]:
        rows = self.shape.batch_size * self.shape.heads * self.shape.length
        mask = torch.rand(rows, self.shape.length, device=self.device) < 0.9
        packed = pack_bits(mask)
        moved = _nbytes(mask, packed)
        calls = {
            "pack_bits": lambda: pack_bits(mask),
            "unpack_bits": lambda: unpack_bits(packed, mask.numel()),
        }
        return [
            KernelCase(name, "forward", _text(mask), {"fedquad": Implementation(call, moved)})
            for name, call in calls.items()
        ]

    def gelu(self) -> list[KernelCase]:
        x = self._normal(self.shape.tokens, self.shape.intermediate, grad=True)
        codes = _nbytes(*quantize_blocks(x))
        plain, blocks = {}, {}
        for name, way in {"": "none", ", tanh": "tanh"}.items():
            blocks[f"gelu{name}"] = lambda way=way: gelu(x, approximate=way)
            plain[f"gelu{name}"] = lambda way=way: F.gelu(x, approximate=way)
        return self._both_ways(blocks, plain, [x], (x,), codes)

    def layer_norm(self) -> list[KernelCase]:
        x = self._normal(self.shape.tokens, self.shape.hidden, grad=True)
        residual = self._normal(self.shape.tokens, self.shape.hidden, grad=True)
        weight, bias = self._normal(self.shape.hidden), self._normal(self.shape.hidden)
        codes = _nbytes(*quantize_blocks(x))
        size = (self.shape.hidden,)
        alone = self._both_ways(
            {"layer_norm": lambda: layer_norm(x, weight, bias, _EPS)},
            {"layer_norm": lambda: F.layer_norm(x, size, weight, bias, _EPS)},
            [x],
            (x,),
            codes,
        )
        added = self._both_ways(
            {"layer_norm + residual": lambda: layer_norm(x, weight, bias, _EPS, residual=residual)},
            {"layer_norm + residual": lambda: F.layer_norm(x + residual, size, weight, bias, _EPS)},
            [x, residual],
            (x, residual),
            codes,
        )
        return alone + added

    def softmax(self) -> list[KernelCase]:
        rows = self.shape.batch_size * self.shape.heads * self.shape.length
        scores = self._normal(rows, self.shape.length, grad=True)
        codes = _nbytes(*quantize_blocks(scores))
        return self._both_ways(
            {"softmax": lambda: softmax(scores)},
            {"softmax": lambda: torch.softmax(scores, -1)},
            [scores],
            (scores,),
            codes,
        )

    def attention(self) -> list[KernelCase]:
        shape = self.shape
        size = (shape.batch_size, shape.length, shape.heads, shape.width)
        # (batch, positions, heads, width) in memory, as the projections leave them.
        q, k, v = (self._normal(*size, grad=True).transpose(1, 2) for _ in range(3))
        leaves = [tensor._base for tensor in (q, k, v)]
        scale = shape.width**-0.5
        codes = 3 * _nbytes(*quantize_blocks(leaves[0].reshape(shape.tokens, shape.hidden)))
        rows = shape.batch_size * shape.heads * shape.length
        codes += _nbytes(*quantize_blocks(self._normal(rows, shape.length)))

        def eager() -> Tensor:
            return torch.softmax(q @ k.transpose(2, 3) * scale, -1) @ v

        return self._both_ways(
            {"attention": lambda: attention(q, k, v, scale=scale)},
            {
                "attention": eager,
                "attention/sdpa": lambda: F.scaled_dot_product_attention(q, k, v, scale=scale),
            },
            leaves,
            (q, k, v),
            codes,
            num_gradients=3,
        )

    def lora_weight_grad(self) -> list[KernelCase]:
        x = self._normal(self.shape.tokens, self.shape.hidden)
        u = self._normal(self.shape.tokens, _LORA_RANK)
        codes, scales = quantize_blocks(x)
        cols = x.shape[1]
        result = u.T @ x
        stored = _nbytes(u, codes, scales, result)

        def detour() -> Tensor:
            return u.T @ dequantize_blocks(codes, scales, cols=cols, dtype=x.dtype)

        implementations = {
            "fedquad": Implementation(
                lambda: lora_weight_grad(u, codes, scales, cols=cols), stored
            ),
            "dequantize, then torch": Implementation(detour, stored + 2 * x.nbytes),
            "torch, unquantized": Implementation(lambda: u.T @ x, _nbytes(u, x, result)),
        }
        return [KernelCase("lora_weight_grad", "backward", _text(x), implementations)]

    def _both_ways(
        self,
        blocks: dict[str, Call],
        plain: dict[str, Call],
        leaves: list[Tensor],
        inputs: tuple[Tensor, ...],
        codes_bytes: int,
        num_gradients: int = 1,
    ) -> list[KernelCase]:
        """Forward and backward of our operation, which keeps codes, and of PyTorch's.

        Forward reads the inputs and writes a result of the size of one of them, and
        codes; backward reads what is kept (codes, or as many tensors as there are
        gradients) and the result's gradient, and writes gradients. A residual has
        the gradient of what it is added to, and is kept in the sum.
        """
        read, size = _nbytes(*inputs), inputs[0].nbytes
        cases = []
        for operation, call in blocks.items():
            ways = {"fedquad": (call, codes_bytes, codes_bytes)}
            for name, other in plain.items():
                if name.partition("/")[0] == operation:
                    ways[name.partition("/")[2] or "torch"] = (other, 0, num_gradients * size)
            forward = {
                name: Implementation(way, read + size + written)
                for name, (way, written, _) in ways.items()
            }
            backward = {
                name: Implementation(_backward_of(way, leaves), kept + size + num_gradients * size)
                for name, (way, _, kept) in ways.items()
            }
            shape = _text(inputs[0])
            cases.append(KernelCase(operation, "forward", shape, forward))
            cases.append(KernelCase(operation, "backward", shape, backward))
        return cases

    def _normal(self, *size: int, grad: bool = False) -> Tensor:
        x = torch.randn(*size, device=self.device).to(self.dtype)
        return x.requires_grad_(grad)


def _backward_of(call: Call, leaves: list[Tensor]) -> Call:
    """The backward pass of a call, whose graph is made on first use and kept."""
    made: list[Tensor] = []

    def backward() -> object:
        if not made:
            result = call()
            made.extend((result, torch.randn_like(result)))
        return torch.autograd.grad(made[0], leaves, made[1], retain_graph=True)

    return backward


def _nbytes(*tensors: Tensor) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def _text(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape))
