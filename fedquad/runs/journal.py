"""Rows that survive a crash: a file of JSON lines, and files replaced whole."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any


class StoreError(Exception):
    """Base of everything that can go wrong with stored runs."""


class CorruptRunError(StoreError):
    """A stored file holds something that no run of this library wrote."""


class StoreWriteError(StoreError):
    """The store cannot be written: read-only, full, or not a folder."""


def guarded_write(path: Path, safe: str, write: Callable[[], None]) -> None:
    """Run ``write``; an `OSError` becomes a `StoreWriteError` that says what is safe."""
    try:
        write()
    except OSError as error:
        raise StoreWriteError(
            f"cannot write {path}: {error.strerror or error}. {safe}; "
            "make room or make it writable, then run the same again to go on"
        ) from error


def replace_file(path: Path, content: bytes) -> None:
    """Give ``path`` new content at once: a reader sees the old file or the new one."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames and new names in ``folder`` outlive a power cut (POSIX only)."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_rows(path: Path) -> tuple[list[dict[str, Any]], list[int]]:
    """Rows of a JSON-lines file, and the byte at which each of them ends.

    A last line without its newline was torn by a crash and is left out. Any
    other line that is not a JSON object raises `CorruptRunError`, a file that
    cannot be read `StoreError`.
    """
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return [], []
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror or error}") from error
    rows, ends, end = [], [], 0
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise _corrupt(path, number, f"no JSON ({error})") from error
        if not isinstance(row, dict):
            raise _corrupt(path, number, "no JSON object")
        end += len(line) + 1
        rows.append(row)
        ends.append(end)
    return rows, ends


def _corrupt(path: Path, line: int, reason: str) -> CorruptRunError:
    return CorruptRunError(
        f"{path}, line {line}: {reason}. Nothing was changed; restore the file, "
        "or delete its folder or run with --fresh to compute it again"
    )


class Journal:
    """A JSON-lines file that one process appends to.

    A row is on disk when `append` returns. A row that was torn by a crash or a
    full disk is cut off before the next one is written.

    Raises
    ------
    CorruptRunError
        On opening a file with a malformed line that is not the torn last one.
    StoreWriteError
        When a row cannot be written; the rows before it are safe.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows, self._ends = read_rows(path)

    def append(self, row: dict[str, Any]) -> None:
        # Floats are written by repr, so equal results are equal bytes.
        line = (json.dumps(row, allow_nan=False) + "\n").encode()
        guarded_write(self.path, self._safe(), lambda: self._write(line))
        self._ends.append(self._size + len(line))
        self.rows.append(row)

    def rewind(self, num_rows: int) -> None:
        """Drop all but the first ``num_rows`` rows."""
        if num_rows >= len(self.rows):
            return
        del self.rows[num_rows:], self._ends[num_rows:]
        guarded_write(self.path, self._safe(), lambda: os.truncate(self.path, self._size))

    @property
    def _size(self) -> int:
        return self._ends[-1] if self._ends else 0

    def _safe(self) -> str:
        if not self.rows:
            return "Nothing is lost"
        unit, value = next(iter(self.rows[-1].items()), ("row", len(self.rows)))
        return f"Everything up to {unit} {value} is safe"

    def _write(self, line: bytes) -> None:
        handle = os.open(self.path, os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            os.ftruncate(handle, self._size)
            os.lseek(handle, self._size, os.SEEK_SET)
            try:
                rest = line
                while rest:
                    rest = rest[os.write(handle, rest) :]
                os.fsync(handle)
            except OSError:
                with suppress(OSError):
                    os.ftruncate(handle, self._size)
                raise
        finally:
            os.close(handle)
        if self._size == 0:
            sync_folder(self.path.parent)
