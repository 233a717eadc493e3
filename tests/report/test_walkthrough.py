"""Frames and figures of the walkthrough of activation quantization."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from pandas.testing import assert_frame_equal

from fedquad.config import InputError
from fedquad.model.activation_quantization import ActivationRecord
from fedquad.report.figures import FIGURES, WALKTHROUGH_FIGURES, draw, replot, walkthrough
from fedquad.report.frames.walkthrough import (
    block_size_frame,
    gradient_error_frame,
    heat_map_frame,
    kept_bytes_frame,
    rounding_error_frame,
)
from fedquad.report.saving import load_figure_csv, save_figure
from fedquad.report.style import stamp_text

ORIGIN = {"model": "embedded", "profile": "smoke"}


def record_of(*rows: tuple[int, str, str, int, int]) -> ActivationRecord:
    record = ActivationRecord()
    names = ("layer", "module", "operation", "kept_bytes", "unquantized_bytes")
    record.rows = [dict(zip(names, row, strict=True)) for row in rows]
    return record


def layer_record() -> ActivationRecord:
    return record_of(
        (3, "self.query.lora_A.default", "linear", 250, 1000),
        (3, "self.value.lora_A.default", "linear", 0, 0),
        (3, "act", "gelu", 1000, 4000),
    )


@pytest.fixture(scope="module")
def made():
    torch.manual_seed(0)
    before = torch.randn(64, 48)
    after = (50 * before).round() / 50
    gradients = {layer: torch.ones(8) for layer in range(3)}
    off = {
        bits: {k: v * (1 + 0.1 / bits * (2 - k)) for k, v in gradients.items()} for bits in (8, 4)
    }
    sweep = [
        (name, bits, size, 0.01 * size / bits)
        for name in ("a", "b")
        for bits in (8, 4)
        for size in (8, 16, 32)
    ]
    return {
        "walkthrough_kept_bytes": kept_bytes_frame(layer_record(), **ORIGIN),
        "walkthrough_heat_map": heat_map_frame(before, after, **ORIGIN),
        "walkthrough_rounding_error": rounding_error_frame(
            {"a": torch.rand(1000) - 0.5, "b": torch.zeros(10)}, **ORIGIN
        ),
        "walkthrough_block_size": block_size_frame(sweep, **ORIGIN),
        "walkthrough_gradient_error": gradient_error_frame(gradients, off, **ORIGIN),
    }


def test_every_figure_of_a_walkthrough_is_made_here(made):
    assert set(made) == set(WALKTHROUGH_FIGURES)
    assert not set(WALKTHROUGH_FIGURES) & set(FIGURES)


def test_what_keeps_nothing_is_left_out_and_names_are_short(made):
    df = made["walkthrough_kept_bytes"]
    assert list(df["place"]) == ["self.query.lora_A linear", "act gelu"]
    assert (df["kept_bytes"] / df["unquantized_bytes"]).tolist() == [0.25, 0.25]


@pytest.mark.parametrize("rows", [(), ((0, "a", "gelu", 1, 4), (1, "a", "gelu", 1, 4))])
def test_what_is_kept_is_told_of_one_layer(rows):
    with pytest.raises(InputError, match="recorded layers"):
        kept_bytes_frame(record_of(*rows), **ORIGIN)


def test_a_heat_map_has_every_element_in_its_place():
    before = torch.arange(12.0).view(3, 4)
    df = heat_map_frame(before, before + 0.5, **ORIGIN)
    assert len(df) == 12
    assert (df["before"] == 4 * df["row"] + df["col"]).all()
    assert (df["after"] - df["before"] == 0.5).all()
    for other in (before[:2], before.flatten()):
        with pytest.raises(InputError, match="one shape"):
            heat_map_frame(before, other, **ORIGIN)
    with pytest.raises(InputError, match="one shape"):
        heat_map_frame(before[0], before[0], **ORIGIN)


def test_a_density_integrates_to_one(made):
    df = made["walkthrough_rounding_error"]
    for _, rows in df.groupby("tensor"):
        width = rows["error_scales"].diff().iloc[1]
        assert rows["density"].sum() * width == pytest.approx(1)


def test_scales_count_among_the_bytes(made):
    df = made["walkthrough_block_size"].set_index(["tensor", "bits", "block_size"])
    assert df.loc[("a", 8, 32), "bytes_per_element"] == pytest.approx(1 + 4 / 1024)
    assert df.loc[("a", 4, 8), "bytes_per_element"] == pytest.approx(0.5 + 4 / 64)
    assert df.loc[("b", 4, 16), "error_percent"] == pytest.approx(4)


def test_errors_of_gradients_are_relative(made):
    df = made["walkthrough_gradient_error"].set_index(["bits", "layer"])["error_percent"]
    assert df[8, 0] == pytest.approx(2.5)
    assert df[4, 0] == pytest.approx(5)
    assert df[8, 2] == 0


@pytest.mark.parametrize("name", WALKTHROUGH_FIGURES)
def test_a_figure_is_drawn_again_from_its_csv(made, name, tmp_path):
    df = made[name]
    written = save_figure(draw(name, df), df, name, folder=tmp_path / "first")
    read = load_figure_csv(name, folder=tmp_path / "first")
    assert_frame_equal(read, df, check_dtype=False, check_exact=True)
    again = save_figure(replot(name, folder=tmp_path / "first"), read, name, folder=tmp_path)
    for path, other in zip(written, again, strict=True):
        assert path.read_bytes() == other.read_bytes()
    assert draw(name, df).get_figwidth() == 3.5
    assert "measured: embedded on cpu (computed now)" in stamp_text(df)


@pytest.mark.parametrize(
    ("panel", "name"),
    [
        (walkthrough.kept_bytes, "walkthrough_kept_bytes"),
        (walkthrough.rounding_error, "walkthrough_rounding_error"),
        (walkthrough.block_size, "walkthrough_block_size"),
        (walkthrough.gradient_error, "walkthrough_gradient_error"),
    ],
)
def test_a_panel_draws_into_axes_of_its_own(made, panel, name):
    assert isinstance(panel(made[name]), Axes)


def test_what_is_exact_has_no_place_on_a_logarithmic_axis(made):
    [ax] = draw("walkthrough_gradient_error", made["walkthrough_gradient_error"]).axes
    for line in ax.lines:
        assert list(line.get_xdata()) == [0, 1]
    assert ax.get_xlim()[1] > 2


def test_the_error_has_colours_of_its_own(made):
    before, after, error = draw("walkthrough_heat_map", made["walkthrough_heat_map"]).axes[:3]
    assert before.images[0].get_clim() == after.images[0].get_clim()
    assert np.abs(error.images[0].get_clim()).max() < 0.02
    assert len(before.lines) == 2  # one border of blocks each way
