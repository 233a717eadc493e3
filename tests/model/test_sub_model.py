from __future__ import annotations

import pytest
import torch

from fedquad.config import InputError
from fedquad.model.backbone import find_layers
from fedquad.model.lora import attach_lora, module_path
from fedquad.model.sub_model import active_layers

FAMILIES = ("bert", "roberta", "deberta", "distilbert")


def built_of(make_model, name: str, layers: tuple[int, ...]):
    """A model that has these layers only, in their order, with the weights of the whole one."""
    whole = make_model(name)
    small = make_model(name, num_hidden_layers=len(layers))
    path = module_path(whole, find_layers(whole))
    weights = {n: w for n, w in whole.state_dict().items() if not n.startswith(f"{path}.")}
    for place, layer in enumerate(layers):
        for n, weight in find_layers(whole)[layer].state_dict().items():
            weights[f"{path}.{place}.{n}"] = weight
    small.load_state_dict(weights)
    return small


@pytest.mark.parametrize("layers", [(1,), (0, 2), (0, 1), (0, 1, 2)])
@pytest.mark.parametrize("name", FAMILIES)
def test_it_computes_what_a_model_of_those_layers_computes(make_model, batch, name, layers):
    small = built_of(make_model, name, layers)
    model = make_model(name)
    before = model(**batch).logits
    with active_layers(model, layers):
        logits = model(**batch).logits
    assert torch.equal(logits, small(**batch).logits)
    assert torch.equal(model(**batch).logits, before)


@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_skipped_gets_no_gradient_and_what_runs_keeps_its_name(make_model, batch, name):
    model = attach_lora(make_model(name), rank=2)
    names = [n for n, _ in model.named_parameters()]
    path = module_path(model, find_layers(model))
    with active_layers(model, (0, 2)):
        inside = [n for n, _ in model.named_parameters()]
        model(**batch).loss.backward()
    assert inside == [n for n in names if not n.startswith(f"{path}.1.")]
    assert [n for n, _ in model.named_parameters()] == names
    got = {n for n, weight in model.named_parameters() if weight.grad is not None}
    lora_b = {n for n in names if "lora_B" in n}
    assert {n for n in lora_b if not n.startswith(f"{path}.1.")} == got & lora_b


def test_all_layers_come_back_in_order_after_an_error(make_model):
    model = make_model("bert")
    layers = list(find_layers(model))
    with pytest.raises(ZeroDivisionError), active_layers(model, (2,)):
        raise ZeroDivisionError
    assert list(find_layers(model)) == layers
    assert [find_layers(model)[index] for index in range(3)] == layers


@pytest.mark.parametrize("layers", [(), (3,), (1, 0), (0, 0), (-1,)])
def test_layers_that_are_not_there_are_refused(make_model, layers):
    model = make_model("bert")
    with pytest.raises(InputError, match="layers"), active_layers(model, layers):
        pass
    assert len(find_layers(model)) == 3


def test_sub_models_do_not_nest(make_model):
    model = make_model("bert")
    expected = pytest.raises(InputError, match="list of length 3")
    with active_layers(model, (0, 1)), expected, active_layers(model, (0,)):
        pass
    assert len(find_layers(model)) == 3
