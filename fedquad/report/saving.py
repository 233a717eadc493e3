"""A figure on disk: pdf, png and the csv that alone draws it again."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from fedquad.config import InputError
from fedquad.report.style import paper_style

FIGURE_SUFFIXES = (".pdf", ".png", ".csv")
PNG_DPI = 200
# Text that looks like a number ("12e4" packed bits, layers "11") must stay text.
TEXT_COLUMNS = dict.fromkeys(
    ("correct", "layers", "group", "tuning", "device_id", "setting_value"), str
)
# From pandas 3.1 on this is how floats are read, and asking for it warns.
_EXACT_FLOATS: dict[str, Any] = (
    {"float_precision": "round_trip"}
    if tuple(map(int, pd.__version__.split(".")[:2])) < (3, 1)
    else {}
)
# Neither the moment nor the versions belong in a file that is compared byte by byte.
_PDF_METADATA = {"CreationDate": None, "ModDate": None, "Creator": None, "Producer": None}
_PNG_METADATA = {"Software": None}


def save_figure(fig: Figure, df: pd.DataFrame, name: str, *, folder: str | Path) -> list[Path]:
    """Write ``name.pdf``, ``name.png`` and ``name.csv``, all or none.

    The same frame gives the same bytes (one version of matplotlib assumed):
    files carry no date, and the csv holds floats so that they read back exactly.

    Parameters
    ----------
    fig : Figure
        As drawn from ``df``.
    df : DataFrame
        Everything the figure shows, tidy.
    name : str
        Such as ``fig02a_layer_position_cost``.
    folder : str or Path
        Made if it is not there.

    Returns
    -------
    list of Path
        The three files.
    """
    if df.empty:
        raise InputError("df", "an empty frame", "a frame with the rows that the figure shows")

    def save_pdf(path: Path) -> None:
        fig.savefig(path, format="pdf", metadata=_PDF_METADATA)

    def save_png(path: Path) -> None:
        fig.savefig(path, format="png", dpi=PNG_DPI, metadata=_PNG_METADATA)

    def save_csv(path: Path) -> None:
        df.to_csv(path, index=False, lineterminator="\n")

    with paper_style():  # font embedding and hatches are read when a file is written
        return write_together(folder, name, {".pdf": save_pdf, ".png": save_png, ".csv": save_csv})


def load_figure_csv(name: str, *, folder: str | Path) -> pd.DataFrame:
    """The frame that `save_figure` wrote, value for value.

    Raises
    ------
    FileNotFoundError
        When the figure has not been made in that folder.
    """
    return read_exact(Path(folder) / f"{name}.csv")


def read_exact(path: Path) -> pd.DataFrame:
    """Read a csv so that writing it again gives the same bytes."""
    return pd.read_csv(
        path, dtype=TEXT_COLUMNS, keep_default_na=False, na_values=[""], **_EXACT_FLOATS
    )


def write_together(
    folder: str | Path, name: str, writers: dict[str, Callable[[Path], object]]
) -> list[Path]:
    """Write one file per suffix; a failure leaves every file as it was.

    All are written under temporary names in the same folder first and renamed
    only when the last one is complete.
    """
    if not re.fullmatch(r"[a-z0-9_]+", name):
        raise InputError("name", name, "lower-case letters, digits and _")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=f".{name}-") as temporary:
        staged = {suffix: Path(temporary) / f"{name}{suffix}" for suffix in writers}
        for suffix, write in writers.items():
            write(staged[suffix])
        for path in staged.values():
            os.replace(path, folder / path.name)
    return [folder / f"{name}{suffix}" for suffix in writers]
