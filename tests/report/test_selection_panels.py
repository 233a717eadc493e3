"""Panels of Figs. 5, 6 and 9: they show what their frame says."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from fedquad.report.figures import fig05, fig06, fig09, predictions, sensitivity
from fedquad.report.style import new_figure


def one_device(frames) -> pd.DataFrame:
    df = frames["fig06_selection_example"]
    return df[df["device_class"] == "weak"]


PANELS = [
    (fig05.timeline, "fig05_workflow"),
    (fig05.steps, "fig05_workflow"),
    (fig06.candidates, one_device),
    (fig06.candidate_times, one_device),
    (fig06.candidate_rewards, one_device),
    (predictions.straggler_reward, "fig06_predictions"),
    (predictions.fixed_point, "fig06_predictions"),
    (fig09.waiting_over_rounds, "fig09_waiting_time"),
    (fig09.waiting_ratios, "fig09_waiting_time"),
    (sensitivity.yardstick_times, "fig_yardstick"),
    (sensitivity.yardstick_gains, "fig_yardstick"),
    (sensitivity.yardstick_rewards, "fig_yardstick"),
]


def of_panel(frames, source) -> pd.DataFrame:
    df = frames[source] if isinstance(source, str) else source(frames)
    return df[df["task"] == "micro-mnli"] if "task" in df else df


@pytest.mark.parametrize(("panel", "source"), PANELS, ids=lambda v: getattr(v, "__name__", ""))
def test_a_panel_draws_into_the_given_axes_and_leaves_its_frame_alone(
    selection_frames, panel, source
):
    df = of_panel(selection_frames, source)
    before = df.copy()
    ax = new_figure()[1][0]
    assert panel(df, ax=ax) is ax
    assert_frame_equal(df, before)
    assert plt.get_fignums() == []


def test_the_timeline_is_as_long_as_the_devices_take_and_wait(selection_frames):
    df = selection_frames["fig05_workflow"]
    bars = [bar for bars in fig05.timeline(df).containers for bar in bars]
    by_row: dict[int, list] = {}
    for bar in sorted(bars, key=lambda bar: bar.get_x()):
        by_row.setdefault(round(bar.get_y() + 0.4), []).append(bar)
    for at, row in enumerate(df.itertuples()):
        busy, wait = by_row[at]
        assert busy.get_width() == pytest.approx(row.completion_time_s)
        assert wait.get_x() == pytest.approx(row.completion_time_s)
        assert wait.get_width() == pytest.approx(row.waiting_time_s)


def test_the_steps_tell_real_bytes_and_who_trained_which_layer(selection_frames):
    df = selection_frames["fig05_workflow"].assign(
        upload_bytes=300_000, download_bytes=500_000, depth=[12, 1, 1, 1, 1, 1, 1, 1, 1, 6]
    )
    texts = {name: text for _, name, text in fig05.step_texts(df.assign(skipped=2))}
    assert texts["dissemination"].startswith("5 MB")
    assert texts["upload"].startswith("3 MB")
    assert texts["aggregation"] == ("layer 11 from 10 devices, layer 6 from 2, layer 0 from 1")
    assert texts["status"].endswith("2 that fit nothing are left out")
    assert texts["configuration"].startswith("LoRA depth 1 to 12 of 12")


def test_a_fleet_from_a_file_has_devices_without_class_and_mode(selection_frames):
    df = selection_frames["fig05_workflow"].assign(device_class="device", mode=float("nan"))
    assert [tick.get_text() for tick in fig05.timeline(df).get_yticklabels()] == ["device"]
    texts = {name: text for _, name, text in fig05.step_texts(df)}
    assert texts["fine-tuning"].endswith("on the slowest (device)")


def test_the_star_stands_on_the_choice(selection_frames):
    df = one_device(selection_frames)
    [star] = [line for line in fig06.candidate_times(df).lines if line.get_marker() == "*"]
    chosen = df[df["chosen"]].iloc[0]
    assert star.get_xdata() == [chosen["depth"]]
    assert star.get_ydata() == [chosen["completion_time_s"]]


def test_hollow_marks_are_the_papers_ratios_and_bars_are_ours(selection_frames):
    df = selection_frames["fig09_waiting_time"]
    df = df[df["task"] == "micro-mnli"]
    ax = fig09.waiting_ratios(df)
    [marks] = [line for line in ax.lines if line.get_label() == "paper"]
    assert marks.get_ydata() == pytest.approx(
        [1 / (1 - cut) for cut in (0.689, 0.709, 0.782, 0.481)]
    )
    means = df.groupby("method")["mean_waiting_time_s"].mean()
    heights = [bar.get_height() for bar in ax.patches]
    order = ["fedquad", "fedra", "inclusivefl", "layersel", "hetlora"]
    assert heights == pytest.approx((means[order] / means["fedquad"]).tolist())


def test_tasks_without_stated_values_have_no_marks(selection_frames):
    df = selection_frames["fig09_waiting_time"]
    ax = fig09.waiting_ratios(df[df["task"] == "micro-sst2"])
    assert "paper" not in [line.get_label() for line in ax.lines]


def test_gains_of_the_yardstick_are_relative_to_algorithm_1(selection_frames):
    df = selection_frames["fig_yardstick"]
    ax = sensitivity.yardstick_gains(df)
    shown = {line.get_label(): line.get_ydata()[0] for line in ax.lines}
    assert shown["Algorithm 1"] == pytest.approx(100)
    assert shown["fastest, no less gain"] >= 100 - 1e-9
    assert np.isfinite(list(shown.values())).all()
