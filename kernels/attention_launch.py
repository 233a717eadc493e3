"""Launching the kernels of attention: tiles, arguments, and the variants to compile."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from fedquad.kernels.attention_kernels import (
    attention_forward_kernel,
    attention_key_gradient_kernel,
    attention_query_gradient_kernel,
)
from fedquad.kernels.block_kernels import _dequantize_blocks_triton, _quantize_blocks_triton
from fedquad.kernels.language import Variant, has_triton, triton
from fedquad.kernels.precision import product_precision
from fedquad.kernels.reference import q_max
from fedquad.kernels.reference.attention import (
    as_heads,
    as_matrix,
    empty_probabilities,
    probability_seed,
    tensor_seed,
)
from fedquad.kernels.reference.dropout import drop_threshold

__all__ = ["COMPILED", "_attention_backward_triton", "_attention_triton"]


def _tiling(width: int, dtype: torch.dtype, precision: str, block_size: int) -> dict[str, int]:
    """Tiles for which nothing, or next to nothing, leaves registers, compiled for sm_80 and sm_90.

    ``stays`` is the side that a program holds, ``walks`` the one along which it goes.
    """
    padded = max(16, triton.next_power_of_2(width))
    units = precision == "tf32" or dtype != torch.float32  # else products are sums of FMAs
    return {
        "padded": padded,
        "stays": max(64 if units else 32, block_size),
        "walks": max(32, block_size),
        "warps": 8 if padded > 64 or block_size > 64 else 4,
        # Hopper wants factors in TF32 transposed: copies that ran ahead would be of 4 bytes each.
        "stages": 1 if precision == "tf32" or padded > 128 else 2,
    }


def _attention_triton(
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
) -> tuple[torch.Tensor, ...]:
    batch, heads, rows, width = q.shape
    columns = k.shape[2]
    o = q.new_empty((batch, rows, heads, width)).transpose(1, 2)
    p_codes = p_scales = q.new_empty(0)
    if keep:
        p_codes, p_scales = empty_probabilities(q, columns, bits, block_size)
        if is_causal:  # the kernel does not go where nothing is seen
            p_codes.zero_()
            p_scales.zero_()
    inputs = [as_matrix(x) for x in (q, k, v)]
    mask_form, mask_strides = "none", (0, 0, 0, 0)
    if mask is not None:
        mask_strides = mask.stride()
        mask_form = "columns" if mask_strides[2] == 0 else "full"
    precision = product_precision(q)
    tiling = _tiling(width, q.dtype, precision, block_size)
    with torch.cuda.device_of(q):
        attention_forward_kernel[triton.cdiv(rows, tiling["stays"]) * batch * heads,](
            *inputs, mask, dropout_seed, o, p_codes, p_scales,
            rows, columns, heads, heads // k.shape[1],
            *(x.stride(0) for x in inputs), *mask_strides, o.stride(2), p_codes.shape[-1],
            scale, drop_threshold(dropout_p), 1 / (1 - dropout_p), probability_seed(seed, 0) or 0,
            WIDTH=width,
            PADDED=tiling["padded"],
            ROWS=tiling["stays"],
            COLUMNS=tiling["walks"],
            BLOCK=block_size,
            BITS=bits,
            Q_MAX=q_max(bits, False),
            MASK=mask_form,
            CAUSAL=is_causal,
            DROPOUT=dropout_p > 0,
            STOCHASTIC=seed is not None,
            KEEP=keep,
            PRECISION=precision,
            STAGES=tiling["stages"],
            num_warps=tiling["warps"],
        )  # fmt: skip
    if not keep:
        return o, *(q.new_empty(0) for _ in range(8))
    kept = []
    for place, x in enumerate(inputs):
        rounding = tensor_seed(seed, place)
        kept += _quantize_blocks_triton(x, bits=bits, block_size=block_size, seed=rounding)
    return o, *kept, p_codes, p_scales


def _attention_backward_triton(
    o_grad: torch.Tensor,
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
    batch, heads, rows, width = o_grad.shape
    columns = k_codes.shape[0] // batch
    o_grad = as_matrix(o_grad)

    # q, k and v come back whole, once: a program would dequantize its keys for every block of
    # rows. The probabilities, which are many times larger, never do.
    def inputs(codes, scales, cols):
        return _dequantize_blocks_triton(
            codes, scales, cols=cols, bits=bits, block_size=block_size, dtype=o_grad.dtype
        )

    q = inputs(q_codes, q_scales, heads * width)
    k = inputs(k_codes, k_scales, k_heads * width)
    v = inputs(v_codes, v_scales, k_heads * width)
    q_grad, k_grad, v_grad = (torch.empty_like(x) for x in (q, k, v))
    delta = o_grad.new_empty((batch, heads, rows), dtype=torch.float32)
    precision = product_precision(o_grad)
    tiling = _tiling(width, o_grad.dtype, precision, block_size)
    sizes = (rows, columns, heads, heads // k_heads)
    numbers = (scale, drop_threshold(dropout_p), 1 / (1 - dropout_p))
    constants = {
        "WIDTH": width,
        "PADDED": tiling["padded"],
        "BLOCK": block_size,
        "BITS": bits,
        "CAUSAL": is_causal,
        "DROPOUT": dropout_p > 0,
        "PRECISION": precision,
        "STAGES": tiling["stages"],
        "num_warps": tiling["warps"],
    }
    with torch.cuda.device_of(o_grad):
        attention_query_gradient_kernel[triton.cdiv(rows, tiling["stays"]) * batch * heads,](
            o_grad, k, v, p_codes, p_scales, dropout_seed, q_grad, delta, *sizes,
            *(x.stride(0) for x in (o_grad, k, v)), p_codes.shape[-1], q_grad.stride(0), *numbers,
            ROWS=tiling["stays"], COLUMNS=tiling["walks"], **constants,
        )  # fmt: skip
        attention_key_gradient_kernel[triton.cdiv(columns, tiling["stays"]) * batch * k_heads,](
            o_grad, q, v, p_codes, p_scales, delta, dropout_seed, k_grad, v_grad, *sizes,
            *(x.stride(0) for x in (o_grad, q, v)), p_codes.shape[-1], k_grad.stride(0), *numbers,
            ROWS=tiling["walks"], COLUMNS=tiling["stays"], **constants,
        )  # fmt: skip
    return (
        as_heads(q_grad, batch, heads),
        as_heads(k_grad, batch, k_heads),
        as_heads(v_grad, batch, k_heads),
    )


def _variants() -> list[Variant]:
    cases = [
        (dtype, precision, width)
        for dtype, precision in ((torch.float32, "tf32"), (torch.bfloat16, "ieee"))
        for width in (32, 64, 128)
    ]
    return [
        variant
        for case in [*cases, (torch.float32, "ieee", 64)]
        for variant in _variants_for(*case)
    ]


def _variants_for(dtype: torch.dtype, precision: str, width: int) -> Iterator[Variant]:
    tiling = _tiling(width, dtype, precision, 32)
    shared = {
        "WIDTH": width,
        "PADDED": tiling["padded"],
        "BLOCK": 32,
        "BITS": 8,
        "CAUSAL": False,
        "DROPOUT": True,
        "PRECISION": precision,
        "STAGES": tiling["stages"],
    }
    by_rows = shared | {"ROWS": tiling["stays"], "COLUMNS": tiling["walks"]}
    by_columns = shared | {"ROWS": tiling["walks"], "COLUMNS": tiling["stays"]}
    mask = "columns" if dtype == torch.float32 else "full"
    forward = by_rows | {"Q_MAX": 255, "MASK": mask, "STOCHASTIC": False, "KEEP": True}
    tensors = "*fp32" if dtype == torch.float32 else "*bf16"
    types = dict.fromkeys(("codes_ptr", "p_codes_ptr"), "*u8")
    types |= dict.fromkeys(("scales_ptr", "p_scales_ptr", "delta_ptr"), "*fp32")
    types |= {"dropout_seed_ptr": "*i64", "scale": "fp32", "keep_scale": "fp32"}
    free = ("heads", "group", "scale", "threshold", "keep_scale", "seed")  # of no multiple
    for kernel, constants in (
        (attention_forward_kernel, forward | {"mask_column": 1}),
        (attention_query_gradient_kernel, by_rows),
        (attention_key_gradient_kernel, by_columns),
    ):
        signature = dict.fromkeys(constants, "constexpr")
        for name in kernel.arg_names:
            kind = tensors if name.endswith("_ptr") else "i32"
            signature.setdefault(name, types.get(name, kind))
        aligned = [name for name in signature if name not in {*constants, *free}]
        yield Variant(kernel, signature, constants, tuple(aligned), tiling["warps"])


COMPILED = _variants() if has_triton() else []
