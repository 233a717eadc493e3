"""Disks that are really small, folders that are really read-only, runs that take a second."""

from __future__ import annotations

import os
import random
import subprocess
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from fedquad.config import FineTuneConfig


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with 64 KiB on it."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no permission to mount a small tmpfs: {error}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def fill() -> Callable[[Path], Path]:
    """Fills the file system of a folder to the last byte; returns the file to delete."""

    def fill_up(folder: Path) -> Path:
        ballast = folder / "ballast"
        with ballast.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(b"\0" * 4096)
            except OSError:
                pass
        return ballast

    return fill_up


@pytest.fixture
def read_only_disk(small_disk: Path) -> Callable[[], Path]:
    """The small disk, turned read-only on call; root cannot write to it either."""

    def turn() -> Path:
        subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
        return small_disk

    return turn


@pytest.fixture
def as_nobody() -> Callable[[Callable[[], int]], int]:
    """Runs a function in a forked process without root's rights; returns its exit status."""

    def run(function: Callable[[], int]) -> int:
        with warnings.catch_warnings():
            # The child only opens files; the threads of the test runner do not matter to it.
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child == 0:
            status = 99
            try:
                if os.getuid() == 0:
                    os.setgid(65534)
                    os.setuid(65534)
                status = function()
            finally:
                os._exit(status)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    return run


WORDS = """
    the a dog cat bird sees likes fears big small red old not and good bad fine poor
""".split()  # noqa: SIM905


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of three layers of width 16 with random weights, as a folder."""
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
    monkeypatch.setenv("FEDQUAD_GLUE", str(glue))

    def make(**changes: object) -> FineTuneConfig:
        values = {"task": "sst2", "model": str(tiny_model), "num_steps": 12, "batch_size": 8}
        values |= {"max_length": 16, "evaluate_every": 5, "learning_rate": 5e-3}
        return FineTuneConfig(**values | changes)

    return make
