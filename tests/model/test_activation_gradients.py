"""Gradients of quantized layers against those of the same layers without quantization."""

from __future__ import annotations

import pytest
import torch

from fedquad import quantize_activations
from fedquad.model.activation_quantization import regions
from fedquad.model.lora import attach_lora, lora_tensors, set_trainable_layers

ENCODERS = ("bert", "roberta", "electra", "deberta", "distilbert", "modernbert")
DECODERS = ("gpt2", "llama")
SIZES = {"hidden_size": 64, "intermediate_size": 128}
OTHER_SIZES = {"deberta": {"pooler_hidden_size": 64}, "llama": {"head_dim": 32}}
SETTINGS = [
    (name, attention, tuning)
    for name in ENCODERS + DECODERS
    for attention in ("eager", "sdpa")
    for tuning in ("lora", "full")
    if (name, attention) != ("deberta", "sdpa")  # transformers has none
]

# Of normal values in a 32 x 32 block the largest is about 3.3 sigma: a step is 3.3 / 127 sigma, and
# rounding loses step / sqrt(12), 0.75 % of the tensor. A gradient sums over tokens, where these
# errors cancel in part, and over a handful of saved tensors, where they add as squares.
ERROR = 0.01
# A causal softmax has a 1 in its first row. In that row's block of 32 x 32 the step is 1 / 255,
# against probabilities of 1 / 10 in the rows below.
CAUSAL_ERROR = 0.04


@pytest.fixture
def build(make_model):
    """``build("bert")``: 64 wide, LoRA whose B is not zero, so that every tensor matters."""

    def make(name, attention="eager", tuning="lora", train=True):
        model = make_model(name, **SIZES, **OTHER_SIZES.get(name, {}))
        model.set_attn_implementation(attention)
        if tuning == "lora":
            model = attach_lora(model, rank=4, alpha=8)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(2)
                for weights in lora_tensors(model).values():
                    for key, weight in weights.items():
                        if key.endswith("B"):
                            torch.nn.init.normal_(weight, std=0.05)
        return model.train(train)

    return make


def loss_of(model, batch):
    torch.manual_seed(1)  # of dropout
    return model(**batch).loss


def gradients(model, batch):
    """Those of the layers; the head's are the same with and without."""
    model.zero_grad()
    loss_of(model, batch).backward()
    return collect(model)


def collect(model):
    return {
        name: weight.grad.clone()
        for name, weight in model.named_parameters()
        if weight.grad is not None and not name.split(".")[-2].startswith(("classifier", "score"))
    }


def distance(found, expected):
    assert found.keys() == expected.keys()
    error = sum((found[name] - expected[name]).double().square().sum() for name in expected)
    return (error / sum(value.double().square().sum() for value in expected.values())).sqrt()


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    different = [name for name in expected if not torch.equal(found[name], expected[name])]
    assert not different


@pytest.fixture
def lossless(monkeypatch):
    """Store the matrices themselves instead of codes."""
    monkeypatch.setattr(regions, "quantize_blocks", lambda x, **_: (x.clone(), x.new_zeros(1)))
    monkeypatch.setattr(regions, "dequantize_blocks", lambda codes, scales, **_: codes.clone())


@pytest.mark.usefixtures("lossless")
@pytest.mark.parametrize(("name", "attention", "tuning"), SETTINGS)
def test_a_lossless_store_gives_the_same_gradients(name, attention, tuning, build, batch):
    model = build(name, attention, tuning)
    expected = gradients(model, batch)
    with quantize_activations(model, (0, 1, 2), path="hooks", allow_output_layer=True):
        found = gradients(model, batch)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        # Not always bit for bit: a slice comes back without gaps, and its product sums otherwise.
        torch.testing.assert_close(found[key], value, rtol=1e-5, atol=1e-6 * value.abs().max())


@pytest.mark.parametrize(("name", "attention", "tuning"), SETTINGS)
@pytest.mark.parametrize("train", [True, False])
def test_gradients_within_the_quantization_step(name, attention, tuning, train, build, batch):
    model = build(name, attention, tuning, train)
    expected, loss = gradients(model, batch), loss_of(model, batch)
    with quantize_activations(model, (0, 1), path="hooks") as quantizer:
        assert torch.equal(loss_of(model, batch), loss)
        found = gradients(model, batch)
        with quantizer.recording() as record:
            loss_of(model, batch)
    assert 0 < distance(found, expected) < (CAUSAL_ERROR if name in DECODERS else ERROR)
    assert record.saved_share > 0.65
    assert_same(gradients(model, batch), expected)  # after removal


@pytest.mark.parametrize("name", ["bert", "deberta", "llama"])
def test_the_error_is_proportional_to_the_step(name, build, batch):
    model = build(name, train=False)
    expected = gradients(model, batch)
    errors = {}
    for bits in (8, 4):
        with quantize_activations(model, (0, 1), path="hooks", bits=bits):
            errors[bits] = distance(gradients(model, batch), expected)
    assert errors[8] * 127 / 7 / 2.5 < errors[4] < errors[8] * 127 / 7 * 2.5


@pytest.mark.parametrize("tuning", ["lora", "full"])
@pytest.mark.parametrize("name", ["bert", "deberta", "modernbert", "gpt2", "llama"])
def test_autocast(name, tuning, build, batch):
    model = build(name, "eager", tuning)
    with torch.autocast("cpu", torch.bfloat16):
        expected = gradients(model, batch)
        with quantize_activations(model, (0, 1), path="hooks") as quantizer:
            found = gradients(model, batch)
            with quantizer.recording() as record:
                loss_of(model, batch)
    # What is kept in bf16 is rounded to 2^-9 of itself either way, less than a step.
    assert 0 < distance(found, expected) < (CAUSAL_ERROR if name in DECODERS else ERROR)
    # At best a half; autocast's copies of the weights count, and 60 tokens are few against them.
    assert record.saved_share > 0.3


@pytest.mark.parametrize("bits", [8, 4])
def test_low_precision_weights(bits, build, batch):
    model = build("bert", "sdpa", train=False).to(torch.bfloat16)
    expected = gradients(model, batch)
    with quantize_activations(model, (0, 1), path="hooks", bits=bits):
        found = gradients(model, batch)
    assert all(value.dtype == torch.bfloat16 for value in found.values())
    assert 0 < distance(found, expected) < ERROR * 127 / (127 if bits == 8 else 7)


def test_gradients_accumulate(build, batch):
    model = build("bert")
    halves = [
        {key: value[rows] for key, value in batch.items()} for rows in (slice(3), slice(3, 6))
    ]
    with quantize_activations(model, (0, 1), path="hooks"):
        one, other = (gradients(model, half) for half in halves)
        model.zero_grad()
        for half in halves:
            loss_of(model, half).backward()
        assert_same(collect(model), {name: one[name] + other[name] for name in one})
        model.zero_grad()
        sum(loss_of(model, half) for half in halves).backward()  # both graphs alive at once
        torch.testing.assert_close(collect(model), {name: one[name] + other[name] for name in one})


@pytest.mark.parametrize("name", ["bert", "modernbert"])
def test_a_retained_graph_gives_the_same_gradients_twice(name, build, batch):
    model = build(name)
    with quantize_activations(model, (0, 1), path="hooks"):
        expected = gradients(model, batch)
        loss = loss_of(model, batch)
        for _ in range(2):
            model.zero_grad()
            loss.backward(retain_graph=True)
            assert_same(collect(model), expected)


def test_second_derivatives(build, batch):
    model = build("bert", train=False)
    weights = [w for layer in lora_tensors(model).values() for w in layer.values()]

    def penalty_gradients():
        first = torch.autograd.grad(loss_of(model, batch), weights, create_graph=True)
        second = torch.autograd.grad(sum(value.square().sum() for value in first), weights)
        return dict(enumerate(second))

    expected = penalty_gradients()
    with quantize_activations(model, (0, 1), path="hooks"):
        found = penalty_gradients()
    assert 0 < distance(found, expected) < 2 * ERROR  # of a product of two gradients


def test_two_models_in_turn(build, batch):
    models = build("bert"), build("gpt2")
    layers = (0, 1), (1,)
    expected = []
    for model, chosen in zip(models, layers, strict=True):
        with quantize_activations(model, chosen, path="hooks"):
            expected.append(gradients(model, batch))
    quantizers = [
        quantize_activations(model, chosen, path="hooks")
        for model, chosen in zip(models, layers, strict=True)
    ]
    for model in models:
        model.zero_grad()
    losses = [loss_of(model, batch) for model in models]
    for loss in losses:
        loss.backward()
    for model, gradient in zip(models, expected, strict=True):
        assert_same(collect(model), gradient)
    for quantizer in quantizers:
        quantizer.remove()


@pytest.mark.parametrize(
    ("name", "attention"), [setting[:2] for setting in SETTINGS if setting[2] == "lora"]
)
def test_the_lowest_trainable_layer_is_quantized_too(name, attention, build, batch):
    """Nothing that enters it needs a gradient, so its tensors look like masks and weights."""
    model = build(name, attention)
    set_trainable_layers(model, (1, 2))
    expected = gradients(model, batch)
    with quantize_activations(model, (0, 1), path="hooks") as quantizer:
        found = gradients(model, batch)
        with quantizer.recording() as record:
            loss_of(model, batch)
    assert 0 < distance(found, expected) < (CAUSAL_ERROR if name in DECODERS else ERROR)
    assert {row["layer"] for row in record.rows} == {1}  # layer 0 keeps nothing
    assert record.saved_share > 0.65


def test_stochastic_rounding_has_no_bias(build, batch):
    model = build("bert", train=False)
    expected = gradients(model, batch)
    draws = []
    for seed in range(32):
        with quantize_activations(
            model, (0, 1), path="hooks", bits=4, rounding="stochastic", seed=seed
        ):
            draws.append(gradients(model, batch))
    alone = sum(distance(draw, expected) for draw in draws) / len(draws)
    mean = {name: sum(draw[name] for draw in draws) / len(draws) for name in expected}
    # Independent errors shrink by the root of their number, a common one would stay.
    assert distance(mean, expected) < alone / 32**0.5 * 1.6
