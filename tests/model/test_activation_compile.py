"""Compiled layers: what the compiled backward reads is kept as blocks like anything else."""

from __future__ import annotations

import pytest
import torch
from torch._dynamo.utils import counters
from torch.autograd.graph import saved_tensors_hooks

from fedquad import quantize_activations
from fedquad.model.backbone import find_layers
from fedquad.model.lora import attach_lora, lora_tensors

# Dynamo asks every tensor that enters a graph for its gradient.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


@pytest.fixture
def model(make_model):
    """In eval mode: compiled dropout draws other masks."""
    model = make_model("bert", hidden_size=64, intermediate_size=128, num_hidden_layers=2)
    model = attach_lora(model, rank=4, alpha=8)
    for weights in lora_tensors(model).values():
        for weight in weights.values():
            torch.nn.init.normal_(weight, std=0.05)
    return model


def gradients(model, batch):
    model.zero_grad()
    loss = model(**batch).loss
    loss.backward()
    return loss.item(), [w.grad for ws in lora_tensors(model).values() for w in ws.values()]


def distance(found, expected):
    error = sum((a - b).square().sum() for a, b in zip(found, expected, strict=True))
    return (error / sum(value.square().sum() for value in expected)).sqrt()


def kept(model, batch):
    """Bytes of integers and of floating tensors kept for backward, weights left out."""
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    kept = {}  # held, so that no address is met twice

    def pack(tensor):
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        gradients(model, batch)
    sizes = [(t.is_floating_point(), t.untyped_storage().nbytes()) for t in kept.values()]
    return [sum(size for floating, size in sizes if floating == kind) for kind in (False, True)]


def compile_forwards(model):
    for layer in find_layers(model):
        layer.forward = torch.compile(layer.forward, backend="aot_eager")


def compile_layers(model):
    for layer in find_layers(model):
        layer.compile(backend="aot_eager")


def compile_model(model):
    model.compile(backend="aot_eager")


@pytest.mark.parametrize("compile_it", [compile_layers, compile_model])
def test_before_quantization(compile_it, model, batch):
    """Quantization that begins, changes layers and ends is followed, also by one graph of all."""
    loss, expected = gradients(model, batch)
    compile_it(model)
    gradients(model, batch)
    with quantize_activations(model, (0,)) as quantizer:
        found_loss, found = gradients(model, batch)
        quantizer.set_layers(())
        without = gradients(model, batch)[1]
    assert found_loss == pytest.approx(loss, rel=1e-6)
    assert 1e-4 < distance(found, expected) < 0.01
    assert distance(without, expected) < 1e-5
    assert distance(gradients(model, batch)[1], expected) < 1e-5


@pytest.mark.parametrize("compile_it", [compile_forwards, compile_model])
def test_after_quantization(compile_it, model, batch):
    expected, (_, unquantized) = gradients(model, batch)[1], kept(model, batch)
    with quantize_activations(model, (0,)):
        compile_it(model)
        codes, floats = kept(model, batch)
        assert 1e-4 < distance(gradients(model, batch)[1], expected) < 0.01
    assert counters["stats"]["calls_captured"] > 0
    # Of two equal layers one is stored as bytes, but for statistics and the like.
    assert 0.9 * unquantized / 2 / 4 < codes < unquantized / 2 / 4
    assert floats < 0.6 * unquantized


def test_one_graph_of_a_quantized_model_is_refused_by_the_compiler(model, batch):
    model.compile(backend="aot_eager", fullgraph=True)
    refusal = pytest.raises(torch._dynamo.exc.Unsupported, match=r"torch\.compiler\.disable")
    with quantize_activations(model, (0,)), refusal:
        model(**batch)
