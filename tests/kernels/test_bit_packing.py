from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from fedquad.kernels import pack_bits, reference, unpack_bits
from fedquad.kernels.bit_packing import _pack_bits_triton, _unpack_bits_triton
from fedquad.kernels.language import has_triton

SIZES = [0, 1, 7, 8, 9, 64, 1000, 8191, 8192, 8193, 20000]


def random_mask(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.6


def by_elements(mask):
    """The bytes, bit by bit: the definition."""
    flat = mask.flatten().tolist()
    packed = [0] * ((len(flat) + 7) // 8)
    for place, element in enumerate(flat):
        packed[place // 8] |= element << place % 8
    return torch.tensor(packed, dtype=torch.uint8)


def assert_all_agree(mask, torch_device):
    """The definition, the reference and the kernel, there and back."""
    packed, flat = by_elements(mask), mask.flatten()
    assert torch.equal(reference.pack_bits(mask), packed)
    assert torch.equal(reference.unpack_bits(packed, flat.numel()), flat)
    if has_triton():
        assert torch.equal(_pack_bits_triton(mask.to(torch_device)).cpu(), packed)
        back = _unpack_bits_triton(packed.to(torch_device), flat.numel())
        assert back.dtype == torch.bool
        assert torch.equal(back.cpu(), flat)


@pytest.mark.parametrize("numel", SIZES)
def test_kernel_and_reference_are_the_definition(numel, torch_device):
    assert_all_agree(random_mask(numel), torch_device)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.booleans(), max_size=70))
def test_any_mask_comes_back(elements):
    mask = torch.tensor(elements, dtype=torch.bool)
    assert_all_agree(mask, "cuda" if torch.cuda.is_available() else "cpu")
    packed = pack_bits(mask)
    assert packed.numel() == -(-len(elements) // 8)
    assert torch.equal(unpack_bits(packed, len(elements)), mask)


@pytest.mark.parametrize(
    "mask",
    [
        random_mask(),
        random_mask(3, 4, 5),
        random_mask(16, 24).t(),
        random_mask(5, 16)[:, 3:11],
        random_mask(130)[1:129],  # not aligned
        random_mask(64)[::2],
        random_mask(1, 8).expand(6, 8),
        random_mask(0, 5),
    ],
    ids=lambda mask: f"{tuple(mask.shape)}-{mask.stride()}",
)
def test_any_shape_and_strides(mask, torch_device):
    assert_all_agree(mask, torch_device)
    assert torch.equal(unpack_bits(pack_bits(mask), mask.numel()).view(mask.shape), mask)


def test_bits_left_over_are_zero():
    assert pack_bits(torch.ones(11, dtype=torch.bool)).tolist() == [255, 0b111]


def test_operators_are_registered_in_full():
    for mask in (random_mask(0), random_mask(13), random_mask(4, 6).t()):
        packed = pack_bits(mask)
        torch.library.opcheck(torch.ops.fedquad.pack_bits.default, (mask,))
        torch.library.opcheck(torch.ops.fedquad.unpack_bits.default, (packed, mask.numel()))
        with FakeTensorMode():
            fake = pack_bits(torch.zeros(mask.shape, dtype=torch.bool))
            assert (fake.shape, fake.dtype) == (packed.shape, packed.dtype)
            assert unpack_bits(fake, mask.numel()).shape == (mask.numel(),)


def test_compiles_into_one_graph():
    def there_and_back(mask):
        return unpack_bits(pack_bits(~mask), mask.numel()) & True

    compiled = torch.compile(there_and_back, fullgraph=True, backend="aot_eager")
    for numel in (16, 21):
        mask = random_mask(numel)
        assert torch.equal(compiled(mask), ~mask)


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"mask.dtype = torch.uint8 .* expected torch.bool"):
        pack_bits(torch.zeros(8, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"packed.dtype = torch.int8 .* expected torch.uint8"):
        unpack_bits(torch.zeros(1, dtype=torch.int8), 8)
    for packed, numel in ((torch.zeros(1), 9), (torch.zeros(2), 8), (torch.zeros(1, 1), 8)):
        with pytest.raises(ValueError, match=r"packed.shape = .* for \d elements"):
            unpack_bits(packed.to(torch.uint8), numel)
