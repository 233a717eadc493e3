"""Pages made from the committed figures: the gallery and the README's table of claims."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from pathlib import Path

import pandas as pd

from fedquad.config import PROFILES, InputError
from fedquad.report.claims import VERDICTS, judge
from fedquad.report.claims.evidence import NOT_COMPUTED
from fedquad.report.figures import FIGURES
from fedquad.report.tables import markdown

CLAIMS_BEGIN = "<!-- claims:begin -->"
CLAIMS_END = "<!-- claims:end -->"

_NOT_DRAWN = f"not attempted ({NOT_COMPUTED})"

# Tables that stand beside figures in the gallery: item and caption.
TABLES = {
    "tab03_models": (
        "tab03",
        "Time to the common target on MNLI by backbone, ours and the paper's.",
    ),
    "tab04_heterogeneity": (
        "tab04",
        "Time to the common target and final accuracy by heterogeneity, ours and the paper's.",
    ),
    "tab_throughput_models": (
        "fig08",
        "The claims on MNLI at high heterogeneity under every throughput model.",
    ),
    "tab_sensitivity": (
        "sensitivity",
        "What every value of every varied setting came to.",
    ),
    "tab_budget_policies": (
        "sensitivity",
        "The baselines under both budget policies: who takes part, and who overruns.",
    ),
}
_ITEM_NAMES = {"alg01": "Algorithm 1", "tab03": "Table III", "tab04": "Table IV"}
# Announced in the paper and missing there; the figures are ours.
_ITEM_NAMES |= {"sensitivity": "Section V-D"}


def item_name(item: str) -> str:
    """``fig08`` -> ``Fig. 8``, ``tab03`` -> ``Table III``."""
    return _ITEM_NAMES.get(item) or f"Fig. {int(item.removeprefix('fig'))}"


def committed_folders(figures_root: Path) -> dict[str, Path]:
    """Folders with figures of committed profiles, by their path under ``figures_root``.

    A profile run on another task than its own has a folder of its own inside
    (``glue/mnli``).
    """
    folders = {}
    for profile in PROFILES.values():
        top = Path(figures_root) / profile.name
        if not profile.committed or not top.is_dir():
            continue
        for folder in [top, *sorted(path for path in top.iterdir() if path.is_dir())]:
            if any((folder / f"{name}.csv").is_file() for name in FIGURES):
                folders[folder.relative_to(figures_root).as_posix()] = folder
    return folders


def write_gallery(figures_root: str | Path) -> Path:
    """Write ``README.md`` in the figures' folder: every committed figure and every verdict.

    The same figures give the same bytes.
    """
    figures_root = Path(figures_root)
    parts = [
        "# Figures\n",
        "Generated from the csv files beside the figures; hollow marks and dashed lines "
        "are the paper's own values.\n",
    ]
    for name, folder in committed_folders(figures_root).items():
        profile = PROFILES[name.split("/")[0]]
        parts.append(f"## {name}\n\nProfile `{profile.name}`: {profile.description}.\n")
        parts.extend(_figure_entry(name, folder, figure) for figure in FIGURES)
        parts.extend(_table_entry(name, folder, table) for table in TABLES)
        parts.append(f"### Verdicts of {name}\n\n{_verdict_table(judge(folder))}")
    path = figures_root / "README.md"
    _replace_text(path, "\n".join(part for part in parts if part))
    return path


def _figure_entry(name: str, folder: Path, figure: str) -> str:
    """Heading, caption, image and links of one figure; nothing if it is not there."""
    if not (folder / f"{figure}.png").is_file():
        return ""
    heading = _heading(FIGURES[figure].item, figure)
    links = " · ".join(f"[{kind}]({name}/{figure}.{kind})" for kind in ("pdf", "csv"))
    image = f"![{heading}]({name}/{figure}.png)"
    return f"### {heading}\n\n{FIGURES[figure].caption}\n\n{image}\n\n{links}\n"


def _heading(item: str, name: str) -> str:
    """``fig02b_layer_position_cost`` -> ``Fig. 2(b): layer position cost``."""
    number, _, title = name.partition("_")
    panel = number.removeprefix(item) if number.startswith(item) else ""
    return item_name(item) + (f"({panel})" if panel else "") + f": {title.replace('_', ' ')}"


def _table_entry(name: str, folder: Path, table: str) -> str:
    """Heading, caption, the table itself and links; nothing if it is not there."""
    path = folder / f"{table}.md"
    if not path.is_file():
        return ""
    item, caption = TABLES[table]
    links = " · ".join(f"[{kind}]({name}/{table}.{kind})" for kind in ("csv", "tex"))
    text = path.read_text(encoding="utf-8")
    return f"### {_heading(item, table)}\n\n{caption}\n\n{text}\n{links}\n"


def _verdict_table(judged: pd.DataFrame) -> str:
    judged = judged[judged["verdict"] != _NOT_DRAWN]
    return markdown(
        pd.DataFrame(
            {
                "claim": judged["claim"],
                "paper": [_number(row.paper, row.unit) for row in judged.itertuples()],
                "reproduced": [_value(row) for row in judged.itertuples()],
                "verdict": [f"**{verdict}**" for verdict in judged["verdict"]],
                "reason": judged["reason"],
            }
        )
    )


def update_readme(path: str | Path, figures_root: str | Path) -> None:
    """Put the table of claims between the README's markers; the rest stays as it is.

    Parameters
    ----------
    path : str or Path
        A file with one line `CLAIMS_BEGIN` and, after it, one line `CLAIMS_END`.
    figures_root : str or Path
        Folder with one folder per profile.

    Raises
    ------
    InputError
        When the markers are not there, each once and in order.
    """
    path = Path(path)
    text = path.read_text(encoding="utf-8")
    before, begin, rest = text.partition(CLAIMS_BEGIN)
    between, end, after = rest.partition(CLAIMS_END)
    if not begin or not end or CLAIMS_BEGIN in between + after or CLAIMS_END in after:
        accepted = f"a file with {CLAIMS_BEGIN} and then {CLAIMS_END}, each once"
        raise InputError("path", str(path), accepted)
    table = claims_table(committed_folders(Path(figures_root)))
    _replace_text(path, f"{before}{CLAIMS_BEGIN}\n{table}{CLAIMS_END}{after}")


def claims_table(folders: dict[str, Path]) -> str:
    """Every claim whose figure is in a folder with, per folder, ours and the verdict."""
    if not folders:
        return "No figures are committed yet.\n"
    judged = {name: judge(folder) for name, folder in folders.items()}
    first = next(iter(judged.values()))
    columns = {"figure": first["item"].map(item_name), "claim": first["claim"]}
    for name, table in judged.items():
        columns[name] = [_verdict_and_value(row) for row in table.itertuples()]
    drawn = [table["verdict"] != _NOT_DRAWN for table in judged.values()]
    shown = pd.concat(drawn, axis=1).any(axis=1)
    counts = "".join(f"- `{name}`: {_counts(table)}\n" for name, table in judged.items())
    return f"\n{counts}\n{markdown(pd.DataFrame(columns)[shown])}\n"


def _verdict_and_value(row: object) -> str:
    if row.verdict == _NOT_DRAWN:
        return "-"
    value = _value(row)
    return f"**{row.verdict}**" + (f": {value}" if value else "")


def _counts(judged: pd.DataFrame) -> str:
    """Such as ``12 reproduced, 3 qualitatively``, of the figures that were drawn."""
    verdicts = judged["verdict"][judged["verdict"] != _NOT_DRAWN]
    counted = Counter(verdict.partition(" (")[0] for verdict in verdicts)
    return ", ".join(f"{counted[verdict]} {verdict}" for verdict in VERDICTS if counted[verdict])


def _value(row: object) -> str:
    """Our value, with its interval where there is one."""
    text = _number(row.reproduced, row.unit)
    if text and row.low != row.high:
        text += f" [{row.low:.3g}, {row.high:.3g}]"
    return text


def _number(value: float, unit: str) -> str:
    if pd.isna(value):
        return ""
    if unit == "R^2":
        return f"{value:.4f}"
    symbol = {"percent": " %", "x": "x"}.get(unit, f" {unit}")
    return f"{value:.3g}{symbol}"


def _replace_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".gallery-") as temporary:
        staged = Path(temporary) / path.name
        staged.write_text(text, encoding="utf-8")
        os.replace(staged, path)
