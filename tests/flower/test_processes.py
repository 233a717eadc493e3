"""Flower's own processes: its simulation, and SuperNodes over TLS with keys of their own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import needs_flower  # noqa: F401
import psutil
import pytest

from fedquad.config import FederatedConfig
from fedquad.federation.device import DeviceHost
from fedquad.federation.executor import InProcessExecutor
from fedquad.federation.runs import run_federated, run_settings
from fedquad.federation.server import Server
from fedquad.federation.setting import FederatedSetting
from fedquad.flower.commands import RunFailedError, in_toml, script
from fedquad.flower.credentials import make_credentials
from fedquad.flower.launch import Federation, free_port, simulate
from fedquad.runs.store import RunStore, results_sha256

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def nothing_is_left():
    """What was started is gone, whatever a test did."""
    before = {process.pid for process in psutil.process_iter()}
    yield
    mine = [
        process
        for process in psutil.process_iter(["pid", "cmdline", "environ"])
        if process.pid not in before
        and (process.info["environ"] or {}).get("FEDQUAD_TEST") == str(os.getpid())
    ]
    _, alive = psutil.wait_procs(mine, timeout=20)
    assert not [process.info["cmdline"] for process in alive]


@pytest.fixture(autouse=True)
def marked(monkeypatch):
    monkeypatch.setenv("FEDQUAD_TEST", str(os.getpid()))


def simulated(config: FederatedConfig, folder: Path, **options: Any) -> tuple[list[str], bool]:
    """What a run in Flower's simulation said, and whether it completed."""
    for attempt in range(2):
        said: list[str] = []
        home = folder / f"home-{attempt}"
        try:
            simulate(config, folder / "flower", workers=2, home=home, say=said.append, **options)
        except RunFailedError:
            if not any("node timed out during startup" in line for line in said):
                return said, False
        else:
            return said, True
    pytest.skip("Ray gives parts of its own 15 s to start; this machine was too busy for it twice")


def test_the_simulation_gives_the_engines_adapter_bit_for_bit(tiny_federated, tmp_path):
    config = tiny_federated(method="fedquad")
    adapter = tmp_path / "adapter"
    said, completed = simulated(config, tmp_path, adapter=adapter)
    assert completed, said

    setting = FederatedSetting(config)
    server = Server(setting, InProcessExecutor(DeviceHost(setting)))
    for _ in range(config.num_rounds):
        server.play_round()
    server.global_adapter.save(tmp_path / "engine")
    name = "adapter_model.safetensors"
    assert (adapter / name).read_bytes() == (tmp_path / "engine" / name).read_bytes()
    flower, engine = RunStore(tmp_path / "flower"), RunStore(tmp_path / "runs")
    run_federated(config, engine)
    settings = run_settings(config)
    assert results_sha256(flower.directory(settings)) == results_sha256(engine.directory(settings))


def test_a_run_below_its_minimum_is_an_error(tiny_federated, tmp_path):
    """Flower leaves out a device that fails, says nothing, and ends with 0."""
    diverging = tiny_federated(learning_rate=1e30)
    said, completed = simulated(diverging, tmp_path)
    assert not completed
    text = "\n".join(said)
    for name in ("device-0", "device-1", "device-2", "device-3"):
        assert f"left out {name}: step" in text
    assert "0 of 4 devices sent an update that can be used, 1 needed" in text


def test_a_deployment_over_tls_trains_on_every_devices_own_rows(
    tiny_model, make_glue, tmp_path, monkeypatch
):
    """From certificates to the last round: two devices, whose rows stay in their folders."""
    names = ("attic", "porch")
    for seed, name in enumerate(names, start=1):
        (tmp_path / name).mkdir()
        shutil.copy(make_glue(seed) / "SST-2" / "train.tsv", tmp_path / name)
    monkeypatch.setenv("FEDQUAD_GLUE", str(make_glue(0)))  # the server's own rows
    credentials = make_credentials(tmp_path / "secrets", len(names), ["127.0.0.1"])
    run_config = {
        "status": "measured",
        "task": "sst2",
        "model": str(tiny_model),
        "num-devices": len(names),
        "num-rounds": 1,
        "local-steps": 2,
        "batch-size": 8,
        "max-length": 16,
        "lora-rank": 4,
        "lora-alpha": 4,
        "learning-rate": 2e-2,
        "connect-timeout-s": 300.0,
        "answer-timeout-s": 300.0,
        "store": str(tmp_path / "runs"),
        "adapter": str(tmp_path / "adapter"),
    }
    said: list[str] = []
    with Federation(tmp_path / "home", simulation=False, credentials=credentials) as federation:
        for number, name in enumerate(names, start=1):
            federation.add_node({"name": name, "data": str(tmp_path / name)}, number)
        federation.run(in_toml(run_config), say=said.append)
        stranger = make_credentials(tmp_path / "others", 1, ["127.0.0.1"]).node_key(1)
        assert_refused(federation, credentials.ca, stranger, tmp_path)
    (stored,) = RunStore(tmp_path / "runs").finished()
    assert stored.settings["deployment"] == list(names)
    for row in stored.rows:
        assert row["participants"] == 2
        assert row["failures"] == 0
        assert min(row["devices"]["memory_budget_bytes"]) > 10**8
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["r"] == 4
    assert any(line.startswith("round 1 of 1: accuracy") for line in said)


def assert_refused(federation: Federation, ca: Path, key: Path, folder: Path) -> None:
    """A SuperNode with a key that nobody registered does not get in."""
    command = [script("flower-supernode"), "--superlink", federation.address]
    command += ["--port", str(free_port("127.0.0.1")), "--root-certificates", str(ca)]
    command += ["--auth-supernode-private-key", str(key)]
    log = folder / "stranger.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
        federation.processes.append(process)  # ended with the others, and what it started
        assert process.wait(timeout=120) != 0
    assert "Failed to activate SuperNode" in log.read_text()
