"""Claims on Figure 4, judged on figures whose content is known."""

from __future__ import annotations

import numpy as np
import pytest

from fedquad.report.claims import judge
from fedquad.report.comparison import comparison_table
from fedquad.report.frames import quantized_accuracy_frame, synergy_accuracy_frame
from fedquad.report.saving import load_figure_csv
from fedquad.runs.plans import synergy_points
from fedquad.runs.results import pack

TABLE = "tab_fig04_checkpointing"


def change(folder, name, edit):
    df = load_figure_csv(name, folder=folder)
    df = edit(df)
    df.to_csv(folder / f"{name}.csv", index=False)


def row_of(folder, id):
    return judge(folder, ["fig04"]).set_index("id").loc[id]


@pytest.mark.parametrize(
    ("cut", "expected"),
    [(75.5, "reproduced"), (58, "reproduced"), (57, "qualitatively"), (39, "not reproduced")],
)
def test_the_cut_is_that_of_the_blocks_that_are_stored(csv_folder, cut, expected):
    def edit(df):
        df.loc[df["saving"] == "counted", "cut_percent"] = cut
        return df

    change(csv_folder, "fig04a_quantization_memory", edit)
    row = row_of(csv_folder, "quant-mem-cut")
    assert (row["verdict"], row["reproduced"], row["paper"]) == (expected, cut, 58)


@pytest.mark.parametrize(
    ("bend", "expected"), [(0.0, "reproduced"), (0.5, "qualitatively"), (2.0, "not reproduced")]
)
def test_memory_is_held_against_a_line(csv_folder, bend, expected):
    def edit(df):
        df["total"] += bend * 1e7 * (df["quantized"] - 5.5) ** 2
        return df

    change(csv_folder, "fig04a_quantization_memory", edit)
    assert row_of(csv_folder, "quant-mem-linear")["verdict"] == expected


def test_another_accounting_model_is_not_judged(csv_folder):
    change(csv_folder, "fig04a_quantization_memory", lambda df: df.assign(model="bert-base"))
    row = row_of(csv_folder, "quant-mem-cut")
    assert row["verdict"] == "not attempted (no accounting of roberta-base)"


def save_sweep(folder, runs, num_layers=12):
    frame = quantized_accuracy_frame(runs, num_layers=num_layers, profile="reference")
    frame.to_csv(folder / "fig04a_quantization_accuracy.csv", index=False)


@pytest.mark.parametrize(
    ("id", "at_two_thirds", "expected"),
    [
        ("quant-acc-harmless", 0.70, "reproduced"),
        ("quant-acc-harmless", 0.72, "reproduced"),
        ("quant-acc-harmless", 0.6975, "qualitatively"),
        ("quant-acc-harmless", 0.66, "not reproduced"),
        ("quant-acc-gain", 0.75, "reproduced"),
        ("quant-acc-gain", 0.7025, "qualitatively"),  # one row of 400
        ("quant-acc-gain", 0.70, "not reproduced"),
        ("quant-acc-gain", 0.66, "not reproduced"),
    ],
)
def test_accuracy_with_two_thirds_quantized(
    csv_folder, quantized_runs_of, id, at_two_thirds, expected
):
    save_sweep(csv_folder, quantized_runs_of({0: 0.70, 4: 0.1, 8: at_two_thirds, 11: 0.1}))
    row = row_of(csv_folder, id)
    assert row["verdict"] == expected
    assert row["reproduced"] == pytest.approx(100 * (at_two_thirds - 0.70))
    assert row["quantity"] == "gain with 8 layers quantized over none"


def test_answers_that_differ_at_random_are_inconclusive(csv_folder, quantized_runs_of):
    runs = quantized_runs_of({0: 0.5, 8: 0.5}, num_eval=60).reset_index(drop=True)
    rng = np.random.default_rng(3)
    for idx in runs.index[runs["quantized"] == 8]:
        answers = rng.permutation(np.arange(60) < 29)
        runs.loc[idx, ["correct", "accuracy"]] = [pack(answers), answers.mean()]
    save_sweep(csv_folder, runs)
    row = row_of(csv_folder, "quant-acc-harmless")
    assert row["low"] < -1.5 < row["high"]
    assert row["verdict"] == "inconclusive"


def test_a_sweep_without_two_thirds_is_not_judged(csv_folder, quantized_runs_of):
    save_sweep(csv_folder, quantized_runs_of({0: 0.7, 4: 0.7}))
    row = row_of(csv_folder, "quant-acc-gain")
    assert row["verdict"] == "not attempted (no run with 8 quantized layers)"


def save_points(folder, runs):
    frame = synergy_accuracy_frame(runs, synergy_points(12), num_layers=12, profile="reference")
    frame.to_csv(folder / "fig04b_synergy_accuracy.csv", index=False)


@pytest.mark.parametrize(
    ("id", "accuracies", "num_eval", "expected"),
    [
        ("synergy-gain", (0.60, 0.70, 0.70), 400, "reproduced"),
        ("synergy-gain", (0.60, 0.625, 0.70), 40, "qualitatively"),
        ("synergy-gain", (0.70, 0.70, 0.80), 400, "not reproduced"),
        ("synergy-saturates", (0.60, 0.70, 0.7025), 400, "reproduced"),
        ("synergy-saturates", (0.60, 0.70, 0.75), 400, "qualitatively"),
        ("synergy-saturates", (0.60, 0.65, 0.80), 400, "not reproduced"),
        ("synergy-saturates", (0.60, 0.60, 0.80), 400, "not reproduced"),
    ],
)
def test_depth_that_quantization_pays_for(
    csv_folder, point_runs_of, id, accuracies, num_eval, expected
):
    save_points(csv_folder, point_runs_of(accuracies, num_eval=num_eval))
    assert row_of(csv_folder, id)["verdict"] == expected


def test_where_nothing_is_gained_nothing_saturates(csv_folder, point_runs_of):
    save_points(csv_folder, point_runs_of((0.70, 0.65, 0.60)))
    row = row_of(csv_folder, "synergy-saturates")
    assert "-5.0 after -5.0 points; the first is no gain" in row["reason"]


def test_the_gains_are_named_by_their_configurations(csv_folder):
    row = row_of(csv_folder, "synergy-gain")
    assert row["quantity"] == "gain from (5, 0) to (8, 5)"
    assert row["paper"] == 4.36
    assert row_of(csv_folder, "synergy-saturates")["paper"] == pytest.approx(7.34, abs=0.01)


@pytest.mark.parametrize(
    ("factor", "expected"),
    [(1.35, "reproduced"), (1.2, "qualitatively"), (0.9, "not reproduced")],
)
def test_latency_is_judged_by_flops_and_seconds_are_told(csv_folder, factor, expected):
    def edit(df):
        flops = df["source"] == "flops"
        second = df.loc[flops & (df["position"] == 1), "total"].iloc[0]
        df["total"] = df["total"].astype(float)
        df.loc[flops & (df["position"] == 2), "total"] = factor * second
        return df

    change(csv_folder, "fig04b_synergy_cost", edit)
    row = row_of(csv_folder, "synergy-latency")
    assert row["verdict"] == expected
    assert row["reproduced"] == pytest.approx(100 * (factor - 1))
    assert "measured +30.0 % (embedded on cpu)" in row["reason"]


def set_added(folder, measurement, **percents):
    def edit(df):
        for method, percent in percents.items():
            rows = (df["measurement"] == measurement) & (df["method"] == method)
            df.loc[rows, "added_percent"] = float(percent)
        return df

    change(folder, TABLE, edit)


@pytest.mark.parametrize(
    ("quantization", "checkpointing", "expected"),
    [
        (36, 83, "reproduced"),
        (40, 50, "qualitatively"),
        (50, 40, "not reproduced"),
        (-1, 40, "reproduced"),
    ],
)
def test_checkpointing_against_quantization(csv_folder, quantization, checkpointing, expected):
    set_added(csv_folder, "profile", quantization=quantization, checkpointing=checkpointing)
    row = row_of(csv_folder, "ckpt-latency")
    assert row["verdict"] == expected
    told = f"{checkpointing:+d} % against {quantization:+d} % (embedded on cpu)"
    assert told in row["reason"]
    assert "+35 % against +10 % (roberta-base on NVIDIA H100)" in row["reason"]


@pytest.mark.parametrize(
    ("added", "expected"), [(36, "reproduced"), (50, "qualitatively"), (61, "not reproduced")]
)
def test_what_quantization_adds_is_judged_on_a_gpu(csv_folder, added, expected):
    set_added(csv_folder, "profile", quantization=300)
    set_added(csv_folder, "benchmark", quantization=added)
    row = row_of(csv_folder, "quant-latency")
    assert row["verdict"] == expected
    assert row["reproduced"] == added
    assert "roberta-base on NVIDIA H100" in row["reason"]


def without_gpu(folder):
    change(folder, TABLE, lambda df: df[df["torch_device"] == "cpu"])


def test_without_a_gpu_it_is_not_attempted_and_the_cpu_is_told(csv_folder):
    without_gpu(csv_folder)
    row = row_of(csv_folder, "quant-latency")
    assert row["verdict"].startswith("not attempted (no measurement on a GPU; +40 % for embedded")
    assert np.isnan(row["reproduced"])


def test_a_profile_that_was_timed_on_a_gpu_is_measured_there(csv_folder):
    without_gpu(csv_folder)
    change(csv_folder, TABLE, lambda df: df.assign(torch_device="NVIDIA A6000"))
    row = row_of(csv_folder, "quant-latency")
    assert row["verdict"] == "qualitatively"
    assert "embedded on NVIDIA A6000" in row["reason"]


def test_the_papers_model_is_preferred_among_gpus(csv_folder):
    def edit(df):
        df.loc[df["measurement"] == "profile", "torch_device"] = "another GPU"
        return df

    change(csv_folder, TABLE, edit)
    assert "roberta-base on NVIDIA H100" in row_of(csv_folder, "quant-latency")["reason"]


def test_added_times_compare_on_the_papers_terms_only(csv_folder):
    table = comparison_table("fig04", csv_folder).set_index("id")
    assert table.loc["ckpt-latency", "reproduced"] == pytest.approx(35)
    assert table.loc["ckpt-latency", "difference_percent"] == pytest.approx(100 * (35 / 83 - 1))
    without_gpu(csv_folder)
    table = comparison_table("fig04", csv_folder).set_index("id")
    assert table.loc["quant-latency", "reproduced"] == pytest.approx(40)
    assert np.isnan(table.loc["quant-latency", "difference_percent"])
    assert table.loc["quant-latency", "note"] == "embedded on cpu: not compared"
