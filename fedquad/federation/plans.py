"""Which federated runs a figure or table of the paper needs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from fedquad.config import FederatedConfig, Profile
from fedquad.config.federated import (
    DEFAULT_REFERENCE_MODEL,
    HETEROGENEITY_LEVELS,
    REFERENCE_MODELS,
)
from fedquad.model.pretrained import short_name

# The order of the paper's legends; FedLoRA is the unconstrained reference.
BASELINES = ("fedra", "inclusivefl", "layersel", "hetlora")
COMPARED = ("fedquad", *BASELINES)
ABLATION = ("fedquad", "fedquad-no-qd", "fedquad-no-ld")


def main_configs(profile: Profile) -> list[FederatedConfig]:
    """Figs. 7 to 9: every method and FedLoRA on every task, at high heterogeneity."""
    return [
        profile_config(profile, method=method, task=task, seed=seed)
        for task in profile.federated.tasks
        for seed in profile.federated.seeds
        for method in (*COMPARED, "fedlora")
    ]


def selection_configs(profile: Profile) -> list[FederatedConfig]:
    """Figs. 5 and 6: FedQuad on the first task, at high heterogeneity."""
    seeds = profile.federated.seeds
    return [profile_config(profile, method="fedquad", seed=seed) for seed in seeds]


def backbone_configs(profile: Profile) -> list[FederatedConfig]:
    """Table III: the compared methods on every backbone, each priced as its large namesake."""
    return [
        profile_config(profile, method=method, model=model, seed=seed)
        for model, _ in profile.federated.backbones
        for seed in profile.federated.seeds
        for method in COMPARED
    ]


def heterogeneity_configs(profile: Profile) -> list[FederatedConfig]:
    """Table IV: the compared methods at each level of heterogeneity."""
    return [
        profile_config(profile, method=method, heterogeneity=level, seed=seed)
        for level in HETEROGENEITY_LEVELS
        for seed in profile.federated.seeds
        for method in COMPARED
    ]


def ablation_configs(profile: Profile) -> list[FederatedConfig]:
    """Fig. 10: FedQuad, without quantization, and without choice of depth, on two tasks."""
    return [
        profile_config(profile, method=method, task=task, seed=seed)
        for task in profile.federated.tasks[:2]
        for seed in profile.federated.seeds
        for method in ABLATION
    ]


def throughput_configs(profile: Profile) -> list[FederatedConfig]:
    """FedQuad under the other throughput models, on the first task.

    The baselines choose without looking at speed: their runs under the default
    model are given other clocks (`fedquad.federation.reclock`).
    """
    return [
        profile_config(profile, method="fedquad", throughput_model=throughput, seed=seed)
        for throughput in ("fp32", "roofline")
        for seed in profile.federated.seeds
    ]


# What the sensitivity notebook varies, one thing at a time; defaults are runs of the other figures.
_VARIED_OPTIONS = {
    "reward_offset_s": (1.0, 10.0, 100.0),
    "first_mean_time_scale": (0.5, 2.0, 4.0),
}
_VARIED_SETTINGS: dict[str, tuple[Any, ...]] = {
    "partition_alpha": (0.5, 1.0, float("inf")),
    "lora_rank": (4, 8, 32),
    "quantization_price": ("counted",),
    "rate_schedule": ("within-round",),
}
VARIED = (*_VARIED_OPTIONS, *_VARIED_SETTINGS, "throughput_model", "budget_policy")


def sensitivity_configs(profile: Profile) -> list[FederatedConfig]:
    """What Section V-D announces: FedQuad's settings, varied one at a time, on the first task.

    And the baselines under the strict budget policy. One seed of the profile's,
    or all of them as ``sensitivity_seeds`` says.
    """
    configs = []
    for seed in profile.federated.seeds[: profile.federated.sensitivity_seeds]:
        configs.append(profile_config(profile, method="fedquad", seed=seed))
        for name, values in _VARIED_OPTIONS.items():
            configs += [
                profile_config(
                    profile, method="fedquad", method_options=((name, value),), seed=seed
                )
                for value in values
            ]
        for name, values in _VARIED_SETTINGS.items():
            configs += [
                profile_config(profile, method="fedquad", seed=seed, **{name: value})
                for value in values
            ]
        configs += [
            profile_config(profile, method=method, budget_policy=policy, seed=seed)
            for method in BASELINES
            for policy in ("layers", "strict")
        ]
    return configs


def all_configs(profile: Profile) -> list[FederatedConfig]:
    """Every run of a profile, once, those of the main figures first."""
    plans = (
        main_configs,
        ablation_configs,
        heterogeneity_configs,
        throughput_configs,
        backbone_configs,
        sensitivity_configs,
    )
    return list(dict.fromkeys(config for plan in plans for config in plan(profile)))


def reference_model_of(model: str) -> str:
    """The model whose costs the clock has: itself if known, for a small encoder its namesake."""
    return REFERENCE_MODELS.get(model) or short_name(model) or DEFAULT_REFERENCE_MODEL


def tuning_configs(profile: Profile, rates: Iterable[float]) -> list[FederatedConfig]:
    """FedLoRA at each learning rate, on training rows held out: it favours none of the compared."""
    return [
        profile_config(
            profile,
            method="fedlora",
            seed=profile.federated.seeds[0],
            learning_rate=rate,
            evaluate_on="holdout",
        )
        for rate in rates
    ]


def profile_config(profile: Profile, **varied: Any) -> FederatedConfig:
    """A run of a profile's size, on its first task and its model unless said otherwise."""
    size = profile.federated
    rates = dict(size.backbones)
    model = varied.pop("model", profile.model)
    return dataclasses.replace(
        FederatedConfig(
            task=size.tasks[0],
            model=model,
            reference_model=reference_model_of(model),
            num_devices=size.num_devices,
            num_rounds=size.num_rounds,
            local_steps=size.local_steps,
            batch_size=size.batch_size,
            max_length=profile.max_length,
            learning_rate=rates.get(model, profile.learning_rate),
            train_samples=profile.train_samples,
            eval_samples=size.eval_samples,
        ),
        **varied,
    )
