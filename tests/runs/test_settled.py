"""What is settled before figures are made: the learning rate, and that the tasks are fair."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from fedquad import paths
from fedquad.config import PROFILES, InputError, get_profile
from fedquad.runs.learnability import check_tasks
from fedquad.runs.learning_rate import RATES, chosen_rate, rate_file_name, search_learning_rate
from fedquad.runs.store import RunStore
from fedquad.tasks.microworld import MICRO_TASKS, make_task
from fedquad.tasks.task import with_holdout

SMOKE = replace(get_profile("smoke"), eval_samples=32)


def test_the_search_chooses_the_best_rate_and_writes_it_down(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDQUAD_HOME", str(tmp_path))
    table = search_learning_rate(SMOKE)
    assert sorted(table["learning_rate"]) == sorted(RATES)
    chosen = table[table["chosen"]]
    assert len(chosen) == 1
    assert chosen["accuracy"].item() == table["accuracy"].max()
    written = pd.read_csv(tmp_path / "data" / "learning_rates" / "smoke.csv")
    pd.testing.assert_frame_equal(written, table)


def test_another_model_has_a_table_of_its_own(tmp_path, monkeypatch):
    other = replace(SMOKE, model="embedded-bert")
    assert rate_file_name(SMOKE) == "smoke.csv"
    assert rate_file_name(other) == "smoke-embedded-bert.csv"
    monkeypatch.setattr(paths, "package_data", lambda: tmp_path)
    with pytest.raises(InputError, match="fedquad tune --profile smoke --model embedded-bert"):
        chosen_rate(other)
    table = pd.DataFrame({"learning_rate": RATES, "chosen": [False, True, False]})
    folder = tmp_path / "learning_rates"
    folder.mkdir()
    table.to_csv(folder / "smoke-embedded-bert.csv", index=False)
    assert chosen_rate(other) == RATES[1]
    table.assign(chosen=False).to_csv(folder / "smoke-embedded-bert.csv", index=False)
    with pytest.raises(InputError, match="one row"):
        chosen_rate(other)


@pytest.mark.slow
def test_every_task_is_tried_with_lora_and_fully(tmp_path):
    table = check_tasks(SMOKE, RunStore(tmp_path / "runs"), tmp_path / "tasks.csv")
    assert list(table.groupby("task", sort=False)["tuning"].apply(set)) == 4 * [{"lora", "full"}]
    assert set(table["task"]) == set(MICRO_TASKS)
    assert table["accuracy_percent"].between(0, 100).all()


@pytest.mark.parametrize("name", ["reference", "glue"])
def test_profiles_use_the_rate_that_was_chosen(name):
    table = pd.read_csv(paths.package_data() / "learning_rates" / f"{name}.csv")
    assert table.loc[table["chosen"], "learning_rate"].item() == PROFILES[name].learning_rate
    assert table["model"].unique().item() == PROFILES[name].model


def test_full_tuning_learns_every_task_and_solves_none():
    table = pd.read_csv(paths.package_data() / "encoders" / "embedded" / "tasks.csv")
    full = table[table["tuning"] == "full"]
    assert set(full["task"]) == set(MICRO_TASKS)
    assert (full["accuracy_percent"] > full["chance_percent"] + 15).all()
    assert (full["accuracy_percent"] < 95).all()


def test_held_out_rows_are_training_rows_that_are_not_trained_on():
    task = make_task("micro-sst2")
    held = with_holdout(task)
    assert len(held.train) + len(held.eval) == len(task.train)
    assert len(held.eval) == min(len(task.train) // 5, len(task.eval))
    assert set(held.train.texts_a) | set(held.eval.texts_a) == set(task.train.texts_a)
    assert not set(held.eval.texts_a) & set(task.eval.texts_a)
    assert np.array_equal(with_holdout(task).eval.labels, held.eval.labels)


def test_too_few_rows_to_hold_some_out_are_refused():
    task = make_task("micro-sst2")
    with pytest.raises(InputError, match="5 or more"):
        with_holdout(replace(task, train=task.train.subset([0, 1, 2])))
