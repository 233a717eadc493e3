"""Flower's commands as functions: a run to its end, and what a command says."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import fedquad.flower
from fedquad.config import InputError

_POLL_S = 0.2


class RunFailedError(RuntimeError):
    """Flower's run did not end well."""


def app_folder() -> Path:
    """The Flower app: what `flwr run` takes."""
    return Path(fedquad.flower.__path__[0]) / "app"


def run_to_end(
    superlink: str,
    run_config: str,
    federation_config: Mapping[str, Any] | None = None,
    say: Callable[[str], None] = print,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Submit a run, repeat what it says, and wait for its end.

    Parameters
    ----------
    superlink : str
        Its name in Flower's configuration.
    run_config : str
        ``key=value`` pairs, as of `flwr run`.
    federation_config : mapping, optional
        Of a simulation.

    Raises
    ------
    RunFailedError
        It did not complete.
    """
    arguments = ["run", str(app_folder()), superlink, "--run-config", run_config]
    if federation_config:
        arguments += ["--federation-config", in_toml(federation_config)]
    number = _asked(*arguments, environment=environment)["run-id"]
    command = [script("flwr"), "log", number, superlink, "--stream"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as log:
        for line in log.stdout:
            say(line.rstrip("\n"))
    while True:
        arguments = ["list", superlink, "--run-id", number]
        (row,) = _asked(*arguments, environment=environment)["runs"]
        if row["status"].startswith("finished"):
            break
        time.sleep(_POLL_S)
    if row["status"] != "finished:completed":
        raise RunFailedError(f"Flower's run {number} is {row['status']}; its words are above")


def _asked(*arguments: str, environment: Mapping[str, str] | None) -> dict[str, Any]:
    """A command's answer; in JSON Flower says there whether it failed, and exits with 0."""
    answer = json.loads(flwr(*arguments, "--format", "json", environment=environment))
    if not answer.get("success"):
        raise RunFailedError(f"flwr {arguments[0]}: {answer.get('error-message', answer)}")
    return answer


def flwr(*arguments: str, environment: Mapping[str, str] | None = None) -> str:
    """What a command of Flower's prints; `RunFailedError` with its words if it fails."""
    command = [script("flwr"), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        words = (done.stderr + done.stdout).strip()[-2000:]
        raise RunFailedError(f"flwr {arguments[0]} ended with {done.returncode}: {words}")
    return done.stdout


def in_toml(values: Mapping[str, Any]) -> str:
    """``key=value`` pairs as Flower's command line takes them.

    Raises
    ------
    InputError
        Text with both kinds of quotes, or a line break.
    """
    return " ".join(f"{name}={_literal(name, value)}" for name, value in values.items())


def _literal(name: str, value: Any) -> str:
    if not isinstance(value, str):
        return json.dumps(value)
    if "'" in value or not value.isprintable():
        raise InputError(name, value, "printable text without '")
    return f"'{value}'"


def script(name: str) -> str:
    """A command that was installed beside this Python."""
    return str(Path(sys.executable).parent / name)
