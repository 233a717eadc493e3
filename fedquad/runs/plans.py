"""Which runs a figure of the paper needs."""

from __future__ import annotations

from fedquad.config import FineTuneConfig, InputError, Profile
from fedquad.model.backbone import architecture

EVALUATIONS_PER_RUN = 2


def layer_groups(num_layers: int) -> dict[str, tuple[int, ...]]:
    """The layer groups of Section II-C: thirds of the model, and what they are held against.

    Returns
    -------
    dict of str to tuple of int
        ``A`` all layers, ``S`` the shallow third, ``M`` the middle one, ``D``
        the deep one, ``MD`` the last two thirds (the paper: 12, 4, 4, 4, 8 of 12).
        Where L is no multiple of three the middle third takes the remainder.
    """
    if num_layers < 3:
        raise InputError("num_layers", num_layers, "at least 3 layers, to be cut into thirds")
    third = num_layers // 3
    layers = tuple(range(num_layers))
    return {
        "A": layers,
        "S": layers[:third],
        "M": layers[third : num_layers - third],
        "D": layers[num_layers - third :],
        "MD": layers[third:],
    }


def fig02_configs(profile: Profile) -> list[FineTuneConfig]:
    """Figure 2(b): every layer group, for each task and seed of the profile."""
    groups = layer_groups(_num_layers(profile))
    return _configs(profile, list(groups.values()))


def fig03_configs(profile: Profile) -> list[FineTuneConfig]:
    """Figure 3(a): every LoRA depth from 1 to L. Depths L, 2L/3 and L/3 are runs of Figure 2."""
    top = _num_layers(profile)
    return _configs(profile, [tuple(range(top - depth, top)) for depth in range(1, top + 1)])


def full_depth_config(profile: Profile) -> FineTuneConfig:
    """The profile's first task and seed at full depth."""
    return _configs(profile, [layer_groups(_num_layers(profile))["A"]])[0]


def _num_layers(profile: Profile) -> int:
    return architecture(profile.model).num_hidden_layers


def _configs(profile: Profile, layer_sets: list[tuple[int, ...]]) -> list[FineTuneConfig]:
    """Layers are always given one by one, so that equal sets are equal runs."""
    return [
        FineTuneConfig(
            task=task,
            model=profile.model,
            trainable_layers=layers,
            num_steps=profile.num_steps,
            batch_size=profile.batch_size,
            max_length=profile.max_length,
            learning_rate=profile.learning_rate,
            train_samples=profile.train_samples,
            eval_samples=profile.eval_samples,
            evaluate_every=max(1, profile.num_steps // EVALUATIONS_PER_RUN),
            seed=seed,
        )
        for task in profile.tasks
        for seed in profile.seeds
        for layers in layer_sets
    ]
