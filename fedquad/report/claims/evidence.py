"""What predicates may look at: the csv files of the figures of one profile."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fedquad.report.claims.verdict import Finding, NotAttemptedError
from fedquad.report.intervals import Bootstrap
from fedquad.report.saving import load_figure_csv

Predicate = Callable[["Evidence"], Finding]


# Reason of a claim whose figure is not there.
NOT_COMPUTED = "figure not computed"


class Evidence:
    """Frames of the figures in one folder, read once.

    Parameters
    ----------
    folder : str or Path
        Folder of one profile's figures.
    task : str or None
        Restricts the frames of trained figures to one task.
    """

    def __init__(self, folder: str | Path, task: str | None = None) -> None:
        self._folder = Path(folder)
        self._task = task
        self._frames: dict[str, pd.DataFrame] = {}
        self._bootstraps: dict[tuple[str, str], Bootstrap] = {}
        self._made: dict[Hashable, Any] = {}
        self._of_task: dict[str, Evidence] = {}

    @classmethod
    def of_frames(cls, frames: Mapping[str, pd.DataFrame]) -> Evidence:
        """Evidence of frames that are at hand, by the figure's name; no file is read."""
        evidence = cls(Path())
        evidence._frames = dict(frames)
        return evidence

    def frame(self, figure: str) -> pd.DataFrame:
        """The frame of a figure; `NotAttemptedError` when it has not been computed."""
        if figure not in self._frames:
            try:
                frame = load_figure_csv(figure, folder=self._folder)
            except FileNotFoundError:
                raise NotAttemptedError(NOT_COMPUTED) from None
            if self._task is not None:
                frame = frame[frame["task"] == self._task]
            self._frames[figure] = frame
        return self._frames[figure]

    def counted(self, figure: str, source: str, model: str) -> pd.DataFrame:
        """Accounting or FLOP rows of the paper's model; `NotAttemptedError` without them."""
        frame = self.frame(figure)
        rows = frame[(frame["source"] == source) & (frame["model"] == model)]
        if rows.empty:
            raise NotAttemptedError(f"no {source} of {model}")
        return rows

    def measured(self, figure: str) -> pd.DataFrame:
        """Measured rows of a figure, possibly none."""
        frame = self.frame(figure)
        return frame[frame["source"] == "measured"]

    def bootstrap(self, figure: str, by: str) -> Bootstrap:
        """The bootstrap over the runs of a trained figure, made once."""
        if (figure, by) not in self._bootstraps:
            self._bootstraps[figure, by] = Bootstrap.from_frame(self.frame(figure), by)
        return self._bootstraps[figure, by]

    def once(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """What ``make`` gives, made once: comparisons of curves serve many claims."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def tasks(self, figure: str) -> list[str]:
        """Tasks of a trained figure, in the order of its rows."""
        return list(self.frame(figure)["task"].drop_duplicates())

    def of_task(self, task: str) -> Evidence:
        """The same evidence restricted to one task."""
        if task not in self._of_task:
            self._of_task[task] = Evidence(self._folder, task)
        return self._of_task[task]


def total_of(rows: pd.DataFrame, by: str, key: object) -> float:
    """``total`` of one configuration; `NotAttemptedError` when it is not in the figure."""
    match = rows.loc[rows[by] == key, "total"]
    if len(match) != 1:
        raise NotAttemptedError(f"{len(match)} rows with {by} = {key}")
    return float(match.iloc[0])


def line_fit(x: pd.Series, y: pd.Series) -> tuple[float, float]:
    """Slope and R^2 of the least-squares line; `NotAttemptedError` below three points."""
    if len(x) < 3:
        raise NotAttemptedError(f"{len(x)} points for a line")
    x, y = x.to_numpy(float), y.to_numpy(float)
    slope, offset = np.polyfit(x, y, 1)
    residual = ((y - slope * x - offset) ** 2).sum()
    return float(slope), float(1 - residual / ((y - y.mean()) ** 2).sum())


def measured_setting(rows: pd.DataFrame) -> str:
    """Which model was timed where, for a remark."""
    pairs = rows[["model", "torch_device"]].drop_duplicates().itertuples(index=False)
    return ", ".join(f"{model} on {device}" for model, device in pairs)
