"""Stored runs: one folder a run, appended row by row, resumed after any crash.

``<root>/<slug>-<run id>/`` holds

- ``config.json``: the settings that the id is the hash of, and the fingerprints
  of what the run was computed from;
- ``results.jsonl``: what the settings determine. The last row has ``"final": true``;
- ``telemetry.jsonl``: what they do not: wall time, machine, versions;
- ``checkpoint/``: only while the run is not finished.

Locks, and folders on their way in or out, are in ``<root>/.working/``.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from fedquad.config import run_id
from fedquad.runs.journal import StoreError, StoreWriteError, guarded_write, read_rows
from fedquad.runs.run import Run, StoreMismatchError, read_record, read_results, require_same


class StoreBusyError(StoreError):
    """Another process is computing this run."""


@dataclass(frozen=True)
class StoredRun:
    """A finished run as it was read."""

    directory: Path
    settings: dict[str, Any]
    sources: dict[str, Any]
    rows: list[dict[str, Any]]
    telemetry: list[dict[str, Any]]

    @property
    def run_id(self) -> str:
        return run_id(self.settings)

    @property
    def results_sha256(self) -> str:
        return results_sha256(self.directory)


def results_sha256(directory: Path) -> str:
    """SHA-256 over the bytes of a run's results; equal runs have equal ones."""
    return hashlib.sha256((directory / "results.jsonl").read_bytes()).hexdigest()


def run_slug(settings: Mapping[str, Any]) -> str:
    """A name for people, in front of the id: ``micro-mnli-embedded-lora-l4to11-q4to8-s0``."""
    named = [str(settings.get(key, "")) for key in ("task", "model", "method", "tuning")]
    parts = [name.partition("@")[0] for name in named]  # without the digest of weights
    for letter, key in (("l", "trainable_layers"), ("q", "quantized_layers")):
        if layers := settings.get(key):
            ends = dict.fromkeys((layers[0], layers[-1]))
            parts.append(letter + "to".join(map(str, ends)))
    if "seed" in settings:
        parts.append(f"s{settings['seed']}")
    cleaned = (re.sub(r"[^A-Za-z0-9]+", "-", part).strip("-").lower()[:24] for part in parts)
    return "-".join(filter(None, cleaned)) or "run"


class RunStore:
    """The runs under one folder.

    Parameters
    ----------
    root : Path
        Need not exist; it is made when the first run is opened for writing.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    def directory(self, settings: Mapping[str, Any]) -> Path:
        """Folder of the run with these settings, whether it exists or not.

        An existing one is found by its id: the words before it are for people.

        Raises
        ------
        StoreMismatchError
            If several folders have the id.
        StoreWriteError
            If the root, or what it should stand in, is a file.
        """
        nearest = next(path for path in (self.root, *self.root.parents) if path.exists())
        if not nearest.is_dir():
            accepted = f"a folder, or nothing yet, for the runs in {self.root}"
            raise StoreWriteError(f"{nearest} is a file; expected {accepted}")
        key = run_id(settings)
        found = sorted(self.root.glob(f"*-{key}"))
        if len(found) > 1:
            names = ", ".join(path.name for path in found)
            raise StoreMismatchError(f"{self.root}: {names} all claim to be run {key}; keep one")
        return found[0] if found else self.root / f"{run_slug(settings)}-{key}"

    def read(self, settings: Mapping[str, Any]) -> StoredRun | None:
        """The finished run with these settings; None if there is none, or not yet.

        Nothing is written and no lock is taken.

        Raises
        ------
        CorruptRunError, StoreMismatchError
            If the files are damaged or say other settings.
        """
        directory = self.directory(settings)
        aside = self._working(directory, "old")
        if not directory.exists() and aside.exists():
            directory = aside  # a swap was cut short; the next writer completes it
        stored = _read_finished(directory)
        if stored is not None:
            require_same("settings", stored.settings, dict(settings), directory)
        return stored

    def finished(self) -> list[StoredRun]:
        """All finished runs, by name of their folder.

        Raises
        ------
        CorruptRunError
            If the files of one are damaged.
        """
        folders = sorted(self.root.iterdir()) if self.root.is_dir() else []
        runs = [_read_finished(path) for path in folders if (path / "config.json").is_file()]
        return [run for run in runs if run is not None]

    def open(
        self, settings: Mapping[str, Any], sources: Mapping[str, Any], *, fresh: bool = False
    ) -> Run:
        """Lock the run with these settings for writing: a new one, or to go on with it.

        Parameters
        ----------
        settings, sources : mapping
            JSON values. ``sources`` says what the run is computed from.
        fresh : bool
            Start anew. What is stored stands until the new run is finished,
            and is then replaced at once.

        Raises
        ------
        StoreBusyError
            If another process holds the run. Its lock dies with it.
        CorruptRunError, StoreMismatchError
            If the stored files are damaged, or other settings or sources are recorded.
        StoreWriteError
            If the folder is read-only, full, or a file.
        """
        directory = self.directory(settings)
        lock = self._lock(directory)
        try:
            self._complete_swap(directory)
            if fresh and directory.exists():
                return Run(self._working(directory, "fresh"), settings, sources, lock, directory)
            return Run(directory, settings, sources, lock)
        except BaseException:
            lock.release()
            raise

    def _lock(self, directory: Path) -> FileLock:
        path, holder = (self._working(directory, kind) for kind in ("lock", "pid"))
        lock = FileLock(path)

        def acquire() -> None:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(timeout=0)
            except Timeout:  # an OSError too, but not one of writing
                raise _busy(directory, holder) from None
            holder.write_text(str(os.getpid()))

        try:
            guarded_write(path, "Nothing is lost", acquire)
        except BaseException:
            lock.release()
            raise
        return lock

    def _complete_swap(self, directory: Path) -> None:
        """Clear up after a process that was killed while it replaced a run."""
        aside, fresh = (self._working(directory, kind) for kind in ("old", "fresh"))

        def clear() -> None:
            if aside.exists() and not directory.exists():
                (fresh if fresh.exists() else aside).rename(directory)
            for leftover in (aside, fresh):
                shutil.rmtree(leftover, ignore_errors=True)

        guarded_write(directory, "The record before is safe", clear)

    def _working(self, directory: Path, kind: str) -> Path:
        return self.root / ".working" / f"{directory.name}.{kind}"


def _read_finished(directory: Path) -> StoredRun | None:
    rows = read_results(directory / "results.jsonl")
    if not rows or not rows[-1].get("final"):
        return None
    record = read_record(directory / "config.json")
    telemetry, _ = read_rows(directory / "telemetry.jsonl")
    return StoredRun(directory, record["settings"], record["sources"], rows, telemetry)


def _busy(directory: Path, holder: Path) -> StoreBusyError:
    try:
        pid = f" (pid {holder.read_text()})"
    except OSError:
        pid = ""
    return StoreBusyError(
        f"{directory} is being computed by another process{pid}; wait for it or stop it"
    )
