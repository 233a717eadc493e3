from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from fedquad.kernels import dequantize_blocks, quantize_blocks, reference
from fedquad.kernels.block_kernels import _dequantize_blocks_triton, _quantize_blocks_triton
from fedquad.kernels.language import has_triton, jit, tl
from fedquad.kernels.reference import blocks, philox

FLOATS = (torch.float32, torch.bfloat16, torch.float16)
Q_MAX = {(8, True): 127, (8, False): 255, (4, True): 7, (4, False): 15}
FORMATS = list(Q_MAX)
SHAPES = [(1, 1), (31, 33), (0, 5), (5, 0), (5, 200), (64, 64)]
SEEDS = [None, 3, 2**40 + 5]
# NumPy, in the interpreter, warns where a GPU goes to infinity silently.
overflows = pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
needs_triton = pytest.mark.skipif(not has_triton(), reason="Triton has wheels for Linux only")


def by_blocks(x, bits, block_size, signed, seed):
    """Codes as whole numbers, and scales, block by block in NumPy: the definition."""
    x = x.float().numpy()
    rows, cols = x.shape
    q_max = np.float32(Q_MAX[bits, signed])
    scales = np.zeros((math.ceil(rows / block_size), math.ceil(cols / block_size)), np.float32)
    codes = np.zeros(x.shape, int)
    noise = np.zeros(x.shape, np.float32)
    if seed is not None:
        noise = reference.uniform(seed, torch.arange(x.size)).view(x.shape).numpy()
    for i, j in np.ndindex(scales.shape):
        place = np.s_[i * block_size : (i + 1) * block_size, j * block_size : (j + 1) * block_size]
        block = x[place]
        if not np.isfinite(block).all():
            scales[i, j] = np.nan
            continue
        scales[i, j] = np.abs(block).max() / q_max
        if scales[i, j] > 0:
            ratio = block / scales[i, j]
            whole = np.rint(ratio) if seed is None else np.floor(ratio + noise[place])
            codes[place] = np.clip(whole, -q_max if signed else 0, q_max)
    return torch.tensor(codes), torch.tensor(scales)


def stored(codes, bits, signed):
    """Whole numbers in the bytes in which they are kept."""
    if bits == 8:
        return codes.to(torch.int8 if signed else torch.uint8)
    nibbles = torch.nn.functional.pad(codes % 16, (0, codes.shape[1] % 2))
    return (nibbles[:, ::2] + 16 * nibbles[:, 1::2]).to(torch.uint8)


def spread(scales, shape, block_size):
    """The scale of each element."""
    wide = scales.repeat_interleave(block_size, 0).repeat_interleave(block_size, 1)
    return wide[: shape[0], : shape[1]]


def assert_same(found, expected):
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == b.dtype
        assert a.is_contiguous()
        torch.testing.assert_close(a.cpu(), b.cpu(), rtol=0, atol=0, equal_nan=True)


def assert_all_agree(
    base, bits, block_size, signed, seed, torch_device, view=lambda x: x, back_to=None
):
    """The definition, the reference and the kernel, of a view, and back."""
    x, there = view(base), view(base.to(torch_device))
    options = {"bits": bits, "block_size": block_size, "signed": signed}
    back = {"cols": x.shape[1], "dtype": back_to or x.dtype, **options}
    whole, scales = by_blocks(x, bits, block_size, signed, seed)
    codes = stored(whole, bits, signed)
    values = (whole.float() * spread(scales, x.shape, block_size)).to(back["dtype"])
    assert_same(reference.quantize_blocks(x, **options, seed=seed), (codes, scales))
    assert_same([reference.dequantize_blocks(codes, scales, **back)], [values])
    if has_triton():
        pair = _quantize_blocks_triton(there, **options, seed=seed)
        assert_same(pair, (codes, scales))
        assert_same([_dequantize_blocks_triton(*pair, **back)], [values])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("bits", "signed"), FORMATS)
def test_kernel_and_reference_are_the_definition(
    shape, bits, signed, dtype, make_matrix, torch_device
):
    for seed in (None, 7):
        x = make_matrix(*shape, dtype)
        assert_all_agree(x, bits, 32, signed, seed, torch_device)


@pytest.mark.parametrize("block_size", [8, 16, 32, 64, 128])
def test_every_block_size(block_size, make_matrix, torch_device):
    # More than one tile of the kernel: 512 columns of blocks of 8, one block of 128.
    for (bits, signed), seed in zip(FORMATS, (None, 1, None, 16), strict=True):
        x = make_matrix(9, 530) if block_size < 128 else make_matrix(130, 140)
        assert_all_agree(x, bits, block_size, signed, seed, torch_device)


VIEWS = {
    "transposed": lambda x: x.t(),
    "rows skipped": lambda x: x[::3],
    "columns skipped": lambda x: x[:, ::2],
    "cut out": lambda x: x[3:, 5:],
    "one column": lambda x: x[:, 2:3],
    "one row, repeated": lambda x: x[:1].expand(40, -1),
    "one column, repeated": lambda x: x[:, :1].expand(-1, 40),
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS.keys())
def test_any_strides(view, make_matrix, torch_device):
    for seed, bits, dtype in (
        (None, 8, torch.float32),
        (5, 8, torch.float16),
        (None, 4, torch.float32),
    ):
        base = make_matrix(40, 70, dtype)
        assert_all_agree(base, bits, 32, True, seed, torch_device, view)
        assert_same(
            quantize_blocks(view(base), bits=bits, seed=seed),
            quantize_blocks(view(base).contiguous(), bits=bits, seed=seed),
        )


TINY = 2.0**-149  # the smallest fp32 above 0
SPECIAL = {
    "zeros": [0.0, -0.0],
    "nan": [1.0, math.nan],
    "infinity": [1.0, math.inf, 2.0],
    "minus infinity and nan": [-math.inf, math.nan],
    "underflowing scale": [TINY, -60 * TINY],
    "smallest scale": [100 * TINY, 190 * TINY, -190 * TINY],
    "subnormal scale": [12345 * TINY, -67891 * TINY],
    "smallest normal scale": [127 * 2.0**-126, 2.0**-126],
    "largest fp16": [65504.0, -65504.0, 1.0],
    "largest fp32": [torch.finfo(torch.float32).max, 1.0],
    "ties": [127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -126.5],
    "unsigned ties": [255.0, 0.5, 1.5, 254.5],
    "all negative": [-1.0, -2.0, -3.0],
}


@overflows
@pytest.mark.parametrize("values", SPECIAL.values(), ids=SPECIAL.keys())
@pytest.mark.parametrize(("bits", "signed"), FORMATS)
def test_special_values(values, bits, signed, make_matrix, torch_device):
    x = make_matrix(16, 24)
    x[:8, 8:16] = 0
    x[0, 8 : 8 + len(values)] = torch.tensor(values)
    x[9, :8] = 0
    for seed in (None, 9):
        assert_all_agree(x, bits, 8, signed, seed, torch_device)
    if max(map(abs, values)) <= 65504:
        assert_all_agree(x.half(), bits, 8, signed, None, torch_device)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="a tensor of 5 GB, for a GPU")
@pytest.mark.parametrize("transposed", [False, True])
def test_more_elements_than_32_bits_can_count(transposed):
    if torch.cuda.mem_get_info()[0] < 16e9:
        pytest.skip("needs 16 GB on the GPU")
    x = torch.zeros(70_016, 32_768, dtype=torch.float16, device="cuda")
    x[-1, -1] = 254.0
    x = x.t() if transposed else x
    codes, scales = quantize_blocks(x)
    assert (scales[-1, -1], codes[-1, -1], codes.count_nonzero()) == (2.0, 127, 1)
    values = dequantize_blocks(codes, scales, cols=x.shape[1], dtype=torch.float16)
    assert (values[-1, -1], values.count_nonzero()) == (254.0, 1)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_block_that_is_not_finite_comes_back_as_nan_and_no_other(value, dtype):
    x = torch.ones(20, 20, dtype=dtype)
    x[9, 17] = value
    for seed in (None, 0):
        codes, scales = quantize_blocks(x, block_size=8, seed=seed)
        values = dequantize_blocks(codes, scales, cols=20, block_size=8, dtype=dtype)
        assert values[8:16, 16:].isnan().all()
        assert (codes[8:16, 16:] == 0).all()
        assert values.isnan().sum() == 8 * 4


@overflows
@needs_triton
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_kernel_is_the_reference_for_anything(data):
    rows, cols = data.draw(st.integers(1, 20)), data.draw(st.integers(1, 20))
    bits, signed = data.draw(st.sampled_from(FORMATS))
    # Numbers of any magnitude, and what few blocks hold, all in one matrix.
    exponent = data.draw(st.integers(-149, 127))
    x = torch.randn(rows, cols, generator=torch.Generator().manual_seed(exponent + 149))
    x = torch.ldexp(x, torch.tensor(exponent))
    for value in data.draw(st.lists(st.floats(width=32), max_size=3)):
        x[data.draw(st.integers(0, rows - 1)), data.draw(st.integers(0, cols - 1))] = value
    seed = data.draw(st.none() | st.integers(0, 2**63 - 1))
    block_size, back_to = data.draw(st.sampled_from([8, 16])), data.draw(st.sampled_from(FLOATS))
    torch_device = "cuda" if torch.cuda.is_available() else "cpu"
    assert_all_agree(x, bits, block_size, signed, seed, torch_device, back_to=back_to)


@pytest.mark.parametrize(("bits", "signed"), FORMATS)
@pytest.mark.parametrize("block_size", [8, 32])
def test_error_is_at_most_half_a_step(bits, signed, block_size, make_matrix):
    x = make_matrix(100, 90)
    x = x if signed else x.abs()
    options = {"bits": bits, "block_size": block_size, "signed": signed}
    codes, scales = quantize_blocks(x, **options)
    error = (dequantize_blocks(codes, scales, cols=90, **options).double() - x.double()).abs()
    # Beside the half step, x / scale and code * scale are rounded to fp32.
    allowed = 0.5 + 2 * Q_MAX[bits, signed] * 2.0**-24
    assert (error <= spread(scales, x.shape, block_size).double() * allowed).all()
    assert error.max() > 0


def test_quantizing_again_gives_the_same_codes(make_matrix):
    for bits, signed in FORMATS:
        x = make_matrix(50, 70) if signed else make_matrix(50, 70).abs()
        codes, scales = quantize_blocks(x, bits=bits, signed=signed)
        values = dequantize_blocks(codes, scales, cols=70, bits=bits, signed=signed)
        assert torch.equal(quantize_blocks(values, bits=bits, signed=signed)[0], codes)


@pytest.mark.parametrize(("bits", "signed"), FORMATS)
def test_stochastic_rounding_has_no_bias(bits, signed):
    count, block_size = 400, 32
    step = 1 / Q_MAX[bits, signed]
    wanted = torch.rand(block_size * block_size, generator=torch.Generator().manual_seed(1))
    wanted[0] = 1.0  # so that the scale is the step
    x = wanted.view(block_size, block_size)
    total = torch.zeros(x.shape, dtype=torch.float64)
    for seed in range(count):
        codes, scales = quantize_blocks(x, bits=bits, signed=signed, seed=seed)
        values = dequantize_blocks(codes, scales, cols=block_size, bits=bits, signed=signed)
        assert ((values - x).abs() < step * (1 + 1e-4)).all()
        total += values
    fraction = x.double() / step % 1
    deviation = step * (fraction * (1 - fraction) / count).sqrt()
    error = total / count - x.double()
    # 5.5 standard deviations happen to one of 1024 numbers with probability 4e-5; the count of
    # values is small, so near-whole numbers get one step of one draw.
    assert (error.abs() <= 5.5 * deviation + step / count).all()
    assert abs(error.mean()) <= 5 * deviation.square().sum().sqrt() / x.numel()


def test_noise_differs_by_element_and_seed():
    x = torch.full((64, 64), 0.5)
    x[::32, ::32] = 127.0
    first, second = (quantize_blocks(x, seed=seed)[0] for seed in (1, 2))
    assert torch.equal(first, quantize_blocks(x, seed=1)[0])
    assert 0.4 < (first != second).float().mean() < 0.6
    for other in (first.roll(1, 0), first.roll(1, 1), first.roll(32, 0), first.roll(32, 1)):
        assert 0.4 < (first != other).float().mean() < 0.6


@jit
def uniform_kernel(out_ptr, seed, first, count: tl.constexpr):
    place = tl.arange(0, count)
    tl.store(out_ptr + place, tl.rand(seed, place.to(tl.uint32) + first))


@needs_triton
@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**32 - 1, 2**32 + 5, 2**63 - 1])
def test_noise_is_that_of_triton(seed, torch_device, monkeypatch):
    monkeypatch.setattr(philox, "_CHUNK", 50)
    for first in (0, 2**31 - 100, 2**32 - 60):
        out = torch.empty(128, device=torch_device)
        uniform_kernel[(1,)](out, seed, first if first < 2**31 else first - 2**32, count=128)
        noise = reference.uniform(seed, (torch.arange(128) + first).view(2, 64))
        assert torch.equal(noise.flatten(), out.cpu())
        assert ((noise >= 0) & (noise < 1)).all()


def test_reference_cuts_its_work_as_it_likes(make_matrix, monkeypatch):
    x = make_matrix(150, 170)
    for (bits, signed), seed, rows in itertools.product(FORMATS, (None, 2), (150, 160)):
        options = {"bits": bits, "signed": signed}
        part = x[:rows]
        whole = reference.quantize_blocks(part, **options, seed=seed)
        values = reference.dequantize_blocks(*whole, cols=170, **options)
        for tile in (1024, 4096):
            with monkeypatch.context() as patch:
                patch.setattr(blocks, "_TILE", tile)
                assert_same(reference.quantize_blocks(part, **options, seed=seed), whole)
                again = reference.dequantize_blocks(*whole, cols=170, **options)
            assert_same([again], [values])


@pytest.mark.parametrize(("bits", "signed"), FORMATS)
def test_fake_tensors_have_the_shapes_of_real_ones(bits, signed, dtype):
    options = {"bits": bits, "block_size": 16, "signed": signed}
    for shape, seed in itertools.product([(0, 3), (33, 17)], (None, 1)):
        real = quantize_blocks(torch.zeros(shape, dtype=dtype), **options, seed=seed)
        real += (dequantize_blocks(*real, cols=shape[1], dtype=dtype, **options),)
        with FakeTensorMode():
            fake = quantize_blocks(torch.zeros(shape, dtype=dtype), **options, seed=seed)
            fake += (dequantize_blocks(*fake, cols=shape[1], dtype=dtype, **options),)
        for a, b in zip(fake, real, strict=True):
            assert (a.shape, a.dtype, a.stride()) == (b.shape, b.dtype, b.stride())


@pytest.mark.parametrize(("bits", "signed"), FORMATS)
def test_operators_are_registered_in_full(bits, signed, make_matrix):
    options = {"bits": bits, "block_size": 8, "signed": signed}
    for x in (make_matrix(9, 11), make_matrix(11, 9).t()):
        quantize = torch.ops.fedquad.quantize_blocks.default
        torch.library.opcheck(quantize, (x,), {**options, "seed": 3})
        codes, scales = quantize(x, **options)
        dequantize = torch.ops.fedquad.dequantize_blocks.default
        torch.library.opcheck(dequantize, (codes, scales), {"cols": 11, **options})


def test_compiles_into_one_graph(make_matrix):
    def there_and_back(x, seed):
        codes, scales = quantize_blocks(x * 2, seed=seed)
        return dequantize_blocks(codes, scales, cols=x.shape[1]) + 1

    compiled = torch.compile(there_and_back, fullgraph=True, backend="aot_eager")
    for shape, seed in (((40, 50), None), ((40, 50), 3), ((33, 70), 4)):
        x = make_matrix(*shape)
        assert torch.equal(compiled(x, seed), there_and_back(x, seed))


def test_no_gradient_comes_through():
    x = torch.randn(8, 8, requires_grad=True)
    codes, scales = quantize_blocks(x)
    assert not scales.requires_grad
    assert not dequantize_blocks(codes, scales.requires_grad_(), cols=8).requires_grad


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("x2d.shape", {"x2d": torch.zeros(3)}),
        ("x2d.shape", {"x2d": torch.zeros(2, 3, 4)}),
        ("x2d.dtype", {"x2d": torch.zeros(3, 4, dtype=torch.float64)}),
        ("x2d.dtype", {"x2d": torch.zeros(3, 4, dtype=torch.int32)}),
        ("bits", {"bits": 2}),
        ("block_size", {"block_size": 4}),
        ("block_size", {"block_size": 33}),
        ("block_size", {"block_size": 256}),
        ("signed", {"signed": 1}),
        ("seed", {"seed": -1}),
        ("seed", {"seed": 2**63}),
        ("seed", {"seed": 0.5}),
    ],
)
def test_bad_arguments_of_quantize(field, options):
    arguments = {"x2d": torch.zeros(3, 4)} | options
    with pytest.raises(ValueError, match=rf"{field} = .* cannot be used: expected "):
        quantize_blocks(arguments.pop("x2d"), **arguments)


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("codes.dtype", {"signed": False}),
        ("codes.dtype", {"bits": 4}),
        ("codes.shape", {"cols": 5}),
        ("codes.shape", {"codes": torch.zeros(4, dtype=torch.int8)}),
        ("scales.shape", {"block_size": 8}),
        ("scales.dtype", {"scales": torch.zeros(1, 2, dtype=torch.float64)}),
        ("dtype", {"dtype": torch.int8}),
        ("bits", {"bits": 16}),
    ],
)
def test_bad_arguments_of_dequantize(field, options):
    codes, scales = quantize_blocks(torch.ones(20, 40))
    arguments = {"codes": codes, "scales": scales, "cols": 40} | options
    with pytest.raises(ValueError, match=rf"{field} = .* cannot be used: expected "):
        dequantize_blocks(arguments.pop("codes"), arguments.pop("scales"), **arguments)
