from __future__ import annotations

import errno
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedquad.runs import journal as journal_module
from fedquad.runs.journal import CorruptRunError, Journal, StoreWriteError, replace_file

scalars = st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False)
finite = scalars.filter(lambda value: value not in (float("inf"), float("-inf")))


@given(rows=st.lists(st.dictionaries(st.text(), finite), max_size=6), keep=st.integers(0, 6))
def test_rows_come_back_as_they_were(tmp_path_factory, rows, keep):
    path = tmp_path_factory.mktemp("journal") / "rows.jsonl"
    journal = Journal(path)
    for row in rows:
        journal.append(row)
    assert Journal(path).rows == rows
    journal.rewind(keep)
    assert Journal(path).rows == journal.rows == rows[:keep]
    journal.append({"last": 0.1})
    assert Journal(path).rows == [*rows[:keep], {"last": 0.1}]


@given(cut=st.integers(1, 40), torn=st.binary(max_size=40).filter(lambda b: b"\n" not in b))
def test_a_torn_last_line_is_dropped_wherever_it_was_cut(tmp_path_factory, cut, torn):
    path = tmp_path_factory.mktemp("journal") / "rows.jsonl"
    whole = b'{"step": 1}\n{"step": 2}\n'
    line = json.dumps({"step": 3, "accuracy": 0.123456789, "note": "x" * 20}).encode()
    path.write_bytes(whole + line[:cut] + torn)
    journal = Journal(path)
    assert [row["step"] for row in journal.rows] == [1, 2]
    journal.append({"step": 3})
    assert path.read_bytes() == whole + b'{"step": 3}\n'


@pytest.mark.parametrize("line", [b"{", b"", b"[1]", b"\xff\xfe", b'{"step": 2} x', b"\0\0"])
def test_any_other_malformed_line_is_an_error_that_names_it(tmp_path, line):
    path = tmp_path / "rows.jsonl"
    content = b'{"step": 1}\n' + line + b'\n{"step": 3}\n'
    path.write_bytes(content)
    with pytest.raises(CorruptRunError, match=r"rows\.jsonl, line 2"):
        Journal(path)
    assert path.read_bytes() == content


def test_a_value_that_json_cannot_hold_is_refused_before_writing(tmp_path):
    journal = Journal(tmp_path / "rows.jsonl")
    with pytest.raises(ValueError, match="not JSON compliant"):
        journal.append({"loss": float("nan")})
    assert not journal.path.exists()


def append_many(journal: Journal, num_rows: int) -> None:
    for step in range(len(journal.rows) + 1, num_rows):
        journal.append({"step": step, "padding": "x" * 50})


def test_a_full_disk_leaves_whole_rows_and_says_what_is_safe(small_disk, fill):
    journal = Journal(small_disk / "rows.jsonl")
    journal.append({"step": 1})
    ballast = fill(small_disk)
    with pytest.raises(StoreWriteError, match=r"rows\.jsonl.*No space left.*up to step") as error:
        append_many(journal, 2000)
    last = journal.rows[-1]["step"]
    assert f"up to step {last} is safe" in str(error.value)
    assert journal.path.read_bytes().endswith(b"\n")
    assert Journal(journal.path).rows == journal.rows
    ballast.unlink()
    journal.append({"step": last + 1})
    assert Journal(journal.path).rows == journal.rows


def test_replacing_a_file_on_a_full_disk_keeps_the_old_one(small_disk, fill):
    path = small_disk / "state"
    replace_file(path, b"old" * 100)
    fill(small_disk)
    with pytest.raises(OSError, match="No space left"):
        replace_file(path, b"new" * 10_000)
    assert path.read_bytes() == b"old" * 100
    assert sorted(entry.name for entry in small_disk.iterdir()) == ["ballast", "state"]


LIMITED = """
import resource, sys
from pathlib import Path
from fedquad.runs.journal import Journal, StoreWriteError
resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))
journal = Journal(Path(sys.argv[1]))
try:
    while True:
        journal.append({"step": len(journal.rows) + 1, "padding": "x" * 30})
except StoreWriteError as error:
    print(error)
"""


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="no file size limit here")
def test_a_write_that_stops_in_the_middle_of_a_row_is_taken_back(tmp_path):
    path = tmp_path / "rows.jsonl"
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(path)], capture_output=True, text=True, check=True
    )
    rows = Journal(path).rows
    assert 0 < len(path.read_bytes()) < 200
    assert path.read_bytes().endswith(b"\n")
    assert f"up to step {len(rows)} is safe" in done.stdout
    assert "File too large" in done.stdout


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO])
@pytest.mark.parametrize("call", ["write", "fsync"])
def test_whatever_the_system_refuses_is_named_and_taken_back(tmp_path, monkeypatch, code, call):
    journal = Journal(tmp_path / "rows.jsonl")
    journal.append({"step": 1})
    before = journal.path.read_bytes()

    def refuse(*arguments: object) -> int:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patched:
        patched.setattr(journal_module.os, call, refuse)
        with pytest.raises(StoreWriteError, match=os.strerror(code)):
            journal.append({"step": 2})
    assert journal.path.read_bytes() == before
    assert Journal(Path(journal.path)).rows == journal.rows == [{"step": 1}]
