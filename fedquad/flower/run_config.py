"""The settings of a run as Flower's flat run config has them: strings, numbers, true and false."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedquad import paths
from fedquad.config import (
    FederatedConfig,
    InputError,
    require_choice,
    require_int,
    require_positive,
)

STATUSES = ("simulated", "measured")

# Flower's run config knows no null: this, or an empty text, stands for None.
NONE = 0
_MAY_BE_NONE = ("train_samples", "eval_samples", "fleet", "clock_local_steps")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One run in a Flower federation.

    Attributes
    ----------
    config : FederatedConfig
    status : {"simulated", "measured"}
        ``simulated``: nodes stand for simulated Jetsons and share one task's rows;
        ``measured``: each is a device with rows, memory and speed of its own.
    min_updates : int
        Updates that a round needs; with fewer the run fails.
    connect_timeout_s : float
        For ``num_devices`` devices to be there.
    answer_timeout_s : float
        For each answer of a device.
    max_under_way : int or None
        Requests sent ahead of the answer that is next; None: all of a round.
    store : Path
        Folder of stored runs.
    adapter : Path or None
        Folder for the final global adapter, in peft's format.
    fresh : bool
        Compute it again, even if it is stored or was cut off.
    """

    config: FederatedConfig
    status: str = "simulated"
    min_updates: int = 1
    connect_timeout_s: float = 120.0
    answer_timeout_s: float = 3600.0
    max_under_way: int | None = None
    store: Path
    adapter: Path | None = None
    fresh: bool = False

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> RunConfig:
        """From the keys of the app's ``pyproject.toml``; where that has a None, 0 or "" stands.

        Raises
        ------
        InputError
            An unknown key, or a value that no run can have.
        """
        rest = {name.replace("-", "_"): value for name, value in values.items()}
        fields = {field.name for field in dataclasses.fields(FederatedConfig)}
        settings = {name: rest.pop(name) for name in list(rest) if name in fields}
        for name in _MAY_BE_NONE:
            settings[name] = settings.get(name) or None
        settings["method_options"] = _options(settings.get("method_options", ""))
        if "partition_alpha" in settings:
            settings["partition_alpha"] = float(settings["partition_alpha"])
        known = {field.name for field in dataclasses.fields(cls)} - {"config"}
        if unknown := sorted(set(rest) - known):
            raise InputError("run config", unknown[0], f"a setting of a run, or one of {known}")
        rest["store"] = Path(rest.get("store") or paths.runs_dir("local")).expanduser()
        rest["adapter"] = Path(rest["adapter"]).expanduser() if rest.get("adapter") else None
        rest["max_under_way"] = rest.get("max_under_way") or None
        return cls(config=FederatedConfig(**settings), **rest)

    def __post_init__(self) -> None:
        require_choice("status", self.status, STATUSES)
        require_int("min_updates", self.min_updates, 1)
        require_positive("connect_timeout_s", self.connect_timeout_s)
        require_positive("answer_timeout_s", self.answer_timeout_s)
        if self.max_under_way is not None:
            require_int("max_under_way", self.max_under_way, 1)
        if self.status == "measured":
            if self.config.fleet is not None:
                raise InputError("fleet", self.config.fleet, 'none: status is "measured"')
            if self.config.clock_local_steps is None:
                steps = self.config.local_steps
                config = dataclasses.replace(self.config, clock_local_steps=steps)
                object.__setattr__(self, "config", config)


def _options(text: str) -> tuple[tuple[str, float], ...]:
    """``beta=0.5,gamma=0.9`` as pairs."""
    pairs = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, value = part.partition("=")
        try:
            pairs.append((name.strip(), float(value)))
        except ValueError:
            raise InputError("method-options", text, "NAME=NUMBER, several with commas") from None
    return tuple(pairs)
