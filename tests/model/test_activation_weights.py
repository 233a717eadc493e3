"""Weights are never packed, in whatever view or type they are saved; activations always are."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fedquad import quantize_activations
from fedquad.model.activation_quantization.packing import BlockPacker
from fedquad.model.activation_quantization.regions import BlockRegion, PackedView
from fedquad.model.backbone import find_layers
from fedquad.model.lora import attach_lora, set_trainable_layers

SIZES = {"hidden_size": 64, "intermediate_size": 128}
OTHER_SIZES = {"deberta": {"pooler_hidden_size": 64}, "llama": {"head_dim": 32}}
NAMES = ("bert", "deberta", "distilbert", "modernbert", "gpt2", "llama")


@pytest.fixture
def saved(monkeypatch):
    """``(tensor, handle)`` of all that is saved inside quantized layers."""
    pairs = []
    pack = BlockPacker.pack

    def spy(self, tensor):
        handle = pack(self, tensor)
        pairs.append((tensor.detach().clone(), handle))
        return handle

    monkeypatch.setattr(BlockPacker, "pack", spy)
    return pairs


def make(make_model, name, attention="eager"):
    model = make_model(name, **SIZES, **OTHER_SIZES.get(name, {})).train()
    model.set_attn_implementation(attention)
    return model


def is_weight(tensor, weights):
    """Whether ``tensor`` holds the values of a weight, of a cast of one, or of its transpose."""
    for weight in weights:
        for candidate in (weight, weight.t()) if weight.dim() == 2 else (weight,):
            if candidate.shape == tensor.shape and torch.equal(candidate.to(tensor.dtype), tensor):
                return True
    return False


def assert_sorted_out(pairs, model, batch_rows=6, length=10):
    """No weight is packed, and of the large floating tensors nothing else is left as it is."""
    weights = [weight.detach() for weight in (*model.parameters(), *model.buffers())]
    small = batch_rows * length * SIZES["hidden_size"] // 8
    kinds = {"packed": 0, "weight": 0}
    for tensor, handle in pairs:
        if tensor.is_floating_point() and tensor.dim() > 1 and tensor.numel() > small:
            weight = is_weight(tensor, weights)
            assert weight != isinstance(handle, PackedView), tensor.shape
            kinds["weight" if weight else "packed"] += 1
    assert kinds["packed"] > 10
    assert kinds["weight"] > 5


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("tuning", ["lora", "lowest layer", "full"])
@pytest.mark.parametrize(
    ("name", "attention"),
    # transformers has no sdpa for DeBERTaV3
    [(n, a) for n in NAMES for a in ("eager", "sdpa") if (n, a) != ("deberta", "sdpa")],
)
def test_in_every_way_of_training(name, attention, tuning, autocast, make_model, batch, saved):
    model = make(make_model, name, attention)
    if tuning != "full":
        model = attach_lora(model, rank=4, alpha=8)
    if tuning == "lowest layer":  # where nothing that enters needs a gradient, as weights do not
        set_trainable_layers(model, (0, 1, 2))
    with quantize_activations(model, (0, 1), path="hooks"):
        for _ in range(2):  # autocast casts anew
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                model(**batch).loss.backward()
    assert_sorted_out(saved, model)


def test_weights_that_replace_others_for_a_call(make_model, batch, saved):
    model = make(make_model, "bert")
    weights = {
        name: (weight.detach() * 1.5).requires_grad_() for name, weight in model.named_parameters()
    }
    with quantize_activations(model, (0, 1), path="hooks"):
        torch.func.functional_call(model, weights, kwargs=batch).loss.backward()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(weights[name])
    assert_sorted_out(saved, model)


def test_an_adapter_that_is_added_later(make_model, batch, saved):
    model = make(make_model, "bert")
    with quantize_activations(model, (0, 1), path="hooks"):
        model = attach_lora(model, rank=32, alpha=8)  # of rank 4 it would be small
        model(**batch).loss.backward()
    assert_sorted_out(saved, model)


def test_a_weight_outside_the_layers(saved):
    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(64, 64)

        def forward(self, hidden, table):
            return self.linear(hidden) * table

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Parameter(torch.randn(60, 64))
            self.layers = nn.ModuleList([Layer(), Layer(), Layer()])

        def forward(self, hidden):
            for layer in self.layers:
                hidden = layer(hidden, self.table)
            return hidden

    model = Model()
    with quantize_activations(model, (0, 1), path="hooks"):
        model(torch.randn(60, 64)).sum().backward()
    tables = [handle for tensor, handle in saved if torch.equal(tensor, model.table)]
    assert len(tables) == 2
    assert not any(isinstance(handle, PackedView) for handle in tables)


def test_activations_of_the_shape_of_a_weight_are_packed(saved):
    """64 tokens of 64 features, before a weight of 64 x 64, in the weight's own type."""

    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(64, 64, bias=False)

        def forward(self, hidden):
            return self.linear(hidden).tanh()

    model = nn.Sequential()
    model.layers = nn.ModuleList([Layer(), Layer()])
    with quantize_activations(model, (0,), path="hooks"):
        find_layers(model)[0](torch.randn(64, 64)).sum().backward()
    packed = [handle for _, handle in saved if isinstance(handle, PackedView)]
    assert len(packed) == 2  # the input, which needs no gradient, and the result of tanh
    assert all(isinstance(handle.region, BlockRegion) for handle in packed)
