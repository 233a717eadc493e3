"""``python -m fedquad.flower``: credentials, the app's folder, and runs that say how they ended.

From certificates to the first round
------------------------------------
A server and its devices, each with ``pip install fedquad[flower]``; ``server.example`` is where the
server is reached. On the server::

    python -m fedquad.flower credentials secrets --nodes 2 --hosts server.example
    flower-superlink --host 0.0.0.0 --port 8000 --ssl-ca-certfile secrets/ca.crt \\
        --ssl-certfile secrets/server.pem --ssl-keyfile secrets/server.key \\
        --enable-supernode-auth --disable-runtime-dependency-installation

``~/.flwr/config.toml`` names it for Flower's commands::

    [superlink.fedquad]
    address = "server.example:8000"
    root-certificates = "/path/to/secrets/ca.crt"

and the devices' public keys are registered::

    flwr supernode register secrets/node-1.pub fedquad
    flwr supernode register secrets/node-2.pub fedquad

On each device, with ``ca.crt`` and its own private key (which nobody else needs), and its rows in
``/data/train.tsv``::

    flower-supernode --superlink server.example:8000 --root-certificates ca.crt \\
        --auth-supernode-private-key node-1 --node-config 'name="porch" data="/data"'

Then, from anywhere, with a folder on the server that has the rows to evaluate on::

    python -m fedquad.flower run fedquad \\
        --run-config 'status="measured" task="/data/task" num-devices=2 num-rounds=5'

A device is asked for its memory and speed, is given what fits, trains on its rows, and sends its
update and its next status. Other keys of a node config: ``memory-limit-mb``, ``torch-device``,
``model`` (a folder with the encoder). What fails is named in the log and counted in the record;
below ``min-updates`` the run fails, and the same command goes on from the round before.

Flower starts a process on the device for every request, so that each costs the start of Python and
torch, some seconds. What travels is the run's settings and adapters, as JSON and safetensors; both
sides check what they read, and a device runs the library's own methods alone. But whoever may
submit runs to the SuperLink can run an app of their own on every device, as in any such federation.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from fedquad.config import InputError


def main(arguments: list[str] | None = None) -> None:
    """Exit status: 0 when all went well, 1 for a run that failed, 2 for input of no use."""
    options = _parser().parse_args(arguments)
    try:
        options.command(options)
    except InputError as error:
        print(f"fedquad.flower: {error}", file=sys.stderr)
        sys.exit(2)


def _app(options: argparse.Namespace) -> None:
    from fedquad.flower.commands import app_folder

    print(app_folder())


def _credentials(options: argparse.Namespace) -> None:
    from fedquad.flower.credentials import make_credentials

    for path in make_credentials(options.folder, options.nodes, options.hosts).paths:
        print(path)


def _run(options: argparse.Namespace) -> None:
    from fedquad.flower.commands import RunFailedError, run_to_end

    try:
        run_to_end(options.superlink, options.run_config or "")
    except RunFailedError as error:
        print(f"fedquad.flower: {error}", file=sys.stderr)
        sys.exit(1)


def _simulate(options: argparse.Namespace) -> None:
    from fedquad.flower.commands import RunFailedError
    from fedquad.flower.launch import Federation

    nodes = {"num-supernodes": options.nodes, "client-resources-num-cpus": 1}
    nodes |= {"init-args-num-cpus": options.workers}
    config = f"num-devices={options.nodes} {options.run_config or ''}"
    try:
        with (
            tempfile.TemporaryDirectory(prefix="fedquad-") as home,
            Federation(Path(home), simulation=True) as federation,
        ):
            federation.run(config, nodes)
    except RunFailedError as error:
        print(f"fedquad.flower: {error}", file=sys.stderr)
        sys.exit(1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m fedquad.flower",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    app = commands.add_parser("app", help="print the app's folder, which `flwr run` takes")
    app.set_defaults(command=_app)

    simulate = commands.add_parser("simulate", help="a run in Flower's simulation, to its end")
    simulate.add_argument("--nodes", type=int, default=20, help="simulated devices")
    simulate.add_argument("--workers", type=int, default=2, help="processes")
    simulate.set_defaults(command=_simulate)

    run = commands.add_parser("run", help="a run on a SuperLink of Flower's configuration")
    run.add_argument("superlink", help="its name there")
    run.set_defaults(command=_run)
    for command in (simulate, run):
        command.add_argument("--run-config", metavar="'KEY=VALUE …'", help="as of `flwr run`")

    credentials = commands.add_parser("credentials", help="certificates and keys, for a start")
    credentials.add_argument("folder", type=Path)
    credentials.add_argument("--nodes", type=int, required=True)
    credentials.add_argument("--hosts", nargs="+", required=True, help="of the server")
    credentials.set_defaults(command=_credentials)
    return parser


if __name__ == "__main__":
    main()
