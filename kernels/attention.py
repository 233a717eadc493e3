"""Attention that keeps q, k and v as signed blocks and its probabilities as unsigned ones.

Nothing else of the probabilities' size is kept: the dropout mask is made again in backward.
"""

from __future__ import annotations

import torch

from fedquad.kernels.attention_launch import _attention_backward_triton, _attention_triton
from fedquad.kernels.options import check_options
from fedquad.kernels.reference.attention import (
    attention_backward,
    attention_forward,
    empty_outputs,
)

__all__ = ["attention"]

_forward = torch.library.custom_op(
    "fedquad::attention", attention_forward, mutates_args=(), device_types="cpu"
)
_forward.register_kernel("cuda")(_attention_triton)
_forward.register_fake(empty_outputs)

_backward = torch.library.custom_op(
    "fedquad::attention_backward",
    attention_backward,
    mutates_args=(),
    device_types="cpu",
)
_backward.register_kernel("cuda")(_attention_backward_triton)


@_backward.register_fake
def _(o_grad, q_codes, q_scales, k_codes, k_scales, v_codes, v_scales, p_codes, *rest):
    batch, heads, rows, width = o_grad.shape
    k_heads = rest[2]
    columns = k_codes.shape[0] // batch
    q_grad = o_grad.new_empty((batch, rows, heads, width)).transpose(1, 2)
    k_grad = o_grad.new_empty((batch, columns, k_heads, width)).transpose(1, 2)
    return q_grad, k_grad, torch.empty_like(k_grad)


def _setup_context(ctx, inputs, output):
    _, k, _, _, dropout_seed, *ctx.options, _seed, _keep = inputs
    _, *kept = output
    ctx.k_heads = k.shape[1]
    ctx.save_for_backward(*kept, dropout_seed)
    ctx.mark_non_differentiable(*kept)
    ctx.set_materialize_grads(False)  # or zeros are made for the codes


def _differentiate(ctx, o_grad, *_):
    grads = (None, None, None)
    if o_grad is not None:
        grads = _backward(o_grad, *ctx.saved_tensors, ctx.k_heads, *ctx.options)
    return *grads, *(None,) * 9


_forward.register_autograd(_differentiate, setup_context=_setup_context)


def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    mask: torch.Tensor | None = None,
    scale: float,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    bits: int = 8,
    block_size: int = 32,
    seed: int | None = None,
    dropout_seed: int | torch.Tensor | None = None,
) -> torch.Tensor:
    """``dropout(softmax(q k^T * scale + mask)) v``, kept for backward as quantized blocks only.

    What is kept: q, k and v as signed blocks of (batch * positions, heads * width), the
    probabilities before dropout as unsigned blocks of each head's (S, T). The output itself is
    computed with the exact ones, products and sums in fp32; fp32 factors are rounded to TF32 only
    where PyTorch does so.

    Parameters
    ----------
    q : torch.Tensor
        (batch, heads, S, width), fp32, bf16 or fp16, of any strides; no copy is made of what lies
        in memory as (batch, S, heads, width), as after the usual projections.
    k, v : torch.Tensor
        (batch, k_heads, T, width); each is shared by heads / k_heads successive heads of q.
    mask : torch.Tensor, optional
        Broadcastable to (batch, heads, S, T): added to the scaled scores, or, if bool, True where
        a query sees a key. It gets no gradient.
    scale : float
        Of the scores, usually width ** -0.5.
    dropout_p : float
        Share of the probabilities that become 0, ``0 <= dropout_p < 1``; the others grow by
        1 / (1 - dropout_p).
    is_causal : bool
        Query i sees keys 0 to i only, as in `torch.nn.functional.scaled_dot_product_attention`.
    bits : {8, 4}
        Of a code; 4 needs an even width.
    block_size : int
        Rows and columns of a block: 8, 16, 32, 64 or 128.
    seed : int, optional
        Round stochastically with the noise of this seed, ``0 <= seed < 2**63``;
        to nearest where it is None.
    dropout_seed : int or torch.Tensor, optional
        Which elements are dropped, ``0 <= dropout_seed < 2**63``; needed where dropout_p > 0. A
        tensor has one int64 on the device of q: drawn there, it stalls nothing, and a compiled
        graph holds for all its values.

    Returns
    -------
    torch.Tensor
        (batch, heads, S, width), a view of (batch, S, heads, width). A query that sees no key gets
        zeros. Its gradients are those of this formula at the dequantized q, k, v and
        probabilities.

    Raises
    ------
    ValueError
        For shapes, dtypes or options that are not these.
    """
    if torch.is_autocast_enabled(q.device.type):  # it would cast what a product takes
        dtype = torch.get_autocast_dtype(q.device.type)
        q, k, v = q.to(dtype), k.to(dtype), v.to(dtype)
    _check_tensors(q, k, v)
    check_options(q, bits, block_size, seed)
    if bits == 4 and q.shape[3] % 2:
        raise ValueError(f"bits = 4 cannot be used: expected 8 where width is odd, {q.shape[3]}")
    if not 0 <= dropout_p < 1:
        raise ValueError(f"dropout_p = {dropout_p!r} cannot be used: expected 0 <= dropout_p < 1")
    if mask is not None:
        mask = _added(mask, (*q.shape[:3], k.shape[2]))
    if not dropout_p:
        dropout_seed = None
    elif dropout_seed is None:
        raise ValueError("dropout_seed = None cannot be used: expected one, as dropout_p > 0")
    elif not isinstance(dropout_seed, torch.Tensor):
        dropout_seed = torch.full((), dropout_seed, dtype=torch.int64, device=q.device)
    keep = torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v))
    return _forward(
        q,
        k,
        v,
        mask,
        dropout_seed,
        float(scale),
        float(dropout_p),
        is_causal,
        bits,
        block_size,
        seed,
        keep,
    )[0]


def _check_tensors(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> None:
    shapes = ", ".join(str(tuple(x.shape)) for x in (q, k, v))
    if not (q.dim() == k.dim() == 4 and k.shape == v.shape and q.numel() and k.numel()):
        accepted = "(batch, heads, S, width) and twice (batch, k_heads, T, width), none of them 0"
        raise ValueError(f"shapes of q, k, v = {shapes} cannot be used: expected {accepted}")
    if q.shape[0] != k.shape[0] or q.shape[1] % k.shape[1] or q.shape[3] != k.shape[3]:
        accepted = "the same batch and width, and a multiple of k_heads for the heads of q"
        raise ValueError(f"shapes of q, k, v = {shapes} cannot be used: expected {accepted}")
    if not (q.dtype == k.dtype == v.dtype and q.device == k.device == v.device):
        kinds = ", ".join(f"{x.dtype} on {x.device}" for x in (q, k, v))
        raise ValueError(f"q, k, v = {kinds} cannot be used: expected one dtype and one device")


def _added(mask: torch.Tensor, shape: tuple[int, int, int, int]) -> torch.Tensor:
    """The mask as numbers to add to the scores, broadcast to all of them without a copy."""
    if mask.requires_grad and torch.is_grad_enabled():
        raise ValueError("mask.requires_grad = True cannot be used: expected False, it gets none")
    if mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=torch.float32).masked_fill_(~mask, float("-inf"))
    elif not mask.is_floating_point():
        raise ValueError(f"mask.dtype = {mask.dtype} cannot be used: expected bool or floats")
    try:
        return mask.expand(shape)
    except RuntimeError:
        given = tuple(mask.shape)
        raise ValueError(f"mask.shape = {given} cannot be used: expected {shape}") from None
