"""Tiny models with random weights, one per architecture, and their checkpoints on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    GPT2Config,
    LlamaConfig,
    ModernBertConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
)

VOCABULARY = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]", *(f"word{i}" for i in range(43))]
SIZES = {
    "vocab_size": 48,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 40,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
CONFIGS = {
    "bert": lambda: BertConfig(**SIZES),
    "roberta": lambda: RobertaConfig(**SIZES),
    "electra": lambda: ElectraConfig(**SIZES, embedding_size=16),
    "deberta": lambda: DebertaV2Config(
        **SIZES,
        relative_attention=True,
        pos_att_type=["p2c", "c2p"],
        position_buckets=8,
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        position_biased_input=False,
        type_vocab_size=0,
    ),
    "distilbert": lambda: DistilBertConfig(
        vocab_size=48, dim=16, n_layers=3, n_heads=2, hidden_dim=32, max_position_embeddings=40
    ),
    "modernbert": lambda: ModernBertConfig(
        **SIZES, global_attn_every_n_layers=2, local_attention=8, cls_token_id=1, sep_token_id=2
    ),
    "gpt2": lambda: GPT2Config(
        vocab_size=48,
        n_embd=16,
        n_layer=3,
        n_head=2,
        n_positions=40,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    ),
    "llama": lambda: LlamaConfig(**SIZES),
}
ENCODERS = ("bert", "roberta", "electra", "deberta", "distilbert", "modernbert")


def save_tokenizer(folder: Path, words: list[str] = VOCABULARY) -> None:
    vocabulary = {word: i for i, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"pad": "[PAD]", "cls": "[CLS]", "sep": "[SEP]", "unk": "[UNK]", "mask": "[MASK]"}
    names = {f"{name}_token": token for name, token in special.items()}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)


@pytest.fixture(scope="session")
def make_model():
    """``make_model("bert", num_labels=3)``: a classifier with random weights, in eval mode."""

    def make(name: str, num_labels: int = 3, **changes):
        config = CONFIGS[name]()
        config.num_labels = num_labels
        for field, value in changes.items():
            setattr(config, field, value)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)
            model = AutoModelForSequenceClassification.from_config(
                config, attn_implementation="eager"
            )
        return model.eval()

    return make


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """``checkpoint("bert")``: a folder as masked-language pretraining leaves it, without a head."""
    folders: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in folders:
            folder = tmp_path_factory.mktemp(name)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(5)
                AutoModelForMaskedLM.from_config(CONFIGS[name]()).save_pretrained(folder)
            save_tokenizer(folder)
            folders[name] = folder
        return folders[name]

    return make


@pytest.fixture
def batch():
    """Six rows of unequal length with labels of three classes."""
    generator = torch.Generator().manual_seed(3)
    mask = torch.arange(10) < torch.tensor([[10], [7], [4], [9], [10], [3]])
    ids = torch.randint(5, 48, (6, 10), generator=generator) * mask
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    return {"input_ids": ids, "attention_mask": mask.long(), "labels": labels}


@pytest.fixture(scope="session")
def tokenizer_into():
    return save_tokenizer
