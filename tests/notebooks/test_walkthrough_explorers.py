"""What the sliders of the walkthroughs draw, as pure functions and as a picture."""

from __future__ import annotations

import base64

import numpy as np
import pytest
import torch

from fedquad.config import Assignment, InputError, LayerConfig
from fedquad.cost.layer_costs import LayerCosts
from fedquad.fleet.fleet import DeviceStatus
from fedquad.methods import create_method
from fedquad.methods.method import History, MethodSetting
from fedquad.model.adapter import Adapter, AdapterLayout
from fedquad.report.walkthroughs.blocks import blocks_figure, explore_blocks
from fedquad.report.walkthroughs.changes import changes_figure, explore_changes, layer_changes
from fedquad.report.walkthroughs.choices import choices_frame, explore_option
from fedquad.report.walkthroughs.depth import depth_figure, depth_frame, explore_depth

COSTS = LayerCosts(
    num_layers=6,
    fixed_bytes=1_000_000_000,
    bytes_per_lora_layer=200_000_000,
    bytes_saved_per_quantized_layer=116_000_000,
    forward_flops=1_000_000_000_000,
    flops_per_lora_layer=90_000_000_000,
    flops_per_quantized_layer=60_000_000_000,
)
SETTING = MethodSetting(costs=COSTS, local_steps=5)
HISTORY = History(round_idx=0, mean_completion_time_s=None, gradient_norms=np.ones(6))
TENSOR = "attention.self.query.lora_B"


def statuses():
    devices = [("fast", "strong", 6, 9e12), ("slow", "weak", 2, 1e12), ("full", "weak", 0, 1e12)]
    return [
        DeviceStatus(
            device_id=name,
            device_class=device_class,
            depth_budget=depth,
            memory_budget_bytes=COSTS.fixed_bytes + COSTS.bytes_per_lora_layer * depth,
            flops_per_second=speed,
        )
        for name, device_class, depth, speed in devices
    ]


def adapter(fill, layers=range(3)):
    layout = AdapterLayout(
        layers_path="encoder.layer",
        head_modules=("classifier",),
        scaling=1.0,
        fan_in_fan_out=False,
        base_model="",
    )
    lora = {layer: {TENSOR: torch.full((8, 2), float(fill))} for layer in layers}
    return Adapter(lora, {"classifier.weight": torch.zeros(2, 2)}, layout)


def test_bytes_of_the_layers_add_up_to_the_price_of_the_pair():
    pairs = [(1, 0), (4, 2), (6, 5)]
    df = depth_frame(COSTS, pairs)
    for pair in pairs:
        rows = df[(df["depth"] == pair[0]) & (df["quantized"] == pair[1])]
        price = COSTS.price(Assignment.from_layer_config(LayerConfig(*pair), 6))
        assert COSTS.fixed_bytes + rows["kept_bytes"].sum() == price.bytes
        assert (rows["memory_bytes"] == price.bytes).all()
        flops = rows[["forward_flops", "backward_flops", "quantization_flops"]].iloc[0].sum()
        assert flops == price.flops
        assert (rows["kept_bytes"] > 0).tolist() == [layer >= 6 - pair[0] for layer in range(6)]
        assert rows["is_quantized"].sum() == pair[1]
    with pytest.raises(InputError, match="at least one"):
        depth_frame(COSTS, [])


def test_a_pair_that_cannot_be_is_brought_into_range():
    explorer = explore_depth(COSTS)
    depth, quantized, _ = explorer.controls.children
    quantized.value = 5
    depth.value = 1  # drawn with a = 0, not refused
    assert (depth.min, depth.max, quantized.max) == (1, 6, 5)
    assert len(explorer.still.axes) == 9


def test_the_bars_are_the_frames():
    layers, memory, _ = depth_figure(COSTS, [(4, 2)]).axes
    heights = sorted((bar.get_x() + 0.4, bar.get_height()) for bar in layers.patches)
    assert [round(place) for place, _ in heights] == list(range(6))
    expected = [0, 0, 0.084, 0.084, 0.2, 0.2]
    assert [height for _, height in heights] == pytest.approx(expected)
    assert sum(bar.get_width() for bar in memory.patches) == pytest.approx(1.568)


def test_the_title_tells_the_error_of_the_round_trip():
    matrix = torch.arange(64.0).view(8, 8) - 20

    def coarse(tensor, *, bits, block_size):
        return tensor * (1 - 2.0**-bits)

    figure = blocks_figure(matrix, coarse, [(4, 4), (2, 8)])
    titles = [ax.get_title() for ax in figure.axes]
    assert titles == [
        "4 bits, blocks of 4",
        "error: 6.2 %",
        "2 bits, blocks of 8",
        "error: 25 %",
    ]
    assert len(explore_blocks(matrix, coarse).still.axes) == 6
    with pytest.raises(InputError, match="a matrix"):
        blocks_figure(matrix[0], coarse, [(8, 4)])


def test_changes_are_differences_to_what_all_started_from():
    before = adapter(1)
    after = {"device 0": adapter(3, layers=(1, 2)), "mean": adapter(2)}
    changes = layer_changes(before, after, 2, TENSOR)
    assert {name: float(one.mean()) for name, one in changes.items()} == {"device 0": 2, "mean": 1}
    assert set(layer_changes(before, after, 0, TENSOR)) == {"mean"}
    figure = changes_figure(before, after, [2, 0], TENSOR)
    texts = [text.get_text() for ax in figure.axes for text in ax.texts]
    assert texts == ["not\ntrained"]
    with pytest.raises(InputError, match="layer, tensor"):
        layer_changes(before, after, 7, TENSOR)


def test_choices_are_priced_and_the_slowest_does_not_wait():
    df = choices_frame(create_method("fedquad", SETTING), statuses(), HISTORY)
    assert (df["memory_bytes"] <= df["memory_budget_bytes"]).all()
    assert df["waiting_time_s"].min() == 0
    assert df["depth"].tolist()[2] == 0  # fits nothing, is left out
    assert np.isnan(df["completion_time_s"].iloc[2])
    one = df.iloc[0]
    flops = COSTS.forward_flops + COSTS.flops_per_lora_layer * one["depth"]
    flops += COSTS.flops_per_quantized_layer * one["quantized"]
    assert one["completion_time_s"] == pytest.approx(5 * flops / 9e12)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["depth", "changes", "option"])
def test_without_a_kernel_the_sliders_are_a_picture(name, capsys):
    after = {"device 0": adapter(3, layers=(1, 2)), "mean": adapter(2)}
    explorer = {
        "depth": lambda: explore_depth(COSTS),
        "changes": lambda: explore_changes(adapter(1), after, TENSOR),
        "option": lambda: explore_option(
            "fedquad",
            SETTING,
            statuses(),
            HISTORY,
            option="first_mean_time_scale",
            values=[0.5, 1.0, 2.0],
            still=[0.5, 2.0],
        ),
    }[name]()
    bundle = explorer._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert base64.b64decode(bundle["image/png"]).startswith(b"\x89PNG")
    capsys.readouterr()
    slider = explorer.controls.children[0]
    slider.value = slider.options[0] if hasattr(slider, "options") else slider.min
    assert "Figure" in capsys.readouterr().out  # drawn anew, here as text
