"""Every notebook in the smoke profile, from an empty store, and what came out of it."""

from __future__ import annotations

import json
import shutil

import nbformat
import numpy as np
import pandas as pd
import pytest

from fedquad.config import get_profile
from fedquad.federation import plans
from fedquad.notebook_registry import NOTEBOOKS
from fedquad.report.claims import VERDICTS, judge
from fedquad.report.figures import FIGURES, WALKTHROUGH_FIGURES, replot
from fedquad.report.frames.federated import of_default_throughput
from fedquad.report.paper import claims
from fedquad.report.saving import load_figure_csv, read_exact

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

SMOKE = get_profile("smoke")
FEDERATED = SMOKE.federated
ROUNDS, TASKS = FEDERATED.num_rounds, len(FEDERATED.tasks)
ROWS = {
    "fig01a_communication": 2 * 2,  # tunings, networks
    "fig01b_memory": 3,
    "fig01c_latency": 2 * 2,  # tunings, counted and measured
    "fig02a_layer_position_cost": 5 * 3,  # groups; bytes, FLOPs, seconds
    "fig02b_layer_position_accuracy": 5 * len(SMOKE.seeds),
    "fig03a_depth_accuracy": 12 * len(SMOKE.seeds),
    "fig03b_depth_cost": 12 * 3,
    "fig04a_quantization_memory": 2 * 12 + 1,  # counted and the paper's; checkpointing
    "fig04a_quantization_accuracy": 2 * len(SMOKE.seeds),
    "fig04b_synergy_accuracy": 3 * len(SMOKE.seeds),
    "fig04b_synergy_cost": 3 * 4,  # bytes counted and the paper's, FLOPs, seconds
    "fig05_workflow": FEDERATED.num_devices,
    "fig06_selection_example": 2 * 12,  # devices, depths
    "fig06_configurations": FEDERATED.num_devices * ROUNDS * 3,  # clocks
    "fig06_predictions": 3 * 12 + 3 * 11,  # averages and depths; starts and rounds
    # Methods and FedLoRA on every task; two more clocks; two more levels.
    "fig07_accuracy_curves": (6 * TASKS + 2 * 5 + 2 * 5) * ROUNDS,
    "fig08_time_to_accuracy": 5 * TASKS,
    "fig09_waiting_time": 5 * (TASKS + 2) * ROUNDS,  # methods; two more clocks
    "tab04_curves": 5 * 3 * ROUNDS,  # methods, levels
    "fig10_ablation": 3 * TASKS * ROUNDS,
    # Options, four settings of FedQuad, clocks, and what a budget means.
    "fig_sensitivity": 2 * 4 + (4 + 4 + 2 + 2) + 5 * 3 + 4 * 2,
    "fig_yardstick": 3 * ROUNDS,  # choices
}
COSTS = [
    "fig01c_latency",
    "fig02a_layer_position_cost",
    "fig03b_depth_cost",
    "fig04b_synergy_cost",
]
ACCURACIES = [
    "fig02b_layer_position_accuracy",
    "fig03a_depth_accuracy",
    "fig04a_quantization_accuracy",
    "fig04b_synergy_accuracy",
]
# Two rows may cost the same: of a point without quantization, whatever a quantized layer saves.
WITH_EQUAL_COSTS = ["fig02a_layer_position_cost", "fig04b_synergy_cost"]
# Of no quantization there is no cut; what does not fit takes no time.
EMPTY = {
    "fig04a_quantization_memory": ["cut_percent"],
    "fig06_selection_example": ["quantized", "completion_time_s", "reward", "memory_bytes"],
}
# Of methods or panels that have different columns.
WITH_GAPS = ["fig06_predictions", "fig08_time_to_accuracy", "fig08_speedup_against_target"]
FEDERATED_ITEMS = ["alg01", "fig06", "fig08", "tab03", "fig09", "tab04", "fig10"]
UNITS = {"accounting": "byte", "flops": "flop", "measured": "s"}
EXPLORERS = ["05_configuration_selection", *(s for s in NOTEBOOKS if s.startswith("walkthrough_"))]


@pytest.fixture
def figures(home):
    return home / "figures" / "smoke"


def test_exactly_the_listed_files_are_there(figures):
    listed = {name for entry in NOTEBOOKS.values() for name in entry.files}
    listed |= {f"notebooks/{stem}.ipynb" for stem in NOTEBOOKS}
    found = {path.relative_to(figures).as_posix() for path in figures.rglob("*") if path.is_file()}
    assert found == listed
    assert not [name for name in listed if (figures / name).stat().st_size < 100]


def test_a_line_for_each_notebook_and_a_bar_for_the_runs_are_shown(home):
    log = (home / "log").read_text()
    for number, stem in enumerate(NOTEBOOKS, start=1):
        assert f"[{number}/{len(NOTEBOOKS)}] {stem} … " in log
    assert "fine-tuning: 100%" in log
    assert "federated rounds: 100%" in log
    assert "Warning" not in log


@pytest.mark.parametrize("name", FIGURES)
def test_frames_have_their_rows_and_nothing_infinite(figures, name):
    frame = load_figure_csv(name, folder=figures)
    # A sweep has as many targets as there are between the lowest and the highest accuracy.
    assert len(frame) == ROWS.get(name, len(frame))
    assert (frame["profile"] == "smoke").all()
    ours = frame.select_dtypes("number")
    ours = ours[[column for column in ours if not column.startswith("paper")]]
    assert not np.isinf(ours.to_numpy(float)).any()
    if name not in COSTS + WITH_GAPS:
        assert ours.drop(columns=EMPTY.get(name, [])).notna().all(axis=None)


@pytest.mark.parametrize("name", COSTS)
def test_costs_have_units_and_grow_as_they_must(figures, name):
    frame = load_figure_csv(name, folder=figures)
    for source, rows in frame.groupby("source"):
        assert (rows["unit"] == UNITS[source]).all()
        assert (rows["total"] > 0).all()
        assert rows["total"].nunique() == len(rows) or name in WITH_EQUAL_COSTS
        assert rows["total"].nunique() > 1
        assert rows["percent"].notna().all()
    measured = frame[frame["source"] == "measured"]
    assert (measured["repeats"] == SMOKE.latency_repeats).all()
    assert (measured["total_low"] <= measured["total"]).all()
    assert (measured["total"] <= measured["total_high"]).all()
    if name == "fig03b_depth_cost":
        for source in ("accounting", "flops"):
            totals = frame[frame["source"] == source].sort_values("depth")["total"]
            assert totals.is_monotonic_increasing


@pytest.mark.parametrize("name", ACCURACIES)
def test_accuracies_are_those_of_the_runs(figures, name):
    frame = load_figure_csv(name, folder=figures)
    assert (frame["num_eval"] == SMOKE.eval_samples).all()
    assert frame["accuracy"].between(0, 1).all()
    assert (frame["steps"] == SMOKE.num_steps).all()
    assert set(frame["task"]) == set(SMOKE.tasks)
    assert not frame["from_record"].any()
    for row in frame.itertuples():
        correct = np.unpackbits(np.frombuffer(bytes.fromhex(row.correct), np.uint8))
        assert correct[: row.num_eval].mean() == pytest.approx(row.accuracy)


def test_runs_that_train_other_layers_answer_differently(figures):
    frame = load_figure_csv("fig03a_depth_accuracy", folder=figures)
    assert frame["correct"].nunique() > 1
    assert frame["accuracy"].nunique() > 1


def test_notebooks_share_their_runs(home, figures):
    """Depths of a third, two thirds and all layers are groups of Fig. 2."""
    runs = [path for path in (home / "data" / "runs" / "smoke").glob("micro-*") if path.is_dir()]
    tuned = [path for path in runs if "-lora-l" in path.name]
    assert len(tuned) == 12 + 2 + 3
    assert len(runs) - len(tuned) == len(plans.all_configs(SMOKE))
    depth = load_figure_csv("fig03a_depth_accuracy", folder=figures).set_index("depth")
    group = load_figure_csv("fig02b_layer_position_accuracy", folder=figures).set_index("group")
    for name, layers in (("A", 12), ("MD", 8), ("D", 4)):
        assert group.loc[name, "correct"] == depth.loc[layers, "correct"]
    sweep = load_figure_csv("fig04a_quantization_accuracy", folder=figures)
    points = load_figure_csv("fig04b_synergy_accuracy", folder=figures)
    for frame, layers in ((sweep, 12), (points, 5)):
        plain = frame.loc[frame["quantized"] == 0, "correct"].item()
        assert plain == depth.loc[layers, "correct"]


def test_quantized_layers_keep_less_and_checkpointed_ones_least(figures):
    memory = load_figure_csv("fig04a_quantization_memory", folder=figures)
    kept = {saving: rows["kept_bytes"] for saving, rows in memory.groupby("saving")}
    assert kept["counted"].is_monotonic_decreasing
    assert kept["checkpointing"].item() < kept["counted"].min() < kept["paper"].min()
    table = read_exact(figures / "tab_fig04_checkpointing.csv").set_index("method")
    assert table["kept_bytes"].is_monotonic_decreasing
    assert table["peak_step_bytes"].is_monotonic_decreasing
    assert table["added_flops_percent"].tolist()[:2] == [0, 0]
    assert 25 < table.loc["checkpointing", "added_flops_percent"] < 60


@pytest.mark.parametrize("item", ["fig01", "fig02", "fig03", "fig04"])
def test_every_claim_gets_a_verdict(figures, item):
    table = read_exact(figures / f"claims_{item}.csv")
    assert list(table["id"]) == [claim.id for claim in claims(item)]
    assert all(verdict.startswith(VERDICTS) for verdict in table["verdict"])
    for claim, row in zip(claims(item), table.itertuples(), strict=True):
        # A ratio of gains is nothing where nothing was gained; a GPU's time is nothing without one.
        if claim.id not in ("depth-diminishing", "synergy-saturates", "quant-latency"):
            assert row.low <= row.reproduced <= row.high
        not_here = claim.is_trained or claim.scale == "gpu"
        assert row.verdict.startswith("not attempted") == not_here
    judged = judge(figures, [item]).replace("", np.nan)  # as a csv has it
    pd.testing.assert_frame_equal(table, judged, check_dtype=False)


@pytest.mark.parametrize("item", FEDERATED_ITEMS)
def test_of_one_seed_only_algorithm_1_itself_is_judged(figures, item):
    table = read_exact(figures / f"claims_{item}.csv")
    assert list(table["id"]) == [claim.id for claim in claims(item)]
    judged = {row.id: row.verdict for row in table.itertuples()}
    attempted = {id for id, verdict in judged.items() if not verdict.startswith("not attempted")}
    assert attempted == ({"acs-minimal-a"} if item == "alg01" else set())
    assert judged.get("acs-minimal-a", "reproduced") == "reproduced"
    # Computed or not, a reason is given.
    assert (table["reason"].str.len() > 0).all()


def test_figures_of_federated_runs_show_the_same_rounds(figures):
    """Figs. 5 and 6 the same choices, Fig. 9 and Table IV the same waiting."""
    workflow = load_figure_csv("fig05_workflow", folder=figures)
    chosen = of_default_throughput(load_figure_csv("fig06_configurations", folder=figures))
    example = load_figure_csv("fig06_selection_example", folder=figures)
    keys = ["seed", "round", "device_id"]
    columns = ["depth", "quantized", "completion_time_s"]
    of_run = chosen.set_index(keys)[columns]
    of_round = workflow.set_index(keys)[columns]
    pd.testing.assert_frame_equal(of_round, of_run.loc[of_round.index], check_dtype=False)
    stars = example[example["chosen"]].set_index(keys)[columns]
    assert len(stars) == 2
    pd.testing.assert_frame_equal(stars, of_run.loc[stars.index], check_dtype=False)
    waiting = of_default_throughput(load_figure_csv("fig09_waiting_time", folder=figures))
    curves = load_figure_csv("tab04_curves", folder=figures)
    keys = ["task", "method", "seed", "round"]
    high = curves[curves["heterogeneity"] == "high"].set_index(keys)["mean_waiting_time_s"]
    assert (waiting.set_index(keys)["mean_waiting_time_s"].loc[high.index] == high).all()


def test_tables_of_federated_runs_have_their_rows(figures):
    assert len(read_exact(figures / "tab01_jetsons.csv")) == 3
    assert len(read_exact(figures / "tab04_heterogeneity.csv")) == 3 * 5
    policies = read_exact(figures / "tab_budget_policies.csv").set_index("budget_policy")
    assert set(policies.loc["strict", "method"]) == set(plans.BASELINES)
    assert (policies.loc["strict", "memory_overruns"] == 0).all()
    assert (policies.loc["layers", "participants"] == FEDERATED.num_devices).all()
    sensitivity = load_figure_csv("fig_sensitivity", folder=figures)
    assert list(sensitivity["setting"].unique()) == list(plans.VARIED)
    assert len(read_exact(figures / "tab_sensitivity.csv")) == len(sensitivity)


def test_table_ii_counts_the_tasks(figures):
    table = read_exact(figures / "tab02_datasets.csv")
    assert set(table["dataset"]) == {"micro-mnli", "micro-qqp", "micro-qnli", "micro-sst2"}
    assert (table[["train", "test"]] > 0).all(axis=None)
    tags = read_exact(figures / "tab_hyperparameters.csv")["tag"]
    assert set(tags) == {"paper", "inherited", "assumed"}


@pytest.mark.parametrize("name", [*FIGURES, *WALKTHROUGH_FIGURES])
def test_each_figure_is_drawn_again_from_its_csv(figures, name):
    assert replot(name, folder=figures).axes


def test_executed_notebooks_show_figures_and_no_progress_bars(figures):
    for stem, entry in NOTEBOOKS.items():
        notebook = nbformat.read(figures / "notebooks" / f"{stem}.ipynb", as_version=4)
        outputs = [out for cell in notebook.cells for out in cell.get("outputs", ())]
        pictures = [out for out in outputs if "image/png" in out.get("data", {})]
        # Sliders bring a still picture of their own.
        sliders = [out for out in pictures if any("widget-view" in kind for kind in out["data"])]
        assert len(pictures) - len(sliders) == len(entry.figures)
        assert len(sliders) == (stem in EXPLORERS)
        assert not [out for out in outputs if out.get("name") == "stderr"]


def test_step_times_are_stored_with_their_machine(home):
    for name in ("fig01c", "fig02a", "fig03b", "fig04"):
        path = home / "data" / "runs" / "smoke" / f"latency-{name}.json"
        assert json.loads(path.read_text())["environment"]["threads"] == 1


def test_drawn_again_the_csv_is_the_same_but_for_its_origin(home, reproduce, tmp_path):
    shutil.copytree(home, tmp_path / "home")
    figures = tmp_path / "home" / "figures" / "smoke"
    names = NOTEBOOKS["02_layer_position"].figures
    computed = {name: load_figure_csv(name, folder=figures) for name in names}
    reproduce(tmp_path / "home", "fig02")
    drawn = {name: (figures / f"{name}.csv").read_bytes() for name in names}
    for name, before in computed.items():
        after = load_figure_csv(name, folder=figures)
        trained = after["source"] == "measured" if "source" in after else slice(None)
        assert after["from_record"][trained].all()
        columns = [column for column in before if column != "from_record"]
        pd.testing.assert_frame_equal(after[columns], before[columns])
    reproduce(tmp_path / "home", "fig02")
    assert {name: (figures / f"{name}.csv").read_bytes() for name in names} == drawn
