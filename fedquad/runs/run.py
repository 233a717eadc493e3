"""One stored run, open for writing: rows, telemetry and the checkpoint to go on from."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock

from fedquad.config import run_id
from fedquad.runs.journal import (
    CorruptRunError,
    Journal,
    StoreError,
    StoreWriteError,
    guarded_write,
    read_rows,
    replace_file,
    sync_folder,
)


class StoreMismatchError(StoreError):
    """What is stored was made with other settings, or from other sources."""


class Run:
    """One run, locked for writing until it is closed; use it in a ``with`` block.

    Attributes
    ----------
    rows : list of dict
        What ``results.jsonl`` holds.
    is_complete : bool
        Whether the final row is there.
    """

    def __init__(
        self,
        directory: Path,
        settings: Mapping[str, Any],
        sources: Mapping[str, Any],
        lock: FileLock,
        replaces: Path | None = None,
    ) -> None:
        self.directory = directory
        self._lock = lock
        self._replaces = replaces
        record = {"run_id": run_id(settings), "settings": dict(settings), "sources": dict(sources)}
        self._begin(record)
        self._results = Journal(directory / "results.jsonl")
        _require_final_last(self._results.path, self._results.rows)
        self._telemetry = Journal(directory / "telemetry.jsonl")
        if self.is_complete:
            self._drop_checkpoint()

    def _begin(self, record: dict[str, Any]) -> None:
        path = self.directory / "config.json"
        if path.exists():
            stored = read_record(path)
            for part in ("settings", "sources"):
                require_same(part, stored[part], record[part], self.directory)
            return
        if self.directory.exists() and any(self.directory.glob("*.jsonl")):
            raise CorruptRunError(f"{self.directory} has results and no config.json; delete it")
        content = (json.dumps(record, indent=2, allow_nan=False) + "\n").encode()

        def write() -> None:
            self.directory.mkdir(parents=True, exist_ok=True)
            replace_file(path, content)

        try:
            guarded_write(path, "Nothing is lost", write)
        except StoreWriteError:
            with suppress(OSError):
                self.directory.rmdir()
            raise

    @property
    def rows(self) -> list[dict[str, Any]]:
        return self._results.rows

    @property
    def is_complete(self) -> bool:
        return bool(self.rows) and bool(self.rows[-1].get("final"))

    def append(self, row: Mapping[str, Any]) -> None:
        """Put one row of results on disk; with ``final=True`` in it the run is finished."""
        if self.is_complete:
            raise StoreError(f"{self.directory} is finished; it takes no more rows")
        self._results.append(dict(row))
        if self.is_complete:
            self._drop_checkpoint()
            if self._replaces is not None:
                self._swap_in()

    def rewind(self, num_rows: int) -> None:
        """Drop rows that were written after the checkpoint the run goes on from."""
        self._results.rewind(num_rows)

    def log(self, **row: Any) -> None:
        """Put one row of telemetry on disk; before the final row, which closes the run."""
        self._telemetry.append(row)

    def save_checkpoint(self, content: bytes) -> None:
        """Replace the checkpoint at once; the one before stands until then."""
        path = self._checkpoint

        def write() -> None:
            path.parent.mkdir(exist_ok=True)
            replace_file(path, content)

        guarded_write(path, f"Its {len(self.rows)} rows and last checkpoint are safe", write)

    def load_checkpoint(self) -> bytes | None:
        return self._checkpoint.read_bytes() if self._checkpoint.exists() else None

    def close(self) -> None:
        self._lock.release()

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def _checkpoint(self) -> Path:
        return self.directory / "checkpoint" / "state"

    def _drop_checkpoint(self) -> None:
        shutil.rmtree(self._checkpoint.parent, ignore_errors=True)

    def _swap_in(self) -> None:
        target, aside = self._replaces, self.directory.with_suffix(".old")

        def swap() -> None:
            target.rename(aside)
            self.directory.rename(target)
            sync_folder(target.parent)

        guarded_write(target, f"The new run is safe in {self.directory}", swap)
        shutil.rmtree(aside, ignore_errors=True)
        self.directory, self._replaces = target, None


def read_results(path: Path) -> list[dict[str, Any]]:
    """Rows of ``results.jsonl``; `CorruptRunError` if any follows the final one."""
    rows, _ = read_rows(path)
    _require_final_last(path, rows)
    return rows


def _require_final_last(path: Path, rows: list[dict[str, Any]]) -> None:
    for number, row in enumerate(rows[:-1], start=1):
        if row.get("final"):
            raise CorruptRunError(f"{path}, line {number}: the final row is not the last one")


def read_record(path: Path) -> dict[str, Any]:
    """Settings and sources from ``config.json``; `CorruptRunError` if it cannot be used."""
    try:
        record = json.loads(path.read_bytes())
        return {"settings": dict(record["settings"]), "sources": dict(record["sources"])}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CorruptRunError(
            f"{path} cannot be read ({error}). Nothing was changed; restore the file "
            "or delete its folder"
        ) from error


def require_same(
    part: str, stored: Mapping[str, Any], wanted: Mapping[str, Any], directory: Path
) -> None:
    """Raise `StoreMismatchError` with the first field that differs."""
    for field in sorted(set(stored) | set(wanted)):
        before, now = stored.get(field), wanted.get(field)
        if isinstance(before, Mapping) and isinstance(now, Mapping):
            require_same(f"{part}.{field}", before, now, directory)
        elif before != now:
            raise StoreMismatchError(
                f"{directory}: {part}.{field} is {before!r} in the record and {now!r} now. "
                "Restore what it was computed from, or compute it again with --fresh"
            )
