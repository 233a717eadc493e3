from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedquad.config import PROFILES, InputError, LayerConfig, get_profile, run_id, settings_of
from fedquad.runs.plans import (
    fig02_configs,
    fig03_configs,
    fig04_configs,
    layer_groups,
    quantized_counts,
    synergy_points,
)


def test_the_groups_of_twelve_layers_are_the_papers():
    groups = layer_groups(12)
    assert groups["A"] == tuple(range(12))
    assert groups["S"] == (0, 1, 2, 3)
    assert groups["M"] == (4, 5, 6, 7)
    assert groups["D"] == (8, 9, 10, 11)
    assert groups["MD"] == tuple(range(4, 12))


@given(num_layers=st.integers(3, 60))
def test_thirds_share_out_all_layers(num_layers):
    groups = layer_groups(num_layers)
    assert groups["S"] + groups["M"] + groups["D"] == groups["A"] == tuple(range(num_layers))
    assert groups["MD"] == groups["M"] + groups["D"]
    assert len(groups["S"]) == len(groups["D"])
    assert 0 <= len(groups["M"]) - len(groups["S"]) <= 2


def test_fewer_than_three_layers_have_no_thirds():
    with pytest.raises(InputError, match="num_layers"):
        layer_groups(2)


@pytest.fixture
def profile():
    base = get_profile("smoke")
    return dataclasses.replace(base, model="bert-base", tasks=("sst2", "mnli"), seeds=(0, 1, 2))


def ids(configs) -> set[str]:
    return {run_id(settings_of(config)) for config in configs}


def test_figure_two_has_every_group_task_and_seed(profile):
    configs = fig02_configs(profile)
    assert len(ids(configs)) == len(configs) == 5 * 2 * 3
    assert {config.task for config in configs} == {"sst2", "mnli"}
    assert {config.seed for config in configs} == {0, 1, 2}
    assert {config.trainable_layers for config in configs} == set(layer_groups(12).values())


def test_figure_three_has_every_depth_and_shares_three_groups_with_figure_two(profile):
    configs = fig03_configs(profile)
    assert len(ids(configs)) == len(configs) == 12 * 2 * 3
    assert {config.trainable_layers[-1] for config in configs} == {11}
    assert sorted({len(config.trainable_layers) for config in configs}) == list(range(1, 13))
    shared = ids(configs) & ids(fig02_configs(profile))
    assert len(shared) == 3 * 2 * 3


def test_the_points_of_figure_four_are_those_that_were_written_down():
    assert synergy_points(12) == (LayerConfig(5), LayerConfig(8, 5), LayerConfig(10, 9))
    assert synergy_points(6) == (LayerConfig(3), LayerConfig(4, 2), LayerConfig(5, 4))
    with pytest.raises(InputError, match="num_layers"):
        synergy_points(2)


@given(num_layers=st.integers(3, 60))
def test_points_spend_on_depth_what_quantization_saves(num_layers):
    points = synergy_points(num_layers)
    assert len(set(points)) == 3
    assert points[0].quantized == 0
    for before, after in itertools.pairwise(points):
        assert before.depth <= after.depth <= num_layers
        assert before.quantized < after.quantized <= after.depth - 1
    assert points[0].depth < points[2].depth


@given(num_layers=st.integers(1, 60))
def test_the_output_layer_is_never_among_the_quantized(num_layers):
    counts = quantized_counts(num_layers)
    assert counts[0] == 0
    assert counts[-1] == num_layers - 1
    assert list(counts) == sorted(set(counts))


def test_thirds_of_the_layers_are_quantized():
    assert quantized_counts(12) == (0, 4, 8, 11)
    assert quantized_counts(6) == (0, 2, 4, 5)
    assert quantized_counts(12, (0, 2)) == (0, 8)


@pytest.mark.parametrize(
    ("name", "sweep"), [("reference", 4), ("glue", 3), ("embedded", 2), ("smoke", 2)]
)
def test_figure_four_sweeps_the_quantized_layers_and_has_its_points(name, sweep):
    profile = PROFILES[name]
    configs = fig04_configs(profile)
    seeds = len(profile.seeds)
    assert len(ids(configs)) == len(configs) == (sweep + 3) * seeds
    top = 12 if profile.model == "embedded" else 6
    pairs = {
        (len(config.trainable_layers), len(config.quantized_layers))
        for config in configs
        if config.seed == profile.seeds[0]
    }
    counts = quantized_counts(top, profile.quantized_thirds)
    assert 0 in counts
    assert round(2 * top / 3) in counts  # the claims are about these two
    points = {(point.depth, point.quantized) for point in synergy_points(top)}
    assert pairs == {(top, count) for count in counts} | points
    for config in configs:
        assert config.trainable_layers[-1] == top - 1
        assert config.quantized_layers == config.trainable_layers[: len(config.quantized_layers)]


def test_runs_without_quantization_are_those_of_figures_two_and_three():
    profile = PROFILES["reference"]
    plain = [config for config in fig04_configs(profile) if not config.quantized_layers]
    assert len(plain) == 2 * len(profile.seeds)
    assert ids(plain) <= ids(fig03_configs(profile))
    full_depth = [config for config in plain if len(config.trainable_layers) == 12]
    assert ids(full_depth) <= ids(fig02_configs(profile))


def test_a_run_takes_the_profiles_settings(profile):
    for config in fig02_configs(profile) + fig03_configs(profile) + fig04_configs(profile):
        for field in ("model", "num_steps", "batch_size", "max_length", "learning_rate"):
            assert getattr(config, field) == getattr(profile, field)
        assert config.train_samples == profile.train_samples
        assert config.eval_samples == profile.eval_samples
        assert 1 <= config.evaluate_every <= config.num_steps


def test_layers_are_counted_without_weights(profile, tiny_model: Path):
    folder_profile = dataclasses.replace(profile, model=str(tiny_model))
    assert len(fig03_configs(folder_profile)) == 3 * 2 * 3
    with pytest.raises(InputError, match="model"):
        fig02_configs(dataclasses.replace(profile, model="no such model"))
