"""Tables on disk, and Table II of the paper from the sources themselves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd

from fedquad.config import InputError
from fedquad.report.saving import write_together
from fedquad.tasks.task import Task

TABLE_SUFFIXES = (".csv", ".md", ".tex")

# Table II of the paper: name -> (application, rows for training, rows for testing).
PAPER_DATASETS = {
    "mnli": ("Textual Entailment", 392_702, 9_815),
    "qqp": ("Semantic Equivalence", 363_846, 40_430),
    "qnli": ("Question Answering", 104_743, 5_463),
    "sst2": ("Sentiment Analysis", 67_349, 1_821),
}
SST2_NOTE = "the paper's 1,821 rows are the unlabelled test split; 872 rows have labels"


def save_table(
    df: pd.DataFrame, name: str, *, folder: str | Path, formats: Mapping[str, str] | None = None
) -> list[Path]:
    """Write ``name.csv``, ``name.md`` and ``name.tex``, all or none.

    The csv holds every digit; Markdown and LaTeX show numbers by ``formats``.

    Parameters
    ----------
    df : DataFrame
    name : str
        Such as ``tab02_datasets``.
    folder : str or Path
        Made if it is not there.
    formats : mapping of str to str, optional
        Column -> format specification (``".1f"``, ``",d"``); other numbers are
        shown with up to four significant digits.

    Returns
    -------
    list of Path
        The three files.
    """
    if df.empty:
        raise InputError("df", "an empty frame", "a table with at least one row")
    shown = shown_table(df, formats)

    def save_csv(path: Path) -> None:
        df.to_csv(path, index=False, lineterminator="\n")

    def save_markdown(path: Path) -> None:
        path.write_text(markdown(shown), encoding="utf-8")

    def save_latex(path: Path) -> None:
        path.write_text(latex(shown, df), encoding="utf-8")

    return write_together(
        folder, name, {".csv": save_csv, ".md": save_markdown, ".tex": save_latex}
    )


def shown_table(df: pd.DataFrame, formats: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Every cell as the text a reader sees; missing values are empty."""
    formats = formats or {}
    return pd.DataFrame(
        {name: [_cell(value, formats.get(name)) for value in df[name]] for name in df}
    )


def _cell(value: object, spec: str | None) -> str:
    if pd.isna(value):
        return ""
    if isinstance(value, bool | str):
        return str(value)
    if spec is not None:
        return format(value, spec)
    if float(value).is_integer():
        return f"{int(value):,d}"
    return f"{value:.4g}"


def markdown(shown: pd.DataFrame) -> str:
    """A table of text as GitHub's Markdown."""
    lines = [list(shown.columns), ["---"] * shown.shape[1], *shown.to_numpy().tolist()]
    escaped = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in lines]
    return "".join("| " + " | ".join(row) + " |\n" for row in escaped)


def latex(shown: pd.DataFrame, df: pd.DataFrame) -> str:
    """A table of text for the LaTeX package booktabs; numbers of ``df`` align right."""
    numeric = [pd.api.types.is_numeric_dtype(df[name]) for name in df]
    columns = "".join("r" if is_number else "l" for is_number in numeric)
    escaped = shown.rename(columns=lambda name: name.replace("_", " "))
    style = escaped.style.hide(axis="index").format(escape="latex")
    return style.to_latex(column_format=columns, hrules=True)


def datasets_table(tasks: Iterable[Task]) -> pd.DataFrame:
    """Table II: what each task is, counted from its source.

    Parameters
    ----------
    tasks : iterable of Task
        As loaded, so that rows are those really there.

    Returns
    -------
    DataFrame
        ``dataset, application, source, train, test, refused, paper_train,
        paper_test, note``; the paper's counts are empty for other tasks.
    """
    rows = []
    for task in tasks:
        _, train, test = PAPER_DATASETS.get(task.name, (None, None, None))
        rows.append(
            {
                "dataset": task.name,
                "application": task.application,
                "source": task.source,
                "train": len(task.train),
                "test": len(task.eval),
                "refused": len(task.train.refused) + len(task.eval.refused),
                "paper_train": train,
                "paper_test": test,
                "note": SST2_NOTE if task.name == "sst2" else "",
            }
        )
    return pd.DataFrame(rows).astype({"paper_train": "Int64", "paper_test": "Int64"})
