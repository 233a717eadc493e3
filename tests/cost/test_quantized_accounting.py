import gc
import itertools
import json

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from fedquad.cli import main
from fedquad.config import InputError, LayerConfig
from fedquad.cost.accounting import step_cost
from fedquad.cost.live_bytes import LiveBytes
from fedquad.cost.memory_saving import checkpoint_layers
from fedquad.cost.quantization import measured_quantization_costs
from fedquad.model.activation_quantization import quantize_activations
from fedquad.model.backbone import architecture, find_layers
from fedquad.model.lora import attach_lora, set_trainable_layers


def real_model(folder, layers, attention="eager"):
    """The same architecture with real weights, put together apart from the accounting."""
    config = architecture(folder)
    config.num_labels = 3
    config.problem_type = "single_label_classification"
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config, attn_implementation=attention)
    fresh = ("pooler", "classifier") if config.model_type == "deberta-v2" else ("classifier",)
    model = attach_lora(model, rank=4, alpha=4, fresh_modules=fresh)
    set_trainable_layers(model, layers)
    return model.train()


def real_batch(batch_size, length):
    ids = torch.randint(3, 101, (batch_size, length))
    mask = torch.ones_like(ids)
    mask[0, -2:] = 0
    return {"input_ids": ids, "attention_mask": mask, "labels": torch.arange(batch_size) % 3}


def blocks(rows, cols, bits=8):
    """Bytes of codes, and of one fp32 scale for each block of 32 x 32."""
    return rows * cols * bits // 8 + 4 * -(-rows // 32) * -(-cols // 32)


@pytest.mark.parametrize(
    ("model", "hidden", "heads", "bits", "dtype", "itemsize"),
    [
        ("roberta-base", 768, 12, 8, "float32", 4),
        ("roberta-base", 768, 12, 4, "bfloat16", 2),
        ("bert-large", 1024, 16, 8, "bfloat16", 2),
    ],
)
def test_bytes_of_a_quantized_layer_in_closed_form(model, hidden, heads, bits, dtype, itemsize):
    batch, length, rank = 2, 48, 8
    cost = step_cost(
        model,
        batch_size=batch,
        length=length,
        lora_rank=rank,
        dtype=dtype,
        quantized_layers=(0, 1, 2),
        activation_bits=bits,
    )
    tokens, rows = batch * length, batch * heads * length
    kept = {
        "input of the layer, for LoRA's A of query and value": blocks(tokens, hidden, bits),
        "query and value": 2 * blocks(tokens, hidden, bits),
        "key, copied transposed": blocks(batch * hidden, length, bits),
        "softmax": blocks(rows, length, bits),
        "the dropped-out probabilities, times value": blocks(rows, length, bits),
        "inputs of both layer norms": 2 * blocks(tokens, hidden, bits),
        "input of GELU": blocks(tokens, 4 * hidden, bits),
        "three dropout masks": (rows * length + 2 * tokens * hidden) // 8,
        "A x of query and value, small": 2 * tokens * rank * itemsize,
        "mean and 1 / deviation of both layer norms": 4 * tokens * 4,
    }
    assert cost.activation_bytes_by_layer[1] == sum(kept.values())
    assert cost.activation_bytes_by_layer[2] == sum(kept.values())


def test_a_quantized_layer_of_roberta_base_keeps_less_than_the_targets():
    quantized = tuple(range(11))
    for dtype, target in (("float32", 0.70), ("bfloat16", 0.50)):
        before = step_cost("roberta-base", dtype=dtype)
        after = step_cost("roberta-base", dtype=dtype, quantized_layers=quantized)
        pairs = zip(before.activation_bytes_by_layer, after.activation_bytes_by_layer, strict=True)
        *cuts, output_layer = [1 - kept / all_of_it for all_of_it, kept in pairs]
        assert min(cuts) >= target
        assert output_layer == 0
        assert after.peak_bytes < before.peak_bytes
        assert after.weight_bytes == before.weight_bytes
        assert after.total_flops == before.total_flops


@pytest.mark.parametrize("family", ["bert", "deberta-v2"])
def test_bytes_fall_by_the_same_step_with_each_quantized_layer(family, small_model):
    folder = small_model(family, dropout=0.1, num_layers=4)
    costs = [
        step_cost(folder, batch_size=4, length=32, quantized_layers=tuple(range(count)))
        for count in range(4)
    ]
    assert costs[0] == step_cost(folder, batch_size=4, length=32)
    cuts = [a.total_bytes - b.total_bytes for a, b in itertools.pairwise(costs)]
    assert len(set(cuts[1:])) == 1
    assert cuts[1] >= cuts[0] > 0  # the lowest layer of all lacks what leads to no weight
    outside = {cost.activation_bytes_outside_layers for cost in costs}
    assert len(outside) == 1


@pytest.mark.parametrize(("family", "bits"), [("bert", 8), ("roberta", 4), ("deberta-v2", 8)])
def test_the_quantizers_own_record_of_real_tensors_agrees(family, bits, small_model):
    folder = small_model(family)
    layers, quantized = (1, 2, 3), (1, 2)
    options = {"batch_size": 3, "length": 17, "trainable_layers": layers, "lora_rank": 4}
    plain = step_cost(folder, **options)
    counted = step_cost(folder, **options, quantized_layers=quantized, activation_bits=bits)
    model = real_model(folder, layers)
    with (
        quantize_activations(model, quantized, bits=bits, path="hooks") as quantizer,
        quantizer.recording() as record,
    ):
        model(**real_batch(3, 17)).loss.backward()
    kept = sum(counted.activation_bytes_by_layer[idx] for idx in quantized)
    assert record.kept_bytes == kept
    unquantized = sum(plain.activation_bytes_by_layer[idx] for idx in quantized)
    assert record.unquantized_bytes == unquantized


@pytest.mark.parametrize("layers", [(0, 1, 2, 3), (2, 3)])
def test_checkpointed_layers_keep_their_input(layers, small_model):
    folder = small_model("roberta", dropout=0.1)
    shape = {"batch_size": 3, "length": 16}
    plain = step_cost(folder, **shape, trainable_layers=layers)
    cost = step_cost(folder, **shape, trainable_layers=layers, checkpointing=True)
    hidden, mask = 3 * 16 * 32 * 4, 3 * 16 * 16 * 4
    kept = [0] * layers[0] + [hidden] * len(layers)
    kept[layers[0]] += mask  # given to every layer, held once
    assert cost.activation_bytes_by_layer == tuple(kept)
    assert cost.activation_bytes_outside_layers == plain.activation_bytes_outside_layers
    assert cost.forward_flops == plain.forward_flops
    recomputed = cost.backward_flops - plain.backward_flops
    everything = step_cost(folder, **shape, checkpointing=True)
    assert recomputed * 4 == len(layers) * (
        everything.backward_flops - step_cost(folder, **shape).backward_flops
    )
    one_layer = max(plain.activation_bytes_by_layer)
    assert cost.activation_bytes + one_layer - hidden <= cost.peak_step_bytes
    assert cost.peak_step_bytes < plain.peak_step_bytes
    below_output = step_cost(folder, **shape, trainable_layers=layers, checkpointing=layers[:-1])
    assert below_output.activation_bytes_by_layer == (
        *cost.activation_bytes_by_layer[:-1],
        plain.activation_bytes_by_layer[-1],
    )


@pytest.mark.parametrize("saving", ["none", "quantized", "checkpointed"])
def test_peak_of_fake_tensors_equals_that_of_real_ones(saving, small_model):
    folder = small_model("bert")
    layers, chosen = (0, 1, 2, 3), (0, 1, 2)
    options = {
        "none": {},
        "quantized": {"quantized_layers": chosen},
        "checkpointed": {"checkpointing": chosen},
    }[saving]
    counted = step_cost(folder, batch_size=4, length=32, lora_rank=4, **options)
    model, batch = real_model(folder, layers), real_batch(4, 32)
    live = LiveBytes([*model.parameters(), *model.buffers(), *batch.values()])
    blocks_of = find_layers(model)
    quantizer = quantize_activations(model, chosen if saving == "quantized" else (), path="hooks")
    checkpointed = checkpoint_layers(
        (blocks_of[idx] for idx in (chosen if saving == "checkpointed" else ())),
    )
    with quantizer, checkpointed, live:
        model(**batch).loss.backward()
    # A CPU keeps its own temporaries for the loss and the like, of a few hundred bytes.
    assert live.peak == pytest.approx(counted.peak_step_bytes, rel=0.01)


def test_live_bytes_follow_storages_to_their_release():
    known = torch.zeros(1000)
    with LiveBytes([known]) as live:
        first = known + 1
        view = first[10:]
        second = first * 2
        assert (live.now, live.peak) == (8000, 8000)
        del first
        assert live.now == 8000  # the view holds it
        del view, second
        assert (live.now, live.peak) == (0, 8000)
        known.add_(1)
        third = torch.zeros(10)
        assert (live.now, live.peak) == (40, 8000)
    del third
    gc.collect()
    assert live.now == 0


def test_checkpointing_leaves_the_layers_as_they_were(small_model):
    model = real_model(small_model(), (0, 1, 2, 3))
    layers = find_layers(model)
    before = [dict(layer.__dict__) for layer in layers]
    batch = real_batch(2, 9)
    torch.manual_seed(1)
    plain = model(**batch).loss
    plain.backward()
    gradients = [weight.grad.clone() for weight in model.parameters() if weight.requires_grad]
    model.zero_grad()
    with checkpoint_layers(layers):
        torch.manual_seed(1)
        loss = model(**batch).loss
        loss.backward()
    assert torch.equal(loss, plain)
    found = [weight.grad for weight in model.parameters() if weight.requires_grad]
    assert all(map(torch.equal, gradients, found))
    assert [dict(layer.__dict__) for layer in layers] == before


def test_constants_beside_the_papers(small_model):
    folder = small_model("roberta", dropout=0.1, num_layers=4)
    costs = measured_quantization_costs(folder, 4, 32)
    assert costs.num_quantized == (0, 1, 3)
    assert costs.bytes_r_squared > 0.999
    saved = costs.steps[0].total_bytes - costs.steps[-1].total_bytes
    assert costs.bytes_saved_per_quantized_layer == pytest.approx(saved / 3, rel=0.02)
    moved = costs.steps[-1].operand_bytes - costs.steps[0].operand_bytes
    expected = moved / 3 * costs.steps[0].arithmetic_intensity
    assert costs.flops_per_quantized_layer == pytest.approx(expected, rel=0.02)
    ours = costs.applied()
    assert ours.bytes_saved_per_quantized_layer == costs.bytes_saved_per_quantized_layer
    assert ours.fixed_bytes == costs.layer_costs.fixed_bytes
    summary = costs.summary()
    assert (summary["bytes_share_paper"], summary["flops_share_paper"]) == (0.58, 0.36)
    of_the_paper = costs.layer_costs.bytes_saved_per_quantized_layer
    assert of_the_paper / costs.layer_costs.bytes_per_lora_layer == pytest.approx(0.58, abs=1e-4)
    assert 0.5 < costs.bytes_share < 0.76
    assert costs.flops_share > 0
    assert (costs.bits, costs.block_size) == (8, 32)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"quantized_layers": (11,)}, "the output layer 11 is never quantized"),
        ({"quantized_layers": (12,)}, "below 12"),
        ({"quantized_layers": (2, 1)}, "ascending"),
        ({"quantized_layers": 3}, "ascending"),
        ({"quantized_layers": (3,), "trainable_layers": (4, 5)}, "layers from 4"),
        ({"quantized_layers": (0,), "activation_bits": 5}, "8 or 4"),
        ({"block_size": 33}, "power of two"),
        ({"checkpointing": (3,), "trainable_layers": (4, 5)}, "that keep something"),
        ({"checkpointing": (12,)}, "below 12"),
        ({"checkpointing": "yes"}, "ascending"),
        ({"checkpointing": True, "quantized_layers": (1,)}, "none of the quantized layers"),
    ],
)
def test_bad_input_is_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        step_cost("roberta-base", **arguments)


def run_memory(capsys, options):
    with pytest.raises(SystemExit) as ended:
        main(["memory", "--batch-size", "2", "--length", "16", *options.split()])
    return ended.value.code, *capsys.readouterr()


def test_the_command_counts_quantized_layers_from_the_lowest_trained_one(small_model, capsys):
    folder = small_model("roberta", dropout=0.1)
    depth = f"--model {folder} --depth 3 --json"
    status, out, _ = run_memory(capsys, f"{depth} --quantized 2 --activation-bits 4")
    shown = json.loads(out)
    assert status == 0
    assert shown["quantized_layers"] == [1, 2]
    expected = step_cost(
        folder,
        batch_size=2,
        length=16,
        trainable_layers=(1, 2, 3),
        quantized_layers=(1, 2),
        activation_bits=4,
    )
    assert {name: shown[name] for name in expected.summary()} == expected.summary()
    plain = json.loads(run_memory(capsys, depth)[1])
    assert (plain["quantized_layers"], plain["checkpointing"]) == ([], False)
    recomputed = json.loads(run_memory(capsys, f"{depth} --checkpointing")[1])
    assert shown["activation_bytes"] < plain["activation_bytes"]
    assert recomputed["activation_bytes"] < plain["activation_bytes"]
    assert recomputed["backward_flops"] > plain["backward_flops"]
    _, words, _ = run_memory(capsys, f"--model {folder} --depth 3 --quantized 1")
    assert "LoRA depth 3, 1 layer quantized to 8 bits" in words
    assert "peak" in words


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--depth 3 --quantized 3", "an integer from 0 to 2"),
        ("--quantized -1", "quantized = -1"),
        ("--quantized 1 --checkpointing", "none of the quantized layers"),
        ("--quantized 1 --block-size 33", "power of two"),
    ],
)
def test_the_command_refuses_in_one_line(options, message, small_model, capsys):
    status, out, err = run_memory(capsys, f"--model {small_model()} {options}")
    assert (status, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("saving", ["none", "quantized", "checkpointed"])
def test_count_matches_the_cuda_allocators_peak(saving, dtype):
    layers = LayerConfig(12, 11).trainable_layers(12)
    chosen = layers[:-1]
    options = {
        "none": {},
        "quantized": {"quantized_layers": chosen},
        "checkpointed": {"checkpointing": chosen},
    }[saving]
    counted = step_cost("roberta-base", lora_rank=4, dtype=dtype, **options)
    model = real_model("roberta-base", layers).to("cuda", getattr(torch, dtype))
    batch = {name: tensor.cuda() for name, tensor in real_batch(32, 128).items()}
    blocks_of = find_layers(model)
    quantizer = quantize_activations(model, chosen if saving == "quantized" else (), path="hooks")
    checkpointed = checkpoint_layers(
        blocks_of[idx] for idx in (chosen if saving == "checkpointed" else ())
    )
    with quantizer, checkpointed:
        model(**batch).loss.backward()  # workspaces of cuBLAS are allocated now
        model.zero_grad(set_to_none=True)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        loss = model(**batch).loss
        kept = torch.cuda.memory_allocated() - before
        loss.backward()
    peak = torch.cuda.max_memory_allocated() - before
    assert kept == pytest.approx(counted.activation_bytes, rel=0.03)
    assert peak == pytest.approx(counted.peak_step_bytes, rel=0.03)
