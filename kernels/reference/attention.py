"""Attention that keeps its inputs and probabilities as blocks, in plain PyTorch.

Queries, keys and values are kept as signed blocks of the matrices (batch * positions, heads *
width) that the projections wrote; probabilities, as they are before dropout, as unsigned blocks of
one matrix (S, T) for each head. Arithmetic is in fp32 whatever the tensors are.
"""

from __future__ import annotations

import torch

from fedquad.kernels.reference.blocks import dequantize_blocks, empty_blocks, quantize_blocks
from fedquad.kernels.reference.dropout import dropout_keep

__all__ = [
    "as_heads",
    "as_matrix",
    "attention_backward",
    "attention_forward",
    "empty_outputs",
    "empty_probabilities",
    "probability_seed",
    "tensor_seed",
]

# Streams of noise that a seed has: one each for q, k and v, and one for every head's probabilities.
_STREAMS = 1 << 24


def tensor_seed(seed: int | None, place: int) -> int | None:
    """The seed that rounds q (place 0), k (1) or v (2)."""
    return None if seed is None else (seed * _STREAMS + place) % 2**63


def probability_seed(seed: int | None, head: int) -> int | None:
    """The seed that rounds the probabilities of a head, counted through the batch."""
    return tensor_seed(seed, 3 + head)


def as_matrix(x: torch.Tensor) -> torch.Tensor:
    """(batch * S, heads * width), rows contiguous, of (batch, heads, S, width).

    A view where memory lies that way, as it does after the usual projections.
    """
    matrix = x.transpose(1, 2).flatten(2).flatten(0, 1)
    return matrix if matrix.stride(1) == 1 else matrix.contiguous()


def as_heads(matrix: torch.Tensor, batch: int, heads: int) -> torch.Tensor:
    """(batch, heads, S, width), a view of (batch * S, heads * width)."""
    return matrix.unflatten(1, (heads, -1)).unflatten(0, (batch, -1)).transpose(1, 2)


def attention_forward(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor | None,
    dropout_seed: torch.Tensor | None,
    scale: float,
    dropout_p: float,
    is_causal: bool,
    bits: int,
    block_size: int,
    seed: int | None,
    keep: bool,
) -> tuple[
    torch.Tensor,
    torch.Tensor,
    torch.Tensor,
    torch.Tensor,
    torch.Tensor,
    torch.Tensor,
    torch.Tensor,
    torch.Tensor,
    torch.Tensor,
]:
    """o, then codes and scales of q, k, v and p; those are empty unless ``keep``.

    ``mask`` (batch, heads, S, T) is added to the scores; ``dropout_seed`` has one int64. The codes
    of p are (batch, heads, S, T), its scales the same with a number for each block.
    """
    batch, heads = q.shape[:2]
    with torch.autocast(q.device.type, enabled=False):
        scores = _share(q.float(), k) @ k.float().unsqueeze(2).mT
        scores = scores.flatten(1, 2) * scale
        if mask is not None:
            scores = scores + mask
        if is_causal:
            hidden = torch.ones(scores.shape[2:], dtype=torch.bool, device=q.device).triu_(1)
            scores = scores.masked_fill(hidden, float("-inf"))
        p = torch.softmax(scores, -1)
        # A row that sees nothing has probabilities of 0: NaN would spoil the rows in its blocks.
        p = p.masked_fill((scores == float("-inf")).all(-1, keepdim=True), 0.0)
        dropped = _drop(p, dropout_seed, dropout_p)
        o = (_share(dropped, k) @ v.float().unsqueeze(2)).flatten(1, 2)
    o = _relaid(o, q.dtype)
    if not keep:
        return o, *(q.new_empty(0) for _ in range(8))
    kept = []
    for place, x in enumerate((q, k, v)):
        rounding = tensor_seed(seed, place)
        kept += quantize_blocks(as_matrix(x), bits=bits, block_size=block_size, seed=rounding)
    each = [
        quantize_blocks(
            one, bits=bits, block_size=block_size, signed=False, seed=probability_seed(seed, head)
        )
        for head, one in enumerate(p.flatten(0, 1))
    ]
    kept += (torch.stack(part).unflatten(0, (batch, heads)) for part in zip(*each, strict=True))
    return o, *kept


def empty_outputs(
    q, k, v, mask, dropout_seed, scale, dropout_p, is_causal, bits, block_size, seed, keep
):
    """What `attention_forward` gives, not yet computed."""
    batch, heads, rows, width = q.shape
    o = q.new_empty((batch, rows, heads, width)).transpose(1, 2)
    if not keep:
        return o, *(q.new_empty(0) for _ in range(8))
    kept = []
    for x in (q, k, v):
        kept += empty_blocks(as_matrix(x), bits=bits, block_size=block_size)
    return o, *kept, *empty_probabilities(q, k.shape[2], bits, block_size)


def empty_probabilities(
    q: torch.Tensor, columns: int, bits: int, block_size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes and scales of one matrix (S, T) for each head, not yet computed."""
    batch, heads, rows, _ = q.shape
    stored = columns if bits == 8 else -(-columns // 2)
    blocks = (-(-rows // block_size), -(-columns // block_size))
    codes = q.new_empty((batch, heads, rows, stored), dtype=torch.uint8)
    return codes, q.new_empty((batch, heads, *blocks), dtype=torch.float32)


def attention_backward(
    grad_o: torch.Tensor,
    q_codes: torch.Tensor,
    q_scales: torch.Tensor,
    k_codes: torch.Tensor,
    k_scales: torch.Tensor,
    v_codes: torch.Tensor,
    v_scales: torch.Tensor,
    p_codes: torch.Tensor,
    p_scales: torch.Tensor,
    dropout_seed: torch.Tensor | None,
    k_heads: int,
    scale: float,
    dropout_p: float,
    is_causal: bool,
    bits: int,
    block_size: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients for q, k and v at what was kept, in the dtype of ``grad_o``."""
    batch, heads, rows, width = grad_o.shape
    columns = k_codes.shape[0] // batch
    form = {"bits": bits, "block_size": block_size}

    def inputs(codes, scales, heads):
        cols = heads * width
        matrix = dequantize_blocks(codes, scales, cols=cols, dtype=grad_o.dtype, **form)
        return as_heads(matrix, batch, heads).float()

    q = inputs(q_codes, q_scales, heads)
    k = inputs(k_codes, k_scales, k_heads).unsqueeze(2)
    v = inputs(v_codes, v_scales, k_heads).unsqueeze(2)
    each = zip(p_codes.flatten(0, 1), p_scales.flatten(0, 1), strict=True)
    p = torch.stack([dequantize_blocks(*one, cols=columns, signed=False, **form) for one in each])
    p = p.view(batch, heads, rows, columns)
    with torch.autocast(grad_o.device.type, enabled=False):
        o_grad = _share(grad_o.float(), k)
        v_grad = (_share(_drop(p, dropout_seed, dropout_p), k).mT @ o_grad).sum(2)
        # Dropout is linear, and its own transpose.
        p_grad = _drop((o_grad @ v.mT).flatten(1, 2), dropout_seed, dropout_p)
        delta = (p * p_grad).sum(-1, keepdim=True)
        scores_grad = _share(p * (p_grad - delta), k)
        q_grad = (scores_grad @ k).flatten(1, 2) * scale
        k_grad = (scores_grad.mT @ _share(q, k)).sum(2) * scale
    return tuple(_relaid(grad, grad_o.dtype) for grad in (q_grad, k_grad, v_grad))


def _relaid(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """x (batch, heads, S, width) in memory that lies as (batch, S, heads, width)."""
    batch, heads, rows, width = x.shape
    return x.new_empty((batch, rows, heads, width), dtype=dtype).transpose(1, 2).copy_(x)


def _share(x: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """(batch, heads, ..) with its heads as (heads of k, those that share one)."""
    return x.unflatten(1, (k.shape[1], -1))


def _drop(p: torch.Tensor, seed: torch.Tensor | None, dropout_p: float) -> torch.Tensor:
    if not dropout_p:
        return p
    keep = dropout_keep(int(seed), tuple(p.shape), dropout_p, p.device)
    return torch.where(keep, p * (1 / (1 - dropout_p)), 0.0)
