"""What the frames of Figure 4 make of costs, step times and runs."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from fedquad.config import InputError, LayerConfig
from fedquad.report.frames import (
    checkpointing_frame,
    quantized_accuracy_frame,
    quantized_memory_frame,
    synergy_accuracy_frame,
    synergy_cost_frame,
)
from fedquad.report.frames.fig04_costs import point_label
from fedquad.runs.plans import synergy_points

SETTING = {"model": "roberta-base", "batch_size": 32, "length": 128, "profile": "smoke"}
POINTS = synergy_points(12)


def test_memory_falls_by_what_the_quantized_layers_do_not_keep(frames, cost_of):
    df = frames["fig04a_quantization_memory"].set_index(["saving", "quantized"])
    plain, all_but_last = cost_of(12), cost_of(12, num_quantized=11)
    assert df.loc[("counted", 0), "total"] == plain.total_bytes
    assert df.loc[("counted", 11), "total"] == all_but_last.total_bytes
    assert df.loc[("counted", 11), "kept_bytes"] == all_but_last.activation_bytes
    assert df.loc[("counted", 11), "cut_percent"] == pytest.approx(75)
    assert df.loc[("counted", 0), "percent"] == 100
    assert np.isnan(df.loc[("counted", 0), "cut_percent"])


def test_the_papers_saving_is_that_of_equation_11(frames, layer_costs, cost_of):
    df = frames["fig04a_quantization_memory"].set_index(["saving", "quantized"])
    saved = 8 * layer_costs.bytes_saved_per_quantized_layer
    assert df.loc[("paper", 8), "total"] == cost_of(12).total_bytes - saved
    assert df.loc[("paper", 8), "cut_percent"] == pytest.approx(58)
    assert set(df["paper_cut_percent"]) == {58}


def test_checkpointing_is_one_row_of_the_memory(frames):
    df = frames["fig04a_quantization_memory"]
    [row] = df[df["saving"] == "checkpointing"].to_dict("records")
    assert row["quantized"] == 0
    assert row["kept_bytes"] == 12 * 12_600_000 + 10_000_000


def test_memory_without_its_starting_point_is_refused(layer_costs, cost_of):
    with pytest.raises(InputError, match=r"costs = \[1\] .* 0 among them"):
        quantized_memory_frame({1: cost_of(12)}, layer_costs, cost_of(12), **SETTING)


def test_only_full_depth_and_eight_bits_are_in_the_sweep(quantized_runs_of, point_runs_of):
    runs = quantized_runs_of({0: 0.7, 8: 0.71}, seeds=2)
    coarse = quantized_runs_of({8: 0.4}, seeds=2).assign(activation_bits=4)
    full = quantized_runs_of({8: 0.9}, seeds=2).assign(tuning="full")
    elsewhere = quantized_runs_of({8: 0.9}, seeds=2).assign(quantized=np.nan)
    mixed = pd.concat([coarse, full, elsewhere, point_runs_of((0.6, 0.65, 0.66), 2), runs])
    df = quantized_accuracy_frame(mixed, num_layers=12, profile="smoke")
    assert list(df["quantized"]) == [0, 0, 8, 8]
    assert df.groupby("quantized")["accuracy"].mean().round(2).to_dict() == {0: 0.7, 8: 0.71}
    assert df["quantized"].dtype.kind == "i"


def test_the_papers_gain_stands_at_two_thirds_of_the_layers(quantized_runs_of):
    df = quantized_accuracy_frame(
        quantized_runs_of({0: 0.7, 4: 0.7, 8: 0.71, 11: 0.7}), num_layers=12, profile="smoke"
    )
    stated = df.dropna(subset=["paper_gain_points"]).set_index("quantized")["paper_gain_points"]
    assert stated.to_dict() == {0: 0, 8: 0.8}


def test_a_sweep_without_runs_is_refused(point_runs_of):
    with pytest.raises(InputError, match="full depth"):
        quantized_accuracy_frame(point_runs_of((0.6, 0.65, 0.66)), num_layers=12, profile="smoke")


def test_points_are_found_among_other_runs_and_keep_their_order(point_runs_of, quantized_runs_of):
    runs = pd.concat([quantized_runs_of({0: 0.9, 8: 0.9}), point_runs_of((0.7, 0.65, 0.6))])
    df = synergy_accuracy_frame(runs[::-1], POINTS, num_layers=12, profile="smoke")
    assert list(df["point"].unique()) == ["(5, 0)", "(8, 5)", "(10, 9)"]
    assert list(df["position"]) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert list(df["seed"]) == [0, 1, 2] * 3
    assert df.groupby("position")["depth"].first().tolist() == [5, 8, 10]
    assert df.groupby("position")["quantized"].first().tolist() == [0, 5, 9]
    paper = df.groupby("position")["paper_percent"].first()
    assert paper.tolist() == pytest.approx([77.55, 81.91, 82.23])


def test_a_point_without_a_run_is_named(point_runs_of):
    runs = point_runs_of((0.7, 0.65, 0.6))
    runs = runs[runs["depth"] != 8]
    with pytest.raises(InputError, match=r"\(8, 5\)"):
        synergy_accuracy_frame(runs, POINTS, num_layers=12, profile="smoke")


def test_tasks_keep_their_order(point_runs_of):
    runs = pd.concat([point_runs_of((0.7, 0.7, 0.7), task=task) for task in ("sst2", "mnli")])
    df = synergy_accuracy_frame(runs, POINTS, num_layers=12, profile="smoke")
    assert list(df["task"].unique()) == ["sst2", "mnli"]


def test_points_are_priced_by_equations_6_and_11(frames, layer_costs):
    df = frames["fig04b_synergy_cost"].set_index(["source", "saving", "position"])
    costs = layer_costs
    total = df.loc[("accounting", "paper", 1), "total"]
    assert total == costs.fixed_bytes + 8 * costs.bytes_per_lora_layer - 5 * 110_200_000
    flops = df.xs("flops").droplevel("saving").loc[2]
    assert flops["forward"] == costs.forward_flops
    assert flops["backward"] == 10 * costs.flops_per_lora_layer
    assert flops["quantization"] == 9 * costs.flops_per_quantized_layer
    assert flops["total"] == flops[["forward", "backward", "quantization"]].sum()


def test_bytes_relate_to_the_first_point_and_latency_to_the_second(frames):
    df = frames["fig04b_synergy_cost"]
    for _, rows in df[df["source"] == "accounting"].groupby("saving"):
        assert rows.set_index("position")["percent"][0] == 100
        assert rows["paper_percent"].isna().all()
    for source in ("flops", "measured"):
        rows = df[df["source"] == source].set_index("position")
        assert rows["percent"][1] == 100
        assert rows["paper_percent"][1] == 100
        assert rows["paper_percent"][2] == pytest.approx(170.3)
        assert np.isnan(rows["paper_percent"][0])
    measured = df[df["source"] == "measured"].set_index("position")
    assert measured["percent"][2] == pytest.approx(130)
    assert measured["from_record"].all()
    assert not df.loc[df["source"] != "measured", "from_record"].any()


def test_a_timed_model_of_other_depth_has_its_own_points(measured_of, cost_of, layer_costs):
    own = synergy_points(6)
    seconds = {"none": 1.0, **{point_label(p): at + 1.0 for at, p in enumerate(own)}}
    df = synergy_cost_frame(
        {point: cost_of(point.depth, num_quantized=point.quantized) for point in POINTS},
        layer_costs,
        measured=measured_of("setting", seconds),
        measured_points=own,
        **SETTING,
    )
    measured = df[df["source"] == "measured"]
    assert list(measured["point"]) == ["(3, 0)", "(4, 2)", "(5, 4)"]
    assert list(measured["position"]) == [0, 1, 2]
    assert list(measured["percent"]) == [50, 100, 150]


def test_one_point_is_no_comparison(cost_of, layer_costs):
    with pytest.raises(InputError, match="two configurations"):
        synergy_cost_frame({LayerConfig(5): cost_of(5)}, layer_costs, **SETTING)


def methods(cost_of):
    return {
        "none": cost_of(12),
        "quantization": cost_of(12, num_quantized=11),
        "checkpointing": cost_of(12, layer_bytes=12_600_000),
    }


def test_methods_are_compared_within_each_measurement(cost_of, measured_of):
    slow = {"none": 2.0, "quantization": 3.0, "checkpointing": 5.0, "(5, 0)": 1.0}
    fast = {"checkpointing": 0.3, "none": 0.2, "quantization": 0.21}
    measured = {
        "profile": measured_of("setting", slow),
        "benchmark": measured_of("setting", fast, model="roberta-base", torch_device="a GPU"),
    }
    df = checkpointing_frame(methods(cost_of), measured, **SETTING)
    assert list(df["method"]) == ["none", "quantization", "checkpointing"] * 2
    added = df.set_index(["measurement", "method"])["added_percent"]
    assert added["profile"].tolist() == pytest.approx([0, 50, 150])
    assert added["benchmark"].tolist() == pytest.approx([0, 5, 50])
    assert df["paper_added_percent"].tolist() == [0, 36, 83] * 2
    first = df.set_index("method").loc["quantization"].iloc[0]
    assert first["timed_model"] == "embedded"
    assert first["kept_bytes"] == cost_of(12, num_quantized=11).activation_bytes
    assert first["peak_percent"] < 100
    assert df.notna().all(axis=None)


def test_a_method_that_is_missing_is_named(cost_of, measured_of):
    seconds = {"none": 2.0, "quantization": 3.0}
    with pytest.raises(InputError, match=r"profile without .*checkpointing"):
        checkpointing_frame(
            methods(cost_of), {"profile": measured_of("setting", seconds)}, **SETTING
        )
    with pytest.raises(InputError, match=r"costs without .*quantization"):
        checkpointing_frame({"none": cost_of(12)}, {}, **SETTING)
