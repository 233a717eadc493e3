"""The federated engine's measurements: targets, tables, and server work by number of devices."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from fedquad.benchmarks.targets import NOT_MEASURED
from fedquad.report.style import PALETTE, axes_or_new, finish
from fedquad.report.tables import markdown, shown_table

# Names of the cases, as `fedquad.benchmarks.federation` writes them.
_SIMULATED, _TWO_WORKERS = "simulated round", "two workers, one thread each"
_TWO_THREADS = "one worker, two threads"
_LARGEST_FLEET = 100_000

_TITLES = {
    "round": "A round beside its training alone",
    "workers": "A round in workers",
    "selection": "Algorithm 1",
    "aggregation": "Aggregation, bytes alive beside the adapter itself",
    "server": "The server's round, devices answer at once",
}
_COLUMNS = {
    "shape": "of",
    "method": "method",
    "implementation": "case",
    "wall_s": "wall, s",
    "wall_s_q25": "lower quartile, s",
    "wall_s_q75": "upper quartile, s",
    "wall_s_ratio": "ratio",
    "same_bytes": "same bytes",
    "adapter_bytes": "adapter, MB",
    "peak_bytes": "peak, MB",
    "finish_peak_bytes": "peak with the result, MB",
    "sub_model_sizes": "sub-model sizes",
}
_MEGABYTES = ("adapter, MB", "peak, MB", "peak with the result, MB")


def federation_frame(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of the engine that were measured, with a column for each thing that was."""
    chosen = rows[(rows["kind"] == "federation") & (rows["status"] == "ok")]
    wanted = [*_COLUMNS, "operation", "devices", "updates"]
    return chosen.reindex(columns=list(dict.fromkeys([*chosen.columns, *wanted])))


def federation_targets(frame: pd.DataFrame) -> pd.DataFrame:
    """The engine's targets beside the measurement, as `fedquad.benchmarks.targets.targets_frame`.

    Ratios of times are medians over turns. Growth is the most that the server's
    time grew from one number of devices to one ten times as large.
    """
    found = []
    ratio = _one(frame, "round", "wall_s_ratio", implementation=_SIMULATED)
    name = "simulated round over the same local steps and evaluation in a bare loop"
    found.append(_row(name, "<= 1.05", ratio, ratio <= 1.05, "{:.3f}"))

    workers = frame[frame["operation"] == "workers"]
    speedup = 1 / _one(frame, "workers", "wall_s_ratio", implementation=_TWO_WORKERS)
    same = bool(workers.loc[workers["implementation"] == _TWO_WORKERS, "same_bytes"].eq(True).all())
    name = "two workers of one thread over one of one thread, the same bytes"
    words = "{:.2f}x, " + ("the same bytes" if same else "other bytes")
    found.append(_row(name, ">= 1.8x", speedup, speedup >= 1.8 and same, words))
    beside = speedup * _one(frame, "workers", "wall_s_ratio", implementation=_TWO_THREADS)
    name = "two workers of one thread over one of two threads"
    found.append(_row(name, "> 1x", beside, beside > 1, "{:.2f}x"))

    seconds = _one(frame, "selection", "wall_s", devices=_LARGEST_FLEET)
    name = "selection for 100,000 devices of 24 layers"
    found.append(_row(name, "<= 1 s", seconds, seconds <= 1, "{:.2f} s"))
    held = growth(frame[frame["operation"] == "selection"], "peak_bytes")
    found.append(
        _row("its memory, for 10 times the devices", "<= 11x", held, held <= 11, "{:.1f}x")
    )

    for method, rows in frame[frame["operation"] == "aggregation"].groupby("method"):
        row = rows.iloc[-1]
        sizes = int(row["sub_model_sizes"]) if method == "inclusivefl" else 1
        adapters = float(row["peak_bytes"] / row["adapter_bytes"])
        name = f"adapters alive while {int(row['updates']):,} updates of {method} are aggregated"
        limit = f"<= {sizes}, an update, and a quarter for work"
        found.append(_row(name, limit, adapters, adapters <= sizes + 1.25, "{:.2f}"))

    for method, rows in frame[frame["operation"] == "server"].groupby("method"):
        worst = growth(rows, "wall_s")
        name = f"the server's round, {method}, for 10 times the devices"
        found.append(_row(name, "<= 11x", worst, worst <= 11, "{:.1f}x"))
    return pd.DataFrame(found, columns=["target", "limit", "measured", "met"])


def growth(rows: pd.DataFrame, column: str) -> float:
    """The largest ratio of a column between a number of devices and ten times as many."""
    values = pd.to_numeric(rows.set_index("devices")[column]).sort_index()
    ratios = [values[10 * n] / values[n] for n in values.index if 10 * n in values.index]
    return float(max(ratios)) if ratios else float("nan")


def federation_section(frame: pd.DataFrame) -> str:
    """Markdown of everything that was measured, below the targets."""
    parts = ["### Targets\n", markdown(federation_targets(frame))]
    for operation, title in _TITLES.items():
        rows = frame[frame["operation"] == operation]
        if not len(rows):
            continue
        shown = rows.reindex(columns=list(_COLUMNS)).rename(columns=_COLUMNS)
        shown = shown.dropna(axis="columns", how="all")
        for name in _MEGABYTES:
            if name in shown:
                shown[name] = 1e-6 * pd.to_numeric(shown[name])
        digits = {name: ".4f" for name in shown if name.endswith(", s")}
        digits |= {"ratio": ".3f"} | {name: ",.2f" for name in _MEGABYTES if name in shown}
        parts += [f"### {title}\n", markdown(shown_table(shown, digits))]
    return "\n".join(parts)


def server_work(df: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Seconds of the server's round against the number of devices, both logarithmic.

    Parameters
    ----------
    df : DataFrame
        As `federation_frame` makes it.
    """
    ax = axes_or_new(ax)
    rows = df[df["operation"] == "server"]
    for place, (method, group) in enumerate(rows.groupby("method")):
        group = group.sort_values("devices")
        ax.plot(group["devices"], group["wall_s"], marker="o", color=PALETTE[place], label=method)
    if len(rows):
        ax.set_xscale("log")
        ax.set_yscale("log")
        first = rows.sort_values("devices").iloc[0]
        ends = rows["devices"].min(), rows["devices"].max()
        linear = [first["wall_s"] * end / ends[0] for end in ends]
        ax.plot(ends, linear, color="0.6", linewidth=0.6, linestyle=":", label="in proportion")
        ax.legend(loc="best")
    ax.set_xlabel("devices")
    ax.set_ylabel("server's work a round, s")
    finish(ax)
    return ax


def _one(frame: pd.DataFrame, operation: str, column: str, **where: object) -> float:
    """The value of one row; NaN where it was not measured."""
    rows = frame[frame["operation"] == operation]
    for name, value in where.items():
        rows = rows[rows[name] == value]
    return float(rows[column].iloc[-1]) if len(rows) else float("nan")


def _row(name: str, limit: str, value: float, is_met: bool, words: str) -> tuple[str, ...]:
    if pd.isna(value):
        return name, limit, NOT_MEASURED, NOT_MEASURED
    return name, limit, words.format(value), "yes" if is_met else "no"
