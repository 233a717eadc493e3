"""Softmax on unsigned blocks. Tolerances follow from fp32 rounding and the quantization step.

Forward: rounding score - max moves p by |score - max| ulps at most, and a GPU's exp, made of exp2,
by as much again; sums in fp32 add a few. In half precision an ulp of p comes on top.
"""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from fedquad.kernels.reference.blocks import dequantize_blocks, quantize_blocks
from fedquad.kernels.reference.softmax import softmax_backward, softmax_forward
from fedquad.kernels.row_tiles import autocast_to_fp32
from fedquad.kernels.softmax import _softmax_backward_triton, _softmax_triton, softmax

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
EPS = torch.finfo(torch.float32).eps


def draw(*shape, dtype=torch.float32, seed=0, spread=3.0, device=DEVICE):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=generator) * spread).to(device, dtype)


def values(codes, scales, like, **format_):
    """p as backward finds it: from its blocks, in its own dtype."""
    cols = like.shape[-1]
    p = dequantize_blocks(codes, scales, cols=cols, signed=False, dtype=like.dtype, **format_)
    return p.view(like.shape)


def code_values(codes, scales, cols, bits, block_size):
    """The codes themselves, whether packed or not."""
    ones = torch.ones_like(scales)
    return dequantize_blocks(codes, ones, cols=cols, bits=bits, block_size=block_size, signed=False)


def exact_grad(p, grad_p):
    """PyTorch's gradient for the scores at this p, in fp64."""
    p, grad_p = p.double(), grad_p.double()
    return torch.ops.aten._softmax_backward_data(grad_p, p, -1, torch.float64)


def assert_within(got, wanted, limit):
    """``limit`` of fp32 rounding, and an ulp of the dtype of ``got``."""
    own = torch.finfo(got.dtype)
    limit = limit + own.eps * wanted.abs() + own.smallest_normal * own.eps
    assert ((got.double() - wanted).abs() <= limit).all()


def grad_rounding(p, grad_p):
    p, grad_p = p.double(), grad_p.double().abs()
    return 16 * EPS * p * (grad_p + (p * grad_p).sum(-1, keepdim=True))


CASES = [
    ((3, 37, 77), 32, 8, None),
    ((3, 37, 77), 32, 4, None),
    ((20, 530), 16, 8, 2**40 + 5),
    ((5, 33), 8, 4, 1),
    ((130, 128), 128, 8, None),
    ((64, 64), 64, 8, 7),
    ((1,), 32, 4, None),
    ((2, 3, 2, 300), 32, 8, 0),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "block_size", "bits", "seed"), CASES)
def test_kernels_agree_with_pytorch_and_the_reference(shape, block_size, bits, seed, dtype):
    scores, grad_p = draw(*shape, dtype=dtype), draw(*shape, dtype=dtype, seed=1)
    p, codes, scales = _softmax_triton(scores, dtype, bits, block_size, seed)
    reference = softmax_forward(scores, dtype, bits, block_size, seed)
    assert (p.dtype, p.shape) == (dtype, scores.shape)
    wide = scores.double()
    below = wide.amax(-1, keepdim=True) - wide
    wanted = torch.softmax(wide, -1)
    assert_within(p, wanted, (2 * below + 16) * EPS * wanted)

    # The same bits of p give the same blocks; what little p differs moves a code by one at most.
    matrix = torch.atleast_2d(p).flatten(0, -2)
    format_ = {"bits": bits, "block_size": block_size}
    again = quantize_blocks(matrix, signed=False, seed=seed, **format_)
    assert torch.equal(codes, again[0])
    assert torch.equal(scales, again[1])
    here, there = (
        code_values(c, s, shape[-1], bits, block_size) for c, s in ((codes, scales), reference[1:])
    )
    assert ((here - there).abs() <= 1).all()

    grad = _softmax_backward_triton(grad_p, codes, scales, dtype, bits, block_size)
    assert (grad.dtype, grad.shape) == (dtype, scores.shape)
    kept = values(codes, scales, p, **format_)
    assert_within(grad, exact_grad(kept, grad_p), grad_rounding(kept, grad_p))


def test_p_of_another_dtype_than_the_scores():
    given, wanted = torch.bfloat16, torch.float32
    scores, grad_p = draw(40, 70, dtype=given), draw(40, 70, dtype=wanted, seed=1)
    p, codes, scales = _softmax_triton(scores, wanted, 8, 32, None)
    reference, *_ = softmax_forward(scores, wanted, 8, 32, None)
    assert p.dtype == reference.dtype == wanted
    torch.testing.assert_close(p, reference, rtol=64 * EPS, atol=0)
    grad = _softmax_backward_triton(grad_p, codes, scales, given, 8, 32)
    assert grad.dtype == softmax_backward(grad_p, codes, scales, given, 8, 32).dtype == given
    kept = values(codes, scales, p)
    assert_within(grad, exact_grad(kept, grad_p), grad_rounding(kept, grad_p))


@pytest.mark.parametrize("cols", [70, 600])  # one tile, and several
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, in the interpreter
def test_masked_rows_and_values_that_are_not_finite(cols):
    inf = float("inf")
    scores = draw(100, cols)
    scores[0, 1:] = -inf  # one element left
    scores[1, : cols - 3] = -inf  # whole tiles masked before those that are not
    scores[2, 5:] = torch.finfo(torch.float32).min
    scores[3] = 0
    scores[4] *= 1e37
    scores[40] = -inf
    scores[41, 3] = inf
    scores[42, 64] = float("nan")
    p, codes, scales = _softmax_triton(scores, torch.float32, 8, 32, None)
    expected = torch.softmax(scores.double(), -1).float()
    # Of scores around 1e37 only the largest counts: nothing is left between rounded and exact.
    torch.testing.assert_close(p, expected, equal_nan=True, rtol=64 * EPS, atol=1e-37)
    broken = torch.zeros_like(scales, dtype=torch.bool)
    broken[1] = True
    assert torch.equal(scales.isnan(), broken)

    grad_p = draw(100, cols, seed=1)
    grad = _softmax_backward_triton(grad_p, codes, scales, torch.float32, 8, 32)
    assert grad[32:64].isnan().all()
    kept = values(codes, scales, p)
    sound = torch.cat([torch.arange(32), torch.arange(64, 100)]).to(DEVICE)
    rounding = grad_rounding(kept, grad_p)[sound]
    assert_within(grad[sound], exact_grad(kept, grad_p)[sound], rounding)
    assert (grad[0] == 0).all()


def test_a_view_with_other_strides_and_an_expanded_gradient():
    scores = draw(48, 40).t()
    p, codes, scales = _softmax_triton(scores, torch.float32, 8, 32, None)
    assert p.is_contiguous()
    torch.testing.assert_close(p, torch.softmax(scores, -1), rtol=64 * EPS, atol=0)
    grad_p = draw(40, 1, seed=1).expand(40, 48)
    grad = _softmax_backward_triton(grad_p, codes, scales, torch.float32, 8, 32)
    kept = values(codes, scales, p)
    assert_within(grad, exact_grad(kept, grad_p), grad_rounding(kept, grad_p))


def test_empty_tensors():
    for shape in ((0, 8), (4, 0), (0,)):
        x = torch.empty(shape, device=DEVICE, requires_grad=True)
        p, codes, scales = _softmax_triton(x.detach(), torch.float32, 4, 32, None)
        assert p.shape == x.shape
        grad = _softmax_backward_triton(p, codes, scales, torch.float32, 4, 32)
        assert grad.shape == x.shape
        softmax(x).sum().backward()
        assert x.grad.shape == x.shape


def through_blocks(**format_):
    """Hooks that keep what autograd saves as unsigned blocks."""

    def pack(p):
        codes, scales = quantize_blocks(p.flatten(0, -2), signed=False, **format_)
        return values(codes, scales, p, bits=format_["bits"])

    return torch.autograd.graph.saved_tensors_hooks(pack, lambda p: p)


@pytest.mark.parametrize(("bits", "seed"), [(8, None), (4, None), (8, 3)])
def test_gradient_is_that_of_pytorch_with_what_it_saves_put_through_blocks(bits, seed):
    scores = draw(3, 37, 77, device="cpu").requires_grad_()
    grad_p = draw(3, 37, 77, seed=1, device="cpu")
    p = softmax(scores, bits=bits, seed=seed)
    with through_blocks(bits=bits, seed=seed):
        expected = torch.softmax(scores, -1)
    assert torch.equal(p, expected)
    (grad,) = torch.autograd.grad(p, scores, grad_p)
    assert torch.equal(grad, torch.autograd.grad(expected, scores, grad_p)[0])


@pytest.mark.parametrize("seed", [None, 11])
@pytest.mark.parametrize("bits", [8, 4])
def test_gradient_is_within_the_quantization_step_of_the_true_one(bits, seed):
    scores, grad_p = draw(64, 96).requires_grad_(), draw(64, 96, seed=1)
    p = softmax(scores, bits=bits, seed=seed)
    (grad,) = torch.autograd.grad(p, scores, grad_p)
    p = torch.softmax(scores.detach().double(), -1)
    _, scales = quantize_blocks(p.float(), bits=bits, signed=False)
    step = scales.repeat_interleave(32, 0).repeat_interleave(32, 1)
    moved = step.double() * (0.5 if seed is None else 1.0)
    # grad = p * (grad_p - common), common = sum(p * grad_p): first p moves, then the sum.
    common = (p * grad_p).sum(-1, keepdim=True)
    common_moved = (moved * grad_p.abs()).sum(-1, keepdim=True)
    limit = moved * (grad_p - common).abs() + (p + moved) * common_moved
    true = exact_grad(p, grad_p)
    assert ((grad - true).abs() <= limit + 64 * EPS).all()
    assert not torch.equal(grad, true.float())


def test_only_codes_and_scales_are_kept():
    scores = draw(64, 96, dtype=torch.bfloat16).requires_grad_()
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        p = softmax(scores)
    assert sum(tensor.nbytes for tensor in saved) == 64 * 96 + 4 * 2 * 3
    assert p.requires_grad


def test_where_no_gradient_is_needed_pytorch_s_own_runs():
    scores = draw(64, 96)
    assert torch.equal(softmax(scores), torch.softmax(scores, -1))
    with torch.no_grad():
        assert not softmax(scores.clone().requires_grad_()).requires_grad


def test_autocast_gives_fp32_on_cuda_as_pytorch_does():
    with FakeTensorMode():
        scores = torch.empty(4, 8, device="cuda", dtype=torch.bfloat16)
        assert not autocast_to_fp32(scores)
        torch.set_autocast_enabled("cuda", True)
        try:
            assert autocast_to_fp32(scores)
            assert not autocast_to_fp32(torch.empty(4, 8))
        finally:
            torch.set_autocast_enabled("cuda", False)


def test_noise_comes_from_the_seed_alone():
    scores, grad_p = draw(64, 96).requires_grad_(), draw(64, 96, seed=1)

    def grad(seed):
        return torch.autograd.grad(softmax(scores, bits=4, seed=seed), scores, grad_p)[0]

    assert torch.equal(grad(1), grad(1))
    assert not torch.equal(grad(1), grad(2))


@pytest.mark.parametrize("bits", [8, 4])
def test_operations_hold_what_torch_library_asks_of_them(bits):
    scores = draw(5, 33, device="cpu").requires_grad_()
    arguments = (scores, torch.float32, bits, 32, 9)
    torch.library.opcheck(torch.ops.fedquad.softmax.default, arguments)
    _, codes, scales = softmax_forward(scores.detach(), torch.float32, bits, 32, None)
    arguments = (scores.detach(), codes, scales, torch.float32, bits, 32)
    torch.library.opcheck(torch.ops.fedquad.softmax_backward.default, arguments)


def test_fake_tensors_have_the_real_ones_shapes():
    with FakeTensorMode():
        scores = torch.empty(2, 5, 33, device="cuda", dtype=torch.bfloat16)
        p, codes, scales = torch.ops.fedquad.softmax(scores, torch.float32, 4, 16, None)
        assert (p.shape, p.dtype, p.device.type) == (scores.shape, torch.float32, "cuda")
        assert (codes.shape, codes.dtype) == ((10, 17), torch.uint8)
        assert (scales.shape, scales.dtype) == ((1, 3), torch.float32)
        scores = torch.empty(2, 5, 33, dtype=torch.bfloat16, requires_grad=True)
        softmax(scores, bits=4).sum().backward()
        assert (scores.grad.shape, scores.grad.dtype) == (scores.shape, scores.dtype)


def test_compiles_in_one_graph():
    scores = draw(5, 33, device="cpu").requires_grad_()
    grad_p = draw(5, 33, seed=1, device="cpu")

    def run(scores):
        return (softmax(scores * 2, seed=4) * grad_p).sum()

    expected = run(scores)
    (expected_grad,) = torch.autograd.grad(expected, scores)
    y = torch.compile(run, backend="aot_eager", fullgraph=True)(scores)
    assert torch.equal(y, expected)
    assert torch.equal(torch.autograd.grad(y, scores)[0], expected_grad)


def test_bad_options():
    scores = draw(4, 4).requires_grad_()
    with pytest.raises(ValueError, match="bits = 16 cannot be used: expected 4 or 8"):
        softmax(scores, bits=16)
    with pytest.raises(ValueError, match=r"float64 cannot be used: expected torch.float32"):
        softmax(scores.double())
