"""Fig. 9: who waits, for whom, and what the claims make of it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from synthetic_runs import COSTS, TASKS, make_comparison

from fedquad.config import InputError
from fedquad.report.claims import judge
from fedquad.report.comparison import comparison_table
from fedquad.report.frames import configurations_frame, waiting_frame
from fedquad.report.frames.fig09 import paper_times_fedquad, seed_means
from fedquad.report.paper import get_claim
from fedquad.report.saving import load_figure_csv
from fedquad.report.seed_intervals import over_seeds

WAITING = "fig09_waiting_time"
CONFIGURATIONS = "fig06_configurations"


@pytest.fixture
def folder(selection_frames, tmp_path):
    for name in (WAITING, CONFIGURATIONS):
        selection_frames[name].to_csv(tmp_path / f"{name}.csv", index=False)
    return tmp_path


def change(folder, figure, edit) -> None:
    df = load_figure_csv(figure, folder=folder)
    edited = edit(df)
    (df if edited is None else edited).to_csv(folder / f"{figure}.csv", index=False)


def row_of(folder, id: str) -> pd.Series:
    return judge(folder, [get_claim(id).item]).set_index("id").loc[id]


def scale(folder, factor: float, *, method="fedquad", task=None, throughput_model=None) -> None:
    """Let a method wait that many times longer."""

    def edit(df):
        rows = df["method"] == method
        if task is not None:
            rows &= df["task"] == task
        if throughput_model is not None:
            rows &= df["throughput_model"] == throughput_model
        df.loc[rows, "mean_waiting_time_s"] *= factor

    change(folder, WAITING, edit)


def test_every_round_names_the_device_that_was_waited_for():
    rounds, devices = make_comparison(1, tasks=("micro-mnli",), num_rounds=3)
    df = waiting_frame(rounds, devices, profile="reference")
    assert len(df) == 15
    for row in df.itertuples():
        of_round = devices[(devices["method"] == row.method) & (devices["round"] == row.round)]
        last = of_round.loc[of_round["completion_time_s"].idxmax()]
        assert (row.slowest_class, row.slowest_depth) == (last["device_class"], last["depth"])
        strong = of_round[of_round["device_class"] == "strong"]["waiting_time_s"]
        assert row.strong_waiting_time_s == pytest.approx(strong.mean())
        assert row.mean_waiting_time_s == pytest.approx(of_round["waiting_time_s"].mean())


def test_a_round_without_participants_stays_and_has_nobody_to_wait_for():
    rounds, devices = make_comparison(1, tasks=("micro-mnli",), num_rounds=2)
    empty = (devices["method"] == "hetlora") & (devices["round"] == 2)
    devices.loc[empty, "participated"] = False
    rounds.loc[(rounds["method"] == "hetlora") & (rounds["round"] == 2), "mean_waiting_time_s"] = (
        float("nan")
    )
    df = waiting_frame(rounds, devices, profile="reference")
    row = df[(df["method"] == "hetlora") & (df["round"] == 2)].iloc[0]
    assert pd.isna(row["slowest_class"])
    assert seed_means(df, ["hetlora"]).shape == (1, 1)


def test_the_papers_ratios_are_those_of_its_seconds_where_its_percentages_contradict_them():
    assert paper_times_fedquad("micro-qqp", "hetlora") == pytest.approx(852.4 / 442.5)
    assert paper_times_fedquad("mnli", "fedra") == pytest.approx(1 / (1 - 0.689))
    assert np.isnan(paper_times_fedquad("micro-qnli", "fedra"))
    assert paper_times_fedquad("micro-mnli", "fedquad") == 1


def test_over_seeds_of_three_reaches_from_the_lowest_to_the_highest_seed():
    values = np.array([[1.0, 2.0], [2.0, 5.0], [6.0, 8.0]])
    mean = over_seeds(values, lambda means: means[:, 0], "s")
    assert (mean.value, mean.low, mean.high) == pytest.approx((3.0, 1.0, 6.0))
    # Paired: the difference is drawn seed by seed, 1, 3 and 2.
    lead = over_seeds(values, lambda means: means[:, 1] - means[:, 0], "s")
    assert (lead.value, lead.low, lead.high, lead.num_seeds) == pytest.approx((2.0, 1.0, 3.0, 3))
    one = over_seeds(values[:1], lambda means: means[:, 0], "s")
    assert one.low == one.value == one.high
    assert one.num_seeds == 1
    with pytest.raises(InputError, match="at least one seed"):
        over_seeds(np.empty((0, 2)), lambda means: means[:, 0], "s")


@pytest.mark.parametrize(
    ("factor", "expected"),
    [(1.0, "reproduced"), (2.2, "qualitatively"), (5.0, "not reproduced")],
)
def test_a_cut_is_judged_by_the_bounds_written_down(folder, factor, expected):
    scale(folder, factor)
    row = row_of(folder, "wait-fedra")
    assert row["verdict"] == expected
    assert row["num_seeds"] == 3


def test_on_all_tasks_means_on_every_one(folder):
    scale(folder, 5.0, task="micro-qnli")
    row = row_of(folder, "wait-fedra")
    assert row["verdict"] == "not reproduced"
    assert "(qnli)" in row["quantity"]
    assert "mnli 7" in row["reason"]
    assert row_of(folder, "wait-lowest")["verdict"] == "not reproduced"


def test_the_reason_says_who_is_waited_for(folder):
    reason = row_of(folder, "wait-hetlora")["reason"]
    assert "FedQuad: a device takes" in reason
    assert "a weak device is last in 100 % of the rounds (TX2 Max-Q" in reason
    assert "strong devices wait longest" in reason


def test_missing_tasks_are_named_and_cannot_save_what_fails_already(folder):
    change(folder, WAITING, lambda df: df[df["task"].isin(["micro-mnli", "micro-qqp"])])
    row = row_of(folder, "wait-fedra")
    assert row["verdict"] == "not attempted (no runs of qnli, sst2)"
    assert row["reproduced"] == pytest.approx(73, abs=3)
    scale(folder, 5.0)
    assert row_of(folder, "wait-fedra")["verdict"] == "not reproduced"


def test_waiting_least_of_most_is_a_qualitative_success(folder):
    scale(folder, 0.2, method="hetlora")
    assert row_of(folder, "wait-lowest")["verdict"] == "qualitatively"
    scale(folder, 0.1, method="layersel")
    assert row_of(folder, "wait-lowest")["verdict"] == "not reproduced"


def test_below_three_seeds_the_clock_is_not_judged_either(folder):
    for figure in (WAITING, CONFIGURATIONS):
        change(folder, figure, lambda df: df[df["seed"] < 2])
    judged = judge(folder, ["fig06", "fig09"])
    assert set(judged["verdict"]) == {"not attempted (2 seeds)"}
    assert judged["reproduced"].notna().all()
    assert row_of(folder, "acs-minimal-a")["verdict"] == "reproduced"


def test_a_baseline_without_runs_is_named(folder):
    change(folder, WAITING, lambda df: df[df["method"] != "fedra"])
    assert "FedRA" in row_of(folder, "wait-fedra")["verdict"]
    assert row_of(folder, "wait-hetlora")["verdict"] == "reproduced"


def test_other_throughput_models_are_told_for_mnli_and_judge_nothing(folder):
    def add_roofline(df):
        return pd.concat([df, df.assign(throughput_model="roofline")])

    before = row_of(folder, "wait-fedra")
    change(folder, WAITING, add_roofline)
    scale(folder, 5.0, throughput_model="roofline")
    row = row_of(folder, "wait-fedra")
    assert row["verdict"] == before["verdict"]
    assert row["reproduced"] == before["reproduced"]
    assert "with roofline on mnli: -3" in row["reason"]
    assert "not reproduced" in row["reason"]


def test_the_papers_waiting_times_stand_beside_ours(folder):
    table = comparison_table("fig09", folder).set_index("id")
    assert len(table) == 13
    assert table["reproduced"].notna().all()
    cuts = table[table["unit"] == "percent"]
    assert cuts["difference_percent"].notna().all()
    seconds = table[table["unit"] == "s"]
    assert seconds["difference_percent"].isna().all()
    fedquad = seconds.loc[seconds.index.str.rpartition("-").get_level_values(2) == "fedquad"]
    expected = 100 * (
        1 - fedquad["reproduced"].iloc[0] / seconds.loc["fig09-qqp-wait-fedra"].iloc[5]
    )
    assert cuts.loc["fig09-qqp-cut-fedra", "reproduced"] == pytest.approx(expected)


def test_every_choice_is_held_against_enumeration(folder):
    row = row_of(folder, "acs-minimal-a")
    assert row["verdict"] == "reproduced"
    assert "960 of 960" in row["reason"]

    def quantize_one_more(df):
        at = df.index[df["quantized"] < df["depth"] - 1][5]
        df.loc[at, "quantized"] += 1

    change(folder, CONFIGURATIONS, quantize_one_more)
    row = row_of(folder, "acs-minimal-a")
    assert row["verdict"] == "not reproduced"
    assert "959 of 960" in row["reason"]


def set_depths(folder, **depths: int) -> None:
    def edit(df):
        for name, depth in depths.items():
            df.loc[df["device_class"] == name, "depth"] = depth

    change(folder, CONFIGURATIONS, edit)


@pytest.mark.parametrize(
    ("depths", "expected"),
    [
        ({"strong": 12, "moderate": 8, "weak": 3}, "reproduced"),
        ({"strong": 8, "moderate": 12, "weak": 3}, "qualitatively"),
        ({"strong": 3, "moderate": 8, "weak": 12}, "not reproduced"),
    ],
)
def test_depth_is_compared_between_neighbouring_classes(folder, depths, expected):
    set_depths(folder, **depths)
    assert row_of(folder, "acs-strong-deeper")["verdict"] == expected


def test_one_round_in_which_the_order_turns_is_enough(folder):
    set_depths(folder, strong=12, moderate=8, weak=3)

    def edit(df):
        turned = (df["device_class"] == "moderate") & (df["round"] == 7)
        df.loc[turned, "depth"] = 12

    change(folder, CONFIGURATIONS, edit)
    row = row_of(folder, "acs-strong-deeper")
    assert row["verdict"] == "qualitatively"
    assert "in 1 of 3 rounds" in row["reason"]


def test_rounds_up_to_the_fifth_do_not_count(folder):
    set_depths(folder, strong=12, moderate=8, weak=3)

    def early(df):
        df.loc[(df["device_class"] == "moderate") & (df["round"] <= 5), "depth"] = 12

    change(folder, CONFIGURATIONS, early)
    assert row_of(folder, "acs-strong-deeper")["verdict"] == "reproduced"
    change(folder, CONFIGURATIONS, lambda df: df[df["round"] <= 5])
    verdict = row_of(folder, "acs-strong-deeper")["verdict"]
    assert verdict == "not attempted (no round after the 5th)"


@pytest.mark.parametrize(
    ("depth_of_round", "expected"),
    [
        (lambda df: df["depth_budget"] + 1, "reproduced"),
        # one layer more in a single round, one less in the others
        (lambda df: df["depth_budget"] + np.where(df["round"] == 3, 1, -1), "qualitatively"),
        (lambda df: df["depth_budget"], "not reproduced"),
    ],
)
def test_depth_beyond_the_unquantized_budget(folder, depth_of_round, expected):
    def edit(df):
        strong = df["device_class"] == "strong"
        df.loc[strong, "depth"] = depth_of_round(df[strong])

    change(folder, CONFIGURATIONS, edit)
    assert row_of(folder, "acs-quant-deepens")["verdict"] == expected


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        # mean 106: weak devices 13 % above it
        ({"strong": 100.0, "moderate": 100.0, "weak": 120.0}, "reproduced"),
        ({"strong": 100.0, "moderate": 100.0, "weak": 200.0}, "qualitatively"),
        ({"strong": 100.0, "moderate": 100.0, "weak": 900.0}, "not reproduced"),
    ],
)
def test_weak_devices_are_held_near_the_mean_or_nearer_than_without_a_choice(
    folder, times, expected
):
    def edit(df):
        df["completion_time_s"] = df["device_class"].map(times)
        # Without Algorithm 1 in the same fleet: weak devices 100 % above a mean of 150.
        alone = {"strong": 50.0, "moderate": 50.0, "weak": 300.0}
        df["unquantized_time_s"] = df["device_class"].map(alone)

    change(folder, CONFIGURATIONS, edit)
    row = row_of(folder, "acs-restrains-weak")
    assert row["verdict"] == expected
    share = {name: 0.3 if name != "weak" else 0.4 for name in times}
    mean = sum(share[name] * seconds for name, seconds in times.items())
    assert row["reproduced"] == pytest.approx(100 * (times["weak"] / mean - 1))
    assert "100.0 % without Algorithm 1" in row["reason"]


def test_fleets_without_a_class_are_not_judged(folder):
    change(folder, CONFIGURATIONS, lambda df: df[df["device_class"] != "weak"])
    assert "weak" in row_of(folder, "acs-strong-deeper")["verdict"]
    assert row_of(folder, "acs-restrains-weak")["verdict"] == "not attempted (no weak device)"
    assert row_of(folder, "acs-quant-deepens")["verdict"] != "not attempted"


def test_configurations_of_several_tasks_are_told_beside_the_first(folder):
    reason = row_of(folder, "acs-quant-deepens")["reason"]
    for task in TASKS[1:]:
        assert f"{task}: " in reason


def test_frames_of_real_throughput_models_are_kept_apart():
    parts = [
        make_comparison(1, tasks=("micro-mnli",), num_rounds=6, throughput_model=model)
        for model in ("fp32", "fp16")
    ]
    rounds, devices = (pd.concat(tables) for tables in zip(*parts, strict=True))
    df = configurations_frame(rounds, devices, COSTS, profile="reference")
    assert set(df["throughput_model"]) == {"fp32", "fp16"}
    assert len(df) == 2 * 60
