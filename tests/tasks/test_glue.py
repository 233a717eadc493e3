"""GLUE from folders: labels, splits, refusals, errors; and the real files where they are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedquad.config import InputError
from fedquad.paths import glue_folder
from fedquad.tasks.glue import GLUE_TASKS, load_glue, read_glue_folder, read_train_rows
from fedquad.tasks.task import Refusal, load_task

SINGLE = "sentence\tlabel\n"
PAIRS = "sentence1\tsentence2\tlabel\n"


def test_folder_labels_are_the_sorted_set_of_training(tsv_folder):
    folder = tsv_folder(
        train=SINGLE + "a\tspam\nb\tham\nc\tspam\n", dev=SINGLE + "d\tspam\ne\teggs\nf\tham\n"
    )
    task = read_glue_folder(folder)
    assert task.label_names == ("ham", "spam")
    assert task.name == "my-task"
    assert task.train.labels.tolist() == [1, 0, 1]
    assert task.eval.texts_a == ["d", "f"]
    assert task.eval.labels.dtype == np.int64
    assert task.eval.refused == (Refusal(3, "label 'eggs' is not one of ham, spam"),)
    assert str(folder.parent) not in task.source


@pytest.mark.parametrize(
    ("names", "rows", "labels"),
    [
        (("no", "yes"), "a\tyes\nb\t0\nc\tno\n", [1, 0, 0]),
        (("no", "yes"), "a\t1\n", [1]),  # a device may hold one label only
        (("1", "0"), "a\t1\nb\t0\n", [0, 1]),  # numbers that are names, in another order
    ],
)
def test_a_devices_rows_have_the_labels_of_the_task(tmp_path, names, rows, labels):
    (tmp_path / "train.tsv").write_text(SINGLE + rows)  # and no rows to evaluate on
    assert read_train_rows(tmp_path, names).labels.tolist() == labels


@pytest.mark.parametrize(
    ("rows", "reason"), [("a\tmaybe\n", "label 'maybe' is not one of no, yes"), ("", "usable row")]
)
def test_a_device_without_usable_rows_is_refused(tmp_path, rows, reason):
    (tmp_path / "train.tsv").write_text(SINGLE + rows)
    with pytest.raises(InputError, match=reason):
        read_train_rows(tmp_path, ("no", "yes"))


@pytest.mark.parametrize("name", GLUE_TASKS)
def test_label_names_and_numbers_mean_the_same(tsv_folder, name):
    spec = GLUE_TASKS[name]
    header = PAIRS if len(spec.text_columns) == 2 else SINGLE
    text = "a\tb" if len(spec.text_columns) == 2 else "a"
    words = header + "".join(f"{text}\t{label}\n" for label in spec.label_names)
    numbers = header + "".join(f"{text}\t{code}\n" for code in range(len(spec.label_names)))
    by_word = read_glue_folder(tsv_folder("words", train=words, dev=words), name)
    by_number = read_glue_folder(tsv_folder("numbers", train=numbers, dev=numbers), name)
    assert by_word.train.labels.tolist() == list(range(len(spec.label_names)))
    assert by_word.fingerprint == by_number.fingerprint
    assert by_word.label_names == spec.label_names


def test_refusals_come_in_line_order_and_are_counted_apart_from_rows(tsv_folder):
    train = PAIRS + "A\t \tneutral\nA\tB\nA\tB\tmaybe\n\tB\t0\nA\tB\tentailment\nA\tB\t3\nA\tB\t\n"
    task = read_glue_folder(tsv_folder(train=train, dev=PAIRS + "A\tB\t1\n"), "mnli")
    assert len(task.train) == 1
    reasons = [(refusal.line, refusal.reason) for refusal in task.train.refused]
    not_one = "is not one of entailment, neutral, contradiction, 0, 1, 2"
    assert reasons == [
        (2, "empty text"),
        (3, "2 fields instead of 3"),
        (4, f"label 'maybe' {not_one}"),
        (5, "empty text"),
        (7, f"label '3' {not_one}"),
        (8, f"label '' {not_one}"),
    ]


@pytest.mark.parametrize("name", ["dev", "dev_matched", "validation"])
def test_evaluation_file_names(tsv_folder, name):
    folder = tsv_folder(name, train=SINGLE + "a\t0\nb\t1\n", **{name: SINGLE + "c\t1\n"})
    assert read_glue_folder(folder).eval.texts_a == ["c"]


TRAIN = SINGLE + "a\t0\nb\t1\n"


@pytest.mark.parametrize(
    ("files", "task", "message"),
    [
        ({}, None, "holds train.tsv"),
        ({"train": TRAIN}, None, r"holds dev.tsv or dev_matched.tsv or validation.tsv"),
        ({"dev": TRAIN}, None, "holds train.tsv"),
        ({"train": TRAIN, "dev": ""}, None, "not empty"),
        ({"train": TRAIN, "dev": SINGLE}, None, "at least one usable row"),
        ({"train": TRAIN, "dev": SINGLE + "a\t2\n"}, None, "line 2: label '2' is not one of 0, 1"),
        ({"train": SINGLE, "dev": TRAIN}, None, "2 to 50 different values.*found 0"),
        ({"train": SINGLE + "a\t1\nb\t1\n", "dev": TRAIN}, None, "found 1 in train.tsv: 1$"),
        ({"train": SINGLE + " \t0\nb\t1\n", "dev": TRAIN}, None, "found 1 in train.tsv: 1$"),
        (
            {"train": SINGLE + "".join(f"a\t{i}.5\n" for i in range(51)), "dev": TRAIN},
            None,
            "is it the right column.*found 51",
        ),
        ({"train": TRAIN, "dev": PAIRS + "a\tb\t1\n"}, None, "dev.tsv.*single sentences"),
        ({"train": TRAIN, "dev": TRAIN}, "mnli", "train.tsv.*sentence pairs"),
        ({"train": SINGLE + "a\tgood\n", "dev": TRAIN}, "sst2", "line 2: label 'good'"),
        ({"train": TRAIN, "dev": TRAIN}, "wnli", "one of mnli, qqp"),
    ],
)
def test_unusable_folders(tsv_folder, files, task, message):
    with pytest.raises(InputError, match=message):
        read_glue_folder(tsv_folder(**files), task)


def test_fingerprint_is_of_content_and_not_of_path_or_form(tsv_folder):
    first = read_glue_folder(tsv_folder("one", train=TRAIN, dev=TRAIN))
    moved = tsv_folder(
        "two", train=b"\xef\xbb\xbf" + TRAIN.replace("\n", "\r\n").encode(), validation=TRAIN
    )
    assert read_glue_folder(moved).fingerprint == first.fingerprint
    for edited in (SINGLE + "b\t1\na\t0\n", SINGLE + "a\t1\nb\t0\n", TRAIN + "c\t0\n"):
        other = read_glue_folder(tsv_folder("three", train=edited, dev=TRAIN))
        assert other.fingerprint != first.fingerprint
    swapped = read_glue_folder(tsv_folder("four", train=TRAIN, dev=TRAIN + "c\t0\n"))
    back = read_glue_folder(tsv_folder("five", train=TRAIN + "c\t0\n", dev=TRAIN))
    assert swapped.fingerprint != back.fingerprint


def test_named_task_comes_from_the_configured_folder(tsv_folder, monkeypatch):
    for folder in ("SST-2", "rte"):
        header = SINGLE if folder == "SST-2" else PAIRS
        row = "a\t0\n" if folder == "SST-2" else "a\tb\tentailment\n"
        root = tsv_folder(folder, train=header + row, dev=header + row).parent
    monkeypatch.setenv("FEDQUAD_GLUE", str(root))
    assert load_glue("sst2").train.texts_a == ["a"]
    assert load_task("rte").source == "rte/train.tsv and dev.tsv"
    monkeypatch.setenv("FEDQUAD_GLUE", str(root / "nowhere"))
    with pytest.raises(InputError, match=r"FEDQUAD_GLUE.*nowhere"):
        load_task("sst2")


sentences = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\t\n\r\0"), min_size=1, max_size=20
)


@settings(deadline=None, max_examples=60)
@given(
    rows=st.lists(st.tuples(sentences, sentences, st.sampled_from(["no", "yes", "?"])), min_size=1)
)
def test_every_row_is_either_used_or_refused(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("folder")
    (folder / "train.tsv").write_text(PAIRS + "a\tb\tno\nc\td\tyes\n", encoding="utf-8", newline="")
    body = "".join("\t".join(row) + "\n" for row in [("a", "b", "no"), *rows])
    (folder / "dev.tsv").write_text(PAIRS + body, encoding="utf-8", newline="")
    split = read_glue_folder(folder).eval
    assert len(split) + len(split.refused) == len(rows) + 1
    good = [row for row in rows if row[2] != "?" and row[0].strip() and row[1].strip()]
    assert split.texts_a[1:] == [row[0] for row in good]
    assert split.texts_b[1:] == [row[1] for row in good]
    assert [("no", "yes")[label] for label in split.labels[1:]] == [row[2] for row in good]


def real(task: str):
    root = glue_folder()
    folder = None if root is None else root / GLUE_TASKS[task].folder
    if folder is None or not folder.is_dir():
        pytest.skip(f"no local GLUE folder with {GLUE_TASKS[task].folder} (set FEDQUAD_GLUE)")
    return folder


@pytest.mark.parametrize("name", ["sst2", "mnli", "qqp", "qnli"])
def test_real_glue_files(name):
    task = read_glue_folder(real(name), name)
    for split in (task.train, task.eval):
        assert len(split.refused) < 0.01 * len(split)
        assert set(split.labels) == set(range(len(task.label_names)))
        shares = np.bincount(split.labels) / len(split)
        assert 0.25 < shares.min() <= shares.max() < 0.7
        assert (split.texts_b is not None) == (name != "sst2")
        assert not any("\t" in text or "\n" in text for text in split.texts_a)


def test_real_sst2_is_whole():
    task = read_glue_folder(real("sst2"), "sst2")
    assert (len(task.train), len(task.eval)) == (67_349, 872)
    assert task.train.refused == task.eval.refused == ()
    assert task.train.texts_a[0] == "hide new secretions from the parental units "
    assert task.eval.texts_a[0] == "it 's a charming and often affecting journey . "
    assert task.eval.labels[:4].tolist() == [1, 0, 1, 1]
    # Sorted as strings, the labels 0 and 1 are GLUE's, so a plain folder reads the same.
    plain = read_glue_folder(real("sst2"))
    assert plain.label_names == ("0", "1")
    np.testing.assert_array_equal(plain.train.labels, task.train.labels)
