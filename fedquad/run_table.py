"""``data/runs/README.md``: the runs that committed profiles need, what they took, what is open."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from fedquad.config import PROFILES, FederatedConfig, FineTuneConfig, Profile
from fedquad.notebook_registry import NOTEBOOKS
from fedquad.report.gallery import item_name
from fedquad.report.tables import markdown, shown_table
from fedquad.runs.journal import replace_file
from fedquad.runs.results import effort
from fedquad.runs.store import RunStore, StoredRun

_INTRODUCTION = """\
# Runs

Made by `fedquad gallery` from the records in this folder. Each run has a folder of its own, with
its settings, its results and how it was computed; `fedquad verify` computes some again. A run that
several figures need is counted in each and computed once. Minutes are those of one thread on the
wall, with whatever else the machine was doing; memory is the process's at the last evaluation.
"""
# Settings in the words of a table; others are told by name.
_OTHERS, _OF_OTHERS = (
    "settings tried, other tasks",
    ("task", "learning_rate", "evaluate_on", "seed"),
)
_SHORT = {"trainable_layers": "layers", "quantized_layers": "quantized"}


def run_frame(profile: Profile, root: Path) -> pd.DataFrame:
    """A row for each notebook and run that it needs, then one for each other run of the store.

    Parameters
    ----------
    profile : Profile
    root : Path
        Of the profile's `RunStore`.

    Returns
    -------
    DataFrame
        ``figures, run, settings, recorded, minutes, rss_bytes, cpu``: the last
        three are missing where ``recorded`` is False.
    """
    store = RunStore(root)
    rows, planned = [], set()
    for notebook in NOTEBOOKS.values():
        wanted = list(_planned(notebook, profile))
        figures = ", ".join(item_name(item) for item in notebook.items) if wanted else ""
        seen = set()
        for config, settings in wanted:
            directory = store.directory(settings)
            if directory in seen:
                continue
            seen.add(directory)
            row: dict[str, Any] = {"figures": figures, "run": directory.name}
            row["settings"] = _told(config, profile)
            stored = store.read(settings)
            row["recorded"] = stored is not None
            rows.append(row | (_took(stored) if stored else {}))
        planned |= seen
    for stored in store.finished():
        if stored.directory not in planned:
            known = [name for name in _OF_OTHERS if name in stored.settings]
            told = ", ".join(f"{name.replace('_', ' ')} {stored.settings[name]}" for name in known)
            row = {"figures": _OTHERS, "run": stored.directory.name, "settings": told}
            rows.append(row | {"recorded": True} | _took(stored))
    columns = ["figures", "run", "settings", "recorded", "minutes", "rss_bytes", "cpu"]
    return pd.DataFrame(rows, columns=columns)


def _took(stored: StoredRun) -> dict[str, Any]:
    took = effort(stored.telemetry)
    environments = [row["environment"] for row in stored.telemetry if row["event"] == "started"]
    return {
        "minutes": took["wall_time_s"] / 60,
        "rss_bytes": took["rss_bytes"],
        "cpu": environments[-1]["cpu"],
    }


def _planned(notebook: Any, profile: Profile) -> Iterator[tuple[Any, dict[str, Any]]]:
    from fedquad.federation.setting import all_settings as federated_settings
    from fedquad.runs.results import all_settings as central_settings

    for plan, settings_of in (
        (notebook.runs, central_settings),
        (notebook.federated, federated_settings),
    ):
        configs = plan(profile)
        yield from zip(configs, settings_of(configs), strict=True)


def _told(config: FineTuneConfig | FederatedConfig, profile: Profile) -> str:
    """What tells a run from the others of its profile."""
    if isinstance(config, FineTuneConfig):
        names = ("task", "trainable_layers", "quantized_layers", "seed")
        plain: dict[str, Any] = {"quantized_layers": ()}
    else:
        names = ("method", "task", "model", "heterogeneity", "throughput_model", "budget_policy")
        names += ("quantization_price", "rate_schedule", "partition_alpha", "lora_rank")
        names += ("method_options", "seed")
        plain = {name: getattr(FederatedConfig(), name) for name in names[3:-1]}
        plain["model"] = profile.model
    words = []
    for name in names:
        value = getattr(config, name)
        if name in plain and plain[name] == value:
            continue
        if name == "method_options":
            words += [f"{option} {number:g}" for option, number in value]
        elif name in ("method", "task", "model"):
            words.append(value)
        else:
            words.append(f"{_SHORT.get(name, name.replace('_', ' '))} {_value(value)}")
    return ", ".join(words)


def _value(value: Any) -> str:
    if isinstance(value, tuple):
        return f"{value[0]}-{value[-1]}" if len(value) > 1 else str(value[0])
    return format(value, "g") if isinstance(value, float) else str(value)


def summary_frame(runs: pd.DataFrame) -> pd.DataFrame:
    """A row for the runs of each notebook, and one for all, each run counted once there."""
    whole = runs.drop_duplicates("run").assign(figures="all, each once")
    groups = pd.concat([runs, whole]).groupby("figures", sort=False)
    return groups.agg(
        runs=("run", "size"),
        recorded=("recorded", "sum"),
        hours=("minutes", lambda minutes: minutes.sum() / 60),
        largest_mb=("rss_bytes", lambda sizes: sizes.max() / 1e6),
    ).reset_index()


def run_table(runs_root: Path) -> str:
    """The page, from a folder with a store for each profile; the same records give the same."""
    parts = [_INTRODUCTION]
    for profile in PROFILES.values():
        if not profile.committed:
            continue
        runs = run_frame(profile, runs_root / profile.name)
        summary = summary_frame(runs).rename(columns={"largest_mb": "memory, MB"})
        parts.append(f"## {profile.name}\n\n{profile.description}.\n")
        parts.append(markdown(shown_table(summary, {"hours": ".1f", "memory, MB": ".0f"})))
        parts.append(f"Recorded on: {'; '.join(sorted(set(runs['cpu'].dropna())))}.\n")
        once = runs.drop_duplicates("run")
        for is_recorded, title in ((True, "recorded"), (False, "not recorded yet")):
            chosen = once[once["recorded"] == is_recorded]
            if not len(chosen):
                continue
            shown = chosen[["settings", "run", "minutes"] if is_recorded else ["settings"]]
            table = markdown(shown_table(shown, {"minutes": ".1f"}))
            count = f"{len(chosen)} {title}"
            parts.append(f"<details><summary>{count}</summary>\n\n{table}\n</details>\n")
    return "\n".join(parts)


def write_run_table(runs_root: Path) -> Path:
    """Write `run_table` beside the runs, as ``README.md``."""
    path = runs_root / "README.md"
    replace_file(path, run_table(runs_root).encode())
    return path
