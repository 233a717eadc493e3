"""Sensitivity to one setting at a time, and the figure with sliders."""

from __future__ import annotations

import base64
import math

import numpy as np
import pandas as pd
import pytest
from synthetic_runs import COSTS, LOCAL_STEPS, make_runs, make_sensitivity

from fedquad.config import InputError, get_profile
from fedquad.federation import plans
from fedquad.report.explorers import explore_selection, explored_frame, selection_figure
from fedquad.report.figures import draw
from fedquad.report.figures.sensitivity import MEASURES
from fedquad.report.frames import sensitivity_frame, sensitivity_frames
from fedquad.report.frames.sensitivity import parse_options


def runs_with(**varied) -> list[dict]:
    [(name, values)] = varied.items()
    return [{name: value, "num_rounds": 2} for value in values]


def test_a_run_is_one_row_with_its_last_accuracy_and_its_totals():
    rounds, _ = make_runs(runs_with(lora_rank=(16, 4)))
    df = sensitivity_frame(rounds, "lora_rank", profile="reference")
    assert df["setting_value"].tolist() == ["4", "16"]
    assert df["position"].tolist() == [0, 1]
    assert df["is_default"].tolist() == [False, True]
    for row, (_, run) in zip(df.itertuples(), rounds.groupby("lora_rank"), strict=True):
        assert row.accuracy == run["accuracy"].iloc[-1]
        assert row.sim_time_s == pytest.approx(run["round_time_s"].sum())
        assert row.mean_waiting_time_s == pytest.approx(run["mean_waiting_time_s"].mean())
        assert row.num_rounds == 2


def test_an_option_that_is_not_spelled_out_stands_at_its_default():
    rounds, _ = make_runs(runs_with(options=("reward_offset_s=1", "", "reward_offset_s=0.01")))
    df = sensitivity_frame(rounds, "reward_offset_s", profile="reference")
    assert df["setting_value"].tolist() == ["0.0001", "0.01", "1"]
    assert df["is_default"].tolist() == [True, False, False]


def test_methods_without_the_option_are_left_out():
    other = {"num_rounds": 2, "options": "first_mean_time_scale=2"}
    rounds, _ = make_runs([{"num_rounds": 2}, {"num_rounds": 2, "method": "fedra"}, other])
    df = sensitivity_frame(rounds, "first_mean_time_scale", profile="reference")
    assert set(df["method"]) == {"fedquad"}
    with pytest.raises(InputError, match="reward_offset_s"):
        sensitivity_frame(rounds, "no_such_setting", profile="reference")


def test_names_stay_in_order_and_an_infinite_alpha_is_last():
    rounds, _ = make_runs(runs_with(budget_policy=("strict", "layers")))
    df = sensitivity_frame(rounds, "budget_policy", profile="reference")
    assert df["setting_value"].tolist() == ["strict", "layers"]
    rounds, _ = make_runs(runs_with(partition_alpha=(math.inf, 0.5)))
    df = sensitivity_frame(rounds, "partition_alpha", profile="reference")
    assert df["setting_value"].tolist() == ["0.5", "inf"]


def test_each_setting_is_varied_with_all_others_at_their_defaults():
    runs = [
        {},
        {"lora_rank": 4},
        {"lora_rank": 8, "partition_alpha": 1.0},
        {"lora_rank": 8, "options": "reward_offset_s=1"},
        {"partition_alpha": 1.0},
        {"options": "reward_offset_s=1"},
        {"method": "fedra"},
        {"method": "fedra", "budget_policy": "strict"},
    ]
    rounds, _ = make_runs([{"num_rounds": 2, **run} for run in runs])

    def shown(by):
        df = sensitivity_frame(rounds, by, profile="reference")
        return list(zip(df["method"], df["setting_value"], strict=True))

    assert shown("lora_rank") == [("fedquad", "4"), ("fedquad", "16")]
    assert shown("partition_alpha") == [("fedquad", "1"), ("fedquad", "10")]
    assert shown("reward_offset_s") == [("fedquad", "0.0001"), ("fedquad", "1")]
    assert shown("budget_policy") == [("fedra", "layers"), ("fedra", "strict")]
    with pytest.raises(InputError, match="two values"):
        shown("throughput_model")


def test_settings_that_were_not_varied_are_left_out():
    runs = [{}, {"lora_rank": 4}, {"options": "reward_offset_s=1"}, {"method": "fedra"}]
    rounds, _ = make_runs([{"num_rounds": 2, **run} for run in runs])
    settings = ("reward_offset_s", "first_mean_time_scale", "lora_rank", "budget_policy", "balance")
    df = sensitivity_frames(rounds, settings, profile="reference")
    assert df["setting"].unique().tolist() == ["reward_offset_s", "lora_rank"]
    parts = [sensitivity_frame(rounds, by, profile="reference") for by in df["setting"].unique()]
    pd.testing.assert_frame_equal(df, pd.concat(parts, ignore_index=True))
    with pytest.raises(InputError, match="nothing varied"):
        sensitivity_frames(rounds, ["budget_policy", "balance"], profile="reference")


@pytest.mark.parametrize("name", ["smoke", "reference"])
def test_every_setting_that_is_shown_is_varied_by_the_plan(name):
    profile = get_profile(name)
    planned = plans.sensitivity_configs(profile) + plans.throughput_configs(profile)
    for setting in plans.VARIED:
        values = {
            (
                config.method,
                dict(config.method_options).get(setting, getattr(config, setting, None)),
            )
            for config in planned
        }
        methods = [method for method, _ in values]
        assert any(methods.count(method) > 1 for method in methods), setting


def test_runs_of_different_sizes_or_twice_the_same_are_refused():
    varied = [{"lora_rank": 4}, {"lora_rank": 16}]
    larger = {"lora_rank": 8, "num_devices": 12}
    rounds, _ = make_runs([{"num_rounds": 2, **run} for run in [*varied, larger]])
    with pytest.raises(InputError, match="num_devices"):
        sensitivity_frame(rounds, "lora_rank", profile="reference")
    rounds, _ = make_runs([{"num_rounds": 2, **run} for run in varied])
    twice = pd.concat([rounds, rounds.assign(run_id=rounds["run_id"] + " again")])
    with pytest.raises(InputError, match="once"):
        sensitivity_frame(twice, "lora_rank", profile="reference")


def test_options_are_read_as_the_tables_write_them():
    assert parse_options("") == {}
    assert parse_options("beta=0.5,gamma=1e-05") == {"beta": 0.5, "gamma": 1e-5}


def test_the_figure_has_a_row_a_setting_and_marks_the_default():
    figure = draw("fig_sensitivity", make_sensitivity(1))
    assert len(figure.axes) == 2 * len(MEASURES)
    labels = figure.axes[0].get_xticklabels()
    assert [(text.get_text(), text.get_fontweight()) for text in labels] == [
        ("0.5", "normal"),
        ("10", "bold"),
        ("inf", "normal"),
    ]


def test_explored_devices_are_those_of_algorithm_1():
    memory = (COSTS.fixed_bytes + 6 * COSTS.bytes_per_lora_layer) / 1e9
    seconds = LOCAL_STEPS * (COSTS.forward_flops + 3 * COSTS.flops_per_lora_layer) / 1e12
    df = explored_frame(
        COSTS, [(memory, 1.0, seconds), (memory, 1.0, 1e6)], local_steps=LOCAL_STEPS
    )
    chosen = df[df["chosen"]].set_index("device_id")
    assert chosen.loc["device 1", "depth"] == 3
    # Far above every time: the deepest that fits comes nearest.
    assert chosen.loc["device 2", "depth"] == df.loc[df["feasible"], "depth"].max()
    assert (df["depth_budget"] == 6).all()
    weighted = explored_frame(
        COSTS,
        [(memory, 1.0, 0.0)],
        gradient_norms=np.eye(12)[-1],
        local_steps=LOCAL_STEPS,
    )
    assert weighted.loc[weighted["chosen"], "depth"].item() == 1


def test_a_setting_in_which_nothing_fits_is_drawn():
    figure = selection_figure(COSTS, [(0.1, 1.0, 100.0)], local_steps=LOCAL_STEPS)
    assert len(figure.axes) == 3


@pytest.mark.slow
def test_without_a_kernel_the_sliders_are_a_picture(capsys):
    explorer = explore_selection(
        COSTS, mean_time_s=300.0, flops_per_second=1e12, local_steps=LOCAL_STEPS
    )
    bundle = explorer._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert base64.b64decode(bundle["image/png"]).startswith(b"\x89PNG")
    assert len(explorer.still.axes) == 9
    memory, speed, mean_time, _ = explorer.controls.children
    assert (speed.value, mean_time.value) == (1.0, 300.0)
    capsys.readouterr()
    memory.value = memory.min
    assert "Figure" in capsys.readouterr().out  # drawn anew, here as text
