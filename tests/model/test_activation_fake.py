"""On fake tensors, which have shapes and no values, quantization keeps what it would on CUDA."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from fedquad import quantize_activations
from fedquad.cost.tracing import CudaSemantics, SavedBytes
from fedquad.model.backbone import find_layers
from fedquad.model.lora import attach_lora

SIZES = {"hidden_size": 64, "intermediate_size": 128}
OTHER_SIZES = {"deberta": {"pooler_hidden_size": 64}, "llama": {"head_dim": 32}}


def make(make_model, name, attention):
    model = make_model(name, **SIZES, **OTHER_SIZES.get(name, {}))
    model.set_attn_implementation(attention)
    model.config.problem_type = "single_label_classification"  # else DeBERTa looks at the labels
    return attach_lora(model, rank=4, alpha=8)


def kept_by_layer(model, batch, layers):
    """A training step as CUDA would keep it, on fake copies of weights and batch."""
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        weights = {name: fake.from_tensor(w) for name, w in model.named_parameters()}
        weights |= {name: fake.from_tensor(b) for name, b in model.named_buffers()}
        batch = {name: fake.from_tensor(value) for name, value in batch.items()}
        with quantize_activations(model, layers, path="hooks"):
            saved = SavedBytes(find_layers(model), weights.values())
            with CudaSemantics(), saved:
                loss = torch.func.functional_call(model, weights, kwargs=batch).loss
            loss.backward()
    return saved.by_layer


@pytest.mark.parametrize(
    ("name", "attention"),
    [
        ("bert", "eager"),
        ("bert", "sdpa"),
        ("deberta", "eager"),
        ("modernbert", "sdpa"),
        ("gpt2", "eager"),
        ("llama", "sdpa"),
    ],
)
def test_a_step(name, attention, make_model, batch):
    model = make(make_model, name, attention).train()
    without = kept_by_layer(model, batch, ())
    quantized = kept_by_layer(model, batch, (0, 1))
    # sdpa keeps its mask as a bias padded to 16 columns, as it is: much for 10 tokens
    assert all(after < before * 0.45 for before, after in zip(without, quantized[:2], strict=False))
    assert quantized[2] == without[2]


def test_the_bytes_are_those_of_real_tensors(make_model, batch):
    model = make(make_model, "bert", "eager").eval()  # dropout differs between CPU and CUDA
    with quantize_activations(model, (0, 1)) as quantizer, quantizer.recording() as record:
        model(**batch)
    real = [sum(row["kept_bytes"] for row in record.rows if row["layer"] == i) for i in (0, 1)]
    assert kept_by_layer(model, batch, (0, 1))[:2] == real


def test_a_model_on_the_meta_device(make_model, batch):
    model = make(make_model, "bert", "eager").to("meta")
    ids = batch["input_ids"].to("meta")  # and no mask, at whose values transformers would look
    with quantize_activations(model, (0, 1)) as quantizer, quantizer.recording() as record:
        model(input_ids=ids, labels=batch["labels"].to("meta")).loss.backward()
    assert record.saved_share > 0.7
