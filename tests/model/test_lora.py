from __future__ import annotations

import math

import pytest
import torch
from transformers import AutoModelForSequenceClassification, XLNetConfig

from fedquad.config import InputError
from fedquad.model.backbone import find_layers
from fedquad.model.lora import (
    attach_lora,
    gradient_norms,
    head_tensors,
    lora_tensors,
    set_lora_depth,
    set_trainable_layers,
    trainable_parameters,
)

PROJECTIONS = {
    "bert": ["attention.self.query", "attention.self.value"],
    "roberta": ["attention.self.query", "attention.self.value"],
    "electra": ["attention.self.query", "attention.self.value"],
    "deberta": ["attention.self.query_proj", "attention.self.value_proj"],
    "distilbert": ["attention.q_lin", "attention.v_lin"],
    "modernbert": ["attn.Wqkv"],
    "gpt2": ["attn.c_attn"],
    "llama": ["self_attn.q_proj", "self_attn.v_proj"],
}
HEAD = {"deberta": ("pooler", "classifier"), "distilbert": ("pre_classifier", "classifier")}


def with_lora(make_model, name, rank=4, seed=0):
    return attach_lora(
        make_model(name), rank=rank, alpha=8, fresh_modules=HEAD.get(name, ()), seed=seed
    )


@pytest.mark.parametrize("name", PROJECTIONS)
def test_lora_is_on_query_and_value_of_every_layer_and_starts_as_nothing(name, make_model, batch):
    batch.pop("labels")
    model = make_model(name)
    logits = model(**batch).logits
    model = attach_lora(model, rank=4, alpha=8, fresh_modules=HEAD.get(name, ()))
    assert torch.equal(model(**batch).logits, logits)
    tensors = lora_tensors(model)
    assert list(tensors) == [0, 1, 2]
    expected = [f"{place}.lora_{side}" for place in PROJECTIONS[name] for side in "AB"]
    for weights in tensors.values():
        assert list(weights) == expected
        for key, weight in weights.items():
            assert weight.shape[0 if key.endswith("A") else 1] == 4
            assert (weight == 0).all() == key.endswith("B")
    trained = {id(weight) for weight in trainable_parameters(model).values()}
    lora = {id(weight) for weights in tensors.values() for weight in weights.values()}
    head = {id(weight) for weight in head_tensors(model).values()}
    assert trained == lora | head
    prefixes = HEAD.get(name, ("score" if name in ("gpt2", "llama") else "classifier",))
    assert {key.split(".")[0] for key in head_tensors(model)} == set(prefixes)


def test_a_comes_from_the_seed_alone(make_model):
    def first(seed):
        return lora_tensors(with_lora(make_model, "bert", seed=seed))[0][
            "attention.self.query.lora_A"
        ]

    one = first(1)
    torch.rand(10)
    before = torch.get_rng_state()
    assert torch.equal(one, first(1))
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(one, first(2))


@pytest.mark.parametrize("name", PROJECTIONS)
@pytest.mark.parametrize("layers", [(2,), (0,), (0, 2), (1, 2), (0, 1, 2)])
def test_only_the_chosen_layers_and_the_head_get_gradients(name, layers, make_model, batch):
    model = with_lora(make_model, name)
    model(**batch).loss.backward()  # stale gradients everywhere
    model.zero_grad(set_to_none=False)
    set_trainable_layers(model, layers)
    model(**batch).loss.backward()
    for layer, weights in lora_tensors(model).items():
        for key, weight in weights.items():
            assert (weight.grad is not None) == (layer in layers), (layer, key)
            if key.endswith("B") and layer in layers:
                assert weight.grad.abs().sum() > 0
    chosen = {id(w) for layer in layers for w in lora_tensors(model)[layer].values()}
    chosen |= {id(weight) for weight in head_tensors(model).values()}
    assert {id(w) for w in model.parameters() if w.grad is not None} == chosen


@pytest.mark.parametrize("name", PROJECTIONS)
@pytest.mark.parametrize("layers", [(2,), (1,), (0, 2), (1, 2)])
def test_layers_below_the_lowest_trainable_one_keep_nothing(name, layers, make_model, batch):
    model = with_lora(make_model, name).train()
    set_trainable_layers(model, layers)
    running = [-1]  # the layer that was entered last; -1 in the embeddings

    for idx, layer in enumerate(find_layers(model)):
        layer.register_forward_pre_hook(lambda *_, idx=idx: running.__setitem__(0, idx))
    kept_bytes = dict.fromkeys(range(-1, 3), 0)

    def pack(tensor):
        kept_bytes[running[0]] += tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(**batch).loss.backward()
    for layer, kept in kept_bytes.items():
        assert (kept > 0) == (layer >= min(layers)), kept_bytes


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_depth_is_counted_from_the_output(depth, make_model):
    model = with_lora(make_model, "roberta")
    set_trainable_layers(model, (0,))
    set_lora_depth(model, depth)
    trained = [all(w.requires_grad for w in ws.values()) for ws in lora_tensors(model).values()]
    assert trained == [layer >= 3 - depth for layer in range(3)]
    assert all(weight.requires_grad for weight in head_tensors(model).values())


def test_a_stale_gradient_goes_with_its_layer(make_model, batch):
    model = with_lora(make_model, "bert")
    model(**batch).loss.backward()
    set_lora_depth(model, 1)
    assert list(gradient_norms(lora_tensors(model))) == [2]


@pytest.mark.parametrize("name", ["bert", "modernbert"])
def test_gradient_norms_are_those_of_each_layer(name, make_model, batch):
    model = with_lora(make_model, name)
    assert gradient_norms(lora_tensors(model)) == {}
    set_trainable_layers(model, (0, 2))
    model(**batch).loss.backward()
    norms = gradient_norms(lora_tensors(model))
    assert list(norms) == [0, 2]
    for layer, norm in norms.items():
        squares = [
            value**2 for w in lora_tensors(model)[layer].values() for value in w.grad.flatten()
        ]
        assert norm == pytest.approx(math.sqrt(sum(squares)), rel=1e-5)


def test_full_tuning_trains_every_parameter(make_model):
    model = make_model("bert")
    assert list(trainable_parameters(model)) == [name for name, _ in model.named_parameters()]


def test_bad_arguments(make_model):
    model = with_lora(make_model, "bert")
    for depth in (0, 4, -1, 1.0, True):
        with pytest.raises(InputError, match="depth"):
            set_lora_depth(model, depth)
    for layers in ((), (3,), (-1,), (1, 0), (1, 1), [0]):
        with pytest.raises(InputError, match="layers"):
            set_trainable_layers(model, layers)
    with pytest.raises(InputError, match="no LoRA yet"):
        attach_lora(model)
    for field in ("rank", "alpha"):
        with pytest.raises(InputError, match=field):
            attach_lora(make_model("bert"), **{field: 0})
    with pytest.raises(InputError, match="no_such_module"):
        attach_lora(make_model("bert"), fresh_modules=("no_such_module",))


def test_an_architecture_without_known_projections_is_an_error():
    config = XLNetConfig(vocab_size=48, d_model=16, n_layer=2, n_head=2, d_inner=32)
    model = AutoModelForSequenceClassification.from_config(config)
    with pytest.raises(InputError, match=r"XLNetLayer.*query and value.*ff\.layer_1"):
        attach_lora(model)
