"""A command line to run, a place for its results, and a model and a task that are tiny."""

from __future__ import annotations

import pytest

from fedquad.cli import main


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty folder for results."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("FEDQUAD_HOME", str(folder))
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """A saved three-layer encoder of random weights, with a tokenizer."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefghij"]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
    )
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture
def task_folder(tmp_path):
    """Real TSV files in the plain layout; two rows of the first cannot be used."""
    folder = tmp_path / "task"
    folder.mkdir()
    rows = [f"{'abcdefghij'[i % 10]} b c\t{'yes' if i % 2 else 'no'}" for i in range(40)]
    broken = ["only one column", "d e f\tperhaps\tand one too many"]
    (folder / "train.tsv").write_text("\n".join(["sentence\tlabel", *rows, *broken]) + "\n")
    (folder / "dev.tsv").write_text("\n".join(["sentence\tlabel", *rows[:20]]) + "\n")
    return folder


@pytest.fixture
def run(capsys):
    """Function that runs a command in this process: exit status, stdout and stderr."""

    def run_command(command, *arguments):
        with pytest.raises(SystemExit) as ended:
            main([*command.split(), *map(str, arguments)])
        return ended.value.code, *capsys.readouterr()

    return run_command


@pytest.fixture
def tree():
    """Function that lists everything below a folder."""

    def list_tree(folder):
        return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))

    return list_tree
