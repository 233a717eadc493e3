"""The sizes in which everything can be reproduced."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass

from fedquad.config.validation import InputError, require_choice, require_int


@dataclass(frozen=True, kw_only=True)
class FederatedSize:
    """How much of the federated experiments a profile does.

    Attributes
    ----------
    tasks : tuple of str
        Of Figs. 7 to 9; the ablation takes the first two, everything else the first.
    seeds : tuple of int
    num_devices, num_rounds, local_steps, batch_size : int
        As in `FederatedConfig`.
    eval_samples : int or None
        Evaluation rows of each round; None means all.
    backbones : tuple of (str, float)
        Encoders of Table III, each with its learning rate.
    sensitivity_seeds : int
        Seeds for each setting that is varied.
    """

    tasks: tuple[str, ...]
    seeds: tuple[int, ...]
    num_devices: int
    num_rounds: int
    local_steps: int
    batch_size: int
    eval_samples: int | None
    backbones: tuple[tuple[str, float], ...]
    sensitivity_seeds: int = 1


@dataclass(frozen=True, kw_only=True)
class Profile:
    """One size of the whole reproduction: which model, which data, how much of it."""

    name: str
    description: str
    hardware: str
    model: str
    tasks: tuple[str, ...]
    seeds: tuple[int, ...]
    num_steps: int
    batch_size: int
    max_length: int
    learning_rate: float
    train_samples: int | None
    eval_samples: int | None
    latency_repeats: int
    committed: bool
    federated: FederatedSize
    # Fig. 4(a): how many thirds of the layers are quantized at full depth; 3: all but the last.
    quantized_thirds: tuple[int, ...] = (0, 1, 2, 3)
    accounting_model: str = "roberta-base"
    bottleneck_model: str = "roberta-large"


PROFILES: dict[str, Profile] = {
    profile.name: profile
    for profile in (
        Profile(
            name="smoke",
            description="a few steps on the embedded tasks, to see that everything runs",
            hardware="2 CPU cores",
            model="embedded",
            tasks=("micro-mnli",),
            seeds=(0,),
            num_steps=16,
            batch_size=16,
            max_length=32,
            learning_rate=5e-3,
            train_samples=128,
            eval_samples=64,
            latency_repeats=2,
            committed=False,
            federated=FederatedSize(
                tasks=("micro-mnli", "micro-qqp"),
                seeds=(0,),
                num_devices=5,
                num_rounds=2,
                local_steps=1,
                batch_size=8,
                eval_samples=64,
                backbones=(("embedded", 5e-3),),
            ),
            quantized_thirds=(0, 2),
        ),
        Profile(
            name="embedded",
            description="the embedded encoder and tasks, computed afresh, one seed",
            hardware="2 CPU cores",
            model="embedded",
            tasks=("micro-mnli",),
            seeds=(0,),
            num_steps=200,
            batch_size=32,
            max_length=48,
            learning_rate=3e-3,
            train_samples=None,
            eval_samples=1000,
            latency_repeats=10,
            committed=False,
            federated=FederatedSize(
                tasks=("micro-mnli", "micro-qqp"),
                seeds=(0,),
                num_devices=10,
                num_rounds=7,
                local_steps=3,
                batch_size=8,
                eval_samples=200,
                backbones=(("embedded", 3e-3),),
            ),
            quantized_thirds=(0, 2),
        ),
        Profile(
            name="reference",
            description="the embedded encoder and tasks at full size, three seeds",
            hardware="2 CPU cores, recorded in each run",
            model="embedded",
            tasks=("micro-mnli",),
            seeds=(0, 1, 2),
            num_steps=400,
            batch_size=32,
            max_length=48,
            learning_rate=3e-3,
            train_samples=None,
            eval_samples=None,
            latency_repeats=20,
            committed=True,
            federated=FederatedSize(
                tasks=("micro-mnli", "micro-qqp", "micro-qnli", "micro-sst2"),
                seeds=(0, 1, 2),
                num_devices=10,
                num_rounds=20,
                local_steps=15,
                batch_size=8,
                eval_samples=600,
                # embedded-bert and embedded-deberta join when their weights are there.
                backbones=(("embedded", 3e-3),),
            ),
        ),
        Profile(
            name="glue",
            description="real GLUE text with the pretrained 6-layer MiniLM",
            hardware="2 CPU cores, recorded in each run",
            model="minilm",
            tasks=("sst2",),
            seeds=(0, 1, 2),
            num_steps=200,
            batch_size=32,
            max_length=64,
            learning_rate=3e-3,
            train_samples=None,
            eval_samples=None,
            latency_repeats=10,
            committed=True,
            federated=FederatedSize(
                tasks=("sst2",),
                seeds=(0, 1, 2),
                num_devices=20,
                num_rounds=12,
                local_steps=4,
                batch_size=8,
                eval_samples=None,
                backbones=(("minilm", 3e-3),),
            ),
            quantized_thirds=(0, 2, 3),
        ),
        Profile(
            name="paper",
            description="RoBERTa-base and full GLUE at the paper's sizes",
            hardware="one GPU workstation",
            model="FacebookAI/roberta-base",
            tasks=("mnli",),
            seeds=(0, 1, 2),
            num_steps=12_272,
            batch_size=32,
            max_length=128,
            learning_rate=1e-3,
            train_samples=None,
            eval_samples=None,
            latency_repeats=50,
            committed=False,
            federated=FederatedSize(
                tasks=("mnli", "qqp", "qnli", "sst2"),
                seeds=(0, 1, 2),
                num_devices=100,
                num_rounds=50,
                local_steps=123,
                batch_size=32,
                eval_samples=None,
                backbones=(
                    ("FacebookAI/roberta-large", 1e-3),
                    ("google-bert/bert-large-uncased", 1e-3),
                    ("microsoft/deberta-v3-large", 1e-3),
                ),
            ),
        ),
    )
}


def get_profile(
    name: str, *, task: str | None = None, seeds: Iterable[int] | None = None
) -> Profile:
    """The profile of that name, optionally with another task or other seeds.

    Raises
    ------
    InputError
        For an unknown name (the known ones are listed), no seed, or a seed
        that is no integer >= 0 or comes twice.
    """
    require_choice("profile", name, PROFILES)
    profile = PROFILES[name]
    if task is not None:
        federated = dataclasses.replace(profile.federated, tasks=(task,))
        profile = dataclasses.replace(profile, tasks=(task,), federated=federated)
    if seeds is not None:
        seeds = tuple(seeds)
        for seed in seeds:
            require_int("seeds", seed, 0)
        if not seeds or len(set(seeds)) < len(seeds):
            raise InputError("seeds", seeds, "at least one seed, none twice")
        federated = dataclasses.replace(profile.federated, seeds=seeds)
        profile = dataclasses.replace(profile, seeds=seeds, federated=federated)
    return profile
