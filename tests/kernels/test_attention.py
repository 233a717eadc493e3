"""Attention on blocks. Tolerances follow from rounding in fp32 and in the tensors' own dtype.

A sum of n products is off by n ulps of the sum of their magnitudes at most, a score by that of its
width; the exponential turns what a score is off by, and an ulp of its distance from the row's
maximum, into a relative error of p.
"""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from fedquad.kernels.attention import attention
from fedquad.kernels.attention_launch import _attention_backward_triton, _attention_triton
from fedquad.kernels.precision import product_precision
from fedquad.kernels.reference.attention import attention_backward, attention_forward
from fedquad.kernels.reference.blocks import dequantize_blocks
from fedquad.kernels.reference.dropout import dropout_keep

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
FP32, BF16, FP16 = torch.float32, torch.bfloat16, torch.float16
EPS = torch.finfo(FP32).eps
DROPOUT_SEED = 3 * 2**40 + 5


@pytest.fixture(autouse=True)
def _bf16_products(monkeypatch):
    """The interpreter multiplies the bits of bf16 as if they were whole numbers."""
    if DEVICE == "cuda":
        return
    interpreter = pytest.importorskip("triton.runtime.interpreter")
    numpy = pytest.importorskip("numpy")
    dot = interpreter.InterpreterBuilder.create_dot

    def widened(handle):
        if handle.dtype.name != "bf16":
            return handle
        bits = handle.data.astype(numpy.uint32) << 16
        return interpreter.TensorHandle(bits.view(numpy.float32), interpreter.tl.float32)

    def create_dot(self, a, b, *rest):
        return dot(self, widened(a), widened(b), *rest)

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", create_dot)


@pytest.fixture
def _poisoned_memory():
    """NaN and the largest codes in what is allocated and not yet written."""
    if DEVICE == "cpu":
        torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def draw(shape, dtype=FP32, seed=0, device=DEVICE):
    """Normal numbers (batch, heads, S, width) that lie as (batch, S, heads, width)."""
    batch, heads, rows, width = shape
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, rows, heads, width, generator=generator)
    return x.to(device, dtype).transpose(1, 2)


def draw_inputs(case, dtype=FP32, device=DEVICE):
    batch, heads, k_heads, rows, columns, width = case
    q = draw((batch, heads, rows, width), dtype, 1, device)
    k, v = (draw((batch, k_heads, columns, width), dtype, s, device) for s in (2, 3))
    return q, k, v


def dropout_seed(dropout_p, device=DEVICE):
    return torch.tensor(DROPOUT_SEED, device=device) if dropout_p else None


def kept_share(q, k, dropout_p):
    """What dropout multiplies the probabilities with, in fp64."""
    shape = (*q.shape[:3], k.shape[2])
    if not dropout_p:
        return torch.ones(shape, dtype=torch.float64, device=q.device)
    return dropout_keep(DROPOUT_SEED, shape, dropout_p, q.device).double() / (1 - dropout_p)


def wide(q, *others):
    """In fp64, with a head of k or v for every head of q."""
    return q.double(), *(x.double().repeat_interleave(q.shape[1] // x.shape[1], 1) for x in others)


def eager(q, k, v, scale, mask=None, is_causal=False, dropout_p=0.0):
    """o and p of eager attention in fp64, and how far rounding in fp32 may move o and p."""
    share = kept_share(q, k, dropout_p)
    own = torch.finfo(v.dtype).eps if v.dtype != FP32 else 0.0
    q, k, v = wide(q, k, v)
    scores = q @ k.mT * scale
    magnitudes = (q.abs() @ k.abs().mT).amax(-1, keepdim=True) * abs(scale)
    if mask is not None:
        scores = scores + mask.double()
    if is_causal:
        hidden = torch.ones_like(scores, dtype=torch.bool).triu(1)
        scores = scores.masked_fill(hidden, float("-inf"))
    p = torch.softmax(scores, -1).nan_to_num(0.0)  # of what sees nothing: zeros
    spread = (scores.amax(-1, keepdim=True) - scores).clamp(max=100.0).nan_to_num(0.0)
    rows = EPS * (2 * q.shape[-1] * magnitudes + 2 * spread + k.shape[2] + 16)
    o = (p * share) @ v
    # In half precision p and o are rounded too (in the interpreter, cut off).
    o_off = (p * share * (rows + own)) @ v.abs() + own * o.abs()
    return o, p, o_off, p * rows


def dequantized(kept, q, k, bits=8, block_size=32):
    """q, k, v and p as backward finds them."""
    form = {"bits": bits, "block_size": block_size}
    inputs = []
    for codes, scales, like in zip(kept[0:6:2], kept[1:6:2], (q, k, k), strict=True):
        batch, heads, rows, width = like.shape
        matrix = dequantize_blocks(codes, scales, cols=heads * width, dtype=q.dtype, **form)
        inputs.append(matrix.view(batch, rows, heads, width).transpose(1, 2))
    each = zip(kept[6].flatten(0, 1), kept[7].flatten(0, 1), strict=True)
    p = [dequantize_blocks(*one, cols=k.shape[2], signed=False, **form) for one in each]
    return *inputs, torch.stack(p).view(*q.shape[:3], -1)


def eager_gradients(o_grad, q, k, v, p, scale, dropout_p=0.0):
    """Gradients that eager attention finds at these q, k, v and p, and how far rounding may go."""
    share = kept_share(q, k, dropout_p)
    k_heads = k.shape[1]
    own = torch.finfo(q.dtype).eps if q.dtype != FP32 else 0.0
    q, k, v = wide(q, k, v)
    o_grad, p = o_grad.double(), p.double()
    p_grad = (o_grad @ v.mT) * share
    scores_grad = torch.ops.aten._softmax_backward_data(p_grad, p, -1, torch.float64)
    gradients = (scores_grad @ k * scale, scores_grad.mT @ q * scale, (p * share).mT @ o_grad)
    largest = (o_grad.abs() @ v.abs().mT) * share
    largest = p * (largest + (p * largest).sum(-1, keepdim=True))
    sums = (largest @ k.abs() * scale, largest.mT @ q.abs() * scale)
    sums += ((p * share).mT @ o_grad.abs(),)
    count = sum(p.shape[-2:]) + q.shape[-1] + 16

    def together(x):
        return x.unflatten(1, (k_heads, -1)).sum(2)

    gradients = (gradients[0], *map(together, gradients[1:]))
    sums = (sums[0], *map(together, sums[1:]))
    return gradients, [(count * EPS + 2 * own) * s + own * s for s in sums]


def assert_within(got, wanted, limit):
    off = (got.double() - wanted).abs()
    assert (off <= limit + 1e-30).all(), (off / (limit + 1e-30)).max()


CASES = {
    # batch, heads, k_heads, S, T, width
    "one tile": ((1, 2, 2, 33, 40, 16), {}),
    "dropout": ((1, 2, 1, 33, 40, 16), {"dropout_p": 0.3}),
    "ragged, grouped": ((2, 4, 2, 7, 33, 8), {"dropout_p": 0.1}),
    "several tiles": ((1, 1, 1, 80, 70, 32), {"dropout_p": 0.2}),
    "causal": ((1, 2, 1, 40, 70, 16), {"is_causal": True, "dropout_p": 0.2}),
    "causal, tall": ((1, 1, 1, 70, 40, 16), {"is_causal": True}),
    "bf16": ((1, 2, 2, 33, 40, 16), {"dtype": BF16, "dropout_p": 0.1}),
    "fp16": ((1, 2, 1, 7, 33, 64), {"dtype": FP16}),
    "4 bits": ((1, 2, 1, 40, 33, 16), {"bits": 4, "dropout_p": 0.3}),
    "4 bits, rounded at random": ((2, 2, 2, 33, 37, 16), {"bits": 4, "seed": 2**33 + 1}),
    "rounded at random": ((2, 2, 1, 33, 40, 16), {"seed": 7, "dropout_p": 0.1}),
    "small blocks": ((1, 2, 2, 33, 40, 24), {"block_size": 8}),
    "blocks over heads": ((2, 2, 2, 33, 40, 16), {"block_size": 64, "dropout_p": 0.1}),
    "large blocks": ((1, 1, 1, 130, 70, 16), {"block_size": 128, "dtype": FP16}),
    "one key": ((1, 1, 1, 1, 1, 16), {}),
}


@pytest.mark.usefixtures("_poisoned_memory")
@pytest.mark.parametrize("name", CASES)
def test_kernels_agree_with_eager_attention_and_the_reference(name):
    case, options = CASES[name]
    options = dict(options)
    dtype = options.pop("dtype", FP32)
    form = {n: options.pop(n, default) for n, default in (("bits", 8), ("block_size", 32))}
    seed = options.pop("seed", None)
    dropout_p = options.get("dropout_p", 0.0)
    causal = options.get("is_causal", False)
    scale = case[-1] ** -0.5
    q, k, v = draw_inputs(case, dtype)
    arguments = (None, dropout_seed(dropout_p), scale, dropout_p, causal, *form.values(), seed)
    outputs = _attention_triton(q, k, v, *arguments, True)
    reference = attention_forward(q, k, v, *arguments, True)
    o, p, o_off, p_off = eager(q, k, v, scale, **options)
    for one in (outputs, reference):
        assert_within(one[0], o, o_off)
    for one, other in zip(outputs, reference, strict=True):
        assert (one.shape, one.dtype, one.stride()) == (other.shape, other.dtype, other.stride())

    # The same bits of q, k and v give the same blocks; p is within a step of its grid, half of it
    # where rounding is to nearest.
    for one, other in zip(outputs[1:7], reference[1:7], strict=True):
        assert torch.equal(one, other)
    if form["bits"] == 8:
        assert ((outputs[7].int() - reference[7].int()).abs() <= 1).all()
    for kept in (outputs[1:], reference[1:]):
        steps = kept[7].repeat_interleave(form["block_size"], 2)[:, :, : q.shape[2]]
        steps = steps.repeat_interleave(form["block_size"], 3)[..., : k.shape[2]].double()
        values = dequantized(kept, q, k, **form)[3].double()
        moved = 0.5 if seed is None else 1.0
        assert_within(values, p, (moved + 512 * EPS) * steps + p_off.amax())

    kept = reference[1:]
    o_grad = draw(q.shape, dtype, 4)
    arguments = (dropout_seed(dropout_p), k.shape[1], scale, dropout_p, causal, *form.values())
    gradients = _attention_backward_triton(o_grad, *kept, *arguments)
    expected = attention_backward(o_grad, *kept, *arguments)
    values = dequantized(kept, q, k, **form)
    exact, limits = eager_gradients(o_grad, *values, scale, dropout_p)
    for one, other, wanted, limit in zip(gradients, expected, exact, limits, strict=True):
        assert (one.shape, one.dtype, one.stride()) == (other.shape, other.dtype, other.stride())
        assert_within(one, wanted, limit)
        assert_within(other, wanted, limit)


def masks(case):
    batch, heads, _, rows, columns, _ = case
    lowest = torch.finfo(FP32).min
    padding = torch.zeros(batch, 1, 1, columns)
    padding[0, ..., columns // 2 :] = float("-inf")
    blind = torch.zeros(batch, 1, rows, columns)
    blind[:, :, rows // 2] = float("-inf")
    level = torch.zeros(batch, 1, rows, columns)
    level[:, :, 1] = lowest
    level[..., columns - 2 :] = lowest
    bias = torch.randn(heads, rows, columns, generator=torch.Generator().manual_seed(9))
    return {"padding": padding, "sees nothing": blind, "lowest": level, "bias": bias}


@pytest.mark.parametrize("name", ["padding", "sees nothing", "lowest", "bias"])
def test_masks(name):
    case = (2, 2, 1, 33, 40, 16)
    q, k, v = draw_inputs(case)
    mask = masks(case)[name].to(DEVICE)
    o, p, o_off, p_off = eager(q, k, v, 0.25, mask)
    spread = mask.expand(2, 2, 33, 40)
    launched = _attention_triton(q, k, v, spread, None, 0.25, 0.0, False, 8, 32, None, True)
    assert_within(launched[0], o, o_off)
    assert_within(attention(q, k, v, mask=mask, scale=0.25), o, o_off)
    values = dequantized(launched[1:], q, k)
    assert_within(values[3], p, p_off + launched[8].amax() * 0.51)
    o_grad = draw(q.shape, seed=4)
    gradients = _attention_backward_triton(o_grad, *launched[1:], None, 1, 0.25, 0.0, False, 8, 32)
    exact, limits = eager_gradients(o_grad, *values, 0.25)
    for one, wanted, limit in zip(gradients, exact, limits, strict=True):
        assert_within(one, wanted, limit)
    if name == "sees nothing":
        assert (launched[0][:, :, 16] == 0).all()
        assert (gradients[0][:, :, 16] == 0).all()
    if name != "lowest":  # whose level row is as PyTorch has it: all keys count the same
        shown = attention(q, k, v, mask=mask == 0, scale=0.25) if name != "bias" else o
        torch.testing.assert_close(shown.double(), o, atol=o_off.max().item(), rtol=0)


def test_the_kernels_drop_what_the_reference_drops():
    """Where all scores are 0 and values are unit vectors, o is the mask itself."""
    rows, columns = 70, 40
    q = torch.zeros(2, 3, rows, 64, device=DEVICE)
    k = torch.zeros(2, 3, columns, 64, device=DEVICE)
    v = torch.eye(columns, 64, device=DEVICE).expand(2, 3, columns, 64)
    arguments = (None, dropout_seed(0.4), 1.0, 0.4, False, 8, 32, None, False)
    o, *nothing = _attention_triton(q, k, v, *arguments)
    keep = dropout_keep(DROPOUT_SEED, (2, 3, rows, columns), 0.4, DEVICE)
    assert torch.equal(o[..., :columns] > 0, keep)
    assert sum(x.numel() for x in nothing) == 0


def test_dropout_has_its_rate_and_no_pattern():
    shape = (2, 3, 301, 203)
    for dropout_p in (0.1, 0.5, 0.9):
        keep = dropout_keep(12, shape, dropout_p, "cpu")
        share = keep.float().mean().item()
        deviation = (dropout_p * (1 - dropout_p) / keep.numel()) ** 0.5
        assert abs(share - (1 - dropout_p)) < 5 * deviation
    # Neighbours, those that share a counter and other heads are independent: at one half they
    # agree half the time.
    keep = dropout_keep(13, shape, 0.5, "cpu")
    for shift in (
        (0, 0, 0, 1),
        (0, 0, 1, 0),
        (0, 0, 8, 0),
        (0, 0, 0, 8),
        (0, 0, 8, 8),
        (1, 0, 0, 0),
    ):
        moved = keep.roll(shift, (0, 1, 2, 3))
        assert abs((keep == moved).float().mean().item() - 0.5) < 2.5 / keep.numel() ** 0.5
    assert not torch.equal(keep, dropout_keep(14, shape, 0.5, "cpu"))
    assert dropout_keep(13, shape, 0.0, "cpu").all()


def saved_by(call):
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        o = call()
    return o, saved


@pytest.mark.parametrize("options", [{}, {"bits": 4}, {"seed": 5}, {"is_causal": True}])
def test_gradients_of_the_public_function_are_eager_ones_at_what_is_kept(options):
    case = (2, 4, 2, 33, 40, 16)
    inputs = [x.requires_grad_() for x in draw_inputs(case)]
    q, k, v = (x.detach() for x in inputs)
    both = {"scale": 0.3, "dropout_p": 0.2}
    o, saved = saved_by(lambda: attention(*inputs, **both, dropout_seed=DROPOUT_SEED, **options))
    causal = options.get("is_causal", False)
    wanted, _, o_off, _ = eager(q, k, v, 0.3, None, causal, 0.2)
    assert_within(o.detach(), wanted, o_off)

    values = dequantized(saved[:8], q, k, options.get("bits", 8))
    o_grad = draw(q.shape, seed=4)
    exact, limits = eager_gradients(o_grad, *values, 0.3, 0.2)
    gradients = torch.autograd.grad(o, inputs, o_grad)
    for one, wanted, limit in zip(gradients, exact, limits, strict=True):
        assert_within(one, wanted, limit)


def test_eight_bits_keep_the_direction_of_the_true_gradients():
    inputs = [x.requires_grad_() for x in draw_inputs((1, 2, 2, 64, 96, 32))]
    o_grad = draw((1, 2, 64, 32), seed=4)
    o = attention(*inputs, scale=32**-0.5)
    gradients = torch.autograd.grad(o, inputs, o_grad)
    o = torch.nn.functional.scaled_dot_product_attention(*inputs)
    for one, true in zip(gradients, torch.autograd.grad(o, inputs, o_grad), strict=True):
        assert torch.cosine_similarity(one.flatten(), true.flatten(), dim=0) > 0.999


@pytest.mark.parametrize(("bits", "share"), [(8, 1), (4, 2)])
def test_only_codes_scales_and_a_seed_are_kept(bits, share):
    q, k, v = (x.requires_grad_() for x in draw_inputs((2, 4, 4, 64, 96, 32), BF16))
    o, saved = saved_by(
        lambda: attention(q, k, v, scale=1.0, dropout_p=0.1, dropout_seed=1, bits=bits)
    )
    elements = sum(x.numel() for x in (q, k, v)) + 2 * 4 * 64 * 96
    assert sum(x.nbytes for x in saved) == elements // share + elements // 32**2 * 4 + 8
    assert o.requires_grad


def test_without_gradients_nothing_is_kept_and_nothing_changes():
    q, k, v = draw_inputs((1, 2, 2, 33, 40, 16))
    options = {"scale": 0.25, "dropout_p": 0.3, "dropout_seed": 1}
    with torch.no_grad():
        o = attention(q.clone().requires_grad_(), k, v, **options)
    assert not o.requires_grad
    outputs = torch.ops.fedquad.attention(
        q, k, v, None, torch.tensor(1, device=DEVICE), 0.25, 0.3, False, 8, 32, None, False
    )
    assert sum(x.numel() for x in outputs[1:]) == 0
    assert torch.equal(outputs[0], o)
    assert torch.equal(attention(q.requires_grad_(), k, v, **options).detach(), o)


def test_any_memory_will_do():
    q, k, v = draw_inputs((2, 2, 2, 9, 9, 16))
    expected = _attention_triton(q, k, v, None, None, 0.25, 0.0, False, 8, 32, None, True)
    together = torch.stack([x.transpose(1, 2) for x in (q, k, v)], 2)  # as one projection writes
    for inputs in (
        [x.contiguous() for x in (q, k, v)],
        [x.mT.contiguous().mT for x in (q, k, v)],
        [x.transpose(1, 2) for x in together.unbind(2)],
    ):
        outputs = _attention_triton(*inputs, None, None, 0.25, 0.0, False, 8, 32, None, True)
        for one, wanted in zip(outputs, expected, strict=True):
            assert torch.equal(one, wanted)
    o_grad = torch.ones(1, device=DEVICE).expand(q.shape)  # that of a sum
    arguments = (*expected[1:], None, 2, 0.25, 0.0, False, 8, 32)
    for one, wanted in zip(
        _attention_backward_triton(o_grad, *arguments),
        _attention_backward_triton(o_grad.contiguous(), *arguments),
        strict=True,
    ):
        assert torch.equal(one, wanted)


def test_seeds_differ_between_tensors_and_heads():
    x = draw((1, 1, 32, 32)).expand(1, 2, 32, 32)
    outputs = attention_forward(x, x, x, None, None, 0.1, 0.0, False, 8, 32, 3, True)
    q_codes, k_codes, p_codes = outputs[1], outputs[3], outputs[7]
    assert not torch.equal(q_codes, k_codes)
    assert not torch.equal(p_codes[0, 0], p_codes[0, 1])


def test_under_autocast_products_take_its_dtype():
    q, k, v = (x.requires_grad_() for x in draw_inputs((1, 2, 2, 33, 40, 16)))
    halves = [x.to(BF16) for x in (q, k, v)]
    with torch.autocast(DEVICE, BF16):
        o = attention(q, k, v, scale=0.25)
        (q_grad,) = torch.autograd.grad(o.sum(), q)
    expected = attention(*halves, scale=0.25)
    assert o.dtype == BF16
    assert torch.equal(o, expected)
    assert torch.equal(q_grad, torch.autograd.grad(expected.sum(), q)[0])


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("shapes", {"q": (1, 3, 8, 16)}),
        ("shapes", {"q": (1, 2, 8, 8)}),
        ("shapes", {"k": (1, 2, 0, 16), "v": (1, 2, 0, 16)}),
        ("shapes", {"v": (1, 2, 9, 16)}),
        ("q, k, v", {"q_dtype": BF16}),
        ("dtype", {"dtype": torch.float64}),
        ("bits", {"bits": 2}),
        ("bits", {"bits": 4, "q": (1, 2, 8, 15), "k": (1, 2, 8, 15), "v": (1, 2, 8, 15)}),
        ("block_size", {"block_size": 48}),
        ("seed", {"seed": -1}),
        ("dropout_p", {"dropout_p": 1.0}),
        ("dropout_seed", {"dropout_p": 0.5}),
        ("mask.shape", {"mask": torch.zeros(3, 8)}),
        ("mask.dtype", {"mask": torch.zeros(8, 8, dtype=torch.int64)}),
        ("mask.requires_grad", {"mask": torch.zeros(8, 8, requires_grad=True)}),
    ],
)
def test_errors_name_the_field(field, change):
    dtype = change.pop("dtype", FP32)
    q, k, v = (torch.zeros(change.pop(n, (1, 2, 8, 16)), dtype=dtype) for n in "qkv")
    q = q.to(change.pop("q_dtype", dtype))
    with pytest.raises(ValueError, match=rf"^{field}.* cannot be used: expected"):
        attention(q, k, v, scale=1.0, **change)


@pytest.mark.parametrize("bits", [8, 4])
def test_operations_hold_what_torch_library_asks_of_them(bits):
    q, k, v = (x.requires_grad_() for x in draw_inputs((2, 2, 1, 5, 6, 8), device="cpu"))
    mask = torch.zeros(2, 1, 1, 6).expand(2, 2, 5, 6)
    seed = torch.tensor(3)
    arguments = (q, k, v, mask, seed, 0.3, 0.2, False, bits, 8, 9, True)
    torch.library.opcheck(torch.ops.fedquad.attention.default, arguments)
    kept = attention_forward(*(x.detach() for x in arguments[:3]), *arguments[3:])[1:]
    arguments = (draw(q.shape, device="cpu"), *kept, seed, 1, 0.3, 0.2, False, bits, 8)
    torch.library.opcheck(torch.ops.fedquad.attention_backward.default, arguments)


def test_fake_tensors_have_the_real_ones_shapes():
    with FakeTensorMode():
        q = torch.empty(2, 6, 5, 4, device="cuda", dtype=BF16)
        k = torch.empty(2, 3, 7, 4, device="cuda", dtype=BF16)
        seed = torch.empty((), device="cuda", dtype=torch.int64)
        o, *kept = torch.ops.fedquad.attention(
            q, k, k, None, seed, 1.0, 0.1, False, 4, 32, None, True
        )
        assert (o.shape, o.dtype, o.stride()) == (q.shape, BF16, (120, 4, 24, 1))
        shapes = [tuple(x.shape) for x in kept]
        assert shapes[0::2] == [(10, 12), (14, 6), (14, 6), (2, 6, 5, 4)]
        assert shapes[1::2] == [(1, 1), (1, 1), (1, 1), (2, 6, 1, 1)]
        assert all(x.device.type == "cuda" for x in kept)
        gradients = torch.ops.fedquad.attention_backward(o, *kept, seed, 3, 1.0, 0.1, False, 4, 32)
        assert [x.shape for x in gradients] == [q.shape, k.shape, k.shape]
        assert attention(q, k, k, scale=1.0, dropout_p=0.1, dropout_seed=0).shape == q.shape


def test_a_compiled_graph_holds_for_every_dropout_seed():
    q, k, v = (x.requires_grad_() for x in draw_inputs((1, 2, 2, 9, 10, 8), device="cpu"))
    graphs = []

    def count(graph, _):
        graphs.append(graph)
        return graph

    def call(q, k, v, mask, seed):
        o = attention(q, k, v, mask=mask, scale=0.3, dropout_p=0.5, dropout_seed=seed, seed=1)
        return o * 2

    compiled = torch.compile(call, backend="aot_eager", fullgraph=True)
    counted = torch.compile(call, backend=count, fullgraph=True)
    mask = torch.rand(1, 1, 1, 10) < 0.7
    for number in (1, 2, 3):
        seed = torch.tensor(number)
        expected = call(q, k, v, mask, seed)
        for one in (compiled(q, k, v, mask, seed), counted(q, k, v, mask, seed)):
            assert torch.equal(one, expected)
            wanted = torch.autograd.grad(expected.sum(), (q, k, v), retain_graph=True)
            for got, gradient in zip(
                torch.autograd.grad(one.sum(), (q, k, v)), wanted, strict=True
            ):
                assert torch.equal(got, gradient)
    assert len(graphs) == 1


def test_tf32_is_used_only_where_pytorch_uses_it():
    switch = torch.backends.cuda.matmul
    before = switch.fp32_precision
    x = torch.zeros(1)
    try:
        switch.fp32_precision = "ieee"
        assert product_precision(x) == "ieee"
        switch.fp32_precision = "tf32"
        assert product_precision(x) == "tf32"
        assert product_precision(x.to(BF16)) == "ieee"
    finally:
        switch.fp32_precision = before
