"""Frames of all figures, made from costs and answers with known properties."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fedquad.cost.accounting import StepCost
from fedquad.cost.communication import RoundShare, RoundTraffic
from fedquad.cost.layer_costs import LayerCosts
from fedquad.report.figures import draw
from fedquad.report.frames import (
    ablation_curves_frame,
    accuracy_curves_frame,
    checkpointing_frame,
    communication_frame,
    depth_accuracy_frame,
    depth_cost_frame,
    heterogeneity_curves_frame,
    memory_frame,
    position_accuracy_frame,
    position_cost_frame,
    quantized_accuracy_frame,
    quantized_memory_frame,
    speedup_frame,
    synergy_accuracy_frame,
    synergy_cost_frame,
    time_to_accuracy_frame,
    tuning_latency_frame,
)
from fedquad.report.saving import save_figure
from fedquad.report.tables import save_table
from fedquad.runs.plans import layer_groups, synergy_points
from fedquad.runs.results import format_layers, pack

# For the generators of federated runs, synthetic_*.py beside this file.
sys.path.append(str(Path(__file__).parent))

NUM_EVAL = 400
FLOPS_PER_SECOND = 2.6e11


def make_cost(
    num_kept: int, *, full: bool = False, layer_bytes: int = 190_000_000, num_quantized: int = 0
) -> StepCost:
    """A step of a 12-layer model whose top ``num_kept`` layers keep activations.

    The lowest ``num_quantized`` of these keep a quarter.
    """
    trainable = 350_000_000 if full else 2_600_000
    quantized = (layer_bytes // 4,) * num_quantized
    kept = (0,) * (12 - num_kept) + quantized + (layer_bytes,) * (num_kept - num_quantized)
    return StepCost(
        weight_bytes=1_400_000_000,
        gradient_bytes=4 * trainable,
        optimizer_bytes=8 * trainable,
        activation_bytes_by_layer=kept,
        activation_bytes_outside_layers=10_000_000,
        forward_flops=1_000_000_000_000,
        backward_flops=(160 if full else 90) * 1_000_000_000 * num_kept,
        operand_bytes=10**10,
        parameters=350_000_000,
        trainable_parameters=trainable,
        peak_step_bytes=sum(kept) + 150_000_000,
    )


LAYER_COSTS = LayerCosts(
    num_layers=12,
    fixed_bytes=1_440_000_000,
    bytes_per_lora_layer=190_000_000,
    bytes_saved_per_quantized_layer=110_200_000,
    forward_flops=1_000_000_000_000,
    flops_per_lora_layer=90_000_000_000,
    flops_per_quantized_layer=62_400_000_000,
)


def make_runs(
    accuracies: dict[tuple[int, ...], float],
    seeds: int,
    *,
    task: str = "micro-mnli",
    num_eval: int = NUM_EVAL,
    num_quantized: int = 0,
    num_layers: int = 12,
) -> pd.DataFrame:
    """Runs as `results_frame` gives them, all with the lowest ``num_quantized`` layers quantized.

    Items are answered in one order of difficulty, shifted by a few per seed:
    differences between layer sets are then almost free of sampling noise.
    """
    rows = []
    for layers, accuracy in accuracies.items():
        for seed in range(seeds):
            hits = round(num_eval * accuracy) + 2 * seed
            correct = np.arange(num_eval) < hits
            rows.append(
                {
                    "task": task,
                    "model": "embedded",
                    "tuning": "lora",
                    "layers": format_layers(layers),
                    "depth": len(layers) if layers[-1] == num_layers - 1 else float("nan"),
                    "quantized": num_quantized,
                    "activation_bits": 8,
                    "seed": seed,
                    "steps": 600,
                    "accuracy": correct.mean(),
                    "loss": 0.7,
                    "num_eval": num_eval,
                    "correct": pack(correct),
                    "from_record": True,
                }
            )
    return pd.DataFrame(rows)


def make_measured(
    by: str, seconds: dict[object, float], *, model: str = "embedded", torch_device: str = "cpu"
) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                by: key,
                "model": model,
                "torch_device": torch_device,
                "batch_size": 32,
                "length": 48,
                "repeats": 10,
                "forward_s": 0.04,
                "backward_s": total - 0.045,
                "total_s": total,
                "total_low_s": 0.98 * total,
                "total_high_s": 1.03 * total,
            }
            for key, total in seconds.items()
        ]
    )


def _shares() -> list[RoundShare]:
    return [
        RoundShare(
            tuning=tuning,
            network=network,
            rate_mbit_s=rate,
            traffic=RoundTraffic(
                tuning=tuning,
                parameters=350_000_000,
                trainable_parameters=trainable,
                download_bytes=4 * trainable,
                upload_bytes=4 * trainable,
            ),
            communication_time_s=64 * trainable / (rate * 1e6),
            compute_time_s=5_000.0,
        )
        for tuning, trainable in (("lora", 2_600_000), ("full", 350_000_000))
        for network, rate in (("3G", 3.0), ("4G", 20.0))
    ]


METHOD_SECONDS = {"none": 0.1, "quantization": 0.14, "checkpointing": 0.15}
QUANTIZED_ACCURACY = {0: 0.71, 4: 0.7125, 8: 0.7075, 11: 0.705}
POINT_ACCURACY = (0.66, 0.70, 0.705)


def make_quantized(accuracies: dict[int, float], seeds: int = 3, **options) -> pd.DataFrame:
    """Runs at full depth of 12 layers: number of quantized layers -> accuracy."""
    whole = tuple(range(12))
    return pd.concat(
        [
            make_runs({whole: accuracy}, seeds, num_quantized=quantized, **options)
            for quantized, accuracy in accuracies.items()
        ]
    )


def make_points(accuracies: tuple[float, ...], seeds: int = 3, **options) -> pd.DataFrame:
    """Runs of the three configurations of Fig. 4(b), of 12 layers."""
    runs = [
        make_runs(
            {point.trainable_layers(12): accuracy},
            seeds,
            num_quantized=point.quantized,
            **options,
        )
        for point, accuracy in zip(synergy_points(12), accuracies, strict=True)
    ]
    return pd.concat(runs)


DEPTH_ACCURACY = (0.50, 0.56, 0.60, 0.63, 0.66, 0.68, 0.695, 0.70, 0.70, 0.705, 0.705, 0.71)
GROUP_ACCURACY = {"A": 0.71, "S": 0.55, "M": 0.66, "D": 0.63, "MD": 0.70}


def make_frames(seeds: int) -> dict[str, pd.DataFrame]:
    """The frame of every figure, with accuracies of the given number of seeds."""
    groups = layer_groups(12)
    setting = {"batch_size": 32, "length": 128, "profile": "reference"}
    large = {"model": "roberta-large", "profile": "reference"}
    group_costs = {group: make_cost(12 - layers[0]) for group, layers in groups.items()}
    depth_costs = {depth: make_cost(depth) for depth in range(1, 13)}
    tuning_costs = {"lora": make_cost(12), "full": make_cost(12, full=True)}
    memory_costs = {
        ("lora", 16, 256): make_cost(12, layer_bytes=660_000_000),
        ("lora", 32, 256): make_cost(12, layer_bytes=1_310_000_000),
        ("full", 32, 256): make_cost(12, full=True, layer_bytes=1_600_000_000),
    }
    position_runs = make_runs({groups[g]: a for g, a in GROUP_ACCURACY.items()}, seeds)
    depth_runs = make_runs(
        {tuple(range(12 - d, 12)): DEPTH_ACCURACY[d - 1] for d in range(1, 13)}, seeds
    )
    points = synergy_points(12)
    point_costs = {point: make_cost(point.depth, num_quantized=point.quantized) for point in points}
    point_seconds = dict(zip(("(5, 0)", "(8, 5)", "(10, 9)"), (0.08, 0.1, 0.13), strict=True))
    return {
        "fig01a_communication": communication_frame(
            _shares(), flops_per_second=FLOPS_PER_SECOND, **large
        ),
        "fig01b_memory": memory_frame(memory_costs, **large),
        "fig01c_latency": tuning_latency_frame(
            tuning_costs,
            model="roberta-large",
            measured=make_measured("tuning", {"full": 0.13, "lora": 0.095}),
            from_record=True,
            **setting,
        ),
        "fig02a_layer_position_cost": position_cost_frame(
            group_costs,
            groups,
            model="roberta-base",
            measured=make_measured("group", {"A": 0.1, "S": 0.098, "M": 0.08, "D": 0.06}),
            from_record=True,
            **setting,
        ),
        "fig02b_layer_position_accuracy": position_accuracy_frame(
            position_runs, groups, profile="reference"
        ),
        "fig03a_depth_accuracy": depth_accuracy_frame(
            depth_runs, num_layers=12, profile="reference"
        ),
        "fig03b_depth_cost": depth_cost_frame(
            depth_costs,
            model="roberta-base",
            measured=make_measured("depth", {d: 0.05 + 0.005 * d for d in range(1, 13)}),
            from_record=True,
            **setting,
        ),
        "fig04a_quantization_memory": quantized_memory_frame(
            {count: make_cost(12, num_quantized=count) for count in range(12)},
            LAYER_COSTS,
            make_cost(12, layer_bytes=12_600_000),
            model="roberta-base",
            **setting,
        ),
        "fig04a_quantization_accuracy": quantized_accuracy_frame(
            make_quantized(QUANTIZED_ACCURACY, seeds), num_layers=12, profile="reference"
        ),
        "fig04b_synergy_accuracy": synergy_accuracy_frame(
            make_points(POINT_ACCURACY, seeds), points, num_layers=12, profile="reference"
        ),
        "fig04b_synergy_cost": synergy_cost_frame(
            point_costs,
            LAYER_COSTS,
            model="roberta-base",
            measured=make_measured("setting", point_seconds | METHOD_SECONDS),
            measured_points=points,
            from_record=True,
            **setting,
        ),
    }


def make_main_frames(rounds: pd.DataFrame, devices: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The frames of Figs. 7, 8 and 10 and of the curves behind Table IV."""
    curves = accuracy_curves_frame(rounds, devices, profile="reference")
    return {
        "fig07_accuracy_curves": curves,
        "fig08_time_to_accuracy": time_to_accuracy_frame(curves),
        "fig08_speedup_against_target": speedup_frame(curves),
        "tab04_curves": heterogeneity_curves_frame(rounds, devices, profile="reference"),
        "fig10_ablation": ablation_curves_frame(rounds, devices, profile="reference"),
    }


def make_tables() -> dict[str, pd.DataFrame]:
    """The tables that claims are read from."""
    costs = {
        "none": make_cost(12),
        "quantization": make_cost(12, num_quantized=11),
        "checkpointing": make_cost(12, layer_bytes=12_600_000),
    }
    gpu = {"model": "roberta-base", "torch_device": "NVIDIA H100"}
    on_gpu = {"none": 0.1, "quantization": 0.11, "checkpointing": 0.135}
    measured = {
        "profile": make_measured("setting", METHOD_SECONDS),
        "benchmark": make_measured("setting", on_gpu, **gpu),
    }
    return {
        "tab_fig04_checkpointing": checkpointing_frame(
            costs, measured, model="roberta-base", batch_size=32, length=128, profile="reference"
        )
    }


@pytest.fixture(scope="session")
def central_frames() -> dict[str, pd.DataFrame]:
    """Figs. 1 to 4."""
    return make_frames(seeds=3)


@pytest.fixture(scope="session")
def main_frames() -> dict[str, pd.DataFrame]:
    """Figs. 7, 8 and 10 and Table IV, from three seeds of every run."""
    from synthetic_curves import main_rounds

    return make_main_frames(*main_rounds())


@pytest.fixture(scope="session")
def selection_frames() -> dict[str, pd.DataFrame]:
    """Figs. 5, 6 and 9 and the sensitivity, from three seeds."""
    from synthetic_runs import make_federated_frames

    return make_federated_frames()


@pytest.fixture(scope="session")
def frames(central_frames, main_frames, selection_frames) -> dict[str, pd.DataFrame]:
    return central_frames | main_frames | selection_frames


@pytest.fixture(scope="session")
def one_seed_frames() -> dict[str, pd.DataFrame]:
    return make_frames(seeds=1)


@pytest.fixture(scope="session")
def runs_of():
    """`make_runs`, for tests that need runs of their own."""
    return make_runs


@pytest.fixture(scope="session")
def quantized_runs_of():
    """`make_quantized`, for tests that need runs of their own."""
    return make_quantized


@pytest.fixture(scope="session")
def point_runs_of():
    """`make_points`, for tests that need runs of their own."""
    return make_points


@pytest.fixture(scope="session")
def measured_of():
    """`make_measured`, for tests that need step times of their own."""
    return make_measured


@pytest.fixture(scope="session")
def layer_costs():
    """Constants that fit `make_cost`, with the paper's price of quantization."""
    return LAYER_COSTS


@pytest.fixture(scope="session")
def cost_of():
    """`make_cost`, for tests that need costs of their own."""
    return make_cost


@pytest.fixture(scope="session")
def figures_root(frames, tmp_path_factory):
    """A figures folder as it would be committed: every figure of ``reference``."""
    root = tmp_path_factory.mktemp("figures")
    for name, df in frames.items():
        save_figure(draw(name, df), df, name, folder=root / "reference")
    for name, df in make_tables().items():
        save_table(df, name, folder=root / "reference")
    return root


@pytest.fixture
def csv_folder(central_frames, tmp_path):
    """Only the csv files of Figs. 1 to 4, which a test may change."""
    for name, df in (central_frames | make_tables()).items():
        df.to_csv(tmp_path / f"{name}.csv", index=False)
    return tmp_path
