"""The recipe of the embedded encoder: learns, resumes anywhere, refuses other settings."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fedquad.config import InputError
from fedquad.model.backbone import load_backbone
from fedquad.training import pretrain as recipe
from fedquad.training.pretrain import PretrainConfig, make_tokenizer, masked_batch, pretrain

TINY = PretrainConfig(
    num_layers=2, hidden_size=16, num_heads=2, num_steps=12, warmup_steps=2, batch_size=8
)


@pytest.fixture(scope="module", autouse=True)
def _small_vocabulary_scan():
    before, recipe.VOCABULARY_PASSAGES = recipe.VOCABULARY_PASSAGES, 500
    yield
    recipe.VOCABULARY_PASSAGES = before


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight")
    return folder, pretrain(TINY, folder, checkpoint_every=5)


def test_a_stopped_run_ends_with_the_same_weights(straight, tmp_path, monkeypatch):
    folder, card = straight
    real, calls = recipe.masked_batch, []

    def dies_at_step_seven(config, tokenizer, step):
        calls.append(step)
        if step == 7 and len(calls) < 10:
            raise KeyboardInterrupt
        return real(config, tokenizer, step)

    monkeypatch.setattr(recipe, "masked_batch", dies_at_step_seven)
    with pytest.raises(KeyboardInterrupt):
        pretrain(TINY, tmp_path, checkpoint_every=5)
    resumed = pretrain(TINY, tmp_path, checkpoint_every=5)
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
    folder, card = straight
    backbone = load_backbone(str(folder), num_labels=3, seed=0)
    assert backbone.model.config.num_hidden_layers == TINY.num_layers
    assert json.loads((folder / "card.json").read_text()) == card
    rows = backbone.tokenizer(["a dog chased a cat"], ["an animal was chased"])
    assert rows["input_ids"][0].count(backbone.tokenizer.sep_token_id) == 3
    assert backbone.tokenizer.unk_token_id not in rows["input_ids"][0]


def test_masks_follow_the_stated_shares():
    tokenizer = make_tokenizer()
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
