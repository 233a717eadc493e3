"""The walkthrough's own code does what the library does."""

from __future__ import annotations

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from fedquad.kernels import dequantize_blocks, quantize_blocks
from fedquad.model.backbone import find_layers
from fedquad.model.lora import attach_lora


@pytest.fixture(scope="module")
def int8_blocks(example):
    return example("int8_blocks")


@pytest.fixture
def model():
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}
    config = BertConfig(vocab_size=50, num_hidden_layers=3, num_labels=3, **sizes)
    model = attach_lora(BertForSequenceClassification(config), rank=4, alpha=4)
    for name, weight in model.named_parameters():
        if "lora_B" in name:  # zeros: A would have no gradient
            torch.nn.init.normal_(weight, std=0.1)
    return model


@pytest.fixture
def batch():
    ids = torch.arange(4 * 9).view(4, 9) % 50
    return {"input_ids": ids, "labels": torch.tensor([0, 1, 2, 0])}


@pytest.mark.parametrize("shape", [(64, 64), (33, 31), (1, 100), (7, 1)])
@pytest.mark.parametrize(("bits", "block_size"), [(8, 32), (8, 16), (4, 32)])
def test_blocks_are_the_librarys_bit_for_bit(int8_blocks, shape, bits, block_size):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    matrix[0] = 0
    codes, scales = quantize_blocks(matrix, bits=bits, block_size=block_size)
    expected = dequantize_blocks(codes, scales, cols=shape[1], bits=bits, block_size=block_size)
    restored = int8_blocks.round_trip(matrix, bits=bits, block_size=block_size)
    assert torch.equal(restored, expected)


def test_no_error_exceeds_half_a_scale(int8_blocks):
    matrix = torch.randn(70, 50, generator=torch.Generator().manual_seed(2))
    errors = int8_blocks.errors_in_scales(matrix)
    assert errors.shape == matrix.shape
    assert errors.abs().max() <= 0.5 + 1e-4
    assert 0.2 < errors.std() < 0.35


def test_a_tensor_keeps_its_shape_and_a_block_of_zeros_its_zeros(int8_blocks):
    tensor = torch.randn(3, 5, 40)
    assert int8_blocks.round_trip(tensor).shape == tensor.shape
    assert torch.equal(int8_blocks.round_trip(torch.zeros(4, 4)), torch.zeros(4, 4))


def test_gradients_by_hand_move_a_little_and_the_loss_does_not(int8_blocks, model, batch):
    exact = int8_blocks.lora_gradients(model, batch)
    assert set(exact) == {0, 1, 2}
    again = int8_blocks.lora_gradients(model, batch)
    assert all(torch.equal(exact[layer], again[layer]) for layer in exact)
    with int8_blocks.blocks_for_backward(model):
        moved = int8_blocks.lora_gradients(model, batch)
    errors = [int8_blocks.relative_error(exact[layer], moved[layer]) for layer in exact]
    assert min(errors) > 0
    assert max(errors) < 0.1


def test_outputs_are_watched_and_the_layer_is_left_as_it_was(int8_blocks, model, batch):
    layer = find_layers(model)[1]
    with int8_blocks.outputs_of(layer) as outputs, torch.no_grad():
        model(**batch)
    assert outputs["intermediate.dense"].shape == (4, 9, 64)
    assert outputs["output"].shape == (4, 9, 32)
    assert not any(module._forward_hooks for module in layer.modules())
