"""Fused operations mean what the hooks mean, on every architecture that has some of them."""

from __future__ import annotations

import pytest
import torch

from fedquad import InputError, quantize_activations
from fedquad.model.backbone import find_layers
from fedquad.model.lora import attach_lora, lora_tensors

NAMES = ("bert", "roberta", "electra", "deberta", "distilbert", "modernbert", "gpt2", "llama")
WIDE = {"hidden_size": 64, "intermediate_size": 128}
OTHER_SIZES = {"deberta": {"pooler_hidden_size": 64}, "llama": {"head_dim": 32}}


@pytest.fixture
def build(make_model):
    """``build("bert")``: 64 wide with LoRA whose B is not zero, without dropout."""

    def make(name, attention="eager", dropout=False):
        model = make_model(name, **WIDE, **OTHER_SIZES.get(name, {}))
        model.set_attn_implementation(attention)
        model = attach_lora(model, rank=4, alpha=8)
        generator = torch.Generator().manual_seed(2)
        for weights in lora_tensors(model).values():
            for key, weight in weights.items():
                if key.endswith("B"):
                    torch.nn.init.normal_(weight, std=0.05, generator=generator)
        return model.train(dropout)

    return make


def gradients(model, batch):
    model.zero_grad()
    torch.manual_seed(1)
    loss = model(**batch).loss
    loss.backward()
    found = [weight.grad for weight in model.parameters() if weight.grad is not None]
    return loss.item(), torch.cat([gradient.flatten() for gradient in found])


@pytest.mark.parametrize("name", NAMES)
def test_the_gradients_are_those_of_the_hooks(name, build, batch):
    model = build(name)
    with quantize_activations(model, (0, 1), path="hooks"):
        loss, by_hooks = gradients(model, batch)
    plain = gradients(model, batch)[1]
    with quantize_activations(model, (0, 1), path="fused"):
        fused_loss, by_fused = gradients(model, batch)
    assert fused_loss == pytest.approx(loss, rel=1e-6)  # of another order of sums
    # The same tensors, in blocks that are cut elsewhere in q, k, v and the probabilities.
    error = (by_hooks - plain).norm()
    assert error > 0
    assert (by_fused - by_hooks).norm() <= 0.5 * error


@pytest.mark.parametrize("name", NAMES)
def test_removing_leaves_every_module_as_it_was(name, build):
    model = build(name)
    before = [dict(vars(module)) for module in model.modules()]
    quantizer = quantize_activations(model, (0, 1), path="fused")
    during = [dict(vars(module)) for module in model.modules()]
    assert during != before
    quantizer.remove()
    after = [dict(vars(module)) for module in model.modules()]
    assert [list(one) for one in after] == [list(one) for one in before]
    for one, other in zip(after, before, strict=True):
        assert all(one[key] is other[key] for key in one if key in ("config", "forward"))


def test_other_layers_can_be_chosen(build, batch):
    model = build("roberta")
    layers = find_layers(model)
    with quantize_activations(model, (0,), path="fused") as quantizer:
        assert "forward" in vars(layers[0].output)
        quantizer.set_layers((1,))
        assert "forward" not in vars(layers[0].output)
        with quantizer.recording() as record:
            gradients(model, batch)
        assert {row["layer"] for row in record.rows} == {1}


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_dropout_is_the_same_for_the_same_seed(attention, build, batch):
    model = build("bert", attention, dropout=True)
    with quantize_activations(model, (0, 1), path="fused"):
        loss, first = gradients(model, batch)
        assert gradients(model, batch)[0] == loss
        again = gradients(model, batch)[1]
        torch.manual_seed(2)
        other = model(**batch).loss.item()
    assert torch.equal(first, again)
    assert other != loss


def test_the_record_counts_what_eager_operations_would_keep(build, batch):
    batch = {name: rows.repeat(6, *(1,) * (rows.dim() - 1)) for name, rows in batch.items()}
    model = build("roberta", dropout=True)
    shares, unquantized = {}, {}
    for path in ("hooks", "fused"):
        quantizer = quantize_activations(model, (1,), path=path)
        with quantizer, quantizer.recording() as record:
            gradients(model, batch)
        shares[path], unquantized[path] = record.saved_share, record.unquantized_bytes
    assert unquantized["fused"] == pytest.approx(unquantized["hooks"], rel=0.02)
    assert shares["fused"] == pytest.approx(shares["hooks"], abs=0.02)


def test_attention_weights_are_given_where_they_are_asked_for(build, batch):
    model = build("bert")
    with quantize_activations(model, (0, 1), path="fused"):
        asked = model(**batch, output_attentions=True).attentions
    plain = model(**batch, output_attentions=True).attentions
    for one, other in zip(asked, plain, strict=True):
        torch.testing.assert_close(one, other)


def test_nothing_is_kept_where_no_gradient_is_needed(build, batch):
    model = build("roberta")
    plain = model(**batch).loss
    with quantize_activations(model, (0, 1), path="fused"), torch.no_grad():
        loss = model(**batch).loss
    assert loss == plain
    assert not loss.requires_grad


def test_a_layer_without_fused_operations_is_refused():
    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(8, 8)

        def forward(self, hidden_states):
            return self.linear(hidden_states).relu()

    model = torch.nn.Sequential(torch.nn.ModuleList(Block() for _ in range(3)))
    with pytest.raises(InputError, match=r"path.*hooks"):
        quantize_activations(model, (0, 1), path="fused")
    quantize_activations(model, (0, 1), path="hooks").remove()
