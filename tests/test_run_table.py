"""The page of runs: what is planned, what is recorded, what it took."""

from __future__ import annotations

import dataclasses

import pytest

from fedquad import paths
from fedquad.config import get_profile
from fedquad.federation.plans import main_configs
from fedquad.federation.runs import load_or_federate
from fedquad.run_table import run_frame, run_table, summary_frame
from fedquad.runs.store import RunStore


def test_the_committed_page_follows_from_the_committed_runs():
    root = paths.package_data() / "runs"
    assert (root / "README.md").read_text(encoding="utf-8") == run_table(root)


@pytest.mark.slow
def test_a_run_that_several_figures_need_is_counted_in_each_and_once_in_all(tmp_path):
    smoke = get_profile("smoke")
    wanted = next(config for config in main_configs(smoke) if config.method == "fedquad")
    other = dataclasses.replace(wanted, seed=7)
    results = load_or_federate([wanted, other], RunStore(tmp_path), progress=False)
    runs = run_frame(smoke, tmp_path)
    recorded = runs[runs["recorded"]]
    of_wanted = recorded[recorded["run"].str.endswith(results[0].run_id)]
    assert {"Fig. 5, Fig. 6, Algorithm 1", "Fig. 10"} <= set(of_wanted["figures"])
    minutes = results[0].telemetry["wall_time_s"] / 60
    assert of_wanted["minutes"].tolist() == pytest.approx(len(of_wanted) * [minutes])
    (of_other,) = recorded.loc[recorded["run"].str.endswith(results[1].run_id), "figures"]
    assert of_other == "settings tried, other tasks"
    whole = summary_frame(runs).iloc[-1]
    assert whole["recorded"] == 2
    both = sum(result.telemetry["wall_time_s"] for result in results)
    assert whole["hours"] == pytest.approx(both / 3600)
