"""The learning is real: every method solves a task that one word of each sentence decides."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from fedquad.config import FederatedConfig
from fedquad.federation.runs import run_federated
from fedquad.methods import METHODS
from fedquad.runs.store import RunStore

THINGS = ("book", "show", "view", "room", "film", "ending", "cast", "meal", "music", "story")
NUM_EVAL = 120


@pytest.fixture(scope="module")
def task(tmp_path_factory) -> str:
    """Reviews of one thing, good or bad, as many of each."""
    folder, chance = tmp_path_factory.mktemp("one-word"), random.Random(0)
    for name, count in (("train.tsv", 400), ("dev.tsv", NUM_EVAL)):
        lines = ["sentence\tlabel"]
        for row in range(count):
            thing, other = chance.choices(THINGS, k=2)
            opinion = ("awful", "great")[row % 2]
            lines.append(f"we expected the {thing} and the {other} was {opinion}\t{row % 2}")
        Path(folder, name).write_text("\n".join(lines) + "\n")
    return str(folder)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_accuracy_rises_well_above_chance(task, tmp_path, method):
    config = FederatedConfig(
        method=method,
        task=task,
        num_devices=4,
        num_rounds=5,
        local_steps=5,
        batch_size=8,
        max_length=16,
        learning_rate=5e-3,
    )
    rows = run_federated(config, RunStore(tmp_path)).rows
    five_sigma = 5 * np.sqrt(0.25 / NUM_EVAL)
    assert rows[-1]["accuracy"] > 0.5 + five_sigma
    assert rows[-1]["loss"] < rows[0]["loss"]
