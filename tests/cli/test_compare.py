"""``fedquad compare``: time to accuracy and speed-ups of stored runs, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from fedquad.cli.compare import DEFAULT_METHODS
from fedquad.federation.plans import COMPARED

TINY = "--devices 3 --rounds 3 --local-steps 1 --batch-size 4 --max-length 16 --eval-samples 20"


@pytest.fixture
def tiny(tiny_model, task_folder):
    """Options that name a tiny encoder and a tiny task."""
    return ["--model", str(tiny_model), "--task", str(task_folder)]


def mean_curve(runs):
    """Accuracy averaged over seeds and smoothed over neighbours, and the mean time, by round."""
    accuracy, time_s = (
        [sum(row) / len(runs) for row in zip(*(column(one, name) for one in runs), strict=True)]
        for name in ("accuracy", "sim_time_s")
    )
    around = [accuracy[max(0, h - 1) : h + 2] for h in range(len(accuracy))]
    return time_s, [sum(part) / len(part) for part in around]


def column(run_values, name):
    return [row[name] for row in run_values["rounds"]]


def first_time(time_s, accuracy, target):
    """When the curve is at the target, on straight lines between rounds."""
    for h in range(len(accuracy)):
        if accuracy[h] >= target - 1e-12:
            if h == 0:
                return time_s[0]
            share = (target - accuracy[h - 1]) / (accuracy[h] - accuracy[h - 1])
            return time_s[h - 1] + share * (time_s[h] - time_s[h - 1])
    raise AssertionError("the target is never reached")


def test_the_defaults_are_what_the_paper_compares():
    assert DEFAULT_METHODS == COMPARED


def test_times_and_speedups_are_those_of_the_runs(run, home, tiny):
    methods, seeds = ("fedra", "fedquad"), (0, 1)
    command = f"compare {TINY} --methods {' '.join(methods)} --seeds 0 1 --workers 1 --json"
    status, out, err = run(command, *tiny)
    assert (status, err) == (0, "")
    values = json.loads(out)
    runs = {}
    for method in methods:
        runs[method] = []
        for seed in seeds:
            _, out, _ = run(f"run {TINY} --method {method} --seed {seed} --json", *tiny)
            runs[method].append(json.loads(out))
            assert runs[method][-1]["from_record"]

    curves = {method: mean_curve(runs[method]) for method in methods}
    target = min(max(accuracy) for _, accuracy in curves.values())
    times = {method: first_time(*curves[method], target) for method in methods}
    assert values["target_percent"]["value"] == pytest.approx(100 * target)
    assert values["seeds"] == [0, 1]
    assert values["speedup_of"] == "fedquad"
    assert [row["method"] for row in values["methods"]] == list(methods)
    for row in values["methods"]:
        method = row["method"]
        assert row["time_to_accuracy_s"]["value"] == pytest.approx(times[method])
        assert row["speedup"]["value"] == pytest.approx(times[method] / times["fedquad"])
        assert row["final_accuracy_percent"]["value"] == pytest.approx(100 * curves[method][1][-1])
        waiting = [one["mean_waiting_time_s"] for one in runs[method]]
        assert row["mean_waiting_time_s"] == pytest.approx(sum(waiting) / 2)
        assert row["run_ids"] == [one["run_id"] for one in runs[method]]
        assert row["from_record"] == [False, False]
        overruns = sum(one["memory_overruns"] for one in runs[method])
        assert row["memory_overruns"] == overruns
        for name in ("time_to_accuracy_s", "final_accuracy_percent"):
            assert row[name]["low"] <= row[name]["value"] <= row[name]["high"]

    _, out, _ = run(command, *tiny)
    for row, before in zip(json.loads(out)["methods"], values["methods"], strict=True):
        assert row == {**before, "from_record": [True, True]}


def test_the_table_names_the_target_and_whose_speedups_they_are(run, home, tiny):
    command = f"compare {TINY} --methods layersel fedra --workers 1"
    status, out, err = run(command, *tiny)
    assert status == 0
    assert "6/6" in err  # one bar over the rounds of both
    _, shown, _ = run(f"{command} --json", *tiny)
    values = json.loads(shown)
    assert values["speedup_of"] == "layersel"
    assert f"target {values['target_percent']['value']:.4g} [" in out
    assert "LayerSel is x times as fast" in out
    assert "there is one seed" in out
    assert "0 of 2 runs were read" in out
    [fedra] = [line for line in out.splitlines() if line.startswith("FedRA ")]
    speedup = values["methods"][1]["speedup"]
    assert f" {speedup['value']:.4g}" in fedra
    assert fedra.split()[-1] == f"{values['methods'][1]['mean_waiting_time_s']:,.1f}"


def test_an_option_is_of_one_method(run, home, tiny):
    sizes = TINY.replace("--rounds 3", "--rounds 1")
    command = f"compare {sizes} --methods hetlora fedlora --option hetlora.gamma=0.5 --workers 1"
    status, out, _ = run(f"{command} --json", *tiny)
    assert status == 0
    hetlora, fedlora = json.loads(out)["methods"]
    assert (hetlora["options"], fedlora["options"]) == ({"gamma": 0.5}, {})
    _, out, _ = run(f"run {sizes} --method hetlora --option gamma=0.5 --json", *tiny)
    assert [json.loads(out)["run_id"]] == hetlora["run_ids"]


BAD = {
    "unknown method": ("--methods fedquad fedsgd", "one of fedquad, fedquad-no-qd"),
    "a method twice": ("--methods fedra fedra", "none twice"),
    "a method under two names": (
        "--methods fedra fedquad.methods.fedra:FedRA",
        "none twice, as a name and as module:Class",
    ),
    "a seed twice": ("--seeds 1 1", "none twice"),
    "an option of nobody": ("--option gamma=0.5", "METHOD one of fedquad, fedra"),
    "an option of another method": ("--option fedlora.gamma=0.5", "METHOD one of fedquad, fedra"),
    "unknown option name": ("--option hetlora.colour=1", "options of hetlora: gamma"),
    "no worker": ("--workers 0", "workers = 0"),
    "seeds below 0": ("--seeds -1", "seed = -1"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_leaves_nothing(run, home, tree, case):
    arguments, expected = BAD[case]
    status, out, err = run(f"compare {arguments}")
    assert (status, out) == (2, "")
    [line] = err.strip().splitlines()
    assert line.startswith("fedquad: ")
    assert expected in line
    assert tree(home) == []


@pytest.mark.slow
def test_methods_of_ones_own_run_in_workers(home, tmp_path, tiny):
    text = (
        "from fedquad.methods.fedra import FedRA\n\n\n"
        "class Mine(FedRA):\n"
        '    name = "mine"\n'
        '    label = "Mine"\n'
    )
    (tmp_path / "my_method.py").write_text(text)
    command = [sys.executable, "-P", "-m", "fedquad", "compare", *TINY.split(), *tiny]
    command += ["--methods", "fedra", "my_method:Mine", "--workers", "2", "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    fedra, mine = json.loads(done.stdout)["methods"]
    assert mine["label"] == "Mine"
    assert mine["speedup"] == {"value": 1, "low": 1, "high": 1}
    assert mine["time_to_accuracy_s"] == fedra["time_to_accuracy_s"]
    assert mine["run_ids"] != fedra["run_ids"]
