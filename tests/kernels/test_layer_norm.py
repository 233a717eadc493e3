"""LayerNorm of a sum on blocks. Tolerances follow from fp32 rounding and the quantization step.

The condition of a row is rstd * max|z|: subtracting the mean leaves errors that many times larger
than an ulp of the normalised row. In half precision an ulp of the result comes on top.
"""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from fedquad.kernels.layer_norm import (
    _layer_norm_backward_triton,
    _layer_norm_triton,
    layer_norm,
)
from fedquad.kernels.reference.blocks import dequantize_blocks, quantize_blocks
from fedquad.kernels.reference.layer_norm import layer_norm_forward

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
EPS = torch.finfo(torch.float32).eps
FP32, BF16, FP16 = torch.float32, torch.bfloat16, torch.float16
ADDED = 1e-5  # to the variance


def draw(*shape, dtype=FP32, seed=0, spread=3.0, device=DEVICE):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=generator) * spread + 0.5).to(device, dtype)


def kept(total, **format_):
    """The sum as backward finds it: through blocks, in its own dtype."""
    matrix = torch.atleast_2d(total.detach()).flatten(0, -2)
    codes, scales = quantize_blocks(matrix, **format_)
    format_.pop("seed", None)
    values = dequantize_blocks(codes, scales, cols=total.shape[-1], dtype=total.dtype, **format_)
    return values.view(total.shape)


def assert_within(got, wanted, limit):
    """``limit`` of fp32 rounding, and an ulp of the dtype of ``got``."""
    own = torch.finfo(got.dtype)
    limit = limit + own.eps * wanted.abs() + own.smallest_normal * own.eps
    assert ((got.double() - wanted).abs() <= limit).all()


def one(weight, like):
    return torch.ones_like(like, dtype=torch.float64) if weight is None else weight.double()


def assert_forward(y, mean, rstd, total, weight, bias):
    z = total.double()
    true_mean = z.mean(-1, keepdim=True)
    true_rstd = (z.var(-1, correction=0, keepdim=True) + ADDED).rsqrt()
    largest = z.abs().amax(-1, keepdim=True)
    condition = true_rstd * largest
    assert_within(mean.view(true_mean.shape), true_mean, 8 * EPS * largest)
    assert_within(rstd.view(true_rstd.shape), true_rstd, 8 * EPS * true_rstd * (1 + condition))
    normal = (z - true_mean) * true_rstd
    w = one(weight, z[..., :1])
    b = 0.0 if bias is None else bias.double()
    limit = w.abs() * (1 + normal.abs()) * (1 + condition) + abs(b)
    assert_within(y, normal * w + b, 8 * EPS * limit)


def exact_backward(grad_y, z, mean, rstd, weight):
    """PyTorch's gradients at this z with these statistics, in fp64, and limits of rounding."""
    rows = (*z.shape[:-1], 1)
    grad_y, z = grad_y.double().contiguous(), z.double()
    mean, rstd = mean.double().view(rows), rstd.double().view(rows)
    vector = torch.zeros(z.shape[-1:], dtype=torch.float64, device=z.device)
    w = None if weight is None else weight.double()
    grads = torch.ops.aten.native_layer_norm_backward(
        grad_y, z, z.shape[-1:], mean, rstd, w, vector, [True, weight is not None, True]
    )
    size = (grad_y * one(weight, vector)).abs()
    normal = (z - mean) * rstd
    far = normal.abs() + rstd * (z.abs() + mean.abs()).amax(-1, keepdim=True)  # with its rounding
    average = size.mean(-1, keepdim=True)
    along = (size * far).mean(-1, keepdim=True)
    limit = 8 * EPS * rstd * (size + average + far * along)
    weight_limit = 32 * EPS * (grad_y.abs() * far).flatten(0, -2).sum(0)
    bias_limit = 32 * EPS * grad_y.abs().flatten(0, -2).sum(0)
    return grads, (limit, weight_limit, bias_limit)


# shape, block size, bits, seed, dtypes of x and residual, weight, bias, sum returned
CASES = [
    ((3, 37, 77), 32, 8, None, FP32, FP32, True, True, True),
    ((3, 37, 77), 32, 4, None, BF16, BF16, True, False, True),
    ((20, 530), 16, 8, 2**40 + 5, FP32, None, True, True, False),
    ((5, 33), 8, 4, 1, FP16, FP16, False, False, True),
    ((130, 128), 128, 8, None, BF16, FP32, True, True, True),
    ((64, 64), 64, 8, 7, FP16, None, True, True, False),
    ((2, 16, 300), 32, 8, None, BF16, None, False, True, False),
    ((2, 3, 2, 300), 32, 8, 0, FP32, BF16, True, False, False),
    ((2, 2), 32, 8, None, FP16, BF16, True, True, True),
]


@pytest.mark.parametrize(
    ("shape", "block_size", "bits", "seed", "x_dtype", "r_dtype", "weighted", "biased", "summed"),
    CASES,
)
def test_kernels_agree_with_pytorch_and_keep_the_reference_s_blocks(
    shape, block_size, bits, seed, x_dtype, r_dtype, weighted, biased, summed
):
    x = draw(*shape, dtype=x_dtype)
    residual = None if r_dtype is None else draw(*shape, dtype=r_dtype, seed=1)
    weight = draw(shape[-1], seed=2, spread=1.0) if weighted else None
    bias = draw(shape[-1], seed=3, spread=1.0) if biased else None
    total = x if residual is None else x + residual
    dtype = total.dtype
    arguments = (x, residual, weight, bias, ADDED, dtype, summed, bits, block_size, seed)
    y, got_sum, codes, scales, mean, rstd = _layer_norm_triton(*arguments)
    reference = layer_norm_forward(*arguments)
    # The sum is rounded once, in either way, so that its blocks have the same bits.
    assert torch.equal(codes, reference[2])
    assert torch.equal(scales, reference[3])
    assert got_sum.dtype == dtype
    assert torch.equal(got_sum, total) if summed else got_sum.numel() == 0
    assert (y.dtype, y.shape) == (dtype, x.shape)
    assert_forward(y, mean, rstd, total, weight, bias)

    grad_y = draw(*shape, dtype=dtype, seed=4)
    grad_sum = draw(*shape, dtype=dtype, seed=5) if summed else None
    saved = (codes, scales, mean, rstd, weight)
    for needs_weight, needs_bias in ((weighted, biased), (False, False)):
        needs = (needs_weight, needs_bias)
        grad, grad_weight, grad_bias = _layer_norm_backward_triton(
            grad_y, grad_sum, *saved, dtype, *needs, bits, block_size
        )
        z = kept(total, bits=bits, block_size=block_size, seed=seed)
        wanted, limits = exact_backward(grad_y, z, mean, rstd, weight)
        arrived = 0.0 if grad_sum is None else grad_sum.double()
        limit = limits[0] + (0.0 if grad_sum is None else EPS * arrived.abs())
        assert (grad.dtype, grad.shape) == (dtype, x.shape)
        assert_within(grad, wanted[0] + arrived, limit)
        if needs_weight:
            assert_within(grad_weight, wanted[1], limits[1])
        if needs_bias:
            assert_within(grad_bias, wanted[2], limits[2])
        assert grad_weight.shape == (shape[-1] if needs_weight else 0,)
        assert grad_bias.shape == (shape[-1] if needs_bias else 0,)


def test_y_of_another_dtype_than_the_sum():
    x, weight = draw(40, 70, dtype=BF16), draw(70, seed=2)
    y, _, codes, scales, mean, rstd = _layer_norm_triton(
        x, None, weight, None, ADDED, FP32, False, 8, 32, None
    )
    assert y.dtype == FP32
    assert_forward(y, mean, rstd, x, weight, None)
    grad_y = draw(40, 70, seed=4)
    saved = (codes, scales, mean, rstd, weight)
    grad, *_ = _layer_norm_backward_triton(grad_y, None, *saved, BF16, False, False, 8, 32)
    assert grad.dtype == BF16
    wanted, limits = exact_backward(grad_y, kept(x), mean, rstd, weight)
    assert_within(grad, wanted[0], limits[0])


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, in the interpreter
def test_rows_far_from_zero_constant_large_and_not_finite():
    x = draw(100, 300)
    x[0] = 0
    x[1] = 5
    x[2] += 1e4
    x[3] *= 1e15
    x[40, 7], x[41, 290] = float("nan"), float("inf")
    weight, bias = draw(300, seed=2), draw(300, seed=3)
    y, _, codes, scales, mean, rstd = _layer_norm_triton(
        x, None, weight, bias, ADDED, FP32, False, 8, 32, None
    )
    sound = torch.tensor([row for row in range(100) if row not in (40, 41)], device=DEVICE)
    assert_forward(y[sound], mean[sound], rstd[sound], x[sound], weight, bias)
    assert y[40:42].isnan().all()
    assert torch.equal(y[0], bias)
    broken = torch.zeros_like(scales, dtype=torch.bool)
    broken[1, 0] = broken[1, 9] = True
    assert torch.equal(scales.isnan(), broken)

    saved = (codes, scales, mean, rstd, weight)
    grad, *_ = _layer_norm_backward_triton(x * 0 + 1, None, *saved, FP32, False, False, 8, 32)
    assert grad[32:64].isnan().all()
    assert grad[:32].isfinite().all()
    assert grad[64:].isfinite().all()


def test_views_with_other_strides_and_an_expanded_gradient():
    x, residual = draw(48, 40).t(), draw(48, 40, seed=1).t()
    weight, bias = draw(96, seed=2)[::2], draw(1, seed=3).expand(48)
    y, total, codes, scales, mean, rstd = _layer_norm_triton(
        x, residual, weight, bias, ADDED, FP32, True, 8, 32, None
    )
    assert y.is_contiguous()
    assert torch.equal(total, x + residual)
    assert_forward(y, mean, rstd, total, weight, bias)
    grad_y = draw(40, 1, seed=4).expand(40, 48)
    saved = (codes, scales, mean, rstd, weight)
    got = _layer_norm_backward_triton(grad_y, grad_y, *saved, FP32, True, True, 8, 32)
    wanted, limits = exact_backward(grad_y, kept(total), mean, rstd, weight)
    assert_within(got[0], wanted[0] + grad_y, limits[0] + EPS * grad_y.abs())
    assert_within(got[1], wanted[1], limits[1])
    assert_within(got[2], wanted[2], limits[2])


def test_empty_tensors():
    for shape in ((0, 8), (4, 0), (0,)):
        x = torch.empty(shape, device=DEVICE, requires_grad=True)
        weight = torch.ones(shape[-1:], device=DEVICE, requires_grad=True)
        arguments = (x.detach(), None, weight.detach(), None, ADDED, FP32, False, 4, 32, None)
        y, _, *saved = _layer_norm_triton(*arguments)
        assert y.shape == x.shape
        got = _layer_norm_backward_triton(y, None, *saved, weight, FP32, True, False, 4, 32)
        assert (got[0].shape, got[1].tolist()) == (x.shape, [0.0] * shape[-1])
        layer_norm(x, weight, None, ADDED).sum().backward()
        assert x.grad.shape == x.shape
        assert weight.grad.tolist() == [0.0] * shape[-1]


def through_blocks(x, **format_):
    """Hooks that keep as blocks what autograd saves of the size of x."""

    def pack(tensor):
        return kept(tensor, **format_) if tensor.shape == x.shape else tensor

    return torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize(("bits", "seed"), [(8, None), (4, None), (8, 3)])
def test_gradients_are_those_of_pytorch_with_what_it_saves_put_through_blocks(
    bits, seed, with_bias, frozen
):
    x = draw(3, 37, 77, device="cpu").requires_grad_()
    residual = draw(3, 37, 77, seed=1, device="cpu").requires_grad_()
    weight = draw(77, seed=2, device="cpu").requires_grad_(not frozen)
    bias = draw(77, seed=3, device="cpu").requires_grad_(not frozen) if with_bias else None
    grads_out = (draw(3, 37, 77, seed=4, device="cpu"), draw(3, 37, 77, seed=5, device="cpu"))
    outputs = layer_norm(
        x, weight, bias, ADDED, residual=residual, return_sum=True, bits=bits, seed=seed
    )
    with through_blocks(x, bits=bits, block_size=32, seed=seed):
        total = x + residual
        y = torch.nn.functional.layer_norm(total, (77,), weight, bias, ADDED)
    assert torch.equal(outputs[0], y)
    assert torch.equal(outputs[1], total)
    inputs = [t for t in (x, residual, weight, bias) if t is not None and t.requires_grad]
    got = torch.autograd.grad(outputs, inputs, grads_out)
    for mine, theirs in zip(got, torch.autograd.grad((y, total), inputs, grads_out), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("used", ["y", "sum"])
def test_either_output_may_go_unused(used):
    x, residual = draw(40, 70).requires_grad_(), draw(40, 70, seed=1).requires_grad_()
    weight, grad_out = draw(70, seed=2).requires_grad_(), draw(40, 70, seed=4)
    y, total = layer_norm(x, weight, None, ADDED, residual=residual, return_sum=True)
    if used == "sum":
        total.backward(grad_out)
        assert torch.equal(x.grad, grad_out)
        assert weight.grad is None or not weight.grad.any()
    else:
        y.backward(grad_out)
        alone = layer_norm((x + residual).detach().requires_grad_(), weight.detach(), None, ADDED)
        (expected,) = torch.autograd.grad(
            alone, alone.grad_fn.next_functions[0][0].variable, grad_out
        )
        assert torch.equal(x.grad, expected)
    assert torch.equal(residual.grad, x.grad)


def test_without_a_residual_the_sum_is_x_itself():
    x, weight = draw(40, 70).requires_grad_(), draw(70, seed=2)
    y, total = layer_norm(x, weight, None, ADDED, return_sum=True)
    assert total is x
    (grad,) = torch.autograd.grad((y, total), x, (torch.zeros_like(y), torch.ones_like(y)))
    assert torch.equal(grad, torch.ones_like(x))


def test_gradients_come_in_the_dtype_of_each_input():
    x, residual = draw(40, 70, dtype=BF16).requires_grad_(), draw(40, 70, seed=1).requires_grad_()
    weight, bias = draw(70, seed=2).requires_grad_(), draw(70, seed=3, dtype=BF16).requires_grad_()
    y, total = layer_norm(x, weight, bias, ADDED, residual=residual, return_sum=True)
    assert y.dtype == total.dtype == FP32
    (y.sum() + total.sum()).backward()
    assert [t.grad.dtype for t in (x, residual, weight, bias)] == [BF16, FP32, FP32, BF16]
    assert torch.equal(x.grad, residual.grad.to(BF16))


@pytest.mark.parametrize("seed", [None, 11])
@pytest.mark.parametrize("bits", [8, 4])
def test_gradient_is_within_the_quantization_step_of_the_true_one(bits, seed):
    x, grad_y, weight = draw(64, 96).requires_grad_(), draw(64, 96, seed=4), draw(96, seed=2)
    (grad,) = torch.autograd.grad(
        layer_norm(x, weight, None, ADDED, bits=bits, seed=seed), x, grad_y
    )
    _, scales = quantize_blocks(x.detach(), bits=bits)
    step = scales.repeat_interleave(32, 0).repeat_interleave(32, 1).double()
    z, g = x.detach().double(), grad_y.double() * weight.double()
    rstd = (z.var(-1, correction=0, keepdim=True) + ADDED).rsqrt()
    normal = (z - z.mean(-1, keepdim=True)) * rstd
    along = (g * normal).mean(-1, keepdim=True)
    true = rstd * (g - g.mean(-1, keepdim=True) - normal * along)
    # The statistics are exact: what they normalise moves, and with it the mean of the products.
    moved = step * rstd * (0.5 if seed is None else 1.0)
    along_moved = (g.abs() * moved).mean(-1, keepdim=True)
    limit = rstd * (moved * along.abs() + (normal.abs() + moved) * along_moved)
    assert ((grad - true).abs() <= limit + 256 * EPS).all()
    assert not torch.equal(grad, true.float())


def test_only_codes_scales_and_statistics_are_kept():
    x, residual = draw(64, 96, dtype=BF16).requires_grad_(), draw(64, 96, dtype=BF16, seed=1)
    weight = draw(96, seed=2)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        y, total = layer_norm(x, weight, None, ADDED, residual=residual, return_sum=True)
    kept_bytes = sum(tensor.nbytes for tensor in saved if tensor is not weight)
    assert kept_bytes == 64 * 96 + 4 * 2 * 3 + 2 * 4 * 64
    assert y.requires_grad
    assert total.requires_grad


def test_where_no_gradient_is_needed_pytorch_s_own_runs():
    x, residual, weight = draw(64, 96), draw(64, 96, seed=1), draw(96, seed=2)
    y, total = layer_norm(x, weight, None, ADDED, residual=residual, return_sum=True)
    assert torch.equal(total, x + residual)
    assert torch.equal(y, torch.nn.functional.layer_norm(total, (96,), weight, None, ADDED))
    with torch.no_grad():
        assert not layer_norm(x.clone().requires_grad_(), weight, None, ADDED).requires_grad


def test_noise_comes_from_the_seed_alone():
    x, weight, grad_y = draw(64, 96).requires_grad_(), draw(96, seed=2), draw(64, 96, seed=4)

    def grad(seed):
        y = layer_norm(x, weight, None, ADDED, bits=4, seed=seed)
        return torch.autograd.grad(y, x, grad_y)[0]

    assert torch.equal(grad(1), grad(1))
    assert not torch.equal(grad(1), grad(2))


@pytest.mark.parametrize("bits", [8, 4])
def test_operations_hold_what_torch_library_asks_of_them(bits):
    x, residual = (draw(5, 33, seed=s, device="cpu").requires_grad_() for s in (0, 1))
    weight, bias = (draw(33, seed=s, device="cpu").requires_grad_() for s in (2, 3))
    arguments = (x, residual, weight, bias, ADDED, FP32, True, bits, 32, 9)
    operation = torch.ops.fedquad.layer_norm.default
    torch.library.opcheck(operation, arguments)
    arguments = (x.detach(), None, weight, None, ADDED, FP32, False, bits, 32, None)
    torch.library.opcheck(operation, arguments, test_utils=("test_schema", "test_faketensor"))
    y, _, *saved = (t.detach() for t in operation(*arguments))
    operation = torch.ops.fedquad.layer_norm_backward.default
    for needs, grad_sum in (((True, True), y), ((False, False), None)):
        arguments = (y, grad_sum, *saved, weight.detach(), FP32, *needs, bits, 32)
        torch.library.opcheck(operation, arguments, test_utils=("test_schema", "test_faketensor"))


def test_fake_tensors_have_the_real_ones_shapes():
    with FakeTensorMode():
        x = torch.empty(2, 5, 33, device="cuda", dtype=BF16)
        residual, weight = torch.empty(2, 5, 33, device="cuda"), torch.empty(33, device="cuda")
        y, total, codes, scales, mean, rstd = torch.ops.fedquad.layer_norm(
            x, residual, weight, None, ADDED, BF16, True, 4, 16, None
        )
        assert (y.shape, y.dtype, y.device.type) == (x.shape, BF16, "cuda")
        assert (total.shape, total.dtype) == (x.shape, FP32)
        assert (codes.shape, codes.dtype) == ((10, 17), torch.uint8)
        assert scales.shape == (1, 3)
        assert mean.shape == rstd.shape == (10,)
        x = torch.empty(2, 5, 33, dtype=BF16, requires_grad=True)
        weight = torch.empty(33, requires_grad=True)
        layer_norm(x, weight, None, ADDED, bits=4).sum().backward()
        assert (x.grad.shape, x.grad.dtype) == (x.shape, BF16)
        assert (weight.grad.shape, weight.grad.dtype) == ((33,), FP32)


@pytest.mark.parametrize("frozen", [True, False])
def test_compiles_in_one_graph(frozen):
    x = draw(5, 33, device="cpu").requires_grad_()
    weight = draw(33, seed=2, device="cpu").requires_grad_(not frozen)
    grad_y = draw(5, 33, seed=4, device="cpu")
    inputs = (x,) if frozen else (x, weight)

    def run(x, weight):
        y, total = layer_norm(x * 2, weight, None, ADDED, residual=x, return_sum=True, seed=4)
        return (y * grad_y + total).sum()

    expected = run(x, weight)
    expected_grads = torch.autograd.grad(expected, inputs)
    y = torch.compile(run, backend="aot_eager", fullgraph=True)(x, weight)
    assert torch.equal(y, expected)
    for got, wanted in zip(torch.autograd.grad(y, inputs), expected_grads, strict=True):
        assert torch.equal(got, wanted)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"block_size": 48}, "block_size = 48 cannot be used: expected 8, 16, 32, 64 or 128"),
        ({"residual": torch.zeros(2, 4)}, r"residual of shape \(2, 4\) cannot be used"),
        ({"weight": torch.zeros(3)}, r"weight of shape \(3,\) cannot be used: expected \(4,\)"),
        ({"bias": torch.zeros(4, 4)}, r"bias of shape \(4, 4\) cannot be used: expected \(4,\)"),
        (
            {"residual": torch.zeros(4, 4).double()},
            "float64 cannot be used: expected torch.float32",
        ),
    ],
)
def test_bad_arguments(wrong, message):
    arguments = {"weight": torch.ones(4), "bias": None, "eps": ADDED} | wrong
    with pytest.raises(ValueError, match=message):
        layer_norm(torch.zeros(4, 4, requires_grad=True), **arguments)
