"""Which runs a figure of the paper needs."""

from __future__ import annotations

from fedquad.config import FineTuneConfig, InputError, LayerConfig, Profile
from fedquad.model.backbone import architecture

EVALUATIONS_PER_RUN = 2

# The configurations of Fig. 4(b), of 12 layers: (LoRA depth, quantized layers) at about one memory.
SYNERGY_OF_TWELVE = ((5, 0), (8, 5), (10, 9))


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


def quantized_counts(num_layers: int, thirds: tuple[int, ...] = (0, 1, 2, 3)) -> tuple[int, ...]:
    """Numbers of quantized layers of Fig. 4(a), at full depth: thirds of L, at most L - 1."""
    counts = (min(round(third * num_layers / 3), num_layers - 1) for third in thirds)
    return tuple(dict.fromkeys(counts))


def synergy_points(num_layers: int) -> tuple[LayerConfig, ...]:
    """The configurations of Fig. 4(b), which spend what quantization saves on depth.

    Returns
    -------
    tuple of LayerConfig
        (5, 0), (8, 5), (10, 9) of 12 layers. Elsewhere the same shares of L:
        the depth rounded, the quantized layers rounded down, so (3, 0), (4, 2),
        (5, 4) of 6.

    Raises
    ------
    InputError
        For a model of fewer than 3 layers, where they would coincide.
    """
    if num_layers < 3:
        raise InputError("num_layers", num_layers, "at least 3 layers, to have three points")
    points = []
    for depth_of_twelve, quantized_of_twelve in SYNERGY_OF_TWELVE:
        depth = (num_layers * depth_of_twelve + 6) // 12
        quantized = min(num_layers * quantized_of_twelve // 12, depth - 1)
        points.append(LayerConfig(depth, quantized))
    return tuple(points)


def fig02_configs(profile: Profile) -> list[FineTuneConfig]:
    """Figure 2(b): every layer group, for each task and seed of the profile."""
    groups = layer_groups(_num_layers(profile))
    return _configs(profile, list(groups.values()))


def fig03_configs(profile: Profile) -> list[FineTuneConfig]:
    """Figure 3(a): every LoRA depth from 1 to L. Depths L, 2L/3 and L/3 are runs of Figure 2."""
    top = _num_layers(profile)
    return _configs(profile, [tuple(range(top - depth, top)) for depth in range(1, top + 1)])


def fig04_configs(profile: Profile) -> list[FineTuneConfig]:
    """Figure 4: full depth with some layers quantized, and the points of `synergy_points`.

    Those without quantization are runs of Figures 2 and 3.
    """
    top = _num_layers(profile)
    sweep = [LayerConfig(top, count) for count in quantized_counts(top, profile.quantized_thirds)]
    points = dict.fromkeys([*sweep, *synergy_points(top)])
    return _configs(
        profile,
        [point.trainable_layers(top) for point in points],
        [point.quantized_layers(top) for point in points],
    )


def full_depth_config(profile: Profile) -> FineTuneConfig:
    """The profile's first task and seed at full depth."""
    return _configs(profile, [layer_groups(_num_layers(profile))["A"]])[0]


def _num_layers(profile: Profile) -> int:
    return architecture(profile.model).num_hidden_layers


def _configs(
    profile: Profile,
    layer_sets: list[tuple[int, ...]],
    quantized_sets: list[tuple[int, ...]] | None = None,
) -> list[FineTuneConfig]:
    """Layers are always given one by one, so that equal sets are equal runs."""
    quantized_sets = quantized_sets or [()] * len(layer_sets)
    return [
        FineTuneConfig(
            task=task,
            model=profile.model,
            trainable_layers=layers,
            quantized_layers=quantized,
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
        for layers, quantized in zip(layer_sets, quantized_sets, strict=True)
    ]
