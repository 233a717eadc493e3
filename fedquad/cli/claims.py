"""``fedquad claims``: the verdict on each claim of the paper, from the figures' csv files."""

from __future__ import annotations

import json as json_module
import textwrap
from typing import Annotated

from cyclopts import Parameter

from fedquad.cli.options import print_json

WIDTH = 100


def claims(
    *,
    profile: str = "embedded",
    beside: str | None = None,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """List the paper's claims with its value, ours and the verdict.

    Parameters
    ----------
    profile
        Whose figures in figures/PROFILE are judged.
    beside
        A second profile, whose values and verdicts stand beside.
    json
        Print a JSON list instead of text.
    """
    from fedquad import paths
    from fedquad.config import get_profile
    from fedquad.report.claims import judge

    table = judge(paths.figures_dir(get_profile(profile).name))
    if beside is not None:
        other = judge(paths.figures_dir(get_profile(beside).name))
        columns = ["reproduced", "low", "high", "verdict", "reason", "num_seeds"]
        renamed = other[columns].rename(columns=lambda name: f"{beside}_{name}")
        table = table.join(renamed)
    rows = json_module.loads(table.to_json(orient="records"))
    if json:
        print_json(rows)
        return
    for row in rows:
        print(f"{row['item']} {row['id']}: {row['verdict']}")
        print(textwrap.fill(row["claim"], WIDTH, initial_indent="  ", subsequent_indent="  "))
        print(f"  paper {_value(row, 'paper')}, {profile} {_value(row, 'reproduced')}")
        if beside is not None:
            value = _value(row, f"{beside}_reproduced")
            print(f"  {beside} {value}: {row[f'{beside}_verdict']}")
        print(textwrap.fill(row["reason"], WIDTH, initial_indent="  ", subsequent_indent="  "))


def _value(row: dict, column: str) -> str:
    return "-" if row[column] is None else f"{row[column]:.4g} {row['unit']}".strip()
