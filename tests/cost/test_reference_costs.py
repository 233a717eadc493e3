import dataclasses
import json

import pytest

from fedquad.config import Assignment, InputError, LayerConfig
from fedquad.cost.accounting import _count_step, step_cost
from fedquad.cost.layer_costs import fit_layer_costs
from fedquad.cost.quantization import measured_quantization_costs
from fedquad.cost.reference_costs import (
    COMMITTED_MODELS,
    ReferenceCosts,
    costs_file,
    count_reference_costs,
    main,
    reference_costs,
)
from fedquad.model.pretrained import HUB_NAMES, architecture


def num_counted_steps():
    return _count_step.cache_info().misses


@pytest.mark.parametrize("model", COMMITTED_MODELS)
def test_committed_costs_are_read_without_counting(model):
    before = num_counted_steps()
    reference = reference_costs(model)
    assert num_counted_steps() == before
    assert (reference.model, reference.batch_size, reference.length) == (model, 32, 128)
    assert reference.costs.num_layers == architecture(model).num_hidden_layers
    assert min(reference.bytes_r_squared, reference.flops_r_squared) >= 0.999
    assert costs_file(model).read_text() == reference.to_json()


@pytest.mark.parametrize("model", COMMITTED_MODELS)
def test_prices_differ_in_what_quantization_saves_and_costs_alone(model):
    reference = reference_costs(model)
    paper, counted = reference.price("paper"), reference.price("counted")
    quantization = ("bytes_saved_per_quantized_layer", "flops_per_quantized_layer")
    papers = {name: getattr(paper, name) for name in quantization}
    assert dataclasses.replace(counted, **papers) == paper
    whole = paper.forward_flops + paper.num_layers * paper.flops_per_lora_layer
    saved = paper.bytes_saved_per_quantized_layer
    assert saved == pytest.approx(0.58 * paper.bytes_per_lora_layer, abs=1)
    assert paper.num_layers * paper.flops_per_quantized_layer == pytest.approx(
        0.36 * whole, abs=paper.num_layers
    )
    # Codes of 8 bits in the place of 32, some tensors as they were: between 58 and 80 %.
    assert 0.58 < counted.bytes_saved_per_quantized_layer / counted.bytes_per_lora_layer < 0.8
    assert 0 < counted.flops_per_quantized_layer < paper.flops_per_quantized_layer


def test_every_spelling_of_a_model_is_the_same_reference():
    expected = reference_costs("roberta-large")
    assert reference_costs(HUB_NAMES["roberta-large"]) == expected
    assert reference_costs("RoBERTa-large") == expected


@pytest.mark.slow
@pytest.mark.parametrize("model", COMMITTED_MODELS)
def test_committed_costs_price_steps_as_the_accounting_does(model):
    reference = reference_costs(model)
    num_layers = reference.costs.num_layers

    def counted_and_priced(depth, quantized=0):
        config = LayerConfig(depth, quantized)
        step = step_cost(
            model,
            batch_size=32,
            length=128,
            trainable_layers=config.trainable_layers(num_layers),
            quantized_layers=config.quantized_layers(num_layers),
        )
        assignment = Assignment.from_layer_config(config, num_layers)
        return step, reference.counted.price(assignment)

    for depth in (2, num_layers):
        step, price = counted_and_priced(depth)
        assert price.bytes == pytest.approx(step.total_bytes, rel=1e-6)
        assert price.flops == pytest.approx(step.total_flops, rel=1e-6)
    assert reference.arithmetic_intensity == step.arithmetic_intensity
    quantized, price = counted_and_priced(num_layers, num_layers - 1)
    # m_q and c_a are slopes of lines, and a = 0 lies a little beside them.
    assert price.bytes == pytest.approx(quantized.total_bytes, rel=5e-3)
    moved = (quantized.operand_bytes - step.operand_bytes) / (num_layers - 1)
    assert reference.counted.flops_per_quantized_layer == pytest.approx(
        moved * step.arithmetic_intensity, rel=1e-2
    )


def test_other_models_and_sizes_are_counted(small_model):
    folder = small_model("bert", num_layers=3)
    reference = reference_costs(folder, 2, 16)
    fit = fit_layer_costs(folder, 2, 16)
    measured = measured_quantization_costs(folder, 2, 16)
    assert reference.costs == fit.costs
    assert reference.counted == measured.applied()
    whole = step_cost(folder, batch_size=2, length=16)
    assert reference.arithmetic_intensity == whole.arithmetic_intensity
    counted = num_counted_steps()
    assert reference_costs(folder, 2, 16) == reference
    assert num_counted_steps() == counted  # once in a process


@pytest.mark.slow
def test_fewer_bits_save_more(small_model):
    folder = small_model("bert", num_layers=3)
    int8 = reference_costs(folder, 2, 32)
    int4 = reference_costs(folder, 2, 32, activation_bits=4)
    assert int4.costs == int8.costs
    saved = [costs.counted.bytes_saved_per_quantized_layer for costs in (int8, int4)]
    assert saved[0] < saved[1]


@pytest.mark.parametrize("price", ["", "ours", "Paper"])
def test_unknown_price_is_refused(price):
    with pytest.raises(InputError, match="paper, counted"):
        reference_costs("roberta-base").price(price)


def test_unknown_model_is_refused():
    with pytest.raises(InputError, match="roberta-large"):
        reference_costs("gpt-5")
    with pytest.raises(InputError, match="bert-large"):
        main(["bert-base"])


@pytest.mark.parametrize(
    "change",
    [
        lambda values: values.pop("counted"),
        lambda values: values.update(extra=1),
        lambda values: values.update(costs=3),
        lambda values: values["counted"].update(num_layers=0),
        lambda values: values.update(arithmetic_intensity=0),
    ],
)
def test_damaged_files_are_refused(change):
    values = json.loads(costs_file("roberta-base").read_text())
    change(values)
    with pytest.raises(InputError):
        ReferenceCosts.from_json(json.dumps(values))


@pytest.mark.slow
def test_committed_costs_are_what_counting_gives():
    committed, counted = reference_costs("roberta-base"), count_reference_costs("roberta-base")
    for name in ("costs", "counted"):  # a line fit may round the last unit another way elsewhere
        assert dataclasses.asdict(getattr(counted, name)) == pytest.approx(
            dataclasses.asdict(getattr(committed, name)), rel=1e-10
        )
    assert counted.arithmetic_intensity == committed.arithmetic_intensity
    assert counted.bytes_r_squared == pytest.approx(committed.bytes_r_squared)
    assert counted.flops_r_squared == pytest.approx(committed.flops_r_squared)
