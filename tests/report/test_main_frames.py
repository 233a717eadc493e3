"""Frames and figures of federated accuracy: which runs, whose class was last, which target."""

from __future__ import annotations

import pandas as pd
import pytest
from matplotlib.axes import Axes
from synthetic_curves import CURVES, FIVE, joined, main_rounds, make_rounds

from fedquad.config import InputError
from fedquad.report.figures import draw, fig07, fig08
from fedquad.report.frames import (
    ablation_curves_frame,
    accuracy_curves_frame,
    heterogeneity_curves_frame,
    speedup_frame,
    time_to_accuracy_frame,
)
from fedquad.report.frames.curves import slowest_classes
from fedquad.report.style import DOUBLE_COLUMN, SINGLE_COLUMN, stamp_text

ABLATED = ("fedquad", "fedquad-no-qd", "fedquad-no-ld")


def rounds_of(methods=FIVE, seeds=3, **options):
    return make_rounds({name: CURVES[name] for name in methods}, seeds, **options)


def test_the_frame_of_fig07_holds_what_its_claims_need(main_frames):
    df = main_frames["fig07_accuracy_curves"]
    settings = df.groupby(["reference_model", "heterogeneity", "throughput_model"])["method"]
    methods = settings.agg(lambda names: len(set(names)))
    assert methods["roberta-large", "high", "fp16"] == 6  # with FedLoRA
    assert methods["roberta-large", "low", "fp16"] == 5
    assert methods["roberta-large", "high", "fp32"] == 5
    assert methods["bert-large", "high", "fp16"] == 5
    assert ("roberta-large", "low", "fp32") not in methods
    assert list(df["task"].unique()) == ["micro-mnli", "micro-qqp", "micro-qnli", "micro-sst2"]
    assert (df["profile"] == "reference").all()
    assert "fedquad-no-qd" not in set(df["method"])
    assert df.loc[df["method"] == "fedquad", "slowest_class"].unique() == ["moderate"]


def test_other_levels_come_under_the_default_clock_only():
    five = rounds_of(seeds=1)
    low = rounds_of(seeds=1, heterogeneity="low")
    other = rounds_of(seeds=1, heterogeneity="low", throughput_model="fp32")
    df = accuracy_curves_frame(*joined(five, low, other), profile="smoke")
    assert set(df.loc[df["heterogeneity"] == "low", "throughput_model"]) == {"fp16"}
    levels = heterogeneity_curves_frame(*joined(five, low, other), profile="smoke")
    assert list(levels["heterogeneity"].unique()) == ["low", "high"]
    assert set(levels["throughput_model"]) == {"fp16"}


def test_tasks_with_the_most_levels_are_those_of_table_iv():
    both = joined(rounds_of(), rounds_of(heterogeneity="low"), rounds_of(task="micro-qqp"))
    assert set(heterogeneity_curves_frame(*both, profile="x")["task"]) == {"micro-mnli"}
    one_level = joined(rounds_of(), rounds_of(task="micro-qqp"))
    assert heterogeneity_curves_frame(*one_level, profile="x")["task"].nunique() == 2


def test_the_ablation_leaves_out_tasks_without_one(main_frames):
    df = main_frames["fig10_ablation"]
    assert list(df["task"].unique()) == ["micro-mnli", "micro-qqp"]
    assert list(df["method"].unique()) == list(ABLATED)
    stated = df.drop_duplicates(["task", "method"]).set_index(["task", "method"])["paper_speedup"]
    assert stated["micro-qqp", "fedquad-no-ld"] == 3.53
    assert stated["micro-mnli", "fedquad-no-qd"] == pytest.approx(1 / (1 - 0.245))
    assert pd.isna(stated["micro-mnli", "fedquad"])
    with pytest.raises(InputError, match="fedquad-no-qd and fedquad-no-ld"):
        ablation_curves_frame(*rounds_of(), profile="x")


def test_runs_with_options_are_left_out_and_wrong_accuracies_refused():
    rounds, devices = rounds_of(seeds=1)
    optional, _ = rounds_of(("fedquad",), 1, options="reward_offset_s=0.1")
    df = accuracy_curves_frame(pd.concat([rounds, optional]), devices, profile="x")
    assert len(df) == len(rounds)
    with pytest.raises(InputError, match="mean of `correct`"):
        accuracy_curves_frame(rounds.assign(accuracy=0.5), devices, profile="x")
    with pytest.raises(InputError, match="high heterogeneity"):
        accuracy_curves_frame(rounds.assign(heterogeneity="low"), devices, profile="x")


def test_the_slowest_class_is_that_of_the_device_that_finished_last():
    devices = pd.DataFrame(
        {
            "run_id": "a",
            "round": [1, 1, 1, 2, 2, 3],
            "device_class": ["strong", "weak", "moderate", "strong", "weak", None],
            "participated": [True, True, False, True, False, True],
            "completion_time_s": [9.0, 9.0, 20.0, 5.0, float("nan"), 4.0],
        }
    )
    last = slowest_classes(devices)
    # Equal ones: the first; left out ones do not count; a fleet from a file has no class.
    assert last.to_dict() == {("a", 1): "strong", ("a", 2): "strong", ("a", 3): "device"}


def test_the_summary_of_fig08_is_what_its_curves_say(main_frames):
    df = main_frames["fig08_time_to_accuracy"].set_index(["task", "method"])
    assert len(df) == 4 * 5
    assert (df["num_seeds"] == 3).all()
    # FedRA's curve is the lowest: it sets the target and reaches it in its last round.
    fedra = df.loc[("micro-mnli", "fedra")]
    assert fedra["time_s"] == pytest.approx(10 * 1500 * 1.04)
    ratio = fedra["time_s"] / df.loc[("micro-mnli", "fedquad"), "time_s"]
    assert fedra["speedup"] == pytest.approx(ratio)
    assert fedra["speedup_low"] < ratio < fedra["speedup_high"]
    assert (df.xs("fedquad", level="method")["speedup"] == 1).all()
    assert fedra["paper_speedup"] == 5.3
    assert fedra["paper_time_s"] == 75928
    assert df.loc["micro-sst2", ["paper_speedup", "paper_time_s"]].isna().all(axis=None)


def test_the_sweep_ends_where_one_of_the_two_methods_does(main_frames):
    sweep = main_frames["fig08_speedup_against_target"]
    curves = main_frames["fig08_time_to_accuracy"].set_index(["task", "method"])
    rows = sweep[(sweep["task"] == "micro-mnli") & (sweep["method"] == "fedra")]
    target = curves.loc[("micro-mnli", "fedra"), "target_percent"]
    assert rows["target_percent"].max() <= target + 1e-9
    hetlora = sweep[(sweep["task"] == "micro-mnli") & (sweep["method"] == "hetlora")]
    assert hetlora["target_percent"].max() > target
    assert (sweep["common_target_percent"] == target).any()
    assert "fedquad" not in set(sweep["method"])


@pytest.mark.parametrize(
    ("panel", "name"),
    [
        (fig07.accuracy_over_time, "fig07_accuracy_curves"),
        (fig07.accuracy_over_time, "tab04_curves"),
        (fig07.accuracy_over_time, "fig10_ablation"),
        (fig08.time_bars, "fig08_time_to_accuracy"),
        (fig08.speedups, "fig08_time_to_accuracy"),
        (fig08.speedup_against_target, "fig08_speedup_against_target"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_panel_draws_into_the_given_axes_or_its_own(main_frames, panel, name):
    df = main_frames[name]
    before = df.copy()
    ax = panel(df)
    assert isinstance(ax, Axes)
    assert panel(df, ax) is ax
    assert ax.get_ylabel()
    pd.testing.assert_frame_equal(df, before)


def test_curves_end_at_the_simulated_times_and_the_target_is_drawn(main_frames):
    df = main_frames["fig07_accuracy_curves"]
    mnli = df[(df["task"] == "micro-mnli") & (df["reference_model"] == "roberta-large")]
    ax = fig07.accuracy_over_time(mnli)
    lines = {line.get_label(): line for line in ax.get_lines()}
    assert set(lines) == {
        "FedQuad", "FedRA", "InclusiveFL", "LayerSel", "HetLoRA", "FedLoRA", "common target",
    }  # fmt: skip
    assert lines["FedRA"].get_xdata()[-1] == pytest.approx(15.6)
    summary = main_frames["fig08_time_to_accuracy"]
    target = summary.loc[summary["task"] == "micro-mnli", "target_percent"].iloc[0]
    assert lines["common target"].get_ydata()[0] == pytest.approx(target)
    assert len(ax.collections) == 5  # a band each, none for the reference
    assert lines["FedLoRA"].get_linewidth() < lines["FedQuad"].get_linewidth()


def test_one_task_one_seed_and_missing_methods_are_drawn_too():
    rounds, devices = rounds_of(("fedquad", "fedra"), 1, num_rounds=2, num_eval=40)
    curves = accuracy_curves_frame(rounds, devices, profile="smoke")
    figure = draw("fig07_accuracy_curves", curves)
    assert figure.get_figwidth() == SINGLE_COLUMN
    assert not figure.axes[0].collections  # no band from one seed
    times = time_to_accuracy_frame(curves)
    assert list(times["method"]) == ["fedquad", "fedra"]
    draw("fig08_time_to_accuracy", times)
    draw("fig08_speedup_against_target", speedup_frame(curves))
    ablation = joined((rounds, devices), rounds_of(ABLATED[1:], 1, num_rounds=2, num_eval=40))
    figure = draw("fig10_ablation", ablation_curves_frame(*ablation, profile="smoke"))
    assert [ax.get_visible() for ax in figure.axes] == [True, False, True, True]


def test_many_panels_take_two_columns_of_the_paper(main_frames):
    figure = draw("fig07_accuracy_curves", main_frames["fig07_accuracy_curves"])
    assert figure.get_figwidth() == DOUBLE_COLUMN
    titles = [ax.get_title() for ax in figure.axes if ax.get_visible()]
    assert len(titles) == 6
    assert titles[0] == "micro-mnli, roberta-large"
    assert titles[-1] == "micro-mnli, deberta-v3-large"


def test_the_stamp_names_the_reference_model_of_the_clock(main_frames):
    text = stamp_text(main_frames["fig08_time_to_accuracy"])
    assert "3 seeds · trained: embedded · clock: roberta-large (fp16)" in text
    df = main_frames["fig07_accuracy_curves"]
    figure = draw("fig07_accuracy_curves", df)
    assert "(fp16) ·" in figure.get_supxlabel().replace("\n", " ")


def test_speedups_are_written_on_the_bars(main_frames):
    df = main_frames["fig08_time_to_accuracy"]
    ax = fig08.time_bars(df[df["task"] == "micro-mnli"])
    written = [text.get_text() for text in ax.texts]
    assert written == ["8.7x", "6.1x", "2.7x", "2.1x"]
    assert ax.get_xticklabels()[0].get_text() == "micro-mnli\nat 66.0 %"


def test_backbones_of_one_seed_do_not_change_the_other_tasks():
    rounds, devices = main_rounds(1)
    curves = accuracy_curves_frame(rounds, devices, profile="x")
    assert set(time_to_accuracy_frame(curves)["num_seeds"]) == {1}
