"""Claims judged on csv files whose content is known."""

from __future__ import annotations

import hashlib

import numpy as np
import pandas as pd
import pytest

from fedquad.config import InputError
from fedquad.paths import package_data
from fedquad.report.claims import PREDICATES, judge, judged_items
from fedquad.report.frames import depth_accuracy_frame, position_accuracy_frame
from fedquad.report.paper import claims
from fedquad.report.saving import load_figure_csv
from fedquad.runs.plans import layer_groups
from fedquad.runs.results import pack

# The conditions were fixed before any result existed; they are not changed to fit what comes out.
FIGURES = ["fig01", "fig02", "fig03", "fig04"]
FROZEN = {
    "claims.csv": "e8a6e9f6c20c28a48b37694fd0094202b28dfa40897399ab91dafb1e4a1c3619",
    "reported.csv": "35bbdfc7de9b92a13ab86e014c180c134f1bc9306e4a07701cda1887f8b9dff1",
}


@pytest.mark.parametrize("name", FROZEN)
def test_what_the_paper_claims_is_as_it_was_written_down(name):
    content = (package_data() / "paper" / name).read_bytes()
    assert hashlib.sha256(content).hexdigest() == FROZEN[name]


def test_every_claim_has_a_predicate():
    assert {claim.id for claim in claims()} == set(PREDICATES)
    assert judged_items() == list(dict.fromkeys(claim.item for claim in claims()))


def change(folder, figure: str, edit) -> None:
    """Let ``edit`` change a figure's frame in place and write it back."""
    df = load_figure_csv(figure, folder=folder)
    edit(df)
    df.to_csv(folder / f"{figure}.csv", index=False)


def row_of(folder, id: str) -> pd.Series:
    return judge(folder).set_index("id").loc[id]


def test_all_claims_are_judged_on_complete_figures(csv_folder):
    judged = judge(csv_folder, FIGURES)
    assert list(judged["id"]) == [claim.id for claim in claims() if claim.item in FIGURES]
    assert not judged["verdict"].str.startswith("not attempted").any()
    assert judged["reason"].str.len().min() > 0
    exact = judged["num_seeds"].isna()
    assert (judged.loc[exact, "low"] == judged.loc[exact, "high"]).all()
    assert (judged.loc[~exact, "num_seeds"] == 3).all()
    assert (judged["low"] <= judged["reproduced"]).all()
    assert (judged["reproduced"] <= judged["high"]).all()


def test_no_figures_means_nothing_attempted(tmp_path):
    judged = judge(tmp_path)
    assert set(judged["verdict"]) == {"not attempted (figure not computed)"}
    assert judged["reproduced"].isna().all()


def test_items_choose_the_claims(csv_folder):
    assert set(judge(csv_folder, ["fig03"])["item"]) == {"fig03"}
    with pytest.raises(InputError, match="fig99"):
        judge(csv_folder, ["fig99"])


def test_below_three_seeds_the_estimate_is_shown_but_not_judged(one_seed_frames, tmp_path):
    for name, df in one_seed_frames.items():
        df.to_csv(tmp_path / f"{name}.csv", index=False)
    judged = judge(tmp_path, FIGURES).set_index("id")
    trained = [claim.id for claim in claims() if claim.is_trained and claim.item in FIGURES]
    assert len(trained) == 9
    for id in trained:
        row = judged.loc[id]
        assert row["verdict"] == "not attempted (1 seed)"
        assert row["low"] <= row["reproduced"] <= row["high"]
        assert row["low"] < row["high"] or row["reproduced"] == 0
    assert judged.loc["act-bytes-32", "verdict"] == "reproduced"


@pytest.mark.parametrize(
    ("gigabytes", "expected"),
    [(15.9, "reproduced"), (14.95, "reproduced"), (14.9, "qualitatively"), (10, "not reproduced")],
)
def test_bytes_are_judged_by_their_distance_from_the_paper(csv_folder, gigabytes, expected):
    def edit(df):
        df.loc[df["batch_size"] == 32, "activation_bytes"] = gigabytes * 1e9

    change(csv_folder, "fig01b_memory", edit)
    assert row_of(csv_folder, "act-bytes-32")["verdict"] == expected


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        ((0.9, 0.2), "reproduced"),
        ((1.2, 0.2), "qualitatively"),
        ((0.9, 5.2), "not reproduced"),
    ],
)
def test_communication_is_judged_at_both_rates(csv_folder, shares, expected):
    def edit(df):
        df.loc[df["tuning"] == "lora", "share_percent"] = shares

    change(csv_folder, "fig01a_communication", edit)
    assert row_of(csv_folder, "comm-negligible")["verdict"] == expected


def test_traffic_decides_beside_the_trainable_share(csv_folder):
    assert row_of(csv_folder, "comm-lora-vs-full")["verdict"] == "reproduced"
    change(
        csv_folder,
        "fig01a_communication",
        lambda df: df.__setitem__("bytes_per_round", df["bytes_per_round"].clip(upper=10**9)),
    )
    assert row_of(csv_folder, "comm-lora-vs-full")["verdict"] == "qualitatively"


def test_flops_decide_and_seconds_are_told(csv_folder):
    before = row_of(csv_folder, "pos-lat-SD")

    def edit(df):
        measured = (df["source"] == "measured") & (df["group"] == "D")
        df.loc[measured, "total"] = 1e-3

    change(csv_folder, "fig02a_layer_position_cost", edit)
    after = row_of(csv_folder, "pos-lat-SD")
    assert after["verdict"] == before["verdict"]
    assert after["reproduced"] == before["reproduced"]
    assert "measured 98.00x (embedded on cpu)" in after["reason"]


def test_another_accounting_model_is_not_judged(csv_folder):
    def edit(df):
        df["model"] = df["model"].replace("roberta-base", "bert-base")

    change(csv_folder, "fig03b_depth_cost", edit)
    row = row_of(csv_folder, "depth-mem-slope")
    assert row["verdict"] == "not attempted (no accounting of roberta-base)"


def test_memory_of_the_middle_must_lie_between_the_others(csv_folder):
    def edit(df):
        memory = df["source"] == "accounting"
        total_of_all = df.loc[memory & (df["group"] == "A"), "total"].iloc[0]
        df.loc[memory & (df["group"] == "M"), "total"] = 0.2 * total_of_all

    change(csv_folder, "fig02a_layer_position_cost", edit)
    assert row_of(csv_folder, "pos-mem-M")["verdict"] == "not reproduced"
    assert row_of(csv_folder, "pos-mem-D")["verdict"] != "qualitatively"


def save_positions(folder, runs_of, *, seeds=3, num_eval=400, **accuracies) -> None:
    groups = layer_groups(12)
    spec = {"A": 0.71, "S": 0.55, "M": 0.66, "D": 0.63, "MD": 0.70} | accuracies
    runs = runs_of({groups[g]: a for g, a in spec.items()}, seeds, num_eval=num_eval)
    frame = position_accuracy_frame(runs, groups, profile="reference")
    frame.to_csv(folder / "fig02b_layer_position_accuracy.csv", index=False)


@pytest.mark.parametrize(
    ("id", "accuracies", "num_eval", "expected"),
    [
        ("pos-acc-S-worst", {}, 400, "reproduced"),
        # S above D, and far below the mean of M and D
        ("pos-acc-S-worst", {"S": 0.58, "D": 0.56, "M": 0.69}, 400, "qualitatively"),
        ("pos-acc-S-worst", {"S": 0.75}, 400, "not reproduced"),
        # one item of 40 apart: nothing can be told
        ("pos-acc-S-worst", {"S": 0.625, "D": 0.6, "M": 0.65}, 40, "inconclusive"),
        ("pos-acc-M-over-D", {}, 400, "reproduced"),
        ("pos-acc-M-over-D", {"M": 0.65, "D": 0.625}, 40, "qualitatively"),
        ("pos-acc-M-over-D", {"M": 0.55, "D": 0.65}, 400, "not reproduced"),
        ("pos-acc-MD-near-A", {"MD": 0.7075}, 400, "reproduced"),
        # 3 points off, yet less than a quarter of A - S
        ("pos-acc-MD-near-A", {"MD": 0.68, "S": 0.45}, 400, "qualitatively"),
        ("pos-acc-MD-near-A", {"MD": 0.63}, 400, "not reproduced"),
    ],
)
def test_position_claims(csv_folder, runs_of, id, accuracies, num_eval, expected):
    save_positions(csv_folder, runs_of, num_eval=num_eval, **accuracies)
    assert row_of(csv_folder, id)["verdict"] == expected


def test_a_straddling_interval_on_the_wrong_side_is_inconclusive(csv_folder):
    rng = np.random.default_rng(2)

    def edit(df):
        for group, hits in (("M", 32), ("D", 34)):
            for idx in df.index[df["group"] == group]:
                answers = rng.permutation(np.arange(60) < hits)
                df.loc[idx, "correct"] = pack(answers)
        df["num_eval"] = 60
        others = ~df["group"].isin(["M", "D"])
        df.loc[others, "correct"] = pack(np.arange(60) < 30)

    change(csv_folder, "fig02b_layer_position_accuracy", edit)
    row = row_of(csv_folder, "pos-acc-M-over-D")
    assert row["low"] < row["reproduced"] < 0 < row["high"]
    assert row["verdict"] == "inconclusive"


def save_depths(folder, runs_of, accuracies: dict[int, float], *, num_layers=12, task=None) -> None:
    spec = {tuple(range(num_layers - d, num_layers)): a for d, a in accuracies.items()}
    frames = [
        depth_accuracy_frame(
            runs_of(spec, seeds, task=name), num_layers=num_layers, profile="reference"
        )
        for name, seeds in (task or {"micro-mnli": 3}).items()
    ]
    pd.concat(frames).to_csv(folder / "fig03a_depth_accuracy.csv", index=False)


@pytest.mark.parametrize(
    ("id", "accuracies", "expected"),
    [
        ("depth-acc-rises", {1: 0.5, 8: 0.7, 12: 0.71}, "reproduced"),
        ("depth-acc-rises", {1: 0.7, 8: 0.5, 12: 0.5}, "not reproduced"),
        ("depth-diminishing", {1: 0.4, 8: 0.7, 12: 0.7}, "reproduced"),
        ("depth-diminishing", {1: 0.4, 8: 0.7, 12: 0.78}, "qualitatively"),
        ("depth-diminishing", {1: 0.4, 8: 0.5, 12: 0.8}, "not reproduced"),
        ("depth-diminishing", {1: 0.4, 12: 0.8}, "not attempted (no run at depth 8)"),
    ],
)
def test_depth_claims(csv_folder, runs_of, id, accuracies, expected):
    save_depths(csv_folder, runs_of, accuracies)
    assert row_of(csv_folder, id)["verdict"] == expected


def test_gains_that_shrink_from_a_loss_are_judged_without_dividing(csv_folder, runs_of):
    save_depths(csv_folder, runs_of, {1: 0.6, 8: 0.5, 12: 0.8})
    row = row_of(csv_folder, "depth-diminishing")
    assert row["verdict"] == "not reproduced"
    assert row["reproduced"] < 0


def test_two_thirds_follow_the_number_of_layers(csv_folder, runs_of):
    save_depths(csv_folder, runs_of, {1: 0.5, 4: 0.7, 6: 0.7}, num_layers=6)
    row = row_of(csv_folder, "depth-acc-rises")
    assert row["quantity"] == "gain from depth 1 to 4"
    assert row["reproduced"] == pytest.approx(20)


def test_the_first_task_is_judged_and_the_others_are_told(csv_folder, runs_of):
    save_depths(csv_folder, runs_of, {1: 0.5, 8: 0.7, 12: 0.7}, task={"sst2": 3, "mnli": 1})
    row = row_of(csv_folder, "depth-acc-rises")
    assert row["verdict"] == "reproduced"
    assert row["num_seeds"] == 3
    assert "mnli: 20.0 [" in row["reason"]
    assert "not attempted (1 seed)" in row["reason"]
