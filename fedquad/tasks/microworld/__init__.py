"""A small English-like world, made by this project, and four tasks in it.

The tasks mirror the paper's Table II: entailment (MNLI), paraphrase (QQP),
question answering (QNLI) and sentiment (SST-2). Every row comes from a seed,
every label from the meaning of the sentences and never from how they were
made, so that the tasks are exact without being trivial.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from random import Random

import numpy as np

from fedquad.config import require_choice
from fedquad.tasks.microworld.opinions import review
from fedquad.tasks.microworld.pairs import (
    ENTAILMENT_LABELS,
    answer_pair,
    entailment_pair,
    paraphrase_pair,
)
from fedquad.tasks.task import Split, Task, fingerprint_of

SOURCE = "made by fedquad.tasks.microworld"


@dataclass(frozen=True)
class _Recipe:
    application: str
    label_names: tuple[str, ...]
    make: Callable[[int, Random], tuple[str, str] | str]
    train_rows: int
    eval_rows: int


_RECIPES = {
    "micro-mnli": _Recipe("Textual Entailment", ENTAILMENT_LABELS, entailment_pair, 12_000, 2_000),
    "micro-qqp": _Recipe(
        "Semantic Equivalence", ("different", "same"), paraphrase_pair, 12_000, 2_000
    ),
    "micro-qnli": _Recipe(
        "Question Answering", ("entailment", "not_entailment"), answer_pair, 8_000, 2_000
    ),
    "micro-sst2": _Recipe("Sentiment Analysis", ("negative", "positive"), review, 8_000, 2_000),
}
MICRO_TASKS: dict[str, str] = {name: recipe.application for name, recipe in _RECIPES.items()}


def _rows(recipe: _Recipe, count: int, rng: Random, taken: set) -> Split:
    """``count`` rows, labels in turn, none equal to one in ``taken``."""
    texts, labels = [], []
    while len(texts) < count:
        label = len(texts) % len(recipe.label_names)
        text = recipe.make(label, rng)
        if text not in taken:
            taken.add(text)
            texts.append(text)
            labels.append(label)
    order = list(range(count))
    rng.shuffle(order)
    texts = [texts[i] for i in order]
    paired = isinstance(texts[0], tuple)
    return Split(
        texts_a=[text[0] for text in texts] if paired else texts,
        texts_b=[text[1] for text in texts] if paired else None,
        labels=np.array([labels[i] for i in order], dtype=np.int64),
        refused=(),
    )


@lru_cache
def make_task(name: str) -> Task:
    """One of the four tasks, the same rows on every machine.

    Parameters
    ----------
    name : str
        A key of `MICRO_TASKS`.

    Returns
    -------
    Task
        Labels are balanced; no evaluation row occurs in training.
    """
    require_choice("task", name, MICRO_TASKS)
    recipe = _RECIPES[name]
    taken: set = set()
    evaluation = _rows(recipe, recipe.eval_rows, Random(f"{name}/eval"), taken)
    train = _rows(recipe, recipe.train_rows, Random(f"{name}/train"), taken)
    return Task(
        name=name,
        application=recipe.application,
        label_names=recipe.label_names,
        train=train,
        eval=evaluation,
        fingerprint=fingerprint_of(recipe.label_names, train, evaluation),
        source=SOURCE,
    )
