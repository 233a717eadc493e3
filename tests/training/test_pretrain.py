"""The recipe of the embedded encoders: resumes anywhere, refuses other settings, stays as it is."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fedquad import paths
from fedquad.config import InputError
from fedquad.model.backbone import load_backbone
from fedquad.training import pretrain as recipe
from fedquad.training import small_encoders
from fedquad.training.masked_text import masked_batch
from fedquad.training.pretrain import masked_loss, pretrain
from fedquad.training.small_encoders import (
    ARCHITECTURES,
    NUM_SPECIAL_TOKENS,
    RECIPES,
    PretrainConfig,
    make_model,
    make_tokenizer,
)

TINY = PretrainConfig(
    num_layers=2, hidden_size=16, num_heads=2, num_steps=12, warmup_steps=2, batch_size=8
)


@pytest.fixture(scope="module", autouse=True)
def _small_vocabulary_scan():
    before, small_encoders.VOCABULARY_PASSAGES = small_encoders.VOCABULARY_PASSAGES, 500
    yield
    small_encoders.VOCABULARY_PASSAGES = before


@pytest.fixture(scope="module", params=ARCHITECTURES)
def tokenizer(request):
    return make_tokenizer(request.param)


@pytest.fixture(scope="module", params=ARCHITECTURES)
def straight(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight")
    config = replace(TINY, architecture=request.param)
    return config, folder, pretrain(config, folder, checkpoint_every=5)


def test_a_stopped_run_ends_with_the_same_weights(straight, tmp_path, monkeypatch):
    config, folder, card = straight
    real, calls = recipe.masked_batch, []

    def dies_at_step_seven(config, tokenizer, step):
        calls.append(step)
        if step == 7 and len(calls) < 10:
            raise KeyboardInterrupt
        return real(config, tokenizer, step)

    monkeypatch.setattr(recipe, "masked_batch", dies_at_step_seven)
    with pytest.raises(KeyboardInterrupt):
        pretrain(config, tmp_path, checkpoint_every=5)
    resumed = pretrain(config, tmp_path, checkpoint_every=5)
    assert resumed["sha256"] == card["sha256"]
    first, second = (load_file(path / "model.safetensors") for path in (folder, tmp_path))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not (tmp_path / "checkpoint.safetensors").exists()


def test_a_checkpoint_of_other_settings_is_refused(tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(recipe, "masked_loss", stop)
    with pytest.raises(KeyboardInterrupt):
        pretrain(TINY, tmp_path, checkpoint_every=4)
    with pytest.raises(InputError, match="settings"):
        pretrain(replace(TINY, seed=1), tmp_path)


def test_the_result_is_an_encoder_that_loads(straight):
    config, folder, card = straight
    backbone = load_backbone(str(folder), num_labels=3, seed=0)
    assert backbone.model.config.model_type == config.architecture
    assert backbone.model.config.num_hidden_layers == config.num_layers
    assert json.loads((folder / "card.json").read_text()) == card
    rows = backbone.tokenizer(["a dog chased a cat"], ["an animal was chased"])
    words = [word for word in rows["input_ids"][0] if word >= NUM_SPECIAL_TOKENS]
    assert len(words) == 9
    assert backbone.tokenizer.unk_token_id not in rows["input_ids"][0]


def test_a_few_steps_guess_better_and_the_encoder_is_saved_without_its_head(straight):
    config, folder, card = straight
    tokenizer = make_tokenizer(config.architecture)
    fresh = make_model(config, len(tokenizer))
    assert card["held_out_loss"] < masked_loss(fresh, config, tokenizer)
    saved = load_file(folder / "model.safetensors")
    assert saved.keys() == fresh.base_model.state_dict().keys()


def test_rows_have_the_form_of_their_architecture(tokenizer):
    rows = tokenizer(["a dog ran"], ["it rested"])
    ids, count = rows["input_ids"][0], rows["input_ids"][0].count(tokenizer.sep_token_id)
    assert ids[0] == tokenizer.cls_token_id
    assert ids[-1] == tokenizer.sep_token_id
    if "token_type_ids" in rows:  # [CLS] a dog ran [SEP] it rested [SEP]
        assert (len(ids), count) == (8, 2)
        assert rows["token_type_ids"][0] == [0, 0, 0, 0, 0, 1, 1, 1]
    else:  # <s> a dog ran </s> </s> it rested </s>
        assert (len(ids), count) == (9, 3)


def test_a_word_has_the_same_id_in_every_architecture():
    def words(tokenizer):
        return {w: i for w, i in tokenizer.get_vocab().items() if i >= NUM_SPECIAL_TOKENS}

    first, *others = (words(make_tokenizer(architecture)) for architecture in ARCHITECTURES)
    assert len(first) > 300
    assert all(other == first for other in others)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_row_of_the_greatest_length_fits_and_padding_changes_nothing(architecture, tmp_path):
    tokenizer = make_tokenizer(architecture)
    config = replace(TINY, architecture=architecture)
    make_model(config, len(tokenizer)).base_model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    backbone = load_backbone(str(tmp_path), num_labels=2, seed=0)
    assert backbone.max_length == config.max_length + 2 == tokenizer.model_max_length
    longest = backbone.tokenizer(
        "dog " * 200, truncation=True, max_length=backbone.max_length, return_tensors="pt"
    )
    assert longest["input_ids"].shape == (1, backbone.max_length)
    alone = backbone.tokenizer("a dog chased a cat", return_tensors="pt")
    both = backbone.tokenizer.pad(
        [{k: v[0] for k, v in row.items()} for row in (longest, alone)], return_tensors="pt"
    )
    with torch.no_grad():
        assert torch.isfinite(backbone.model(**longest).logits).all()
        expected = backbone.model(**alone).logits[0]
        torch.testing.assert_close(backbone.model(**both).logits[1], expected, atol=1e-5, rtol=1e-5)


def test_deberta_sees_the_order_of_words_through_relative_positions_alone():
    tokenizer = make_tokenizer("deberta-v2")
    model = make_model(replace(TINY, architecture="deberta-v2"), len(tokenizer)).eval()
    config = model.config
    assert model.deberta.embeddings.position_embeddings is None
    assert config.pos_att_type == ["p2c", "c2p"]
    assert model.deberta.encoder.rel_embeddings.num_embeddings == 2 * config.position_buckets
    own = {name.split(".")[-2] for name, _ in model.deberta.encoder.layer[0].named_parameters()}
    assert not own & {"pos_key_proj", "pos_query_proj"}  # shared with the content's projections
    one = tokenizer("a dog chased a cat", return_tensors="pt")
    other = tokenizer("a cat chased a dog", return_tensors="pt")
    with torch.no_grad():
        before, after = (model.deberta(**row).last_hidden_state[0, 0] for row in (one, other))
        assert not torch.allclose(before, after, atol=1e-6)
        model.deberta.encoder.rel_embeddings.weight.zero_()
        model.deberta.encoder.LayerNorm.bias.zero_()
        before, after = (model.deberta(**row).last_hidden_state[0, 0] for row in (one, other))
        torch.testing.assert_close(before, after, atol=1e-6, rtol=1e-5)


def test_masks_follow_the_stated_shares(tokenizer):
    config = replace(TINY, batch_size=64)
    batches = [masked_batch(config, tokenizer, step) for step in range(60)]
    words = sum(int((b["attention_mask"]).sum()) for b in batches)
    special = sum(
        int(((b["input_ids"] < 3) & (b["attention_mask"] == 1) & (b["labels"] < 0)).sum())
        for b in batches
    )
    chosen = sum(int((b["labels"] >= 0).sum()) for b in batches)
    masked = sum(int((b["input_ids"] == tokenizer.mask_token_id).sum()) for b in batches)
    share = chosen / (words - special)
    deviation = 4 * np.sqrt(0.15 * 0.85 / (words - special))
    assert abs(share - 0.15) < deviation
    assert abs(masked / chosen - 0.8) < 4 * np.sqrt(0.8 * 0.2 / chosen)
    for batch in batches:  # what is not to be guessed is left as it was, padding included
        assert bool((batch["labels"][batch["attention_mask"] == 0] == -100).all())


def test_settings_that_cannot_be_used_are_named():
    with pytest.raises(InputError, match="num_steps"):
        PretrainConfig(num_steps=0)
    with pytest.raises(InputError, match="warmup_steps"):
        PretrainConfig(num_steps=10, warmup_steps=11)
    with pytest.raises(InputError, match="roberta, bert, deberta-v2"):
        PretrainConfig(architecture="gpt2")


@pytest.mark.parametrize("name", ["embedded"])
def test_what_ships_says_that_it_was_made_by_its_recipe(name):
    card = json.loads((paths.package_data() / "encoders" / name / "card.json").read_text())
    # The first card is older than the setting, and the committed records hold its digest.
    assert PretrainConfig(**card["settings"]) == RECIPES[name]


def test_the_recipe_of_the_embedded_encoder_draws_the_numbers_it_always_drew():
    """Weights before the first step, and rows, of the recipe that made what ships.

    The digests were written down when RoBERTa was the only architecture.
    """
    tokenizer_file = paths.package_data() / "encoders" / "embedded"
    tokenizer = load_backbone(str(tokenizer_file), num_labels=2, seed=0).tokenizer
    config = RECIPES["embedded"]
    digest = hashlib.sha256()
    for name, weights in make_model(config, len(tokenizer)).state_dict().items():
        digest.update(name.encode() + weights.numpy().tobytes())
    assert digest.hexdigest() == "e9c00bee8a816475abd6f7b8e542d55ef3074a501aa37d6e2310fbb2151d62be"
    digest = hashlib.sha256()
    for step in (0, 1, 9):
        for name, values in sorted(masked_batch(config, tokenizer, step).items()):
            digest.update(name.encode() + values.numpy().tobytes())
    assert digest.hexdigest() == "95ac1198924e03886c6c42c1a356233061ef75ed3e36322be51f274a25dc819a"
