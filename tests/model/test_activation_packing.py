"""What a packer keeps of single tensors, and how it gives them back."""

from __future__ import annotations

import gc
import math
import weakref

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional

from fedquad.model.activation_quantization import regions
from fedquad.model.activation_quantization.packing import BlockPacker
from fedquad.model.activation_quantization.regions import PackedView, Passed
from fedquad.model.activation_quantization.settings import QuantizationSettings

HIDDEN = torch.zeros(4, 32, 64)  # what has more than an eighth of its elements is packed


def make_packer(layer=None, inputs=(HIDDEN,), outer=None, **settings):
    packer = BlockPacker(QuantizationSettings(**settings))
    layers = nn.ModuleList([layer or nn.Identity()])
    packer.enter_model(nn.Sequential(layers), layers)
    packer.enter_layer(layers[0], inputs, outer)
    return packer


def random(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.fixture
def packer():
    return make_packer()


@pytest.fixture
def quantized(monkeypatch):
    """Shapes of the matrices that are quantized from now on."""
    shapes = []
    quantize = regions.quantize_blocks

    def spy(x, **options):
        shapes.append(tuple(x.shape))
        return quantize(x, **options)

    monkeypatch.setattr(regions, "quantize_blocks", spy)
    return shapes


DENSE = {
    "contiguous": lambda x: x,
    "flat": lambda x: x.view(-1),
    "matrix": lambda x: x.view(-1, 64),
    "transposed": lambda x: x.transpose(1, 2),
    "heads": lambda x: x.view(4, 32, 2, 32).transpose(1, 2),
    "heads transposed": lambda x: x.view(4, 32, 2, 32).permute(0, 2, 3, 1),
    "more dimensions": lambda x: x[:, None].unsqueeze(-1),
    "expanded": lambda x: x[:, None].expand(4, 3, 32, 64),
}
# Those with gaps: their bytes are not all theirs.
SLICES = {
    "half of the columns": lambda x: x[..., :32],
    "the other half": lambda x: x[..., 32:],
    "every other row": lambda x: x[:, ::2],
    "heads of a slice": lambda x: x[..., :32].unflatten(-1, (2, 16)).transpose(1, 2),
    "windows": lambda x: x.view(-1).unfold(0, 64, 32),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("view", [*DENSE, *SLICES])
def test_a_view_comes_back(view, dtype, packer):
    tensor = {**DENSE, **SLICES}[view](random(4, 32, 64, dtype=dtype))
    tensor.requires_grad_()  # without a gradient, an expanded one is taken for a mask
    handle = packer.pack(tensor)
    found = packer.unpack(handle)
    assert isinstance(handle, PackedView)
    assert (found.shape, found.dtype) == (tensor.shape, dtype)
    if view in DENSE:
        assert found.stride() == tensor.stride()
    rounding = torch.finfo(dtype).eps / 2 if dtype != torch.float32 else 1e-6
    error = (found.float() - tensor.float()).abs().max()
    assert error <= tensor.abs().max() * (1 / 127 / 2 + rounding)  # half a step of any block
    kept = tensor.numel() if view in SLICES else 4 * 32 * 64
    # A scale of 4 bytes for 32 x 32 codes, and for less in a narrow or flat view.
    assert kept * (1 + 4 / 1024) <= handle.region.kept_bytes <= kept * (1 + 4 / 32)


@pytest.mark.parametrize("view", SLICES)
def test_a_slice_keeps_the_order_of_its_dimensions(view, packer):
    tensor = SLICES[view](random(4, 32, 64))
    found = packer.unpack(packer.pack(tensor))
    by_stride = [sorted(range(t.dim()), key=t.stride, reverse=True) for t in (tensor, found)]
    assert by_stride[0] == by_stride[1]


def test_views_of_the_same_memory_are_packed_once(packer, quantized):
    x = random(4, 32, 64)
    handles = [packer.pack(view(x).requires_grad_()) for view in DENSE.values()]
    assert quantized == [(128, 64)]
    assert len({handle.region for handle in handles}) == 1


def test_memory_in_another_order_is_quantized_without_a_copy(packer, monkeypatch):
    addresses = []
    quantize = regions.quantize_blocks

    def spy(x, **options):
        addresses.append(x.data_ptr())
        return quantize(x, **options)

    monkeypatch.setattr(regions, "quantize_blocks", spy)
    x = random(4, 32, 2, 32)
    packer.pack(x.permute(2, 0, 3, 1))
    packer.pack(x[:, :, 0])  # a matrix whose rows lie apart
    assert addresses == [x.data_ptr()] * 2


def test_different_memory_is_packed_apart(packer):
    x = random(4, 32, 64)
    halves = [packer.pack(x[:2]), packer.pack(x[2:]), packer.pack(x)]
    assert len({handle.region for handle in halves}) == 3
    for handle, expected in zip(halves, (x[:2], x[2:], x), strict=True):
        torch.testing.assert_close(handle.unpack(), expected, rtol=0, atol=0.02)


def test_a_tensor_that_changes_between_is_packed_again(packer):
    x = random(4, 32, 64)
    packer.pack(x)
    x.mul_(2)
    handle = packer.pack(x)
    torch.testing.assert_close(handle.unpack(), x, rtol=0, atol=0.04)


def test_memory_that_is_used_again_is_not_mistaken(packer):
    handles, addresses = [], set()
    for seed in range(30):
        x = random(4, 32, 64, seed=seed)
        addresses.add(x.data_ptr())
        handles.append((seed, packer.pack(x)))
        del x
    assert len(addresses) < 30  # it was used again
    for seed, handle in handles:
        torch.testing.assert_close(handle.unpack(), random(4, 32, 64, seed=seed), rtol=0, atol=0.02)


def test_what_is_packed_does_not_hold_the_memory(packer):
    x = random(4, 32, 64)
    memory = StorageWeakRef(x.untyped_storage())
    handle = packer.pack(x.view(-1, 64))
    del x
    assert memory.expired()
    region = weakref.ref(handle.region)
    del handle
    gc.collect()
    assert region() is None


def test_views_share_what_is_unpacked_until_the_last_has_had_it(packer):
    x = random(4, 32, 64)
    handles = [packer.pack(x), packer.pack(x.transpose(1, 2))]
    for _ in range(2):  # a retained graph comes twice
        first, second = (handle.unpack() for handle in handles)
        assert first.data_ptr() == second.data_ptr()
        memory = StorageWeakRef(first.untyped_storage())
        del first, second
        assert memory.expired()


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(8192),
        random(8192).double(),
        random(8192).to(torch.complex64),
        random(4, 32, 1),
        random(4, 32, 8),  # an eighth
        random(4, 8, 64),  # a logsumexp [rows, heads, tokens] that is padded
        torch.empty(0, 64),
        torch.ones(()),
        torch.ones(1, 1, 64).expand(4, 32, 64),
    ],
    ids=[
        "int",
        "double",
        "complex",
        "statistics",
        "small",
        "padded",
        "empty",
        "scalar",
        "one row for all",
    ],
)
def test_what_is_kept_as_it_is(tensor, packer):
    handle = packer.pack(tensor)
    assert isinstance(handle, Passed)
    assert packer.unpack(handle).data_ptr() == tensor.data_ptr()


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x[:, 0],
        lambda x: x[..., ::16],
        lambda x: x[0, 0, 0],
        lambda x: x[:0],
        lambda x: x[2:3, 5:6, 7:8],
    ],
    ids=["first tokens", "columns", "one", "none", "one in three dimensions"],
)
def test_a_small_part_is_exact_and_does_not_hold_the_rest(view, packer):
    x = random(4, 32, 64)
    expected = view(x).clone()
    handle = packer.pack(view(x))
    memory = StorageWeakRef(x.untyped_storage())
    del x
    assert memory.expired()
    found = handle.unpack()
    assert torch.equal(found, expected)
    assert handle.region.kept_bytes == expected.nbytes


def test_what_a_layer_is_given_beside_its_input_is_kept_as_it_is():
    hidden, mask, angles = HIDDEN.clone(), random(4, 1, 32, 32), (random(4, 32, 64, seed=1),)
    packer = make_packer(inputs=(hidden, None, mask, angles, 3))
    for given in (mask, angles[0], mask.view(-1, 32)):
        assert isinstance(packer.pack(given), Passed)
    assert isinstance(packer.pack(hidden), PackedView)


class TestMasks:
    @pytest.mark.parametrize("shape", [(4, 32, 64), (3, 47, 33)])
    def test_of_bool_become_bits(self, shape, packer):
        mask = random(*shape) > 0
        for view in (mask, mask.transpose(0, 2)):
            handle = packer.pack(view)
            found = handle.unpack()
            assert torch.equal(found, view)
            assert found.stride() == view.stride()
            assert handle.region.kept_bytes == math.ceil(mask.numel() / 8)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    @pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
    def test_of_dropout_on_a_cpu_become_bits(self, p, dtype, packer):
        saved = []
        with saved_tensors_hooks(lambda t: saved.append(t), packer.unpack):
            x = random(4, 32, 64, dtype=dtype).requires_grad_()
            functional.dropout(x, p)
        (mask,) = saved
        handle = packer.pack(mask)
        assert torch.equal(handle.unpack(), mask)
        assert handle.region.kept_bytes == math.ceil(mask.numel() / 8)

    @pytest.mark.parametrize("value", [-math.inf, torch.finfo(torch.float32).min, 2.5])
    def test_of_two_values_come_back_exactly(self, value, packer):
        mask = torch.zeros(4, 1, 32, 64)
        mask[1, :, :, 40:] = value
        handle = packer.pack(mask)
        assert isinstance(handle, PackedView)
        assert torch.equal(handle.unpack(), mask)

    def test_with_infinities_and_more_values_are_kept_as_they_are(self, packer):
        mask = random(4, 32, 64)
        mask[1, 3:] = -math.inf
        assert isinstance(packer.pack(mask), Passed)

    @pytest.mark.parametrize("values", [(0.0, 1.0, 2.0), (1.0, 2.0), (0.0, 1.0, math.nan)])
    def test_other_values_are_not_taken_for_a_mask(self, values, packer):
        x = torch.tensor(values)[torch.arange(8192) % len(values)].view(4, 32, 64)
        found = packer.pack(x).unpack()
        if math.isnan(values[-1]):
            assert found.isnan().all()  # a divergence is seen
        else:
            torch.testing.assert_close(found, x, rtol=0, atol=0.01)

    def test_for_all_heads_is_kept_as_it_is(self, packer):
        assert isinstance(packer.pack(random(4, 1, 32, 64).expand(4, 2, 32, 64)), Passed)


class TestProbabilities:
    """Of what no value is negative all 8 bits are used: half the step."""

    @staticmethod
    def saved_by(function, packer):
        handles = []
        with saved_tensors_hooks(
            lambda t: handles.append((t.detach(), packer.pack(t))), packer.unpack
        ):
            function(random(4, 32, 64).requires_grad_())
        return [(t, h.unpack()) for t, h in handles if isinstance(h, PackedView)]

    @pytest.mark.parametrize(
        "function",
        [
            lambda x: x.softmax(-1),
            lambda x: x.softmax(-1) @ random(4, 64, 4),
            lambda x: x.softmax(-1).view(2, 2, 32, 64).transpose(2, 3) @ random(2, 2, 32, 8),
            lambda x: functional.dropout(x.softmax(-1), 0.5) @ random(4, 64, 4),
            lambda x: torch.native_dropout(x.softmax(-1), 0.5, True)[0] @ random(4, 64, 4),
            lambda x: x.softmax(-1).bfloat16() @ random(4, 64, 4).bfloat16(),
        ],
        ids=["softmax", "product", "view", "dropout", "native dropout", "cast"],
    )
    def test_are_stored_without_a_sign(self, function, packer):
        pairs = self.saved_by(function, packer)
        for expected, found in pairs:
            if found.dtype != torch.bool:
                step = expected.max() / 255
                atol = step / 2 + (
                    2**-9 * expected.max() if found.dtype == torch.bfloat16 else 1e-7
                )
                assert (found.float() - expected.float()).abs().max() <= atol
        assert pairs

    def test_without_a_gradient_are_known_by_their_values(self, packer):
        x = random(4, 32, 64).softmax(-1)
        assert (packer.pack(x).unpack() - x).abs().max() <= x.max() / 255 / 2 + 1e-7

    def test_times_something_negative_keep_their_sign(self, packer):
        pairs = self.saved_by(
            lambda x: (x.softmax(-1) * random(4, 32, 64)) @ random(4, 64, 4), packer
        )
        assert any((found < -0.01).any() for _, found in pairs)
        for expected, found in pairs:
            assert (found - expected).abs().max() <= expected.abs().max() / 127 / 2 + 1e-7


class TestChangesInPlace:
    @pytest.mark.parametrize("is_small", [False, True])
    @pytest.mark.parametrize(
        "change",
        [
            lambda x: x.add_(1),
            lambda x: x.view(-1)[3:5].zero_(),
            lambda x: x.detach().mul_(2),
            lambda x: x.t().copy_(x.t() + 1),
        ],
        ids=["itself", "a view", "detached", "transposed"],
    )
    def test_raise_as_without_quantization(self, change, is_small, packer):
        x = random(8, 8) if is_small else random(128, 64)
        handle = packer.pack(x.view(x.shape))
        change(x)
        with pytest.raises(RuntimeError, match=r"modified by an inplace operation.*version 0"):
            handle.unpack()

    def test_are_seen_though_the_tensor_that_was_saved_is_gone(self, packer):
        x = random(128, 64)
        view = x.t()
        handle, alias = packer.pack(view), view.detach()
        del x, view
        alias.zero_()
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            handle.unpack()

    def test_of_a_weight_raise(self):
        layer = nn.Linear(64, 128)
        packer = make_packer(layer)
        x = random(4, 32, 64).requires_grad_()
        with saved_tensors_hooks(packer.pack, packer.unpack):
            y = layer(x).relu()
        with torch.no_grad():
            layer.weight.add_(1)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.sum().backward()

    def test_of_other_memory_do_not(self, packer):
        x = random(128, 64)
        handle = packer.pack(x)
        x.clone().zero_()
        x[:64].clone().add_(1)
        handle.unpack()


class TestSettings:
    def test_four_bits_are_half_of_eight(self):
        x = random(128, 64)
        kept = {bits: make_packer(bits=bits).pack(x).region.kept_bytes for bits in (4, 8)}
        scales = 4 * 2 * 4
        assert kept == {4: x.numel() // 2 + scales, 8: x.numel() + scales}

    @pytest.mark.parametrize("block_size", [8, 16, 64, 128])
    def test_a_block_has_one_scale(self, block_size):
        kept = make_packer(block_size=block_size).pack(random(128, 128)).region.kept_bytes
        assert kept == 128 * 128 + 4 * (128 // block_size) ** 2

    def test_stochastic_rounding_follows_the_seed(self):
        def draws(seed):
            packer = make_packer(rounding="stochastic", seed=seed)
            layers = nn.ModuleList([nn.Identity()])
            tensors = []
            for _ in range(2):  # two forward passes of two tensors
                tensors += [packer.pack(random(128, 64)).unpack() for _ in range(2)]
                packer.enter_model(nn.Sequential(layers), layers)
            return tensors

        one = draws(1)
        assert all(map(torch.equal, one, draws(1)))
        different = [*one, *draws(2), *draws(2**62)]
        pairs = [(a, b) for i, a in enumerate(different) for b in different[:i]]
        assert not any(torch.equal(a, b) for a, b in pairs)

    def test_it_takes_nothing_from_the_random_numbers_of_the_model(self):
        state = torch.get_rng_state()
        make_packer(rounding="stochastic").pack(random(128, 64))
        assert torch.equal(torch.get_rng_state(), state)
