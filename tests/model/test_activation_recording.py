from __future__ import annotations

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from fedquad import quantize_activations
from fedquad.model.backbone import find_layers
from fedquad.model.lora import attach_lora

BATCH, LENGTH, HIDDEN = 6, 10, 64
TOKENS = BATCH * LENGTH


@pytest.fixture
def model(make_model):
    model = make_model("bert", hidden_size=HIDDEN, intermediate_size=128).train()
    return attach_lora(model, rank=4, alpha=8)


def blocks(rows, columns):
    """Bytes of a matrix as blocks: a byte an element, 4 for each 32 x 32."""
    return rows * columns + 4 * -(-rows // 32) * -(-columns // 32)


def test_rows_name_layer_module_and_operation(model, batch):
    with quantize_activations(model, (0, 1)) as quantizer, quantizer.recording() as record:
        model(**batch).loss.backward()
    kept = {(r["layer"], r["module"], r["operation"]): r for r in record.rows}
    assert len(kept) == len(record.rows)
    heads, per_head = 2, 32
    probabilities = BATCH * heads * LENGTH
    expected = {
        # x of query and value, kept once
        "attention.self.query.lora_A.default linear": (blocks(TOKENS, HIDDEN), TOKENS * HIDDEN * 4),
        # what lies between A and B is small
        "attention.self.query.lora_B.default linear": (TOKENS * 4 * 4, TOKENS * 4 * 4),
        "attention.self softmax": (blocks(probabilities, LENGTH), probabilities * LENGTH * 4),
        # query, key, value and the probabilities after dropout
        "attention.self matmul": (
            2 * blocks(BATCH * heads * LENGTH, per_head)
            + blocks(BATCH * heads * per_head, LENGTH)
            + blocks(probabilities, LENGTH),
            (3 * TOKENS * HIDDEN + probabilities * LENGTH) * 4,
        ),
        # the mask of dropout on a CPU is as large as what it drops
        "attention.self dropout": (probabilities * LENGTH // 8, probabilities * LENGTH * 4),
        "attention.output.LayerNorm layer_norm": (
            blocks(TOKENS, HIDDEN) + 2 * TOKENS * 4,
            (TOKENS * HIDDEN + 2 * TOKENS) * 4,
        ),
        "intermediate.intermediate_act_fn gelu": (blocks(TOKENS, 128), TOKENS * 128 * 4),
    }
    for place, (kept_bytes, unquantized_bytes) in expected.items():
        module, operation = place.split()
        row = kept[1, module, operation]
        assert (row["kept_bytes"], row["unquantized_bytes"]) == (kept_bytes, unquantized_bytes), (
            place
        )
    assert {row["layer"] for row in record.rows} == {0, 1}


def test_sums_and_the_saved_share(model, batch):
    with quantize_activations(model, (0, 1)) as quantizer, quantizer.recording() as record:
        assert (record.kept_bytes, record.unquantized_bytes, record.saved_share) == (0, 0, 0.0)
        model(**batch)
        assert record.kept_bytes == sum(row["kept_bytes"] for row in record.rows)
        assert record.unquantized_bytes == sum(row["unquantized_bytes"] for row in record.rows)
        share = record.saved_share
        assert share == 1 - record.kept_bytes / record.unquantized_bytes
        model(**batch)  # counts again
        assert record.saved_share == pytest.approx(share, rel=1e-6)


def test_unquantized_bytes_are_those_without_quantization(model, batch):
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    inside, storages = [False], {}
    for layer in find_layers(model)[:2]:
        layer.register_forward_pre_hook(lambda *_: inside.__setitem__(0, True))
        layer.register_forward_hook(lambda *_: inside.__setitem__(0, False))

    def pack(tensor):
        storage = tensor.untyped_storage()
        if inside[0] and storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage  # held: no address is met again
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        model(**batch)
    with quantize_activations(model, (0, 1)) as quantizer, quantizer.recording() as record:
        model(**batch)
    assert record.unquantized_bytes == sum(s.nbytes() for s in storages.values())


def test_recording_changes_nothing_and_ends(model, batch):
    def gradients():
        model.zero_grad()
        torch.manual_seed(0)
        model(**batch).loss.backward()
        return [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]

    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    with quantize_activations(model, (0, 1)) as quantizer:
        expected = gradients()
        with quantizer.recording() as record:
            assert all(map(torch.equal, gradients(), expected))
        rows = len(record.rows)
        kept = record.kept_bytes
        gradients()
        assert (len(record.rows), record.kept_bytes) == (rows, kept)
    assert hooks == [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]


def test_layers_switched_while_recording(model, batch):
    with quantize_activations(model, ()) as quantizer, quantizer.recording() as record:
        model(**batch)
        assert record.rows == []
        quantizer.set_layers((1,))
        model(**batch)
    assert {row["layer"] for row in record.rows} == {1}
