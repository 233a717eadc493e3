"""What the frames make of costs, runs and the paper's numbers."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from fedquad.config import InputError
from fedquad.report.frames import (
    communication_frame,
    depth_accuracy_frame,
    depth_cost_frame,
    memory_frame,
    position_accuracy_frame,
    position_cost_frame,
)
from fedquad.runs.plans import layer_groups
from fedquad.runs.results import format_layers, parse_layers

SETTING = {"batch_size": 32, "length": 128, "profile": "smoke"}


@pytest.mark.parametrize("layers", [(0,), (11,), (0, 1, 2), (0, 2, 3, 7), tuple(range(24))])
def test_layers_come_back_from_their_text(layers):
    assert parse_layers(format_layers(layers)) == layers


def test_layers_that_are_no_ranges_are_refused():
    with pytest.raises(InputError, match="layers"):
        parse_layers("all")


def test_memory_parts_add_up_and_the_paper_stands_beside(frames):
    df = frames["fig01b_memory"].set_index(["tuning", "batch_size"])
    parts = ["weight_bytes", "gradient_bytes", "optimizer_bytes", "activation_bytes"]
    assert (df[parts].sum(axis=1) == df["total_bytes"]).all()
    assert df.loc[("lora", 16), "paper_share_percent"] == 85.1
    assert df.loc[("lora", 32), "paper_total_bytes"] == 17.4e9
    assert df.loc[("full", 32), "paper_total_bytes"] == 25e9
    assert np.isnan(df.loc[("full", 32), "paper_share_percent"])


def test_paper_values_are_those_of_its_own_model_only(cost_of):
    df = memory_frame({("lora", 32, 256): cost_of(12)}, model="bert-large", profile="smoke")
    assert df.filter(like="paper").isna().all(axis=None)


def test_communication_share_is_time_over_time(frames):
    df = frames["fig01a_communication"]
    whole = df["communication_time_s"] + df["compute_time_s"]
    assert df["share_percent"].to_numpy() == pytest.approx(100 * df["communication_time_s"] / whole)
    stated = df.dropna(subset=["paper_percent"]).set_index(["tuning", "network"])["paper_percent"]
    assert stated.to_dict() == {("lora", "3G"): 0.5, ("lora", "4G"): 0.1}


def test_position_percentages_use_the_papers_baselines(frames):
    df = frames["fig02a_layer_position_cost"].set_index(["source", "group"])
    assert df.loc[("accounting", "A"), "percent"] == 100
    assert df.loc[("flops", "S"), "percent"] == 100
    assert df.loc[("measured", "D"), "percent"] == pytest.approx(100 * 0.06 / 0.098)
    assert df.loc[("accounting", "D"), "paper_percent"] == 46.5
    assert df.loc[("flops", "D"), "paper_percent"] == pytest.approx(100 / 1.87)
    assert df.loc[("accounting", "M"), "layers"] == "4-7"


def test_measured_rows_keep_the_order_of_the_configurations(frames):
    df = frames["fig01c_latency"]
    assert list(df["tuning"]) == ["lora", "full", "lora", "full"]
    assert list(df["source"]) == ["flops", "flops", "measured", "measured"]


def test_counting_is_done_now_and_seconds_may_come_from_the_record(frames):
    df = frames["fig03b_depth_cost"]
    assert df.groupby("source")["from_record"].unique().map(list).to_dict() == {
        "accounting": [False],
        "flops": [False],
        "measured": [True],
    }


def test_position_runs_are_found_among_depth_runs(runs_of):
    groups = layer_groups(6)
    spec = {tuple(range(6 - d, 6)): 0.5 for d in range(1, 7)}
    spec |= dict.fromkeys(groups.values(), 0.6)
    df = position_accuracy_frame(runs_of(spec, seeds=2), groups, profile="glue")
    assert list(df["group"].drop_duplicates()) == list(groups)
    assert len(df) == 2 * len(groups)
    assert dict(zip(df["group"], df["layers"], strict=True))["MD"] == "2-5"


def test_a_group_without_a_run_is_named(runs_of):
    with pytest.raises(InputError, match="'M'"):
        position_accuracy_frame(
            runs_of({(0,): 0.5}, seeds=1), {"S": (0,), "M": (1,)}, profile="smoke"
        )


def test_runs_of_full_fine_tuning_are_left_out(runs_of):
    full = runs_of({tuple(range(12)): 0.9}, seeds=1).assign(tuning="full")
    runs = pd.concat([full, runs_of({tuple(range(12)): 0.7, (11,): 0.5}, seeds=1)])
    df = depth_accuracy_frame(runs, num_layers=12, profile="smoke")
    assert df.set_index("depth")["accuracy"].to_dict() == {1: 0.5, 12: 0.7}


def test_quantized_runs_belong_to_figure_four(runs_of):
    whole = tuple(range(12))
    runs = [runs_of({whole: 0.7}, seeds=1), runs_of({whole: 0.9}, seeds=1, num_quantized=8)]
    df = depth_accuracy_frame(pd.concat(runs), num_layers=12, profile="smoke")
    assert list(df["accuracy"]) == [0.7]


def test_layers_that_do_not_reach_the_output_have_no_depth(runs_of):
    runs = runs_of({(0, 1): 0.5, (10, 11): 0.6}, seeds=1)
    df = depth_accuracy_frame(runs, num_layers=12, profile="smoke")
    assert list(df["depth"]) == [2]
    with pytest.raises(InputError, match="results"):
        depth_accuracy_frame(runs.iloc[:1], num_layers=12, profile="smoke")


def test_paper_accuracy_stands_at_the_same_share_of_the_layers(runs_of):
    of_six = {tuple(range(6 - d, 6)): 0.5 for d in range(1, 7)}
    df = depth_accuracy_frame(runs_of(of_six, seeds=1), num_layers=6, profile="glue")
    stated = df.dropna(subset=["paper_percent"]).set_index("depth")["paper_percent"]
    assert stated.to_dict() == pytest.approx({1: 67.0, 2: 73.4, 4: 82.8, 6: 83.2})


def test_accuracy_that_its_answers_do_not_give_is_refused(runs_of):
    runs = runs_of({tuple(range(12)): 0.7}, seeds=1).assign(accuracy=0.8)
    with pytest.raises(InputError, match="accuracy"):
        depth_accuracy_frame(runs, num_layers=12, profile="smoke")


def test_bad_input_of_cost_frames_is_named(cost_of):
    groups = layer_groups(12)
    with pytest.raises(InputError, match="group = A"):
        position_cost_frame({"S": cost_of(12)}, groups, model="roberta-base", **SETTING)
    with pytest.raises(InputError, match="costs"):
        depth_cost_frame({}, model="roberta-base", **SETTING)
    with pytest.raises(InputError, match="total_s"):
        depth_cost_frame(
            {1: cost_of(1)}, model="x", measured=pd.DataFrame({"depth": [1]}), **SETTING
        )
    with pytest.raises(InputError, match="shares"):
        communication_frame([], model="roberta-large", flops_per_second=1e12, profile="smoke")


def test_tasks_keep_the_order_of_the_runs(runs_of):
    spec = {tuple(range(12 - d, 12)): 0.5 for d in (1, 8, 12)}
    runs = pd.concat([runs_of(spec, 1, task="sst2"), runs_of(spec, 1, task="mnli")])
    df = depth_accuracy_frame(runs, num_layers=12, profile="glue")
    assert list(df["task"].unique()) == ["sst2", "mnli"]
    assert list(df["depth"]) == [1, 8, 12, 1, 8, 12]
