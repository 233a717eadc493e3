from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import AlbertConfig, AutoModel

from fedquad import InputError, quantize_activations


@pytest.fixture
def model(make_model):
    return make_model("bert")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": (3,)}, r"layers = \(3,\).*below 3"),
        ({"layers": (-1, 0)}, "layers.*from 0"),
        ({"layers": (1, 0)}, "layers.*ascending"),
        ({"layers": (0, 0)}, "layers.*none twice"),
        ({"layers": "01"}, "layers"),
        ({"layers": 1}, "layers = 1 "),
        ({"layers": (0.0,)}, "layers"),
        ({"layers": (True,)}, "layers"),
        ({"layers": (0, 2)}, "layers.*allow_output_layer=True"),
        ({"layers": (3,), "allow_output_layer": True}, "layers.*below 3"),
        ({"bits": 6}, "bits = 6.*8 or 4"),
        ({"bits": 16}, "bits = 16"),
        ({"bits": 8.0}, r"bits = 8\.0"),
        ({"block_size": 33}, "block_size = 33.*power of two from 8 to 128"),
        ({"block_size": 4}, "block_size = 4"),
        ({"block_size": 256}, "block_size = 256"),
        ({"block_size": "32"}, "block_size"),
        ({"rounding": "up"}, "rounding = 'up'.*nearest, stochastic"),
        ({"path": "fast"}, "path = 'fast'.*auto, hooks, fused"),
        ({"seed": -1}, "seed = -1"),
        ({"seed": 1 << 63}, "seed"),
    ],
)
def test_what_cannot_be_used_is_named(options, message, model):
    with pytest.raises(InputError, match=message):
        quantize_activations(model, **{"layers": (0, 1), **options})
    with quantize_activations(model, (0,)):  # and nothing is left that would be in the way
        pass


def test_a_model_whose_layers_cannot_be_found():
    shared = AlbertConfig(hidden_size=16, num_attention_heads=2, intermediate_size=32)
    for model in (nn.Linear(4, 4), AutoModel.from_config(shared)):
        with pytest.raises(InputError, match=r"model.*list"):
            quantize_activations(model, (0,))


def test_a_device_without_a_backend(model, monkeypatch):
    class Elsewhere(nn.Parameter):
        device = torch.device("mps")

    monkeypatch.setattr(model, "parameters", lambda: iter([Elsewhere(torch.zeros(1))]))
    with pytest.raises(InputError, match=r"device of the model = 'mps'.*cpu, cuda, meta"):
        quantize_activations(model, (0,))
