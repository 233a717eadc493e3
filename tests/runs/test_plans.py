from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedquad.config import InputError, get_profile, run_id, settings_of
from fedquad.runs.plans import fig02_configs, fig03_configs, layer_groups


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


def test_a_run_takes_the_profiles_settings(profile):
    for config in fig02_configs(profile) + fig03_configs(profile):
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
