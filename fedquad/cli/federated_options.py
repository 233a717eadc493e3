"""Options that the commands for federated runs share."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from fedquad.cli.options import options_from
from fedquad.config import FederatedConfig, InputError

FederatedOptions = options_from(
    FederatedConfig,
    "FederatedOptions",
    without=("method", "method_options", "num_devices", "seed"),
)
DEFAULT_OPTIONS = FederatedOptions()
# The paper counts rounds; "num" is a word of the code.
_SHORT = {"num_rounds": "rounds"}
FederatedParameter = Annotated[
    FederatedOptions,
    Parameter(name="*", name_transform=lambda name: _SHORT.get(name, name).replace("_", "-")),
]


def federated_config(
    options: FederatedOptions,
    *,
    method: str,
    method_options: tuple[tuple[str, float], ...],
    devices: int | None,
    seed: int,
) -> FederatedConfig:
    """The settings of a run.

    Parameters
    ----------
    devices : int or None
        Simulated devices; None means the default, or those of the fleet's file.

    Raises
    ------
    InputError
        A value that no run can have.
    """
    values = dataclasses.asdict(options)
    if options.fleet is not None:
        values["fleet"] = str(Path(options.fleet).expanduser())
    if devices is not None:
        values["num_devices"] = devices
    return FederatedConfig(method=method, method_options=method_options, seed=seed, **values)


def require_devices_of_fleet(config: FederatedConfig, devices: int | None) -> None:
    """Raise `InputError` if another number of devices was asked for than the fleet's file has."""
    if config.fleet is None or devices is None:
        return
    from fedquad.federation.setting import FederatedSetting

    in_file = FederatedSetting(config).num_devices
    if devices != in_file:
        raise InputError("devices", devices, f"{in_file}, as {config.fleet} has, or no --devices")


def make_importable(methods: Iterable[str]) -> None:
    """Let ``module:Class`` be a file in the current folder.

    The folder comes last, so that no file in it hides an installed package.
    Worker processes take the import path over.
    """
    here = os.getcwd()
    if any(":" in method for method in methods) and here not in sys.path:
        sys.path.append(here)


def parse_number(field: str, text: str, name_accepted: str) -> tuple[str, float]:
    """A name and a number from ``NAME=VALUE``.

    Raises
    ------
    InputError
        Anything else; ``name_accepted`` says how a name is written.
    """
    name, _, value = text.partition("=")
    try:
        return name.strip(), float(value)
    except ValueError:
        accepted = f"{name_accepted}=VALUE, the value a number"
        raise InputError(field, text, accepted) from None


def shows_progress(json: bool) -> bool:
    """Whether a progress bar is wanted: not in a log beside a JSON document."""
    return not json or sys.stderr.isatty()


def describe(config: FederatedConfig, num_devices: int) -> str:
    """The settings that all methods share, in words."""
    if config.fleet is None:
        devices = f"{num_devices} devices, {config.heterogeneity} heterogeneity"
    else:
        devices = f"{num_devices} devices of {config.fleet}"
    rounds = f"{config.num_rounds} rounds, {config.local_steps} local steps in each"
    return f"{config.task}, {config.model}, {devices}, {rounds}"


def describe_clock(config: FederatedConfig) -> str:
    """Whose costs the simulated seconds come from."""
    return f"simulated time, waiting and memory as of {config.reference_model}"


def seconds(value: float | None) -> str:
    """Seconds as text; a dash where there are none."""
    return "-" if value is None else f"{value:,.1f}"


def config_values(config: FederatedConfig, num_devices: int) -> dict[str, Any]:
    """The settings as JSON values, with the devices there really were."""
    from fedquad.federation.setting import config_to_json

    options = dict(config.method_options)
    return config_to_json(config) | {"num_devices": num_devices, "method_options": options}
