"""Flower's processes, started and ended with ours: a SuperLink, SuperNodes, and a run to its end.

`flwr run` submits a run and returns 0 whatever becomes of it, and leaves a SuperLink behind
that it started. Here what was started is ended, and a run that fails is an error.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from fedquad.config import FederatedConfig
from fedquad.federation.setting import config_to_json
from fedquad.flower.commands import RunFailedError, flwr, in_toml, run_to_end, script
from fedquad.flower.credentials import Credentials
from fedquad.flower.run_config import NONE

_START_S = 120.0
_LEAVE_S = 20.0
_POLL_S = 0.2
_CONNECTION = "fedquad"


class Federation:
    """A SuperLink on this machine, and Flower's commands to talk to it.

    Parameters
    ----------
    home : Path
        Flower's folder: configuration, installed app, logs.
    simulation : bool
        Nodes are simulated; else SuperNodes connect.
    credentials : Credentials, optional
        With them connections are encrypted, and nodes must be registered.
    host : str
        Where the SuperLink listens.

    Attributes
    ----------
    address : str
        ``host:port`` of the SuperLink.
    """

    def __init__(
        self,
        home: Path,
        *,
        simulation: bool,
        credentials: Credentials | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        self.home = home
        self.address = f"{host}:{free_port(host)}"
        self.processes: list[subprocess.Popen] = []
        self._credentials = credentials
        home.mkdir(parents=True, exist_ok=True)
        secure = "insecure = true"
        if credentials is not None:
            secure = f'root-certificates = "{credentials.ca.resolve()}"'
        (home / "config.toml").write_text(
            f'[superlink]\ndefault = "{_CONNECTION}"\n\n'
            f'[superlink.{_CONNECTION}]\naddress = "{self.address}"\n{secure}\n'
        )
        command = ["flower-superlink", "--host", host, "--port", self.address.split(":")[1]]
        command += ["--disable-runtime-dependency-installation"]
        command += ["--simulation"] if simulation else []
        if credentials is None:
            command += ["--insecure"]
        else:
            command += ["--ssl-ca-certfile", str(credentials.ca)]
            command += ["--ssl-certfile", str(credentials.server_certificate)]
            command += ["--ssl-keyfile", str(credentials.server_key), "--enable-supernode-auth"]
        try:
            self._start(command, "superlink.log")
            self._wait_for(lambda: _listens(self.address), "the SuperLink did not start")
        except BaseException:
            self.close()
            raise

    def add_node(self, node_config: Mapping[str, Any], number: int) -> None:
        """Register a node's key and start its SuperNode; it connects by itself.

        Parameters
        ----------
        number : int
            From 1: whose key of the credentials is its own.
        """
        host = self.address.split(":")[0]
        command = ["flower-supernode", "--superlink", self.address]
        command += ["--host", host, "--port", str(free_port(host))]
        if self._credentials is None:
            command += ["--insecure"]
        else:
            key = self._credentials.node_key(number)
            self.flwr("supernode", "register", str(key.with_suffix(".pub")), _CONNECTION)
            command += ["--root-certificates", str(self._credentials.ca)]
            command += ["--auth-supernode-private-key", str(key)]
        command += ["--node-config", in_toml(node_config)]
        self._start(command, f"supernode-{number}.log")

    def run(
        self,
        run_config: str,
        federation_config: Mapping[str, Any] | None = None,
        say: Callable[[str], None] = print,
    ) -> None:
        """Submit a run, repeat what it says, and wait for its end; as `run_to_end`."""
        run_to_end(_CONNECTION, run_config, federation_config, say, self._environment())

    def flwr(self, *arguments: str) -> str:
        """What a command of Flower's prints; as `flwr`."""
        return flwr(*arguments, environment=self._environment())

    def close(self) -> None:
        """End every process that was started here, and those that they started."""
        # Flower's executors have sessions of their own: they are in no group with us.
        below: list[psutil.Process] = []
        for process in self.processes:
            with suppress(psutil.NoSuchProcess):
                below += psutil.Process(process.pid).children(recursive=True)
        for process in reversed(self.processes):  # nodes first: they would try to reconnect
            process.terminate()
        for process in self.processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(_LEAVE_S)
            process.kill()
            process.wait()
        for end in (psutil.Process.terminate, psutil.Process.kill):
            _, below = psutil.wait_procs(below, timeout=_LEAVE_S / 4)
            for process in below:
                with suppress(psutil.NoSuchProcess):
                    end(process)

    def __enter__(self) -> Federation:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _start(self, command: Sequence[str], log: str) -> None:
        with (self.home / log).open("ab") as output:
            process = subprocess.Popen(
                [script(command[0]), *command[1:]],
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a group of its own, to be ended as one
            )
        self.processes.append(process)

    def _wait_for(self, holds: Callable[[], bool], otherwise: str) -> None:
        deadline = time.monotonic() + _START_S
        while not holds():
            ended = any(process.poll() is not None for process in self.processes)
            if ended or time.monotonic() >= deadline:
                raise RunFailedError(f"{otherwise}; see {self.home / 'superlink.log'}")
            time.sleep(_POLL_S)

    def _environment(self) -> dict[str, str]:
        quiet = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
        quiet |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        # Ray, under the simulation: it reports nothing, and has more time on a busy machine.
        quiet |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_raylet_start_wait_time_s": "60"}
        quiet |= {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
        # Flower starts its parts by their names.
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        return {**os.environ, **quiet, "PATH": path, "FLWR_HOME": str(self.home)}


def simulate(
    config: FederatedConfig,
    store: Path,
    *,
    workers: int,
    home: Path,
    say: Callable[[str], None] = print,
    **options: Any,
) -> None:
    """One run in Flower's simulation, from start to end, with nothing left behind.

    Parameters
    ----------
    store : Path
        Folder of stored runs.
    workers : int
        Processes in which Flower runs nodes, of one thread each.
    home : Path
        Flower's folder.
    **options
        Other settings of `fedquad.flower.run_config.RunConfig`.

    Raises
    ------
    RunFailedError
        It did not complete.
    """
    values = {**config_to_json(config), "method_options": config.method_options}
    values |= {"store": str(store), **options}
    run_config = {name.replace("_", "-"): _flat(value) for name, value in values.items()}
    nodes = {"num-supernodes": config.num_devices, "client-resources-num-cpus": 1}
    nodes |= {"init-args-num-cpus": workers}
    with Federation(home, simulation=True) as federation:
        federation.run(in_toml(run_config), nodes, say)


def _flat(value: Any) -> Any:
    """A setting as Flower's run config has it."""
    if value is None:
        return NONE
    if isinstance(value, tuple):
        return ",".join(f"{name}={number!r}" for name, number in value)
    return str(value) if isinstance(value, Path) else value


def free_port(host: str) -> int:
    with socket.create_server((host, 0)) as listening:
        return listening.getsockname()[1]


def _listens(address: str) -> bool:
    host, port = address.split(":")
    try:
        socket.create_connection((host, int(port)), timeout=1).close()
    except OSError:
        return False
    return True
