"""Frames of Algorithm 1: what they say is what the algorithm does, and what the run recorded."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from synthetic_runs import COSTS, LOCAL_STEPS, gradient_norms, make_run, make_runs

from fedquad.config import Assignment, InputError, LayerConfig
from fedquad.methods.selection_problem import SelectionProblem
from fedquad.methods.yardstick import measure_yardstick
from fedquad.report.frames import (
    configurations_frame,
    predictions_frame,
    round_problem,
    selection_example_frame,
    selection_frame,
    workflow_frame,
    yardstick_frame,
)
from fedquad.report.frames.predictions import fixed_point_frame, straggler_frame

LAYERS = COSTS.num_layers


@pytest.fixture(scope="module")
def run() -> tuple[pd.DataFrame, pd.DataFrame]:
    return make_run(num_rounds=3)


def test_every_candidate_is_the_first_that_fits_and_is_priced_as_an_assignment():
    budgets = [COSTS.fixed_bytes + COSTS.bytes_per_lora_layer * depth for depth in (1, 4, 12)]
    problem = SelectionProblem(
        costs=COSTS,
        memory_budget_bytes=[budget + 1000 for budget in budgets],
        flops_per_second=[1e12, 2e12, 3e12],
        gradient_norms=np.arange(1.0, 13.0),
        mean_completion_time_s=300.0,
        local_steps=LOCAL_STEPS,
    )
    df = selection_frame(problem, ["a", "b", "c"])
    assert len(df) == 3 * LAYERS
    for row in df.itertuples():
        fitting = [
            (quantized, price)
            for quantized in range(row.depth)
            for price in [
                COSTS.price(Assignment.from_layer_config(LayerConfig(row.depth, quantized), LAYERS))
            ]
            if price.bytes <= row.memory_budget_bytes
        ]
        assert row.feasible == bool(fitting)
        if not fitting:
            assert np.isnan(row.quantized)
            assert np.isnan(row.reward)
            continue
        quantized, price = fitting[0]
        assert (row.quantized, row.memory_bytes) == (quantized, price.bytes)
        seconds = LOCAL_STEPS * price.flops / row.flops_per_second
        assert row.completion_time_s == pytest.approx(seconds)
        gain = sum(range(13 - row.depth, 13))
        assert row.expected_gain == gain
        assert row.reward == pytest.approx(gain / (abs(seconds - 300) + 1e-4))
    for _, rows in df.groupby("device_id"):
        assert rows["chosen"].sum() == 1
        assert rows.loc[rows["chosen"], "reward"].iloc[0] == rows["reward"].max()


def test_a_device_that_fits_nothing_has_no_choice():
    problem = SelectionProblem(
        costs=COSTS,
        memory_budget_bytes=[COSTS.fixed_bytes],
        flops_per_second=[1e12],
        gradient_norms=np.ones(LAYERS),
        mean_completion_time_s=1.0,
    )
    df = selection_frame(problem, ["small"])
    assert not df["feasible"].any()
    assert not df["chosen"].any()
    with pytest.raises(InputError, match="device_ids"):
        selection_frame(problem, ["small", "other"])


def test_the_example_shows_two_devices_of_the_round_as_the_run_recorded_them(run):
    rounds, devices = run
    df = selection_example_frame(
        rounds,
        devices,
        COSTS,
        gradient_norms(2),
        local_steps=LOCAL_STEPS,
        round_number=2,
        profile="reference",
    )
    assert list(df["device_class"].drop_duplicates()) == ["strong", "weak"]
    before = rounds.loc[rounds["round"] == 1, "mean_completion_time_s"].iloc[0]
    assert (df["mean_time_s"] == before).all()
    recorded = devices[devices["round"] == 2].set_index("device_id")
    for row in df[df["chosen"]].itertuples():
        own = recorded.loc[row.device_id]
        assert (row.depth, row.quantized) == (own["depth"], own["quantized"])
        assert row.completion_time_s == own["completion_time_s"]


def test_the_first_round_has_the_first_t_avg_of_all_devices(run):
    rounds, devices = run
    problem, rows = round_problem(
        rounds, devices, COSTS, gradient_norms(1), local_steps=LOCAL_STEPS, round_number=1
    )
    unquantized = (COSTS.forward_flops + COSTS.flops_per_lora_layer * rows["depth_budget"]) * (
        LOCAL_STEPS / rows["flops_per_second"]
    )
    assert problem.mean_completion_time_s == pytest.approx(unquantized.mean())


def test_inputs_under_which_the_recorded_choice_does_not_follow_are_refused(run):
    rounds, devices = run
    priced = {"local_steps": LOCAL_STEPS, "round_number": 2}
    with pytest.raises(InputError, match="as recorded for"):
        round_problem(rounds, devices, COSTS, np.eye(12)[-1], **priced)
    with pytest.raises(InputError, match="1 to 3"):
        round_problem(rounds, devices, COSTS, np.ones(12), local_steps=LOCAL_STEPS, round_number=4)
    with pytest.raises(InputError, match="exactly one"):
        round_problem(*make_runs([{"seed": 0}, {"seed": 1}]), COSTS, np.ones(12), **priced)
    with pytest.raises(InputError, match="classes"):
        selection_example_frame(
            rounds,
            devices,
            COSTS,
            gradient_norms(2),
            profile="reference",
            classes=("strong", "tiny"),
            **priced,
        )


def test_a_straggler_is_sent_deeper_the_further_t_avg_lies_below_its_forward_pass():
    options = {"depth_budget": 6, "flops_per_second": 1e12, "local_steps": LOCAL_STEPS}
    df = straggler_frame(COSTS, mean_time_shares=(0.98, 0.8, 0.0), **options)
    chosen = df[df["chosen"]].set_index("mean_time_share")["depth"]
    # t(0) is 0.92 of t(1): only above it does the device stay at depth 1.
    assert COSTS.forward_flops / (COSTS.forward_flops + COSTS.flops_per_lora_layer) < 0.98
    assert chosen[0.98] == 1
    assert chosen[0.8] == 6
    assert chosen[0.0] >= 6
    unquantized = df[(df["mean_time_share"] == 0.8) & (df["depth"] <= 6)]
    assert unquantized["reward"].is_monotonic_increasing
    assert (df["completion_time_s"] > df["mean_time_s"]).all()
    with pytest.raises(InputError, match="below 1"):
        straggler_frame(COSTS, mean_time_shares=(1.0,), **options)


@pytest.mark.parametrize("start", range(1, LAYERS + 1))
def test_equal_devices_stay_where_they_began(start):
    df = fixed_point_frame(
        COSTS, flops_per_second=1e12, local_steps=LOCAL_STEPS, start_depths=[start], num_rounds=4
    )
    assert (df["depth"] == start).all()
    assert df["mean_time_s"].to_numpy() == pytest.approx(df["mean_time_s"].iloc[0])


def test_predictions_hold_both_panels_and_say_that_nothing_was_trained():
    df = predictions_frame(
        COSTS, model="roberta-large", profile="smoke", flops_per_second=1e12, local_steps=3
    )
    assert set(df["panel"]) == {"straggler", "fixed point"}
    assert "seed" not in df
    assert set(df.loc[df["panel"] == "fixed point", "start_depth"]) == {1, 6, 12}


def test_configurations_carry_what_it_takes_to_check_each_choice(run):
    df = configurations_frame(*run, COSTS, profile="reference")
    assert len(df) == 30
    assert list(df["device_class"].drop_duplicates()) == ["strong", "moderate", "weak"]
    for row in df.itertuples():
        prices = {
            pair: COSTS.price(Assignment.from_layer_config(LayerConfig(*pair), LAYERS)).flops
            for pair in ((row.depth, row.quantized), (row.depth_budget, 0))
        }
        steps = row.completion_time_s / prices[row.depth, row.quantized]
        assert row.unquantized_time_s == pytest.approx(steps * prices[row.depth_budget, 0])
    assert (df["bytes_per_lora_layer"] == COSTS.bytes_per_lora_layer).all()


def test_costs_of_other_runs_are_refused(run):
    with pytest.raises(InputError, match="as the run recorded"):
        configurations_frame(*run, COSTS.of_layers(6), profile="reference")


def test_other_methods_levels_and_models_are_left_out_and_doubles_are_refused():
    tables = make_runs(
        [
            {"num_rounds": 2},
            {"num_rounds": 2, "method": "fedra"},
            {"num_rounds": 2, "heterogeneity": "low"},
            {"num_rounds": 2, "reference_model": "bert-large"},
            {"num_rounds": 2, "options": "reward_offset_s=1"},
        ]
    )
    df = configurations_frame(*tables, COSTS, profile="reference")
    assert len(df) == 20
    assert set(df["reference_model"]) == {"roberta-large"}
    twice = make_runs([{"num_rounds": 2}, {"num_rounds": 2, "lora_rank": 8}])
    with pytest.raises(InputError, match="each of them once"):
        configurations_frame(*twice, COSTS, profile="reference")
    with pytest.raises(InputError, match="medium"):
        configurations_frame(*tables, COSTS, profile="reference", heterogeneity="medium")


def test_the_workflow_is_one_round_and_counts_who_was_left_out(run):
    rounds, devices = run
    devices = devices.copy()
    absent = (devices["round"] == 2) & (devices["device_id"] == "000")
    devices.loc[absent, ["participated", "depth"]] = [False, 0]
    devices.loc[absent, ["completion_time_s", "waiting_time_s"]] = float("nan")
    df = workflow_frame(rounds, devices, profile="reference", round_number=2)
    assert len(df) == 9
    assert "000" not in set(df["device_id"])
    assert (df["skipped"] == 1).all()
    assert (df["num_layers"] == 12).all()
    for _, rows in df.groupby("device_class"):
        assert rows["completion_time_s"].is_monotonic_increasing
    assert workflow_frame(rounds, devices, profile="reference")["round"].iloc[0] == 3
    with pytest.raises(InputError, match="1 to 3"):
        workflow_frame(rounds, devices, profile="reference", round_number=9)


def test_the_yardstick_relates_every_choice_to_the_highest_reward(run):
    problem, _ = round_problem(
        *run, COSTS, gradient_norms(2), local_steps=LOCAL_STEPS, round_number=2
    )
    yardstick = measure_yardstick(problem)
    df = yardstick_frame({2: yardstick}, model="roberta-large", profile="reference")
    row = df.set_index("choice")
    assert row.loc["greedy", "reward_percent"] == pytest.approx(100 * yardstick.reward_ratio)
    assert row.loc["most_rewarding", "reward_percent"] == pytest.approx(100)
    assert (df["reward_percent"] <= 100 + 1e-9).all()
    assert row.loc["fastest", "round_time_s"] <= row.loc["greedy", "round_time_s"]
    with pytest.raises(InputError, match="at least one round"):
        yardstick_frame({}, model="roberta-large", profile="reference")
