"""Figures: drawn from frames, saved together, drawn again from the csv alone."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from matplotlib.axes import Axes
from pandas.testing import assert_frame_equal

from fedquad.config import InputError
from fedquad.report.figures import FIGURES, draw, fig01, fig02, fig03, fig04, fig04_costs, replot
from fedquad.report.saving import FIGURE_SUFFIXES, load_figure_csv, save_figure
from fedquad.report.style import new_figure, stamp_text

PANELS = [
    (fig01.communication_share, "fig01a_communication"),
    (fig01.traffic, "fig01a_communication"),
    (fig01.memory, "fig01b_memory"),
    (fig01.latency, "fig01c_latency"),
    (fig02.position_memory, "fig02a_layer_position_cost"),
    (fig02.position_latency, "fig02a_layer_position_cost"),
    (fig02.position_accuracy, "fig02b_layer_position_accuracy"),
    (fig03.depth_accuracy, "fig03a_depth_accuracy"),
    (fig03.depth_memory, "fig03b_depth_cost"),
    (fig03.depth_latency, "fig03b_depth_cost"),
    (fig04_costs.quantized_memory, "fig04a_quantization_memory"),
    (fig04.quantized_accuracy, "fig04a_quantization_accuracy"),
    (fig04.quantized_gain, "fig04a_quantization_accuracy"),
    (fig04.synergy_accuracy, "fig04b_synergy_accuracy"),
    (fig04_costs.synergy_memory, "fig04b_synergy_cost"),
    (fig04_costs.synergy_latency, "fig04b_synergy_cost"),
]


def digests(folder) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


@pytest.mark.parametrize(
    ("panel", "name"), PANELS, ids=lambda value: getattr(value, "__name__", "")
)
def test_a_panel_draws_into_the_given_axes_or_its_own(frames, panel, name):
    before = frames[name].copy()
    ax = new_figure()[1][0]
    assert panel(frames[name], ax=ax) is ax
    assert isinstance(panel(frames[name]), Axes)
    assert ax.get_ylabel()
    assert_frame_equal(frames[name], before)
    assert plt.get_fignums() == []


@pytest.mark.parametrize("name", FIGURES)
def test_the_csv_alone_draws_the_same_bytes_again(figures_root, name, tmp_path):
    reference = figures_root / "reference"
    df = load_figure_csv(name, folder=reference)
    written = save_figure(replot(name, folder=reference), df, name, folder=tmp_path)
    assert [path.suffix for path in written] == list(FIGURE_SUFFIXES)
    for path in written:
        assert path.read_bytes() == (reference / path.name).read_bytes(), path.name


@pytest.mark.parametrize("name", FIGURES)
def test_the_csv_holds_the_frame_value_for_value(frames, figures_root, name):
    read = load_figure_csv(name, folder=figures_root / "reference")
    assert_frame_equal(
        read, frames[name].reset_index(drop=True), check_dtype=False, check_exact=True
    )


def test_another_process_writes_the_same_bytes(figures_root, tmp_path):
    code = (
        "import sys; from fedquad.report.figures import replot;"
        "from fedquad.report.saving import load_figure_csv, save_figure;"
        "source, target, name = sys.argv[1:];"
        "df = load_figure_csv(name, folder=source);"
        "save_figure(replot(name, folder=source), df, name, folder=target)"
    )
    name = "fig03a_depth_accuracy"
    source = figures_root / "reference"
    subprocess.run(
        [sys.executable, "-c", code, str(source), str(tmp_path), name],
        check=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo"},
    )
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (source / path.name).read_bytes(), path.name


def test_packed_answers_that_look_like_numbers_stay_text(frames, tmp_path):
    df = frames["fig03a_depth_accuracy"].iloc[:1].assign(correct="12e4", layers="11")
    df.to_csv(tmp_path / "x.csv", index=False)
    read = load_figure_csv("x", folder=tmp_path)
    assert read.loc[0, ["correct", "layers"]].tolist() == ["12e4", "11"]


def test_a_failure_leaves_the_old_files_and_nothing_else(frames, tmp_path):
    name = "fig01b_memory"
    df = frames[name]
    figure = draw(name, df)
    save_figure(figure, df, name, folder=tmp_path)
    before = digests(tmp_path)

    class Unwritable(pd.DataFrame):
        def to_csv(self, *args, **kwargs):
            raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        save_figure(draw(name, df.iloc[:1]), Unwritable(df), name, folder=tmp_path)
    assert digests(tmp_path) == before


def test_bad_names_and_empty_frames_are_refused_before_anything_is_written(frames, tmp_path):
    df = frames["fig01b_memory"]
    figure = draw("fig01b_memory", df)
    with pytest.raises(InputError, match="name"):
        save_figure(figure, df, "../fig", folder=tmp_path / "new")
    with pytest.raises(InputError, match="empty"):
        save_figure(figure, df.iloc[:0], "fig01b_memory", folder=tmp_path / "new")
    with pytest.raises(InputError, match="fig01b_memory"):
        draw("fig99", df)
    assert not (tmp_path / "new").exists()


def test_the_stamp_names_profile_seeds_model_and_origin(frames, one_seed_frames):
    text = stamp_text(frames["fig02b_layer_position_accuracy"])
    assert text == "profile reference · 3 seeds · trained: embedded · read from the record"
    assert "1 seed ·" in stamp_text(one_seed_frames["fig03a_depth_accuracy"])
    costs = stamp_text(frames["fig03b_depth_cost"])
    assert "accounting: roberta-base (computed now)" in costs
    assert "measured: embedded on cpu (read from the record)" in costs


def test_the_stamp_counts_what_was_computed_now(frames):
    df = frames["fig03a_depth_accuracy"].copy()
    df.loc[df["depth"] == 1, "from_record"] = False
    assert "3 of 36 computed now" in stamp_text(df)


def test_the_stamp_tells_tasks_with_different_seeds_apart(frames, one_seed_frames):
    other = one_seed_frames["fig03a_depth_accuracy"].assign(task="mnli")
    df = pd.concat([frames["fig03a_depth_accuracy"], other], ignore_index=True)
    assert "micro-mnli: 3 seeds, mnli: 1 seed" in stamp_text(df)
    figure = draw("fig03a_depth_accuracy", df)
    assert "mnli: 1 seed" in figure.get_supxlabel().replace("\n", " ")


@pytest.mark.parametrize("name", FIGURES)
def test_the_papers_values_have_their_own_legend_entry(frames, name):
    figure = draw(name, frames[name])
    legends = [ax.get_legend() for ax in figure.axes if ax.get_legend() is not None]
    legends += figure.legends
    labels = [text.get_text() for legend in legends for text in legend.get_texts()]
    states_any = any("paper" in column for column in frames[name])
    assert any("paper" in label for label in labels) == states_any


def test_figures_have_the_papers_column_widths(frames):
    for name, df in frames.items():
        assert draw(name, df).get_figwidth() in (3.5, 7.16)
