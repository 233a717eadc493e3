"""Federated runs made by hand: tables as `federated_frames` gives them, without any training.

FedQuad chooses by Algorithm 1 itself, so that what its figures check is true; the other
methods follow simple rules. A fleet has classes whose speed and memory do not overlap.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from fedquad.cost.layer_costs import LayerCosts
from fedquad.methods.selection import select_configurations
from fedquad.methods.selection_problem import SelectionProblem
from fedquad.methods.yardstick import measure_yardstick
from fedquad.report.frames import (
    configurations_frame,
    predictions_frame,
    round_problem,
    selection_example_frame,
    sensitivity_frame,
    waiting_frame,
    workflow_frame,
    yardstick_frame,
)
from fedquad.runs.results import format_layers, pack

NUM_EVAL = 200
LOCAL_STEPS = 100
COSTS = LayerCosts(
    num_layers=12,
    fixed_bytes=1_500_000_000,
    bytes_per_lora_layer=700_000_000,
    bytes_saved_per_quantized_layer=406_000_000,
    forward_flops=2_400_000_000_000,
    flops_per_lora_layer=200_000_000_000,
    flops_per_quantized_layer=144_000_000_000,
)
# Class -> FLOPs a second, shallowest and deepest unquantized depth, mode.
CLASSES = {
    "strong": (2.0e12, 9, 12, "AGX 30 W 8-core"),
    "moderate": (1.2e12, 6, 8, "NX 15 W 6-core"),
    "weak": (0.4e12, 2, 5, "TX2 Max-Q"),
}
METHODS = ("fedquad", "fedra", "inclusivefl", "layersel", "hetlora")
# Accuracy of the last round.
REACHED = {"fedquad": 0.8, "fedra": 0.7, "inclusivefl": 0.72, "layersel": 0.75, "hetlora": 0.76}
TASKS = ("micro-mnli", "micro-qqp", "micro-qnli", "micro-sst2")


def gradient_norms(round_number: int) -> np.ndarray:
    """Norms of the round before: ones at first, then larger towards the output."""
    return np.ones(12) if round_number == 1 else np.linspace(0.5, 1.5, 12)


def make_run(
    method: str = "fedquad",
    *,
    task: str = "micro-mnli",
    seed: int = 0,
    num_rounds: int = 8,
    num_devices: int = 10,
    waiting_scale: float = 1.0,
    **settings: object,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rounds and devices of one run; ``settings`` replace columns that tell runs apart.

    ``waiting_scale`` stretches the completion times, so that a method waits that much longer.
    """
    labels = {
        "run_id": "",
        "method": method,
        "options": "",
        "task": task,
        "model": "embedded",
        "reference_model": "roberta-large",
        "heterogeneity": "high",
        "throughput_model": "fp16",
        "budget_policy": "layers",
        "quantization_price": "paper",
        "rate_schedule": "rounds",
        "partition_alpha": 10.0,
        "lora_rank": 16,
        "num_devices": num_devices,
        "num_rounds": num_rounds,
        "local_steps": 4,
        "seed": seed,
    } | settings
    labels["run_id"] = "-".join(str(value) for value in labels.values())
    fleet = np.random.default_rng([seed, num_devices])
    names = [name for name, share in zip(CLASSES, (3, 3, 4), strict=True) for _ in range(share)]
    classes = [names[at % len(names)] for at in range(num_devices)]
    mean_time_s, sim_time_s = None, 0.0
    rounds, devices = [], []
    for round_number in range(1, num_rounds + 1):
        budgets = np.array([fleet.integers(CLASSES[n][1], CLASSES[n][2] + 1) for n in classes])
        speeds = np.array([CLASSES[n][0] for n in classes])
        memory = COSTS.fixed_bytes + COSTS.bytes_per_lora_layer * budgets
        problem = SelectionProblem(
            costs=COSTS,
            memory_budget_bytes=memory,
            flops_per_second=speeds,
            gradient_norms=gradient_norms(round_number),
            mean_completion_time_s=mean_time_s,
            local_steps=LOCAL_STEPS,
        )
        if method == "fedquad":
            chosen = select_configurations(problem)
            depth, quantized = chosen.depth, chosen.quantized
        else:
            depth, quantized = budgets, np.zeros_like(budgets)
        times = waiting_scale * problem.completion_time_s(depth, quantized, speeds)
        saved = COSTS.bytes_saved_per_quantized_layer * quantized
        mean_time_s = float(times.mean())
        sim_time_s += float(times.max())
        noise = 0.02 * fleet.random()
        share = 0.4 + (REACHED.get(method, 0.6) - 0.4) * round_number / num_rounds + noise
        correct = np.arange(NUM_EVAL) < share * NUM_EVAL
        sent = 8192 * depth + 20_000
        devices.append(
            pd.DataFrame(
                {
                    "round": round_number,
                    "device_id": [f"{at:03d}" for at in range(num_devices)],
                    "device_class": classes,
                    "mode": [CLASSES[name][3] for name in classes],
                    "depth_budget": budgets,
                    "memory_budget_bytes": memory,
                    "flops_per_second": speeds,
                    "participated": True,
                    "depth": depth,
                    "quantized": pd.array(quantized, dtype="Int64"),
                    "lora_rank": 16,
                    "active_layers": "0-11",
                    "trainable_layers": [format_layers(range(12 - d, 12)) for d in depth],
                    "probe_time_s": float("nan"),
                    "completion_time_s": times,
                    "waiting_time_s": times.max() - times,
                    "memory_bytes": pd.array(
                        COSTS.fixed_bytes + COSTS.bytes_per_lora_layer * depth - saved, "Int64"
                    ),
                    "is_overrun": False,
                    "download_bytes": pd.array([8192 * 12 + 20_000] * num_devices, "Int64"),
                    "upload_bytes": pd.array(sent, dtype="Int64"),
                }
            )
        )
        rounds.append(
            {
                "round": round_number,
                "accuracy": correct.mean(),
                "loss": 0.7,
                "train_loss": 0.6,
                "round_time_s": float(times.max()),
                "sim_time_s": sim_time_s,
                "probe_time_s": 0.0,
                "mean_completion_time_s": mean_time_s,
                "mean_waiting_time_s": float((times.max() - times).mean()),
                "download_bytes": (8192 * 12 + 20_000) * num_devices,
                "upload_bytes": int(sent.sum()),
                "mean_depth": float(depth.mean()),
                "mean_quantized": float(quantized.mean()),
                "memory_overruns": 0,
                "participants": num_devices,
                "failures": 0,
                "num_eval": NUM_EVAL,
                "correct": pack(correct),
            }
        )
    rounds_table = pd.DataFrame(rounds)
    devices_table = pd.concat(devices, ignore_index=True)
    rounds_table = pd.concat([pd.DataFrame(labels, index=rounds_table.index), rounds_table], axis=1)
    del labels["lora_rank"]  # here it is each device's own
    devices_table = pd.concat(
        [pd.DataFrame(labels, index=devices_table.index), devices_table], axis=1
    )
    return rounds_table.assign(from_record=True), devices_table


def make_runs(runs: list[dict]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Several runs, one below the other; each dict holds the arguments of `make_run`."""
    pairs = [make_run(**arguments) for arguments in runs]
    rounds, devices = zip(*pairs, strict=True)
    return pd.concat(rounds, ignore_index=True), pd.concat(devices, ignore_index=True)


def make_comparison(
    seeds: int = 3,
    *,
    tasks: tuple[str, ...] = TASKS,
    scales: dict[str, float] | None = None,
    **settings: object,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Every method on every task, the same but for its name; ``scales``: of a method's times."""
    scales = {"layersel": 4.0, "hetlora": 1.5, "fedra": 3.0, "inclusivefl": 3.2} | (scales or {})
    first = make_runs(
        [
            {"method": method, "seed": seed, "waiting_scale": scales.get(method, 1.0), **settings}
            for method in METHODS
            for seed in range(seeds)
        ]
    )
    return tuple(
        pd.concat(
            [table.assign(task=task, run_id=table["run_id"] + task) for task in tasks],
            ignore_index=True,
        )
        for table in first
    )


def make_sensitivity(seeds: int = 3) -> pd.DataFrame:
    """Two varied settings, one of them an option of the method."""
    alphas = [
        {"method": method, "seed": seed, "partition_alpha": alpha}
        for method in ("fedquad", "fedra")
        for alpha in (0.5, 10.0, float("inf"))
        for seed in range(seeds)
    ]
    offsets = [
        {"seed": seed, "options": options}
        for options in ("", "reward_offset_s=1", "reward_offset_s=100")
        for seed in range(seeds)
    ]
    parts = [
        sensitivity_frame(
            make_runs([{"num_rounds": 3, **run} for run in runs])[0], by, profile="reference"
        )
        for by, runs in (("partition_alpha", alphas), ("reward_offset_s", offsets))
    ]
    return pd.concat(parts, ignore_index=True)


def make_federated_frames(seeds: int = 3) -> dict[str, pd.DataFrame]:
    """The frames of Figs. 5, 6 and 9, of the sensitivity and of the yardstick."""
    rounds, devices = make_run(num_rounds=3)
    priced = {"local_steps": LOCAL_STEPS, "round_number": 3}
    problem, _ = round_problem(rounds, devices, COSTS, gradient_norms(3), **priced)
    compared = make_comparison(seeds)
    return {
        "fig05_workflow": workflow_frame(rounds, devices, profile="reference"),
        "fig06_selection_example": selection_example_frame(
            rounds, devices, COSTS, gradient_norms(3), profile="reference", **priced
        ),
        "fig06_configurations": configurations_frame(*compared, COSTS, profile="reference"),
        "fig06_predictions": predictions_frame(
            COSTS,
            model="roberta-large",
            profile="reference",
            flops_per_second=1e12,
            local_steps=LOCAL_STEPS,
        ),
        "fig09_waiting_time": waiting_frame(*compared, profile="reference"),
        "fig_sensitivity": make_sensitivity(seeds),
        "fig_yardstick": yardstick_frame(
            {3: measure_yardstick(problem)}, model="roberta-large", profile="reference"
        ),
    }
