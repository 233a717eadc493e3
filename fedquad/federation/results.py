"""Finished federated runs as objects and as two tidy tables, read without model or data."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fedquad.config import FederatedConfig, InputError
from fedquad.federation.round_record import DEVICE_COLUMNS
from fedquad.runs.results import effort
from fedquad.runs.store import StoredRun

ROUND_COLUMNS = (
    "round",
    "accuracy",
    "loss",
    "train_loss",
    "round_time_s",
    "sim_time_s",
    "probe_time_s",
    "mean_completion_time_s",
    "mean_waiting_time_s",
    "download_bytes",
    "upload_bytes",
    "mean_depth",
    "mean_quantized",
    "memory_overruns",
    "participants",
    "failures",
    "num_eval",
    "correct",
)
# None in the record where nobody took part, or where the loss is not finite.
_MAY_LACK = ("loss", "train_loss", "mean_completion_time_s", "mean_depth", "mean_quantized")


@dataclass(frozen=True, kw_only=True)
class FederatedResult:
    """What came out of a federated run.

    Attributes
    ----------
    config : FederatedConfig
    run_id : str
    rows : list of dict
        One a round, as `fedquad.federation.round_record.round_row` makes them.
    options : dict of str to float
        The method's options that differ from its defaults.
    num_devices : int
    sources : dict
        Digests of the task's content, the model's weights and the costs.
    telemetry : dict
        ``wall_time_s`` over all attempts, ``rss_bytes`` at the end, ``attempts``,
        ``environment``.
    from_record : bool
        False if the run was computed by this call.
    trained_as : str or None
        Id of the run that was trained, of one that was only given another clock.
    """

    config: FederatedConfig
    run_id: str
    rows: list[dict[str, Any]]
    options: dict[str, float]
    num_devices: int
    sources: dict[str, str]
    telemetry: dict[str, Any]
    from_record: bool
    trained_as: str | None = None

    @property
    def accuracy(self) -> float:
        """Of the global model after the last round."""
        return self.rows[-1]["accuracy"]

    @property
    def sim_time_s(self) -> float:
        """Virtual seconds of all rounds."""
        return self.rows[-1]["sim_time_s"]

    @property
    def mean_waiting_time_s(self) -> float | None:
        """Mean of w_h over the rounds that somebody took part in; None if there is none."""
        waits = [row["mean_waiting_time_s"] for row in self.rows if row["participants"]]
        return float(np.mean(waits)) if waits else None

    def rounds(self) -> pd.DataFrame:
        """One row a round: the settings that tell runs apart, then `ROUND_COLUMNS`.

        A round that nobody took part in has no waiting time.
        """
        table = pd.DataFrame(
            [{name: row[name] for name in ROUND_COLUMNS} for row in self.rows]
        ).astype(dict.fromkeys(_MAY_LACK, float))
        waits = table["mean_waiting_time_s"].where(table["participants"] > 0)
        table["mean_waiting_time_s"] = waits
        return self._labelled(table).assign(from_record=self.from_record)

    def devices(self) -> pd.DataFrame:
        """One row a device and round: the settings, ``round``, what the device did.

        A device that did not take part has depth 0, ``participated`` False and
        no times.
        """
        parts = []
        for row in self.rows:
            part = pd.DataFrame({name: row["devices"][name] for name in DEVICE_COLUMNS})
            part.insert(0, "round", row["round"])
            parts.append(part)
        table = pd.concat(parts, ignore_index=True)
        seconds = ("probe_time_s", "completion_time_s", "waiting_time_s")
        table = table.astype(dict.fromkeys(seconds, float))
        counts = ("quantized", "lora_rank", "memory_bytes", "download_bytes", "upload_bytes")
        table = table.astype(dict.fromkeys(counts, "Int64"))
        at = list(table.columns).index("depth")
        table.insert(at, "participated", table["completion_time_s"].notna())
        table["is_overrun"] = table["is_overrun"].eq(True)
        return self._labelled(table, without=("lora_rank",))  # here it is each device's own

    def save_tables(self, folder: str | Path) -> list[Path]:
        """Write ``rounds.csv`` and ``devices.csv`` into a folder, which is made if need be."""
        folder = Path(folder).expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        paths = []
        for name, table in (("rounds", self.rounds()), ("devices", self.devices())):
            paths.append(folder / f"{name}.csv")
            table.to_csv(paths[-1], index=False, lineterminator="\n")
        return paths

    def _labelled(self, table: pd.DataFrame, without: tuple[str, ...] = ()) -> pd.DataFrame:
        config = self.config
        labels = {
            "run_id": self.run_id,
            "method": config.method,
            "options": ",".join(f"{name}={value:g}" for name, value in self.options.items()),
            "task": config.task,
            "model": config.model,
            "reference_model": config.reference_model,
            "heterogeneity": config.heterogeneity,
            "throughput_model": config.throughput_model,
            "budget_policy": config.budget_policy,
            "quantization_price": config.quantization_price,
            "rate_schedule": config.rate_schedule,
            "partition_alpha": config.partition_alpha,
            "lora_rank": config.lora_rank,
            "num_devices": self.num_devices,
            "num_rounds": config.num_rounds,
            "local_steps": config.local_steps,
            "seed": config.seed,
        }
        labels = {name: value for name, value in labels.items() if name not in without}
        return pd.concat([pd.DataFrame(labels, index=table.index), table], axis="columns")


def federated_result(
    config: FederatedConfig, stored: StoredRun, *, from_record: bool
) -> FederatedResult:
    """A stored run as a result."""
    started = [row for row in stored.telemetry if row["event"] == "started"]
    return FederatedResult(
        config=config,
        run_id=stored.run_id,
        rows=stored.rows,
        options=stored.settings["method_options"],
        num_devices=len(stored.rows[0]["devices"]["device_id"]),
        sources=stored.sources,
        telemetry={**started[-1], **effort(stored.telemetry), "attempts": len(started)},
        from_record=from_record,
    )


def federated_frames(
    results: Iterable[FederatedResult], computed_now: Collection[str] = ()
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The tables of several runs, one below the other: rounds, and devices.

    Parameters
    ----------
    results : iterable of FederatedResult
        At least one.
    computed_now : collection of str
        Ids of runs that count as computed now though they are read: just before,
        by the same command.
    """
    results = list(results)
    if not results:
        raise InputError("results", "none", "at least one finished federated run")
    rounds = pd.concat([result.rounds() for result in results], ignore_index=True)
    devices = pd.concat([result.devices() for result in results], ignore_index=True)
    now = [run.run_id for run in results if (run.trained_as or run.run_id) in computed_now]
    rounds["from_record"] &= ~rounds["run_id"].isin(now)
    return rounds, devices
