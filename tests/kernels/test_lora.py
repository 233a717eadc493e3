"""The weight's gradient out of codes. A sum of n products is off by n ulps of their magnitudes."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from fedquad.kernels.lora import _weight_gradient_triton, lora_weight_grad, quantized_linear
from fedquad.kernels.reference.blocks import dequantize_blocks, quantize_blocks

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
FP32, BF16, FP16 = torch.float32, torch.bfloat16, torch.float16


def draw(*shape, dtype=FP32, seed=0, device=DEVICE):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).to(device, dtype)


def gradient_and_limit(u, codes, scales, cols, **form):
    """u^T x in fp64, and how far rounding may move it."""
    x = dequantize_blocks(codes, scales, cols=cols, dtype=u.dtype, **form).double()
    sums = u.double().abs().mT @ x.abs()
    wanted = u.double().mT @ x
    limit = sums * (len(u) + 16) * torch.finfo(FP32).eps
    if u.dtype != FP32:
        limit += wanted.abs() * torch.finfo(u.dtype).eps
    return wanted, limit


CASES = [
    # T, r, cols, dtype, form
    (33, 4, 40, FP32, {}),
    (200, 16, 130, FP32, {}),  # several steps, splits and tiles of columns
    (7, 1, 1, FP32, {"block_size": 8}),
    (130, 70, 33, FP32, {"bits": 4}),  # two tiles of rows
    (90, 16, 257, FP16, {"block_size": 128}),
    (64, 8, 64, FP16, {"bits": 4, "signed": False, "block_size": 64}),
    (40, 16, 32, FP32, {"signed": False}),
]


@pytest.mark.parametrize(("rows", "outs", "cols", "dtype", "form"), CASES)
def test_kernel_and_reference_give_the_gradient(rows, outs, cols, dtype, form):
    u, x = draw(rows, outs, dtype=dtype), draw(rows, cols, dtype=dtype, seed=1)
    codes, scales = quantize_blocks(x, **form)
    wanted, limit = gradient_and_limit(u, codes, scales, cols, **form)
    whole = {"bits": 8, "block_size": 32, "signed": True} | form
    for got in (
        lora_weight_grad(u, codes, scales, cols=cols, **form),
        _weight_gradient_triton(u, codes, scales, cols, **whole),
        _weight_gradient_triton(u.mT.contiguous().mT, codes, scales, cols, **whole),
    ):
        assert (got.dtype, got.shape) == (dtype, (outs, cols))
        assert ((got.double() - wanted).abs() <= limit).all()


def test_the_order_of_the_sum_is_fixed(monkeypatch):
    u, x = draw(300, 16), draw(300, 40, seed=1)
    blocks = quantize_blocks(x)
    first, again = (_weight_gradient_triton(u, *blocks, 40, 8, 32, True) for _ in range(2))
    assert torch.equal(first, again)
    monkeypatch.setattr("fedquad.kernels.lora._PROGRAMS", 1)  # one split instead of five
    whole = _weight_gradient_triton(u, *blocks, 40, 8, 32, True)
    torch.testing.assert_close(first, whole)


def test_no_rows_give_a_gradient_of_zeros():
    u, codes, scales = draw(0, 4), torch.zeros(0, 8, dtype=torch.int8), torch.zeros(0, 1)
    for got in (
        lora_weight_grad(u, codes.to(DEVICE), scales.to(DEVICE), cols=8),
        _weight_gradient_triton(u, codes, scales, 8, 8, 32, True),
    ):
        assert torch.equal(got, torch.zeros(4, 8, device=DEVICE))


@pytest.mark.parametrize("bits", [8, 4])
def test_the_linear_map_is_pytorch_s_with_blocks_for_its_weight(bits):
    x, weight = draw(3, 11, 40).requires_grad_(), draw(6, 40, seed=1).requires_grad_()
    codes, scales = quantize_blocks(x.detach().flatten(0, 1), bits=bits)
    y = quantized_linear(x, weight, codes, scales, bits=bits)
    expected = torch.nn.functional.linear(x, weight)
    assert torch.equal(y, expected)

    y_grad = draw(3, 11, 6, seed=2)
    x_grad, weight_grad = torch.autograd.grad(y, (x, weight), y_grad)
    torch.testing.assert_close(x_grad, torch.autograd.grad(expected, x, y_grad)[0])
    wanted, limit = gradient_and_limit(y_grad.flatten(0, 1), codes, scales, 40, bits=bits)
    assert ((weight_grad - wanted).abs() <= limit).all()
    assert not torch.equal(weight_grad, (y_grad.flatten(0, 1).mT @ x.detach().flatten(0, 1)))


def test_x_is_not_kept():
    x, weight = draw(64, 32).requires_grad_(), draw(4, 32, seed=1).requires_grad_()
    codes, scales = quantize_blocks(x.detach())
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        quantized_linear(x, weight, codes, scales)
    assert {tensor.data_ptr() for tensor in saved} == {
        tensor.data_ptr() for tensor in (weight, codes, scales)
    }


def test_a_gradient_that_is_not_needed_is_not_computed(monkeypatch):
    monkeypatch.setattr("fedquad.kernels.lora._weight_gradient", None)
    x, weight = draw(64, 32).requires_grad_(), draw(4, 32, seed=1)
    codes, scales = quantize_blocks(x.detach())
    quantized_linear(x, weight, codes, scales).sum().backward()
    torch.testing.assert_close(x.grad, weight.sum(0).expand(64, 32))


def test_under_autocast_the_map_has_its_dtype():
    x, weight = draw(64, 32).requires_grad_(), draw(4, 32, seed=1).requires_grad_()
    codes, scales = quantize_blocks(x.detach())
    with torch.autocast(DEVICE, BF16):
        y = quantized_linear(x, weight, codes, scales)
        expected = torch.nn.functional.linear(x, weight)
        assert torch.equal(y, expected)
        gradients = torch.autograd.grad(y.sum(), (x, weight))
        (wanted,) = torch.autograd.grad(expected.sum(), x)
    assert torch.equal(gradients[0], wanted)
    wanted, _ = gradient_and_limit(torch.ones(64, 4, device=DEVICE), codes, scales, 32)
    torch.testing.assert_close(gradients[1], wanted.float(), rtol=2**-7, atol=2**-4)


def test_tensors_that_do_not_belong_together_are_refused():
    x, weight = draw(64, 32), draw(4, 32)
    codes, scales = quantize_blocks(x)
    refusal = "cannot be used: expected"
    for field, arguments in (
        ("codes", (x, weight, codes[:10], scales)),
        ("codes", (x, weight, codes.to(torch.uint8), scales)),
        ("scales", (x, weight, codes, scales[:1])),
        ("shapes", (x, weight[:, :5], codes, scales)),
        ("dtype", (x.double(), weight.double(), codes, scales)),
    ):
        with pytest.raises(ValueError, match=rf"^{field}.* {refusal}"):
            quantized_linear(*arguments)
    with pytest.raises(ValueError, match=rf"^bits.* {refusal}"):
        lora_weight_grad(weight, codes, scales, cols=32, bits=3)
    with pytest.raises(ValueError, match=rf"^codes.* {refusal}"):
        lora_weight_grad(weight, codes, scales, cols=32)


@pytest.mark.parametrize("bits", [8, 4])
def test_operations_hold_what_torch_library_asks_of_them(bits):
    x, weight = draw(2, 5, 12, device="cpu"), draw(3, 12, seed=1, device="cpu")
    codes, scales = quantize_blocks(x.flatten(0, 1), bits=bits, block_size=8)
    arguments = (x.requires_grad_(), weight.requires_grad_(), codes, scales, bits, 8, True)
    torch.library.opcheck(torch.ops.fedquad.quantized_linear.default, arguments)
    u = draw(10, 3, device="cpu")
    arguments = (u, codes, scales, 12, bits, 8, True)
    torch.library.opcheck(torch.ops.fedquad.lora_weight_grad.default, arguments)


def test_fake_tensors_have_the_real_ones_shapes():
    with FakeTensorMode():
        x = torch.empty(2, 5, 33, device="cuda", dtype=BF16)
        weight = torch.empty(4, 33, device="cuda", dtype=BF16)
        codes = torch.empty(10, 17, device="cuda", dtype=torch.uint8)
        scales = torch.empty(1, 2, device="cuda")
        y = quantized_linear(x, weight, codes, scales, bits=4)
        assert (y.shape, y.dtype, y.device.type) == ((2, 5, 4), BF16, "cuda")
        gradient = lora_weight_grad(y.flatten(0, 1), codes, scales, cols=33, bits=4)
        assert (gradient.shape, gradient.dtype) == ((4, 33), BF16)


def test_it_compiles_whole():
    x, weight = draw(3, 11, 40, device="cpu"), draw(6, 40, seed=1, device="cpu")
    arguments = (x.requires_grad_(), weight.requires_grad_(), *quantize_blocks(x[0].detach()))

    def call(x, weight, codes, scales):
        return quantized_linear(x[0], weight, codes, scales).relu()

    compiled = torch.compile(call, backend="aot_eager", fullgraph=True)
    y, expected = compiled(*arguments), call(*arguments)
    assert torch.equal(y, expected)
    for got, wanted in zip(
        torch.autograd.grad(y.sum(), arguments[:2]),
        torch.autograd.grad(expected.sum(), arguments[:2]),
        strict=True,
    ):
        assert torch.equal(got, wanted)
