"""Tab-separated files in GLUE's own layouts and the plain one, row by row."""

from __future__ import annotations

import codecs
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from fedquad.config import InputError
from fedquad.tasks.task import Refusal


class Layout(NamedTuple):
    """Names of the columns that hold the sentences and the label."""

    text_a: str
    text_b: str | None
    label: str

    def columns(self) -> list[str]:
        return [name for name in self if name is not None]


# The first one whose columns are all there is taken. Order matters: MNLI's own files have
# `gold_label` beside annotators' labels, and QNLI's have a `sentence` too.
LAYOUTS = (
    Layout("sentence1", "sentence2", "gold_label"),  # MNLI
    Layout("sentence1", "sentence2", "label"),  # plain pairs, RTE
    Layout("question1", "question2", "is_duplicate"),  # QQP
    Layout("question", "sentence", "label"),  # QNLI
    Layout("#1 String", "#2 String", "Quality"),  # MRPC
    Layout("sentence", None, "label"),  # plain single sentences, SST-2
)
PAIR_COLUMNS = {name for layout in LAYOUTS if layout.text_b for name in layout[:2]} - {"sentence"}
NO_GOLD_LABEL = "-"  # MNLI's mark of a pair on which the annotators did not agree


class Row(NamedTuple):
    line: int
    text_a: str
    text_b: str | None
    label: str


@dataclass(frozen=True)
class Table:
    """The rows of a file whose number of fields is right, and the lines refused so far."""

    rows: list[Row]
    has_pairs: bool
    refused: list[Refusal]


def read_tsv(path: Path) -> Table:
    """Read a TSV file: UTF-8 (a byte-order mark is accepted), LF or CRLF, quotes literal.

    Columns are found by the names in the header, in any order, others are
    ignored; CoLA's files, which have no header, are recognised by their form.

    Raises
    ------
    InputError
        The file cannot be read, is empty or not UTF-8, or lacks a column.
    """
    lines = _lines(path)
    first = _decode(lines[0])
    if first is None:
        raise InputError("file", str(path), "UTF-8 text; its first line is not")
    header = [name.strip() for name in first.split("\t")]
    if _is_cola(header):
        width, positions, gold, body = 4, [3, None, 1], False, 1
    else:
        layout = _layout(path, header)
        width, gold, body = len(header), layout.label == "gold_label", 2
        positions = [None if name is None else header.index(name) for name in layout]
    table = Table(rows=[], has_pairs=positions[1] is not None, refused=[])
    undecodable = 0
    for number, line in enumerate(lines[body - 1 :], start=body):
        text = _decode(line)
        fields = [] if text is None else text.split("\t")
        if text is None:
            undecodable += 1
            table.refused.append(Refusal(number, "not UTF-8"))
        elif len(fields) != width:
            table.refused.append(Refusal(number, f"{len(fields)} fields instead of {width}"))
        else:
            row = Row(number, *(None if at is None else fields[at] for at in positions))
            if gold and row.label.strip() == NO_GOLD_LABEL:
                table.refused.append(Refusal(number, "the annotators gave no gold label"))
            else:
                table.rows.append(row)
    if 2 * undecodable > len(lines):
        accepted = f"UTF-8 text; {undecodable} of its {len(lines)} lines are not"
        raise InputError("file", str(path), accepted)
    return table


def _lines(path: Path) -> list[bytes]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError("file", str(path), f"a readable file ({error.strerror})") from error
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in data[:1000]:
        raise InputError("file", str(path), "UTF-8 text; this looks like UTF-16 or binary data")
    data = data.removeprefix(codecs.BOM_UTF8).rstrip(b"\r\n")
    if not data.strip():
        raise InputError("file", str(path), "a file that is not empty")
    # Not str.splitlines: it also breaks at characters that GLUE's sentences contain.
    return [line.removesuffix(b"\r") for line in data.split(b"\n")]


def _decode(line: bytes) -> str | None:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _is_cola(first: list[str]) -> bool:
    """Source, label, the author's mark, sentence."""
    return len(first) == 4 and first[1] in {"0", "1"} and first[2] in {"", "*"}


def _layout(path: Path, header: list[str]) -> Layout:
    found = ", ".join(header)
    found = found if len(found) <= 200 else f"{found[:200]} …"
    for layout in LAYOUTS:
        if set(layout.columns()) <= set(header):
            if any(header.count(name) > 1 for name in layout.columns()):
                break
            if layout.text_b is None and PAIR_COLUMNS & set(header):
                break  # one half of a pair is misspelt: do not train on the other alone
            return layout
    forms = " or ".join(" ".join(layout.columns()) for layout in LAYOUTS)
    accepted = f"a header line with the tab-separated columns {forms}, each once; found: {found}"
    raise InputError("file", str(path), accepted)
