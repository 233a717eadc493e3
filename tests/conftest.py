"""What every test needs: no network, no display, one thread a process; and runs of a second."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

# Before anything imports them; processes that tests start inherit the same.
os.environ["MPLBACKEND"] = "Agg"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["OMP_NUM_THREADS"] = "1"  # CPU results depend on the number of threads

import torch

# Without a GPU, Triton's interpreter runs the kernels; it must be chosen before they are imported.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

torch.set_num_threads(1)

if TYPE_CHECKING:
    from fedquad.config import FederatedConfig, FineTuneConfig

WORDS = """
    the a dog cat bird sees likes fears big small red old not and good bad fine poor
""".split()  # noqa: SIM905


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of three layers of width 16 with random weights, as a folder."""
    # Brings transformers, which most tests spare.
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("models") / "tiny"
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {word: i for i, word in enumerate([*specials, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
    )
    names = {f"{name.lower()[1:-1]}_token": name for name in specials}
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=32, **names
    ).save_pretrained(folder)
    torch.manual_seed(0)
    BertModel(
        BertConfig(
            vocab_size=len(vocabulary),
            hidden_size=16,
            num_hidden_layers=3,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=32,
        )
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def make_glue(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Makes a GLUE folder with a small SST-2: 100 and 50 usable sentences, and one more in each.

    Sentences with more of the words good and fine than of bad and poor are positive.
    """

    def make(seed: int) -> Path:
        root, chance = tmp_path_factory.mktemp("glue"), random.Random(seed)
        (root / "SST-2").mkdir()
        for name, count in (("train.tsv", 100), ("dev.tsv", 50)):
            rows = []
            for _ in range(count):
                words = chance.choices(WORDS, k=6)
                score = sum(
                    (word in ("good", "fine")) - (word in ("bad", "poor")) for word in words
                )
                rows.append(f"{' '.join(words)}\t{int(score > 0)}")
            rows.insert(7, "good dog\t5")
            (root / "SST-2" / name).write_text("\n".join(["sentence\tlabel", *rows]) + "\n")
        return root

    return make


@pytest.fixture(scope="session")
def glue(make_glue: Callable[[int], Path]) -> Path:
    return make_glue(0)


@pytest.fixture
def tiny(
    tiny_model: Path, glue: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., FineTuneConfig]:
    """Makes configurations of short runs of the tiny model on the small SST-2."""
    from fedquad.config import FineTuneConfig

    monkeypatch.setenv("FEDQUAD_GLUE", str(glue))

    def make(**changes: object) -> FineTuneConfig:
        values = {"task": "sst2", "model": str(tiny_model), "num_steps": 12, "batch_size": 8}
        values |= {"max_length": 16, "evaluate_every": 5, "learning_rate": 5e-3}
        return FineTuneConfig(**values | changes)

    return make


@pytest.fixture
def tiny_federated(
    tiny_model: Path, glue: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., FederatedConfig]:
    """Makes configurations of short federated runs: four devices, two rounds of two steps."""
    from fedquad.config import FederatedConfig

    monkeypatch.setenv("FEDQUAD_GLUE", str(glue))

    def make(**changes: object) -> FederatedConfig:
        values = {"task": "sst2", "model": str(tiny_model), "num_devices": 4, "num_rounds": 2}
        values |= {"local_steps": 2, "batch_size": 8, "max_length": 16, "learning_rate": 2e-2}
        values |= {"lora_rank": 4, "lora_alpha": 4}
        return FederatedConfig(**values | changes)

    return make
