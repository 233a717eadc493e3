"""The same bytes from one process, from workers, and from a run that is killed again and again."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from fedquad.config import FederatedConfig
from fedquad.federation import distributed, runs
from fedquad.federation.distributed import DistributedExecutor
from fedquad.federation.local_workers import LocalWorkers
from fedquad.federation.runs import load_or_federate, run_federated, run_settings
from fedquad.federation.setting import config_to_json
from fedquad.runs.store import RunStore

pytestmark = pytest.mark.slow

# FedQuad quantizes layers here; HetLoRA prunes the ranks that it keeps between rounds, so that
# a run whose state was lost would give other bytes.
METHODS = {
    "fedquad": {},
    "hetlora": {"method": "hetlora", "method_options": (("gamma", 0.5),)},
}


def results_bytes(config: FederatedConfig, store: RunStore) -> bytes:
    return (store.directory(run_settings(config)) / "results.jsonl").read_bytes()


@pytest.fixture
def in_process(tiny_federated, tmp_path):
    """``in_process("fedquad")``: a config, and the bytes that this process gives."""

    def compute(method: str) -> tuple[FederatedConfig, bytes]:
        config, store = (
            tiny_federated(num_rounds=4, **METHODS[method]),
            RunStore(tmp_path / "whole"),
        )
        rows = run_federated(config, store).rows
        if method == "fedquad":
            assert max(row["mean_quantized"] for row in rows) > 0
        else:
            ranks = [sum(row["devices"]["lora_rank"]) for row in rows]
            assert ranks[-1] < ranks[0]
        return config, results_bytes(config, store)

    return compute


@pytest.fixture(scope="module")
def two_workers(glue) -> Iterator[LocalWorkers]:
    """Started once: each imports torch and transformers. A new run makes them new hosts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDQUAD_GLUE", str(glue))
        workers = LocalWorkers(2)
    yield workers
    workers.close()


class _Some:
    """The first few of workers that outlive the run."""

    def __init__(self, workers: LocalWorkers, count: int) -> None:
        self.ranks = workers.ranks[:count]
        self.ask, self.next_answer, self._idle = workers.ask, workers.next_answer, workers.idle

    def idle(self) -> list[int]:
        return [rank for rank in self._idle() if rank in self.ranks]

    def close(self) -> None:
        """They go on."""


@pytest.mark.parametrize("method", METHODS)
def test_one_worker_and_two_give_the_bytes_of_this_process(
    in_process, two_workers, tmp_path, monkeypatch, method
):
    config, expected = in_process(method)
    for count in (1, 2):
        store = RunStore(tmp_path / f"{count} workers")
        monkeypatch.setattr(distributed, "LocalWorkers", lambda n: _Some(two_workers, n))
        spec = runs.HostSpec(
            factory="fedquad.federation.device:host_from_json",
            arguments={"config": config_to_json(config)},
        )
        monkeypatch.setattr(
            runs, "_make_executor", lambda *_, n=count, s=spec: DistributedExecutor(s, n)
        )
        run_federated(config, store, workers=2)
        assert results_bytes(config, store) == expected


def test_runs_side_by_side_give_the_bytes_of_runs_one_after_the_other(tiny_federated, tmp_path):
    configs = [tiny_federated(seed=seed, method="fedra") for seed in (0, 1)]
    stores = RunStore(tmp_path / "one"), RunStore(tmp_path / "two")
    for workers, store in enumerate(stores, start=1):
        load_or_federate(configs, store, workers=workers, progress=False)
    for config in configs:
        assert results_bytes(config, stores[0]) == results_bytes(config, stores[1])


# Imports once, then forks a child for every line it gets: a fresh process without the wait.
FORKER = """
import json, os, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from fedquad.federation.runs import run_federated
from fedquad.federation.setting import config_from_json
from fedquad.runs.store import RunStore
print("ready", flush=True)
for line in sys.stdin:
    settings, root = json.loads(line)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            config = config_from_json(settings)
            say = lambda row: print("round", row["round"], flush=True)
            run_federated(config, RunStore(Path(root)), on_round=say)
            status = 0
        finally:
            os._exit(status)
    print("child", child, flush=True)
    print("gone", os.waitpid(child, 0)[1], flush=True)
"""


@pytest.fixture(scope="module")
def forker(glue) -> Iterator[subprocess.Popen]:
    process = subprocess.Popen(
        [sys.executable, "-c", FORKER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "FEDQUAD_GLUE": str(glue)},
    )
    assert process.stdout.readline() == "ready\n"
    yield process
    process.stdin.close()
    process.wait()
    process.stdout.close()


def compute_in_child(forker, config, store: RunStore, kill_after: int | None = None) -> int:
    """Run in a process of its own; SIGKILL at a random moment after a round. Its wait status."""
    forker.stdin.write(json.dumps([config_to_json(config), str(store.root)]) + "\n")
    forker.stdin.flush()
    child, rounds = 0, -1
    for line in forker.stdout:
        word, number = line.split()
        if word == "child":
            child, rounds = int(number), max(rounds, 0)
        elif word == "round":
            rounds = int(number)
        else:
            return int(number)
        if kill_after is not None and child and rounds >= kill_after:
            time.sleep(random.uniform(0, 0.15))
            os.kill(child, signal.SIGKILL)  # until it is waited for, a child's id is its own
            kill_after = None
    raise AssertionError("the forking process is gone")


@pytest.mark.parametrize("method", METHODS)
def test_killed_at_random_moments_it_ends_with_the_same_bytes(in_process, forker, tmp_path, method):
    config, expected = in_process(method)
    killed = RunStore(tmp_path / "killed")
    directory = killed.directory(run_settings(config))
    for kill_after in (0, 1, 2, 3):
        compute_in_child(forker, config, killed, kill_after)
    compute_in_child(forker, config, killed)
    assert results_bytes(config, killed) == expected
    assert {path.name for path in directory.iterdir()} == {
        "config.json",
        "results.jsonl",
        "telemetry.jsonl",
    }
    assert run_federated(config, killed).from_record
