"""What the paper states: its numbers and the claims that are judged, as they were written down.

Both files are facts fixed before any result of ours existed. Nothing here changes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import pandas as pd

from fedquad.config import InputError
from fedquad.paths import package_data


@dataclass(frozen=True)
class Reported:
    """One number of the paper.

    Parameters
    ----------
    id, item : str
        Name of the number; figure, table or algorithm it belongs to (``fig01``).
    quantity, setting : str
        What was measured, and under which conditions.
    value : float
        In ``unit`` (``percent``, ``points``, ``x``, ``GB`` = 10^9 bytes, ``ms``, …).
    kind : {"ratio", "level", "absolute"}
        ``ratio`` compares as it is, ``level`` at the paper's scale only,
        ``absolute`` belongs to the paper's own hardware and is never judged.
    where : str
        Section of the paper.
    """

    id: str
    item: str
    quantity: str
    setting: str
    value: float
    unit: str
    kind: str
    where: str


@dataclass(frozen=True)
class Claim:
    """One claim of the paper with the conditions under which it counts as reproduced."""

    id: str
    item: str
    claim: str
    reproduced_if: str
    qualitative_if: str
    scale: str

    @property
    def is_trained(self) -> bool:
        """Whether it takes training, so that seeds and test items make an interval."""
        return self.scale == "trained"


@cache
def _reported() -> dict[str, Reported]:
    table = pd.read_csv(package_data() / "paper" / "reported.csv", keep_default_na=False)
    return {row["id"]: Reported(**row) for row in table.to_dict("records")}


@cache
def _claims() -> dict[str, Claim]:
    table = pd.read_csv(package_data() / "paper" / "claims.csv", keep_default_na=False)
    return {row["id"]: Claim(**row) for row in table.to_dict("records")}


def reported(id: str) -> Reported:
    """The paper's number of that id; `InputError` for an id it does not have."""
    if id not in _reported():
        raise InputError("id", id, "an id of data/paper/reported.csv")
    return _reported()[id]


def reported_value(id: str) -> float:
    """Shorthand for ``reported(id).value``, in the unit the file states."""
    return reported(id).value


def reported_items(item: str) -> list[Reported]:
    """All of the paper's numbers for one figure or table, in the file's order."""
    rows = [row for row in _reported().values() if row.item == item]
    if not rows:
        known = sorted({row.item for row in _reported().values()})
        raise InputError("item", item, "one of " + ", ".join(known))
    return rows


def get_claim(id: str) -> Claim:
    """The claim of that id; `InputError` for an id that is not in the file."""
    if id not in _claims():
        raise InputError("id", id, "an id of data/paper/claims.csv")
    return _claims()[id]


def claims(item: str | None = None) -> list[Claim]:
    """All claims, or those of one figure or table, in the file's order."""
    return [claim for claim in _claims().values() if item in (None, claim.item)]
