"""Where quantization is active, what it gets along with, and what it leaves behind."""

from __future__ import annotations

import copy
import gc
from functools import partial

import pytest
import torch
from torch.autograd.graph import disable_saved_tensors_hooks, save_on_cpu, saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from fedquad import quantize_activations
from fedquad.config import InputError
from fedquad.cost.tracing import SavedBytes
from fedquad.model.activation_quantization.regions import Region
from fedquad.model.backbone import find_layers
from fedquad.model.lora import attach_lora

top_hooks = partial(torch._C._autograd._top_saved_tensors_default_hooks, False)


@pytest.fixture
def model(make_model):
    return make_model("bert", hidden_size=64, intermediate_size=128).train()


def loss_of(model, batch):
    torch.manual_seed(1)
    return model(**batch).loss


def gradients(model, batch):
    model.zero_grad()
    loss_of(model, batch).backward()
    return [weight.grad.clone() for weight in model.parameters()]


def active_layers(model, batch):
    """Layers in whose forward saved-tensor hooks are active."""
    active = []
    handles = [
        layer.attention.register_forward_hook(
            lambda *_, idx=idx: active.append(idx) if top_hooks() else None
        )
        for idx, layer in enumerate(find_layers(model))
    ]
    loss_of(model, batch)
    for handle in handles:
        handle.remove()
    assert top_hooks() is None
    return tuple(active)


def state(model):
    """All that hooks and attributes could be left in."""
    return {
        name: {
            key: dict(value) if key.endswith(("hooks", "kwargs", "called")) else value
            for key, value in vars(module).items()
            if key not in ("_parameters", "_buffers", "_modules")
        }
        for name, module in model.named_modules()
    }


@pytest.mark.parametrize("layers", [(), (0,), (1,), (0, 1), [0, 1], range(2)])
def test_only_chosen_layers_are_quantized(layers, model, batch):
    with quantize_activations(model, layers) as quantizer:
        assert quantizer.layers == tuple(layers)
        assert active_layers(model, batch) == tuple(layers)
    assert active_layers(model, batch) == ()


def test_layers_can_be_switched(model, batch):
    quantizer = quantize_activations(model, (0, 1))
    for layers in ((1,), (), (0,), (0, 1)):
        quantizer.set_layers(layers)
        assert quantizer.layers == layers
        assert active_layers(model, batch) == layers
    for wrong in ((2,), (1, 0), (3,)):
        with pytest.raises(InputError, match="layers"):
            quantizer.set_layers(wrong)
        assert active_layers(model, batch) == (0, 1)
    quantizer.remove()


def test_a_removed_quantizer_is_refused_rather_than_idle(model, batch):
    quantizer = quantize_activations(model, (0,))
    with quantizer:
        pass
    for again in (quantizer.__enter__, lambda: quantizer.set_layers((1,))):
        with pytest.raises(RuntimeError, match="was removed"):
            again()
    assert active_layers(model, batch) == ()


def test_the_output_layer_only_where_asked_for(model, batch):
    with quantize_activations(model, (1, 2), allow_output_layer=True):
        assert active_layers(model, batch) == (1, 2)


def test_nothing_is_done_without_gradients(model, batch):
    with quantize_activations(model, (0, 1)):
        with torch.no_grad():
            assert active_layers(model, batch) == ()
        with torch.inference_mode():
            assert active_layers(model, batch) == ()


@pytest.mark.parametrize("layers", [(), (0, 1)])
def test_removal_leaves_the_model_as_it_was(layers, model, batch):
    before, expected = state(model), gradients(model, batch)
    quantizer = quantize_activations(model, layers)
    loss = loss_of(model, batch)
    for _ in range(2):  # the second does nothing
        quantizer.remove()
        assert quantizer.layers == ()
        assert state(model) == before
    model.zero_grad()
    loss.backward()  # what was packed before
    assert all(map(torch.equal, gradients(model, batch), expected))


@pytest.mark.parametrize("used", [True, False])
def test_nothing_that_was_packed_outlives_the_graph(used, model, batch):
    def packed():
        return [thing for thing in gc.get_objects() if issubclass(type(thing), Region)]

    gc.collect()
    before = len(packed())
    gc.disable()  # no cycle may keep it either
    try:
        with quantize_activations(model, (0, 1)):
            loss = loss_of(model, batch)
            assert len(packed()) > before + 10
            if used:
                loss.backward()
            del loss
            assert len(packed()) == before
    finally:
        gc.enable()


def test_one_quantizer_a_model(model, batch):
    with quantize_activations(model, (0,)):
        wrapped = attach_lora(model)
        for same in (model, wrapped, model.bert):
            with pytest.raises(InputError, match="no other quantizer"):
                quantize_activations(same, (1,))
        assert active_layers(wrapped, batch) == (0,)
    with quantize_activations(wrapped, (1,)):
        assert active_layers(model, batch) == (1,)


def test_a_copy_of_the_model_is_not_quantized(model, batch):
    with quantize_activations(model, (0, 1)):
        other = copy.deepcopy(model)
        assert active_layers(other, batch) == ()
        assert active_layers(model, batch) == (0, 1)


def interrupt(error):
    def hook(*_):
        raise error

    return hook


@pytest.mark.parametrize("place", ["layer", "inside"])
def test_an_error_in_a_layer_leaves_nothing(place, model, batch):
    layer = find_layers(model)[1]
    with quantize_activations(model, (0, 1)):
        module = layer if place == "layer" else layer.attention
        handle = module.register_forward_pre_hook(interrupt(ZeroDivisionError))
        with pytest.raises(ZeroDivisionError):
            model(**batch)
        assert top_hooks() is None
        handle.remove()
        assert active_layers(model, batch) == (0, 1)


@pytest.mark.parametrize("then", ["next forward", "set_layers", "remove"])
def test_an_interrupt_leaves_nothing_for_long(then, model, batch):
    layer = find_layers(model)[1]
    with quantize_activations(model, (0, 1)) as quantizer:
        handle = layer.attention.register_forward_pre_hook(interrupt(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            model(**batch)
        handle.remove()
        if then == "next forward":
            loss_of(model, batch)
        elif then == "remove":
            quantizer.remove()
        else:
            quantizer.set_layers(())
        assert top_hooks() is None


class TestOtherHooks:
    """Those that are active outside get what ours make of a tensor."""

    @pytest.fixture
    def expected(self, model, batch):
        with quantize_activations(model, (0, 1)):
            return gradients(model, batch)

    def test_saving_on_the_cpu(self, model, batch, expected):
        with quantize_activations(model, (0, 1)), save_on_cpu():
            assert all(map(torch.equal, gradients(model, batch), expected))

    def test_any(self, model, batch, expected):
        """Hooks that store a tensor in a form of their own, and need it back."""
        kept = []

        def pack(tensor):
            kept.append(tensor)
            return len(kept) - 1

        with quantize_activations(model, (0, 1)), saved_tensors_hooks(pack, kept.__getitem__):
            assert all(map(torch.equal, gradients(model, batch), expected))
        assert {torch.int8, torch.uint8, torch.float32} <= {tensor.dtype for tensor in kept}

    def test_counting_bytes(self, model, batch, expected):
        with quantize_activations(model, (0, 1)) as quantizer:
            counts = []
            for layers in ((), (0, 1)):
                quantizer.set_layers(layers)
                with SavedBytes(find_layers(model), model.parameters()) as saved:
                    assert all(map(torch.equal, gradients(model, batch), expected)) or not layers
                counts.append(saved)
            with quantizer.recording() as record:
                loss_of(model, batch)
        without, quantized = counts
        for key, count in (("unquantized_bytes", without), ("kept_bytes", quantized)):
            by_layer = [sum(r[key] for r in record.rows if r["layer"] == idx) for idx in (0, 1)]
            assert by_layer == count.by_layer[:2]
        assert quantized.by_layer[2] == without.by_layer[2]

    def test_of_two_quantizers(self, model, make_model, batch):
        """A quantized model inside a quantized layer of another."""
        inner = make_model("bert", hidden_size=64, intermediate_size=128)
        layer = find_layers(model)[0]
        attention = layer.attention.forward

        def forward(hidden, *args, **kwargs):
            states = inner.bert(inputs_embeds=hidden).last_hidden_state
            return attention(hidden + states, *args, **kwargs)

        layer.attention.forward = forward
        plain = gradients(model, batch)
        with quantize_activations(model, (0, 1)), quantize_activations(inner, (0, 1)):
            found = gradients(model, batch)
        for gradient, expected in zip(found, plain, strict=True):
            assert (gradient - expected).norm() <= 0.02 * expected.norm() + 1e-6

    def test_where_they_are_forbidden(self, model, batch):
        with quantize_activations(model, (0, 1)):
            with (
                disable_saved_tensors_hooks("none, please"),
                pytest.raises(RuntimeError, match="none, please"),
            ):
                model(**batch)
            assert active_layers(model, batch) == (0, 1)


def checkpoint_layers(model, layers, reentrant=False):
    """What transformers' own switch does, which has another name in every other version."""
    for idx, layer in enumerate(find_layers(model)):
        layer.gradient_checkpointing = idx in layers
        layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=reentrant)


class TestCheckpointing:
    @pytest.mark.parametrize("reentrant", [False, True])
    def test_around_a_quantized_layer_is_refused(self, reentrant, model, batch):
        def encode(hidden):
            return model.bert.encoder(hidden).last_hidden_state

        with quantize_activations(model, (0, 1)):
            hidden = model.bert.embeddings(batch["input_ids"])
            if reentrant:  # is seen when backward runs the forward again
                states = checkpoint(encode, hidden, use_reentrant=True)
                with pytest.raises(InputError, match="inside a backward pass"):
                    states.sum().backward()
            else:
                with pytest.raises(InputError, match=r"torch\.utils\.checkpoint around"):
                    checkpoint(encode, hidden, use_reentrant=False)
            assert top_hooks() is None

    @pytest.mark.parametrize("reentrant", [False, True])
    def test_of_transformers_is_refused(self, reentrant, model, batch):
        checkpoint_layers(model, (0, 1, 2), reentrant)
        with quantize_activations(model, (0, 1)):
            with pytest.raises(InputError, match="gradient_checkpointing of layer 0"):
                loss_of(model, batch)
            model.eval()  # without dropout and checkpointing
            assert active_layers(model, batch) == (0, 1)
            model.train()
            checkpoint_layers(model, ())
            assert active_layers(model, batch) == (0, 1)

    def test_of_other_layers_works(self, model, batch):
        with quantize_activations(model, (0,)):
            expected = gradients(model, batch)
            checkpoint_layers(model, (1, 2))
            found = gradients(model, batch)
        for gradient, other in zip(found, expected, strict=True):
            torch.testing.assert_close(gradient, other)

    @pytest.mark.parametrize("reentrant", [False, True])
    def test_inside_a_quantized_layer_works(self, reentrant, model, batch):
        plain = gradients(model, batch)
        for layer in find_layers(model)[:2]:
            dense = layer.intermediate
            dense.forward = partial(checkpoint, dense.forward, use_reentrant=reentrant)
        with quantize_activations(model, (0, 1)) as quantizer:
            with quantizer.recording() as record:
                found = gradients(model, batch)
            saved = [row for row in record.rows if row["module"] == "intermediate"]
        for gradient, expected in zip(found, plain, strict=True):
            assert (gradient - expected).norm() <= 0.02 * expected.norm() + 1e-6
        # Only the input is kept, the LayerNorm's result, and that as blocks.
        assert {row["kept_bytes"] for row in saved} == {60 * 64 + 4 * 2 * 2}
