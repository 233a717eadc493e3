"""GELU on blocks. Tolerances follow from fp32 rounding and the quantization step.

Forward: y = x * gate, 0 <= gate <= 1. erf, and the logistic function, are good to 2 ulps of their
largest value, 1, so that y is good to a few ulps of x (not of y, which is far smaller than x in the
left tail), and in half precision to one ulp of y. The same for the gradient, with grad_y for x.
"""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from fedquad.kernels.gelu import _gelu_backward_triton, _gelu_triton, gelu
from fedquad.kernels.reference.blocks import dequantize_blocks, quantize_blocks
from fedquad.kernels.reference.gelu import gelu_backward, gelu_forward

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
EPS = torch.finfo(torch.float32).eps
FORMS = ("none", "tanh")


def draw(*shape, dtype=torch.float32, seed=0, spread=3.0, device=DEVICE):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=generator) * spread).to(device, dtype)


def kept(x, **format_):
    """x as backward finds it: through blocks, in its own dtype."""
    matrix = torch.atleast_2d(x.detach()).flatten(0, -2)
    codes, scales = quantize_blocks(matrix, **format_)
    format_.pop("seed", None)
    values = dequantize_blocks(codes, scales, cols=x.shape[-1], dtype=x.dtype, **format_)
    return values.view(x.shape)


def exact(x, grad_y, form):
    """GELU and its gradient in fp64."""
    x = x.double().requires_grad_()
    y = torch.nn.functional.gelu(x, approximate=form)
    return y.detach(), torch.autograd.grad(y, x, grad_y.double())[0]


def assert_close(got, wanted, unit):
    """``got`` within 8 fp32 ulps of ``unit``, and an ulp of its own dtype, of fp64 ``wanted``."""
    own = torch.finfo(got.dtype)
    limit = 8 * EPS * unit.double().abs() + own.eps * wanted.abs() + own.smallest_normal * own.eps
    assert ((got.double() - wanted).abs() <= limit).all()


CASES = [
    ((3, 37, 77), 32, 8, None),
    ((3, 37, 77), 32, 4, None),
    ((50, 130), 16, 8, 2**40 + 5),
    ((5, 33), 8, 4, 1),
    ((130, 128), 128, 8, None),
    ((64, 64), 64, 8, 7),
    ((1,), 32, 4, None),
    ((2, 300), 32, 8, 0),
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "block_size", "bits", "seed"), CASES)
def test_kernels_agree_with_pytorch_and_keep_the_reference_s_blocks(
    shape, block_size, bits, seed, dtype, form
):
    x, grad_y = draw(*shape, dtype=dtype), draw(*shape, dtype=dtype, seed=1)
    y, codes, scales = _gelu_triton(x, form, bits, block_size, seed)
    _, wanted_codes, wanted_scales = gelu_forward(x, form, bits, block_size, seed)
    assert torch.equal(codes, wanted_codes)
    assert torch.equal(scales, wanted_scales)
    assert (y.dtype, y.shape) == (dtype, x.shape)
    assert_close(y, exact(x, grad_y, form)[0], unit=x)

    grad = _gelu_backward_triton(grad_y, codes, scales, form, bits, block_size)
    assert (grad.dtype, grad.shape) == (dtype, x.shape)
    x_kept = kept(x, bits=bits, block_size=block_size, seed=seed)
    assert_close(grad, exact(x_kept, grad_y, form)[1], unit=grad_y)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, in the interpreter
def test_nan_infinity_zero_and_large_values(form):
    x = draw(70, 96)
    x[2, 5], x[40, 40], x[41, 70] = float("nan"), float("inf"), float("-inf")
    x[:32, 32:64] = 0
    x[32:64, :32] *= 1e18
    y, codes, scales = _gelu_triton(x, form, 8, 32, None)
    # In fp64: PyTorch's vectors of fp32 on a CPU make NaN of the infinity, its scalars do not.
    expected = torch.nn.functional.gelu(x.double(), approximate=form).float()
    torch.testing.assert_close(y, expected, equal_nan=True, rtol=8 * EPS, atol=32 * EPS)
    broken = torch.zeros(3, 3, dtype=torch.bool, device=DEVICE)
    broken[0, 0] = broken[1, 1] = broken[1, 2] = True
    assert torch.equal(scales.isnan(), broken)
    assert scales[0, 1] == 0

    grad = _gelu_backward_triton(torch.ones_like(x), codes, scales, form, 8, 32)
    spread = broken.repeat_interleave(32, 0)[:70].repeat_interleave(32, 1)
    assert torch.equal(grad.isnan(), spread)
    assert (grad[:32, 32:64] == 0.5).all()
    reference = gelu_backward(torch.ones_like(x), codes, scales, form, 8, 32)
    torch.testing.assert_close(grad, reference, equal_nan=True, rtol=0, atol=64 * EPS)


def test_a_view_with_other_strides_and_an_expanded_gradient():
    x = draw(48, 40).t()
    y, codes, scales = _gelu_triton(x, "none", 8, 32, None)
    assert y.is_contiguous()
    assert torch.equal(codes, quantize_blocks(x)[0])
    grad_y = torch.ones((), device=DEVICE).expand(x.shape)
    grad = _gelu_backward_triton(grad_y, codes, scales, "none", 8, 32)
    assert_close(grad, exact(kept(x), grad_y, "none")[1], unit=grad_y)


def test_empty_tensors():
    for shape in ((0, 8), (4, 0), (0,)):
        x = torch.empty(shape, device=DEVICE, requires_grad=True)
        y, codes, scales = _gelu_triton(x.detach(), "none", 4, 32, None)
        assert y.shape == x.shape
        assert _gelu_backward_triton(y, codes, scales, "none", 4, 32).shape == x.shape
        gelu(x).sum().backward()
        assert x.grad.shape == x.shape


def through_blocks(**format_):
    """Hooks that keep what autograd saves as blocks."""
    return torch.autograd.graph.saved_tensors_hooks(lambda x: kept(x, **format_), lambda x: x)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("bits", "seed"), [(8, None), (4, None), (8, 3)])
def test_gradient_is_that_of_pytorch_with_what_it_saves_put_through_blocks(dtype, bits, seed, form):
    x = draw(3, 37, 77, dtype=dtype, device="cpu").requires_grad_()
    grad_y = draw(3, 37, 77, dtype=dtype, seed=1, device="cpu")
    y = gelu(x, approximate=form, bits=bits, seed=seed)
    with through_blocks(bits=bits, block_size=32, seed=seed):
        expected = torch.nn.functional.gelu(x, approximate=form)
    assert torch.equal(y, expected)
    (grad,) = torch.autograd.grad(y, x, grad_y)
    assert torch.equal(grad, torch.autograd.grad(expected, x, grad_y)[0])


@pytest.mark.parametrize("seed", [None, 11])
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("form", FORMS)
def test_gradient_is_within_the_quantization_step_of_the_true_one(form, bits, seed):
    x = draw(64, 96).requires_grad_()
    (grad,) = torch.autograd.grad(gelu(x, approximate=form, bits=bits, seed=seed).sum(), x)
    _, scales = quantize_blocks(x.detach(), bits=bits)
    step = scales.repeat_interleave(32, 0).repeat_interleave(32, 1)
    moved = step * (0.5 if seed is None else 1.0)
    # |GELU''| is largest at 0: 2 * phi(0) = 0.798 in both forms.
    true = exact(x.detach(), torch.ones_like(x), form)[1]
    assert ((grad - true).abs() <= 0.7979 * moved + 32 * EPS).all()
    assert not torch.equal(grad, true.float())


def test_only_codes_and_scales_are_kept():
    x = draw(64, 96, dtype=torch.bfloat16).requires_grad_()
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        y = gelu(x)
    assert sum(tensor.nbytes for tensor in saved) == 64 * 96 + 4 * 2 * 3
    assert y.requires_grad


def test_where_no_gradient_is_needed_pytorch_s_own_runs():
    x = draw(64, 96)
    assert torch.equal(gelu(x, approximate="tanh"), torch.nn.functional.gelu(x, approximate="tanh"))
    with torch.no_grad():
        assert not gelu(x.clone().requires_grad_()).requires_grad


def test_noise_comes_from_the_seed_alone():
    x = draw(64, 96).requires_grad_()

    def grad(seed):
        return torch.autograd.grad(gelu(x, bits=4, seed=seed).sum(), x)[0]

    assert torch.equal(grad(1), grad(1))
    assert not torch.equal(grad(1), grad(2))


@pytest.mark.parametrize("bits", [8, 4])
def test_operations_hold_what_torch_library_asks_of_them(bits):
    x = draw(5, 33, device="cpu").requires_grad_()
    torch.library.opcheck(torch.ops.fedquad.gelu.default, (x, "none", bits, 32, 9))
    _, codes, scales = gelu_forward(x.detach(), "none", bits, 32, None)
    arguments = (x.detach(), codes, scales, "tanh", bits, 32)
    torch.library.opcheck(torch.ops.fedquad.gelu_backward.default, arguments)


def test_fake_tensors_have_the_real_ones_shapes():
    with FakeTensorMode():
        x = torch.empty(2, 5, 33, device="cuda", dtype=torch.bfloat16)
        y, codes, scales = torch.ops.fedquad.gelu(x, "none", 4, 16, None)
        assert (y.shape, y.dtype, y.device.type) == (x.shape, x.dtype, "cuda")
        assert (codes.shape, codes.dtype) == ((10, 17), torch.uint8)
        assert (scales.shape, scales.dtype) == ((1, 3), torch.float32)
        x = torch.empty(2, 5, 33, dtype=torch.bfloat16, requires_grad=True)
        gelu(x, bits=4).sum().backward()
        assert (x.grad.shape, x.grad.dtype) == (x.shape, x.dtype)


def test_compiles_in_one_graph():
    x = draw(5, 33, device="cpu").requires_grad_()

    def run(x):
        return gelu(x * 2, approximate="tanh", seed=4).sum()

    expected = run(x)
    (expected_grad,) = torch.autograd.grad(expected, x)
    y = torch.compile(run, backend="aot_eager", fullgraph=True)(x)
    assert torch.equal(y, expected)
    assert torch.equal(torch.autograd.grad(y, x)[0], expected_grad)


@pytest.mark.parametrize(
    "wrong",
    [
        {"approximate": "erf"},
        {"bits": 7},
        {"block_size": 24},
        {"block_size": 256},
        {"seed": -1},
        {"seed": 2**63},
    ],
)
def test_bad_options(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} = .* cannot be used: expected"):
        gelu(draw(4, 4).requires_grad_(), **wrong)


def test_bad_dtype():
    with pytest.raises(ValueError, match=r"float64 cannot be used: expected torch.float32"):
        gelu(draw(4, 4, dtype=torch.float64).requires_grad_())
