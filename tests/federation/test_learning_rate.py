"""The learning rate of federated runs: searched on held-out rows, and the one that is used."""

from __future__ import annotations

import pandas as pd
import pytest

from fedquad import paths
from fedquad.config import FederatedConfig, InputError, get_profile
from fedquad.federation.learning_rate import RATES, search_federated_rate
from fedquad.federation.runs import run_settings
from fedquad.federation.setting import FederatedSetting


@pytest.mark.slow
def test_the_search_chooses_the_best_rate_and_writes_it_down(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDQUAD_HOME", str(tmp_path))
    table = search_federated_rate(get_profile("smoke"))
    assert sorted(table["learning_rate"]) == sorted(RATES)
    chosen = table[table["chosen"]]
    assert len(chosen) == 1
    assert chosen["accuracy"].item() == table["accuracy"].max()
    written = pd.read_csv(tmp_path / "data" / "learning_rates" / "smoke-federated.csv")
    pd.testing.assert_frame_equal(written, table)


def test_reference_runs_use_the_rate_that_was_chosen():
    table = pd.read_csv(paths.package_data() / "learning_rates" / "reference-federated.csv")
    size = get_profile("reference").federated
    chosen = table[table["chosen"]]
    assert chosen["learning_rate"].item() == dict(size.backbones)[chosen["model"].item()]
    sizes = chosen[["rounds", "local_steps"]].iloc[0].tolist()
    assert sizes == [size.num_rounds, size.local_steps]


def test_held_out_rows_are_shared_out_to_no_device():
    whole = FederatedSetting(FederatedConfig()).task
    held = FederatedSetting(FederatedConfig(evaluate_on="holdout")).task
    assert set(held.eval.texts_a) <= set(whole.train.texts_a)
    assert len(held.train) + len(held.eval) == len(whole.train)


def test_runs_on_the_evaluation_split_keep_the_ids_they_had():
    assert "evaluate_on" not in run_settings(FederatedConfig())
    assert run_settings(FederatedConfig(evaluate_on="holdout"))["evaluate_on"] == "holdout"
    with pytest.raises(InputError, match="evaluate_on"):
        FederatedConfig(evaluate_on="test")
