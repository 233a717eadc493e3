"""One whole federated run in processes of its own, to be timed and weighed from outside.

``python -m fedquad.benchmarks.whole_run CASE CONFIG FOLDER``; ``CASE`` is one of `CASES`,
``CONFIG`` the run's settings as JSON. ``FOLDER/rounds.json`` gets the seconds at which each
round ended.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import torch

from fedquad.config import FederatedConfig
from fedquad.federation.device import DeviceHost
from fedquad.federation.runs import run_federated, run_settings
from fedquad.federation.setting import FederatedSetting, config_from_json, config_to_json
from fedquad.runs.store import RunStore
from fedquad.training.local import LocalTrainer, cosine_rate

BARE, WORKERS, FLOWER = "two bare processes", "two workers", "Flower's simulation"
CASES = {"bare": BARE, "workers": WORKERS, "flower": FLOWER}
NUM_PROCESSES = 2


def run_case(case: str, config: FederatedConfig, folder: Path) -> None:
    """Play a run to its end in two processes, and write when its rounds ended."""
    if case == "bare":
        ends = _bare_processes(config, folder)
    elif case == "workers":
        store = RunStore(folder / "runs")
        run_federated(config, store, workers=NUM_PROCESSES)
        ends = _stored_ends(config, store)
    else:
        from fedquad.flower.launch import simulate  # an extra

        store = RunStore(folder / "runs")
        simulate(config, store.root, workers=NUM_PROCESSES, home=folder / "flower")
        ends = _stored_ends(config, store)
    (folder / "rounds.json").write_text(json.dumps(ends))


def _stored_ends(config: FederatedConfig, store: RunStore) -> list[float]:
    stored = store.read(run_settings(config))
    return [row["wall_time_s"] for row in stored.telemetry if row["event"] == "round"]


def _bare_processes(config: FederatedConfig, folder: Path) -> list[float]:
    """The same training and evaluation, half of it in each process, which exchange nothing."""
    parts = [folder / f"part-{n}.json" for n in range(NUM_PROCESSES)]
    text = json.dumps(config_to_json(config))
    command = [sys.executable, "-m", "fedquad.benchmarks.whole_run", "part", text]
    processes = [subprocess.Popen([*command, str(part)]) for part in parts]
    if any(codes := [process.wait() for process in processes]):
        raise RuntimeError(f"bare processes ended with {codes}")
    ends = [json.loads(part.read_text()) for part in parts]
    return [max(of_round) for of_round in zip(*ends, strict=True)]


def _part(config: FederatedConfig, path: Path) -> None:
    number = int(path.stem.removeprefix("part-"))
    torch.set_num_threads(1)
    host = DeviceHost(FederatedSetting(config))
    start, ends = time.perf_counter(), []
    for round_idx in range(config.num_rounds):
        for device in range(number, config.num_devices, NUM_PROCESSES):
            trainer = LocalTrainer(
                host.model,
                host.rows(device),
                num_steps=config.local_steps,
                batch_size=config.batch_size,
                learning_rate=cosine_rate(round_idx, config.num_rounds, config.learning_rate),
                seed=(config.seed, round_idx, device),
                record_gradient_norms=True,
                schedule="constant",
            )
            for _ in range(config.local_steps):
                trainer.step()
        host.evaluate(range(number, host.num_eval_batches, NUM_PROCESSES))
        ends.append(time.perf_counter() - start)
    path.write_text(json.dumps(ends))


def main(arguments: list[str]) -> None:
    case, config, folder = arguments
    values = config_from_json(json.loads(config)), Path(folder)
    if case == "part":
        _part(*values)
    else:
        run_case(case, *values)


if __name__ == "__main__":
    main(sys.argv[1:])
