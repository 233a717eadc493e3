"""Whole runs as a reader wants them: our workers, bare processes and Flower, by local steps."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from fedquad.report.style import PALETTE, axes_or_new, finish
from fedquad.report.tables import markdown, shown_table

# Names of the cases, as `fedquad.benchmarks.whole_runs` writes them.
BARE, WORKERS, FLOWER = "two bare processes", "two workers", "Flower's simulation"
_COLUMNS = {
    "shape": "of",
    "implementation": "case",
    "wall_s": "whole run, s",
    "wall_s_ratio": "ratio",
    "round_s": "a steady round, s",
    "round_s_ratio": "its ratio",
    "peak_bytes": "peak memory, MB",
}


def whole_runs_frame(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of whole runs that were measured, by local steps."""
    if "operation" not in rows or "local_steps" not in rows:
        return rows.iloc[:0]
    chosen = rows[(rows["operation"] == "whole runs") & (rows["status"] == "ok")]
    return chosen.sort_values("local_steps", kind="stable")


def whole_runs_targets(frame: pd.DataFrame) -> pd.DataFrame:
    """The targets beside the measurement, for every number of local steps."""
    found = []
    for steps, group in frame.groupby("local_steps"):
        of_case = group.set_index("implementation")
        ours, flower = of_case.loc[WORKERS], of_case.loc[FLOWER]
        ratio = ours["wall_s"] / of_case.loc[BARE, "wall_s"]
        name = f"two workers over two bare processes, {steps:.0f} local steps"
        found.append((name, "<= 1.05", f"{ratio:.3f}", ratio <= 1.05))
        for column, word in (("wall_s", "time"), ("peak_bytes", "memory")):
            ratio = ours[column] / flower[column]
            name = f"their {word} over that of Flower's simulation, {steps:.0f} local steps"
            found.append((name, "< 1", f"{ratio:.3f}", ratio < 1))
    table = pd.DataFrame(found, columns=["target", "limit", "measured", "met"])
    return table.assign(met=table["met"].map({True: "yes", False: "no"}))


def whole_runs_section(frame: pd.DataFrame) -> str:
    """Markdown of targets and measurements."""
    shown = frame.reindex(columns=list(_COLUMNS)).rename(columns=_COLUMNS)
    shown["peak memory, MB"] = 1e-6 * pd.to_numeric(shown["peak memory, MB"])
    digits = {"whole run, s": ".1f", "a steady round, s": ".2f", "peak memory, MB": ",.0f"}
    digits |= {"ratio": ".3f", "its ratio": ".3f"}
    parts = ["### Targets\n", markdown(whole_runs_targets(frame))]
    parts += ["### Whole runs in two processes\n", markdown(shown_table(shown, digits))]
    return "\n".join(parts)


def gap_by_steps(df: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Seconds of a steady round over those of bare processes, against local steps.

    Parameters
    ----------
    df : DataFrame
        As `whole_runs_frame` makes it.
    """
    ax = axes_or_new(ax)
    for place, (name, group) in enumerate(df.groupby("implementation", sort=False)):
        steps, ratios = group["local_steps"], group["round_s_ratio"]
        ax.plot(steps, ratios, marker="o", color=PALETTE[place], label=name)
    ax.set_xscale("log", base=2)
    ax.set_xlabel("local steps of a round")
    ax.set_ylabel("a steady round over that of bare processes")
    ax.legend(loc="best")
    finish(ax)
    return ax
