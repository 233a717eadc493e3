"""Loading by name, fixed subsets, identities, and tokenisation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from fedquad.config import InputError
from fedquad.tasks.microworld import MICRO_TASKS
from fedquad.tasks.task import Refusal, Split, fingerprint_of, load_task, task_identity, tokenize

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "cat", "sat", "on", "a", "mat", "it", "left"]
MODEL_INPUTS = ["input_ids", "token_type_ids", "attention_mask"]


def word_tokenizer(**settings) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    special = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    settings = {"pad_token": "[PAD]", "model_input_names": MODEL_INPUTS} | settings
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special, **settings)


def split_of(texts_a, texts_b=None, labels=None) -> Split:
    labels = np.arange(len(texts_a)) % 2 if labels is None else labels
    return Split(texts_a, texts_b, np.asarray(labels, dtype=np.int64))


def sorted_folder(tsv_folder, rows=200):
    body = "".join(f"row {i}\t{int(i >= rows // 2)}\n" for i in range(rows))
    content = "sentence\tlabel\n" + body
    return tsv_folder(train=content + "broken\n", dev=content)


def test_subsets_are_fixed_nested_mixed_and_keep_refusals(tsv_folder):
    folder = str(sorted_folder(tsv_folder))
    whole = load_task(folder)
    small = load_task(folder, train_samples=20, eval_samples=10)
    large = load_task(folder, train_samples=60)
    assert (len(small.train), len(small.eval), len(large.eval)) == (20, 10, 200)
    assert small.train.texts_a == load_task(folder, train_samples=20).train.texts_a
    assert set(small.train.texts_a) < set(large.train.texts_a) < set(whole.train.texts_a)
    assert 4 <= small.train.labels.sum() <= 16
    for text, label in zip(large.train.texts_a, large.train.labels, strict=True):
        assert label == (int(text.removeprefix("row ")) >= 100)
    assert small.train.refused == (Refusal(202, "1 fields instead of 2"),)
    assert small.fingerprint == whole.fingerprint
    everything = load_task(folder, train_samples=200, eval_samples=10_000)
    assert everything.train.texts_a == whole.train.texts_a
    assert len(everything.eval) == 200


@pytest.mark.parametrize("count", [0, -1, 2.5, True, "7"])
@pytest.mark.parametrize("field", ["train_samples", "eval_samples"])
def test_sample_counts_are_checked(field, count):
    with pytest.raises(InputError, match=field):
        load_task("micro-sst2", **{field: count})


@pytest.mark.parametrize("name", ["", "sst-3", "no/such/folder", "SST2"])
def test_unknown_task_lists_the_known_ones(name):
    for function in (load_task, task_identity):
        with pytest.raises(InputError, match=r"micro-mnli.* sst2.*or a folder") as caught:
            function(name)
        assert caught.value.field == "task"


@pytest.mark.parametrize("name", MICRO_TASKS)
def test_micro_tasks_load_by_name(name):
    task = load_task(name, train_samples=50, eval_samples=20)
    assert (task.name, len(task.train), len(task.eval)) == (name, 50, 20)
    assert task_identity(name) == name


def test_identity_of_a_folder_follows_its_content(tsv_folder):
    folder = sorted_folder(tsv_folder)
    identity = task_identity(str(folder))
    assert identity == f"folder:{load_task(str(folder)).fingerprint}"
    moved = folder.rename(folder.parent / "moved")
    assert task_identity(str(moved)) == identity
    (moved / "train.tsv").write_text("sentence\tlabel\nrow 0\t0\nrow 1\t1\n")
    assert task_identity(str(moved)) != identity


def test_fingerprint_separates_rows_pairs_and_names():
    labels = np.zeros(1, dtype=np.int64)
    single = Split(["a b"], None, labels)
    variants = [
        (("x", "y"), single),
        (("x", "z"), single),
        (("x", "y"), Split(["a"], ["b"], labels)),
        (("x", "y"), Split(["a", "b"], None, np.zeros(2, dtype=np.int64))),
        (("x", "y"), Split(["a b"], None, labels + 1)),
    ]
    assert len({fingerprint_of(names, split, single) for names, split in variants}) == 5


def test_split_lengths_must_agree():
    with pytest.raises(ValueError, match="differ in length"):
        Split(["a", "b"], ["c"], np.zeros(2, dtype=np.int64))


words = st.lists(st.sampled_from([*WORDS[4:], "dog", "ran"]), min_size=1, max_size=12)
phrases = words.map(" ".join)


@settings(deadline=None, max_examples=40)
@given(
    rows=st.lists(st.tuples(phrases, phrases), min_size=1, max_size=12),
    pairs=st.booleans(),
    max_length=st.integers(4, 30),
    data=st.data(),
)
def test_batch_equals_rows_tokenized_alone(rows, pairs, max_length, data):
    texts_a, texts_b = map(list, zip(*rows, strict=True))
    split = split_of(texts_a, texts_b if pairs else None)
    tokenizer = word_tokenizer()
    tokens = tokenize(split, tokenizer, max_length)
    indices = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=8))
    batch = tokens.batch(indices)
    assert list(batch) == ["input_ids", "attention_mask", "token_type_ids", "labels"]
    assert all(tensor.dtype == torch.int64 for tensor in batch.values())
    assert batch["labels"].tolist() == [split.labels[i] for i in indices]
    longest = 0
    for row, index in enumerate(indices):
        text = (texts_a[index], texts_b[index]) if pairs else (texts_a[index],)
        alone = tokenizer(*text, truncation=True, max_length=max_length)
        length = len(alone["input_ids"])
        longest = max(longest, length)
        assert length <= max_length
        for name in ("input_ids", "attention_mask", "token_type_ids"):
            assert batch[name][row, :length].tolist() == alone[name]
        assert (batch["input_ids"][row, length:] == tokenizer.pad_token_id).all()
        assert (batch["attention_mask"][row, length:] == 0).all()
    assert batch["input_ids"].shape == (len(indices), longest)


def test_many_rows_are_tokenized_in_order(monkeypatch):
    monkeypatch.setattr("fedquad.tasks.task.TOKENIZE_ROWS", 3)
    texts = [" ".join(WORDS[4 : 5 + i % 7]) for i in range(10)]
    tokens = tokenize(split_of(texts), word_tokenizer(), 32)
    assert [len(row) for row in tokens.input_ids] == [3 + i % 7 for i in range(10)]
    assert len(tokens) == 10


def test_unknown_share_counts_tokens_of_the_text_only():
    split = split_of(["the cat", "the dog"], ["sat", "ran off"])
    assert tokenize(split, word_tokenizer(), 32).unknown_share == pytest.approx(3 / 7)
    assert tokenize(split_of(["the cat sat"]), word_tokenizer(), 32).unknown_share == 0


def test_models_without_token_types_get_none():
    tokenizer = word_tokenizer(model_input_names=["input_ids", "attention_mask"])
    tokens = tokenize(split_of(["the cat"], ["sat"]), tokenizer, 16)
    assert tokens.token_type_ids is None
    assert "token_type_ids" not in tokens.batch([0])


def test_tokenizer_without_padding_is_refused():
    with pytest.raises(InputError, match="padding token"):
        tokenize(split_of(["the cat"]), word_tokenizer(pad_token=None), 16)
