"""The TSV reader: layouts, malformed rows by line, files that are refused."""

from __future__ import annotations

import gzip

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedquad.config import InputError
from fedquad.tasks.task import Refusal
from fedquad.tasks.tsv import read_tsv

MNLI_HEADER = (
    "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\t"
    "sentence1_parse\tsentence2_parse\tsentence1\tsentence2\tlabel1\tgold_label"
)
LAYOUT_FILES = {
    "plain pairs": ("sentence1\tsentence2\tlabel\na b\tc d\tx\n", ("a b", "c d", "x")),
    "plain pairs, other order": ("label\tid\tsentence2\tsentence1\nx\t7\tB\tA\n", ("A", "B", "x")),
    "plain single": ("sentence\tlabel\na b\tx\n", ("a b", None, "x")),
    "SST-2": ("sentence\tlabel\nof saucy \t1\n", ("of saucy ", None, "1")),
    "MNLI": (
        f"{MNLI_HEADER}\n0\t1\t2\tfiction\t(\t(\t(\t(\tA.\tB.\tneutral\tentailment\n",
        ("A.", "B.", "entailment"),
    ),
    "QQP": (
        "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n1\t2\t3\tWho?\tWhy?\t0\n",
        ("Who?", "Why?", "0"),
    ),
    "QNLI": (
        "index\tquestion\tsentence\tlabel\n0\tWho?\tHe.\tnot_entailment\n",
        ("Who?", "He.", "not_entailment"),
    ),
    "MRPC": (
        "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t7\t8\tA\tB\n",
        ("A", "B", "1"),
    ),
    "RTE": ("index\tsentence1\tsentence2\tlabel\n0\tA\tB\tentailment\n", ("A", "B", "entailment")),
    "CoLA": ("gj04\t0\t*\tThey drank the pub.\n", ("They drank the pub.", None, "0")),
}


@pytest.mark.parametrize("layout", LAYOUT_FILES)
def test_layouts(tsv_folder, layout):
    content, expected = LAYOUT_FILES[layout]
    table = read_tsv(tsv_folder(train=content) / "train.tsv")
    assert [row[1:] for row in table.rows] == [expected]
    assert table.rows[0].line == (1 if layout == "CoLA" else 2)
    assert table.has_pairs == (expected[1] is not None)
    assert table.refused == []


def test_byte_order_mark_crlf_and_blank_end_change_nothing(tsv_folder):
    content = "sentence\tlabel\nüber\t1\nplain\t0"
    plain = read_tsv(tsv_folder(train=content) / "train.tsv")
    marked = b"\xef\xbb\xbf" + content.replace("\n", "\r\n").encode() + b"\r\n\r\n\n"
    assert read_tsv(tsv_folder(marked=marked) / "marked.tsv") == plain


def test_quotes_are_literal_and_join_no_lines(tsv_folder):
    content = 'sentence\tlabel\n"open\t1\n5" disc\t0\n""\t1\n'
    table = read_tsv(tsv_folder(train=content) / "train.tsv")
    assert [row.text_a for row in table.rows] == ['"open', '5" disc', '""']


def test_malformed_rows_are_refused_by_line(tsv_folder):
    content = b"sentence\tlabel\ngood\t1\nno label\none\tfield\tmore\n\nbad \xff\t0\nlast\t0\n"
    table = read_tsv(tsv_folder(train=content) / "train.tsv")
    assert [(row.line, row.text_a) for row in table.rows] == [(2, "good"), (7, "last")]
    assert table.refused == [
        Refusal(3, "1 fields instead of 2"),
        Refusal(4, "3 fields instead of 2"),
        Refusal(5, "1 fields instead of 2"),
        Refusal(6, "not UTF-8"),
    ]


def test_mnli_rows_without_gold_label_are_refused(tsv_folder):
    content = "sentence1\tsentence2\tgold_label\nA\tB\t-\nC\tD\tneutral\n"
    table = read_tsv(tsv_folder(train=content) / "train.tsv")
    assert [row.line for row in table.rows] == [3]
    assert table.refused == [Refusal(2, "the annotators gave no gold label")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not empty"),
        (b"\xef\xbb\xbf\r\n\n", "not empty"),
        ("sentence\tlabel\na\t1\n".encode("utf-16"), "UTF-16"),
        ("sentence\tlabel\na\t1\n".encode("utf-16-le"), "UTF-16"),
        ("sentence\tlabel\na\t1\n".encode("utf-16-be"), "UTF-16"),
        (gzip.compress(b"sentence\tlabel\na\t1\n", mtime=0), "UTF-16 or binary"),
        ("größe\tlabel\na\t1\n".encode("latin-1"), "its first line is not"),
        ("sentence\tlabel\nä\t1\nö\t0\nü\t0\n".encode("latin-1"), "3 of its 4 lines are not"),
        (b"sentence1\tlabel\na\t1\n", "found: sentence1, label"),
        (b"sentence\tsentence2\tlabel\na\tb\t1\n", "found: sentence, sentence2, label"),
        (b"sentence\tlabel\tlabel\na\t1\t0\n", "each once"),
        (b"sentence,label\na,1\n", "tab-separated"),
        (b"just some text\nand more\n", "a header line"),
        (b"x" * 5000, "…"),
    ],
)
def test_unusable_files_are_refused_whole(tsv_folder, content, message):
    path = tsv_folder(train=content) / "train.tsv"
    with pytest.raises(InputError, match=message) as caught:
        read_tsv(path)
    assert str(path) in str(caught.value)
    assert len(caught.value.accepted) < 800


def test_missing_file_and_folder_in_its_place(tmp_path):
    with pytest.raises(InputError, match="readable file"):
        read_tsv(tmp_path / "train.tsv")
    (tmp_path / "train.tsv").mkdir()
    with pytest.raises(InputError, match="readable file"):
        read_tsv(tmp_path / "train.tsv")


texts = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\t\n\r\0"), min_size=1, max_size=30
)


@settings(deadline=None, max_examples=100)
@given(
    rows=st.lists(st.tuples(texts, texts, texts), min_size=1),
    ending=st.sampled_from(["\n", "\r\n"]),
)
def test_any_text_without_tabs_and_line_ends_comes_back(tmp_path_factory, rows, ending):
    lines = ["label\tsentence1\tsentence2", *("\t".join(row) for row in rows)]
    path = tmp_path_factory.mktemp("tsv") / "train.tsv"
    path.write_bytes((ending.join(lines) + ending).encode())
    table = read_tsv(path)
    assert [(row.label, row.text_a, row.text_b) for row in table.rows] == rows
    assert [row.line for row in table.rows] == list(range(2, len(rows) + 2))
    assert table.refused == []
