"""Triton kernels of attention: probabilities live in registers, and are kept as unsigned blocks.

One program holds some rows of one head's matrix (or, for the gradients of keys and values, some
columns) and walks along the other side, so that every sum has one order: no atomics.

Queries, keys, values, outputs and their gradients are matrices (batch * positions, heads * width),
``*_row`` is the stride of their rows. ``rows`` and ``columns`` count queries and keys; ``heads``
those of the queries, ``group`` of which share a head of the keys. What travels together is a tuple:

- tile: (head among all of the batch, first row, first column, rows, columns);
- mask: (pointer at the tile's first row, stride of rows, stride of columns);
- dropout: (seed, threshold, 1 / (1 - p)).
"""

from __future__ import annotations

from fedquad.kernels.language import jit, tl
from fedquad.kernels.tile_memory import load_blocks, load_tile, store_blocks, store_tile


@jit
def kept_elements(tile, seed, threshold, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Dropout mask [ROWS, COLUMNS], as `fedquad.kernels.reference.dropout` says."""
    head, first_row, first_column, rows, columns = tile
    row = tl.arange(0, ROWS // 2)[:, None]
    column = tl.arange(0, COLUMNS // 2)[None, :]
    across = tl.cdiv(columns, 16) * 8
    line = head.to(tl.int64) * (tl.cdiv(rows, 16) * 8) + first_row // 2
    corner = (line * across + first_column // 2).to(tl.uint32)
    counters = corner + (row * across + column).to(tl.uint32)
    word0, word1, word2, word3 = tl.randint4x(seed, counters)
    words = tl.join(tl.join(word0, word2), tl.join(word1, word3))
    words = tl.reshape(words, [ROWS // 16, 8, COLUMNS // 16, 8, 2, 2])
    words = tl.reshape(tl.permute(words, (0, 4, 1, 2, 5, 3)), [ROWS, COLUMNS])
    return (words.to(tl.uint32, bitcast=True) >> 1).to(tl.int32) >= threshold


@jit
def _scores(
    tile, q, k_ptr, k_row, mask, scale,
    COLUMNS: tl.constexpr, WIDTH: tl.constexpr, MASK: tl.constexpr, CAUSAL: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Scaled and masked scores [rows of q, COLUMNS], -inf outside."""
    _, first_row, first_column, rows, columns = tile
    mask_ptr, mask_row, mask_column = mask
    ROWS: tl.constexpr = q.shape[0]
    row = tl.arange(0, ROWS)[:, None]
    column = first_column + tl.arange(0, COLUMNS)[None, :]
    corner = k_ptr + tl.cast(first_column, tl.int64) * k_row
    k = load_tile(corner, columns - first_column, k_row, COLUMNS, q.shape[1], WIDTH)
    scores = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale
    visible = column < columns
    if MASK == "columns":  # the same for every row
        scores += tl.load(mask_ptr + column * mask_column, mask=visible, other=0.0).to(tl.float32)
    if MASK == "full":
        inside = visible & (first_row + row < rows)
        place = mask_ptr + row * mask_row + column * mask_column
        scores += tl.load(place, mask=inside, other=0.0).to(tl.float32)
    if CAUSAL:
        visible = visible & (column <= first_row + row)
    return tl.where(visible, scores, float("-inf"))


@jit
def attention_forward_kernel(
    q_ptr, k_ptr, v_ptr, mask_ptr, dropout_seed_ptr, o_ptr, codes_ptr, scales_ptr, rows, columns,
    heads, group, q_row, k_row, v_row, mask_batch, mask_head, mask_row, mask_column, o_row,
    codes_row, scale, threshold, keep_scale, seed,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr, BITS: tl.constexpr, Q_MAX: tl.constexpr, MASK: tl.constexpr,
    CAUSAL: tl.constexpr, DROPOUT: tl.constexpr, STOCHASTIC: tl.constexpr, KEEP: tl.constexpr,
    PRECISION: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """The output of ROWS rows of one head; where KEEP, their probabilities as blocks too."""
    blocks = tl.cdiv(rows, ROWS)
    first_row = tl.program_id(0) % blocks * ROWS
    head = tl.program_id(0) // blocks
    batch = (head // heads).to(tl.int64)
    q_column = head % heads * WIDTH
    k_column = head % heads // group * WIDTH
    left = rows - first_row
    k_ptr += batch * columns * k_row + k_column
    v_ptr += batch * columns * v_row + k_column
    if MASK != "none":
        mask_ptr += batch * mask_batch + (head % heads).to(tl.int64) * mask_head
        mask_ptr += first_row.to(tl.int64) * mask_row
    mask = (mask_ptr, mask_row, mask_column)
    far_row = batch * rows + first_row
    q = load_tile(q_ptr + far_row * q_row + q_column, left, q_row, ROWS, PADDED, WIDTH)
    end = columns
    if CAUSAL:
        end = tl.minimum(columns, first_row + ROWS)
    if DROPOUT:
        dropout_seed = tl.load(dropout_seed_ptr)

    # The first walk finds every row's maximum and sum.
    peak = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    for first in tl.range(0, end, COLUMNS, num_stages=STAGES):
        tile = (head, first_row, first, rows, columns)
        scores = _scores(
            tile, q, k_ptr, k_row, mask, scale, COLUMNS, WIDTH, MASK, CAUSAL, PRECISION
        )
        higher = tl.maximum(peak, tl.max(scores, 1))
        # Where nothing is visible yet, -inf - -inf would be NaN.
        base = tl.where(higher == float("-inf"), 0.0, higher)
        total = total * tl.exp(peak - base) + tl.sum(tl.exp(scores - base[:, None]), 1)
        peak = higher
    peak = tl.where(peak == float("-inf"), 0.0, peak)
    # Rows outside, and those that see nothing, get probabilities of 0.
    real = (first_row + tl.arange(0, ROWS) < rows) & (total != 0.0)
    inverse = tl.where(real, 1.0 / tl.where(real, total, 1.0), 0.0)

    scales_row = tl.cdiv(columns, BLOCK)
    codes_ptr += (head.to(tl.int64) * rows + first_row) * codes_row
    scales_ptr += (head.to(tl.int64) * tl.cdiv(rows, BLOCK) + first_row // BLOCK) * scales_row
    o = tl.zeros([ROWS, PADDED], tl.float32)
    for first in tl.range(0, end, COLUMNS, num_stages=STAGES):
        tile = (head, first_row, first, rows, columns)
        scores = _scores(
            tile, q, k_ptr, k_row, mask, scale, COLUMNS, WIDTH, MASK, CAUSAL, PRECISION
        )
        p = tl.exp(scores - peak[:, None]) * inverse[:, None]
        if KEEP:
            noise = 0.0
            if STOCHASTIC:
                row = first_row + tl.arange(0, ROWS)[:, None]
                column = first + tl.arange(0, COLUMNS)[None, :]
                noise = tl.rand(seed + head, row * columns + column)
            store_blocks(
                codes_ptr + first * BITS // 8, scales_ptr + first // BLOCK, p, noise, left,
                columns - first, codes_row, scales_row, BLOCK, BITS, Q_MAX, False, STOCHASTIC,
            )  # fmt: skip
        if DROPOUT:
            p = tl.where(kept_elements(tile, dropout_seed, threshold, ROWS, COLUMNS), p, 0.0)
        corner = v_ptr + tl.cast(first, tl.int64) * v_row
        v = load_tile(corner, columns - first, v_row, COLUMNS, PADDED, WIDTH)
        o = tl.dot(p.to(v.dtype), v, o, input_precision=PRECISION)
    if DROPOUT:
        o *= keep_scale
    store_tile(o_ptr + far_row * o_row + q_column, o, left, o_row, ROWS, PADDED, WIDTH)


@jit
def _load_p(
    tile, codes_ptr, scales_ptr, codes_row,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, BLOCK: tl.constexpr, BITS: tl.constexpr,
):  # fmt: skip
    """The kept probabilities of a tile; pointers are those of the first head."""
    head, first_row, first_column, rows, columns = tile
    scales_row = tl.cdiv(columns, BLOCK)
    codes_ptr += (head.to(tl.int64) * rows + first_row) * codes_row + first_column * BITS // 8
    line = head.to(tl.int64) * tl.cdiv(rows, BLOCK) + first_row // BLOCK
    return load_blocks(
        codes_ptr, scales_ptr + line * scales_row + first_column // BLOCK, rows - first_row,
        columns - first_column, codes_row, scales_row, ROWS, COLUMNS, BLOCK, BITS, False,
    )  # fmt: skip


@jit
def attention_query_gradient_kernel(
    grad_ptr, k_ptr, v_ptr, p_codes_ptr, p_scales_ptr, dropout_seed_ptr, q_grad_ptr, delta_ptr,
    rows, columns, heads, group, grad_row, k_row, v_row, p_codes_row, q_grad_row, scale, threshold,
    keep_scale,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr, BITS: tl.constexpr, CAUSAL: tl.constexpr, DROPOUT: tl.constexpr,
    PRECISION: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """The queries' gradient of ROWS rows of one head, and delta, the row sums of p * p_grad.

    delta comes first, in a walk of its own: subtracting it at the end, from sums over whole rows,
    would leave what their terms had lost in rounding.
    """
    blocks = tl.cdiv(rows, ROWS)
    first_row = tl.program_id(0) % blocks * ROWS
    head = tl.program_id(0) // blocks
    batch = (head // heads).to(tl.int64)
    q_column = head % heads * WIDTH
    k_column = head % heads // group * WIDTH
    left = rows - first_row
    far_row = batch * rows + first_row
    corner = grad_ptr + far_row * grad_row + q_column
    grad = load_tile(corner, left, grad_row, ROWS, PADDED, WIDTH)
    k_ptr += batch * columns * k_row + k_column
    v_ptr += batch * columns * v_row + k_column
    end = columns
    if CAUSAL:
        end = tl.minimum(columns, first_row + ROWS)
    if DROPOUT:
        seed = tl.load(dropout_seed_ptr)

    delta = tl.zeros([ROWS], tl.float32)
    for first in tl.range(0, end, COLUMNS, num_stages=STAGES):
        tile = (head, first_row, first, rows, columns)
        corner = v_ptr + tl.cast(first, tl.int64) * v_row
        v = load_tile(corner, columns - first, v_row, COLUMNS, PADDED, WIDTH)
        p_grad = tl.dot(grad, tl.trans(v), input_precision=PRECISION)
        if DROPOUT:
            keep = kept_elements(tile, seed, threshold, ROWS, COLUMNS)
            p_grad = tl.where(keep, p_grad * keep_scale, 0.0)
        p = _load_p(tile, p_codes_ptr, p_scales_ptr, p_codes_row, ROWS, COLUMNS, BLOCK, BITS)
        delta += tl.sum(p * p_grad, 1)
    row = tl.arange(0, ROWS)
    tl.store(delta_ptr + head.to(tl.int64) * rows + first_row + row, delta, mask=row < left)

    q_grad = tl.zeros([ROWS, PADDED], tl.float32)
    for first in tl.range(0, end, COLUMNS, num_stages=STAGES):
        tile = (head, first_row, first, rows, columns)
        corner = v_ptr + tl.cast(first, tl.int64) * v_row
        v = load_tile(corner, columns - first, v_row, COLUMNS, PADDED, WIDTH)
        p_grad = tl.dot(grad, tl.trans(v), input_precision=PRECISION)
        if DROPOUT:
            keep = kept_elements(tile, seed, threshold, ROWS, COLUMNS)
            p_grad = tl.where(keep, p_grad * keep_scale, 0.0)
        p = _load_p(tile, p_codes_ptr, p_scales_ptr, p_codes_row, ROWS, COLUMNS, BLOCK, BITS)
        scores_grad = p * (p_grad - delta[:, None])
        corner = k_ptr + tl.cast(first, tl.int64) * k_row
        k = load_tile(corner, columns - first, k_row, COLUMNS, PADDED, WIDTH)
        q_grad = tl.dot(scores_grad.to(k.dtype), k, q_grad, input_precision=PRECISION)
    corner = q_grad_ptr + far_row * q_grad_row + q_column
    store_tile(corner, q_grad * scale, left, q_grad_row, ROWS, PADDED, WIDTH)


@jit
def attention_key_gradient_kernel(
    grad_ptr, q_ptr, v_ptr, p_codes_ptr, p_scales_ptr, delta_ptr, dropout_seed_ptr, k_grad_ptr,
    v_grad_ptr, rows, columns, heads, group, grad_row, q_row, v_row, p_codes_row, k_grad_row, scale,
    threshold, keep_scale,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr, BITS: tl.constexpr, CAUSAL: tl.constexpr, DROPOUT: tl.constexpr,
    PRECISION: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """The gradients of COLUMNS keys and values of one of their heads.

    Tiles stand transposed, (keys, queries): so the values, which stay, are the left factor of their
    product, of which a warp needs its own rows only; as the right one they would fill registers.
    """
    blocks = tl.cdiv(columns, COLUMNS)
    first_column = tl.program_id(0) % blocks * COLUMNS
    first_head = tl.program_id(0) // blocks * group
    batch = (first_head // heads).to(tl.int64)
    k_head = first_head % heads // group
    left = columns - first_column
    far_column = batch * columns + first_column
    corner = v_ptr + far_column * v_row + k_head * WIDTH
    v = load_tile(corner, left, v_row, COLUMNS, PADDED, WIDTH)
    start = 0
    if CAUSAL:
        start = first_column // ROWS * ROWS
    if DROPOUT:
        seed = tl.load(dropout_seed_ptr)

    k_grad = tl.zeros([COLUMNS, PADDED], tl.float32)
    v_grad = tl.zeros([COLUMNS, PADDED], tl.float32)
    for member in range(group):
        q_head = k_head * group + member
        head = first_head + member
        for first in tl.range(start, rows, ROWS, num_stages=STAGES):
            tile = (head, first, first_column, rows, columns)
            far_row = batch * rows + first
            corner = grad_ptr + far_row * grad_row + q_head * WIDTH
            grad = load_tile(corner, rows - first, grad_row, ROWS, PADDED, WIDTH)
            p_grad = tl.dot(v, tl.trans(grad), input_precision=PRECISION)
            p = _load_p(tile, p_codes_ptr, p_scales_ptr, p_codes_row, ROWS, COLUMNS, BLOCK, BITS)
            p = tl.trans(p)
            dropped = p
            if DROPOUT:
                keep = tl.trans(kept_elements(tile, seed, threshold, ROWS, COLUMNS))
                # 0 by way of p_grad: it ties the layout of this tile to that one's. Otherwise
                # Triton 3.7 makes the mask twice, once for each layout.
                zero = tl.minimum(tl.abs(p_grad), 0.0)
                dropped = tl.where(keep, p, zero)
                p_grad = tl.where(keep, p_grad * keep_scale, 0.0)
            v_grad = tl.dot(dropped.to(grad.dtype), grad, v_grad, input_precision=PRECISION)
            row = tl.arange(0, ROWS)
            deltas = delta_ptr + head.to(tl.int64) * rows + first + row
            delta = tl.load(deltas, mask=row < rows - first, other=0.0)
            scores_grad = p * (p_grad - delta[None, :])
            corner = q_ptr + far_row * q_row + q_head * WIDTH
            q = load_tile(corner, rows - first, q_row, ROWS, PADDED, WIDTH)
            k_grad = tl.dot(scores_grad.to(q.dtype), q, k_grad, input_precision=PRECISION)
    corner = far_column * k_grad_row + k_head * WIDTH
    store_tile(k_grad_ptr + corner, k_grad * scale, left, k_grad_row, COLUMNS, PADDED, WIDTH)
    if DROPOUT:
        v_grad *= keep_scale
    store_tile(v_grad_ptr + corner, v_grad, left, k_grad_row, COLUMNS, PADDED, WIDTH)
