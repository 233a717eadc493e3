"""Measurements on disk: one JSON file a machine, replaced whole after every group."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fedquad.benchmarks.machine import MUST_AGREE
from fedquad.config import InputError
from fedquad.runs.journal import guarded_write, replace_file

# What tells rows apart; a row has those that apply to it.
KEY = (
    "kind", "operation", "phase", "implementation", "shape", "model", "batch_size", "length",
    "dtype", "mode", "attention", "method",
)  # fmt: skip
STATUSES = ("ok", "out of memory", "unsupported", "failed")


class Record:
    """Rows of one machine, resumed where the file is there.

    Parameters
    ----------
    path : Path
        Its folder is made if it is not there.
    machine : mapping
        As `fedquad.benchmarks.machine.describe_machine` gives it.
    fresh : bool
        Begin anew; the old file stands until the first rows are there.

    Raises
    ------
    InputError
        The file is no such record, or was measured on another machine, with other
        versions or with other code.
    """

    def __init__(self, path: Path, machine: Mapping[str, Any], *, fresh: bool = False) -> None:
        self.path = path
        self.machine = dict(machine)
        self.groups: list[str] = []
        self.rows: list[dict[str, Any]] = []
        if path.exists() and not fresh:
            stored = read_record(path)
            _require_same(path, stored["machine"], self.machine)
            self.groups, self.rows = stored["groups"], stored["rows"]

    def has(self, group: str) -> bool:
        """Whether a group was measured, and none of its settings failed."""
        return group in self.groups

    def add(self, group: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write the rows of a group, in the place of older ones of the same keys.

        A group of which a setting failed is measured again by the next run.
        """
        new = {row_key(row): dict(row) for row in rows}
        self.rows = [row for row in self.rows if row_key(row) not in new] + list(new.values())
        self.groups = [name for name in self.groups if name != group]
        if all(row["status"] != "failed" for row in new.values()):
            self.groups.append(group)
        content = {"machine": self.machine, "groups": self.groups, "rows": self.rows}
        data = (json.dumps(content, indent=1, allow_nan=False) + "\n").encode()

        def write() -> None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(self.path, data)

        guarded_write(self.path, "The file before this group is safe", write)


def read_record(path: Path) -> dict[str, Any]:
    """``machine``, ``groups`` and ``rows`` of a file; `InputError` where it is no such record."""
    try:
        stored = json.loads(path.read_bytes())
        kinds = {"machine": dict, "groups": list, "rows": list}
        if wrong := [name for name, kind in kinds.items() if not isinstance(stored[name], kind)]:
            raise ValueError(f"{wrong[0]} of another kind")
        if any(row["status"] not in STATUSES for row in stored["rows"]):
            raise ValueError("rows without a known status")
    except (ValueError, TypeError, KeyError) as error:
        accepted = f"a file that `python -m fedquad.benchmarks` wrote ({error})"
        raise InputError("output", str(path), accepted) from error
    return stored


def row_key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """What tells a row apart."""
    return tuple(row.get(name) for name in KEY)


def _require_same(path: Path, stored: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    for name in MUST_AGREE:
        if stored.get(name) != here.get(name):
            accepted = (
                f"a record with {name} = {here.get(name)!r} like this run; it has "
                f"{stored.get(name)!r}. Name another --output, or --fresh to begin it anew"
            )
            raise InputError("output", str(path), accepted)
