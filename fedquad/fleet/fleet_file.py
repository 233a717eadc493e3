"""A fleet in a CSV file, so that a run can have anybody's own devices."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from fedquad.config import InputError, require_int
from fedquad.cost.layer_costs import LayerCosts
from fedquad.fleet.status import DeviceStatus, Fleet, depth_budget

REQUIRED_COLUMNS = ("device_id", "memory_budget_bytes", "flops_per_second")
OPTIONAL_COLUMNS = ("device_class", "mode")

_LARGEST_BYTES = 2**63 - 1  # of what arrays of budgets can hold


class FixedFleet(Fleet):
    """Devices that report the same before every round.

    Parameters
    ----------
    statuses : sequence of DeviceStatus
        At least one, none with the name of another.
    """

    def __init__(self, statuses: Sequence[DeviceStatus]) -> None:
        names = {status.device_id for status in statuses}
        if not statuses or len(names) < len(statuses):
            found = f"{len(statuses)} devices with {len(names)} names"
            raise InputError("statuses", found, "at least one device, each with its own name")
        self._statuses = tuple(statuses)

    @property
    def num_devices(self) -> int:
        return len(self._statuses)

    def statuses(self, round_idx: int) -> list[DeviceStatus]:
        require_int("round_idx", round_idx, 0)
        return list(self._statuses)


def read_fleet(path: str | Path, costs: LayerCosts) -> FixedFleet:
    """Read a fleet from a CSV file, one device a line.

    Parameters
    ----------
    path : str or Path
        UTF-8, comma-separated, with a header line. Columns ``device_id``,
        ``memory_budget_bytes`` (a whole number) and ``flops_per_second``; if they
        are there, ``device_class`` and ``mode``. Others are left alone.
    costs : LayerCosts
        Of the trained model's layers; gives each device its depth budget.

    Raises
    ------
    InputError
        The file cannot be read, is empty or not UTF-8, lacks a column or has it
        twice, or a line has a value that cannot be used. Names the line (a header
        is line 1), the field, the value and what would be accepted.
    """
    path = Path(path).expanduser()
    lines = _lines(path)
    header_line, header = next(lines, (1, []))
    header = [name.strip() for name in header]
    where = _column_positions(header, f"header in line {header_line} of {path}")
    first_line_of: dict[str, int] = {}
    statuses = []
    for line, row in lines:
        if len(row) != len(header):
            accepted = f"{len(header)} fields, as many as the header has"
            raise InputError(f"fields in line {line} of {path}", len(row), accepted)
        values = {name: row[position] for name, position in where.items()}
        statuses.append(_status(values, costs, f"in line {line} of {path}"))
        name = values["device_id"]
        if first_line_of.setdefault(name, line) != line:
            accepted = f"a name of its own; line {first_line_of[name]} has this one too"
            raise InputError(f"device_id in line {line} of {path}", name, accepted)
    if not statuses:
        raise InputError("fleet", str(path), "at least one device below the header")
    return FixedFleet(statuses)


def write_fleet(path: str | Path, statuses: Sequence[DeviceStatus]) -> None:
    """Write devices as a file that `read_fleet` reads back: one round of any fleet.

    Depth budgets are not written; they follow from memory and the model's costs.
    """
    fleet = FixedFleet(statuses)
    columns = (*REQUIRED_COLUMNS, *OPTIONAL_COLUMNS)
    with Path(path).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        for status in fleet.statuses(0):
            writer.writerow([getattr(status, name) for name in columns])


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Line number and fields of every record that is not blank."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InputError("fleet", str(path), f"a readable file ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise InputError("fleet", str(path), "UTF-8 text") from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    start = 1
    try:
        for row in reader:
            if len(row) > 1 or "".join(row).strip():
                yield start, row
            start = reader.line_num + 1  # a quoted field may go over several lines
    except csv.Error as error:
        accepted = f"comma-separated fields ({error})"
        raise InputError(f"line {start} of {path}", "its text", accepted) from error


def _column_positions(header: list[str], what: str) -> dict[str, int]:
    """Where the known columns are; ``what`` is the header's name in an error."""
    for name in (*REQUIRED_COLUMNS, *OPTIONAL_COLUMNS):
        count = header.count(name)
        if count > 1 or (count == 0 and name in REQUIRED_COLUMNS):
            times = "more than once" if count else "missing"
            accepted = f"the columns {', '.join(REQUIRED_COLUMNS)}, each once; {name} is {times}"
            raise InputError(what, ",".join(header), accepted)
    known = {*REQUIRED_COLUMNS, *OPTIONAL_COLUMNS}
    return {name: position for position, name in enumerate(header) if name in known}


def _status(values: dict[str, str], costs: LayerCosts, where: str) -> DeviceStatus:
    for name in ("device_id", *OPTIONAL_COLUMNS):
        if not values.get(name, "").isprintable():  # a line break would break logs and tables
            raise InputError(f"{name} {where}", values[name], "printable characters")
    if not values["device_id"].strip():
        raise InputError(f"device_id {where}", values["device_id"], "a name")
    memory_text = values["memory_budget_bytes"].strip()
    is_whole = re.fullmatch(r"[0-9]{1,19}", memory_text) is not None
    if not is_whole or not 1 <= int(memory_text) <= _LARGEST_BYTES:
        accepted = "a whole number of bytes from 1 to 2^63 - 1"
        raise InputError(f"memory_budget_bytes {where}", memory_text, accepted)
    try:
        throughput = float(values["flops_per_second"])
    except ValueError:
        throughput = math.nan
    if not math.isfinite(throughput) or throughput <= 0:
        accepted = "a finite number > 0"
        raise InputError(f"flops_per_second {where}", values["flops_per_second"], accepted)
    memory = int(memory_text)
    return DeviceStatus(
        device_id=values["device_id"],
        device_class=values.get("device_class", ""),
        mode=values.get("mode", ""),
        depth_budget=depth_budget(memory, costs),
        memory_budget_bytes=memory,
        flops_per_second=throughput,
    )
