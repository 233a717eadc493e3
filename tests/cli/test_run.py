"""``fedquad run``: what it prints, stores, reads again, goes on with, and refuses."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fedquad import paths
from fedquad.cli.run import MAX_ROUNDS_PRINTED, shown_rounds
from fedquad.config import FederatedConfig

SIZES = "--devices 3 --local-steps 1 --batch-size 4 --max-length 16 --eval-samples 20"
TINY = f"{SIZES} --rounds 3"
HEADER = "device_id,memory_budget_bytes,flops_per_second"


@pytest.fixture
def tiny(tiny_model, task_folder):
    """Options that name a tiny encoder and a tiny task."""
    return ["--model", str(tiny_model), "--task", str(task_folder)]


@pytest.fixture
def fleet(tmp_path):
    """Function that writes a fleet of these lines."""

    def write(*lines, header=HEADER):
        path = tmp_path / "fleet.csv"
        path.write_text("\n".join([header, *lines]) + "\n")
        return path

    return write


def tiny_config(tiny, **changed):
    """What ``TINY`` says, as settings."""
    return FederatedConfig(
        **{
            "model": tiny[1],
            "task": tiny[3],
            "num_devices": 3,
            "local_steps": 1,
            "batch_size": 4,
            "max_length": 16,
            "eval_samples": 20,
            "num_rounds": 3,
            **changed,
        }
    )


def local_store():
    from fedquad.runs.store import RunStore

    return RunStore(paths.runs_dir("local"))


def results_bytes(folder):
    return (Path(folder) / "results.jsonl").read_bytes()


def test_every_setting_has_an_option(run):
    _, shown, _ = run("run --help")
    own = {"num_devices": "devices", "num_rounds": "rounds", "method_options": "option"}
    for field in dataclasses.fields(FederatedConfig):
        assert f"--{own.get(field.name, field.name).replace('_', '-')} " in shown


def test_a_run_is_printed_stored_and_read_again(run, home, tmp_path, tiny):
    tables = tmp_path / "tables"
    status, out, err = run(f"run {TINY} --json --tables", tables, *tiny)
    assert (status, err) == (0, "")
    first = json.loads(out)
    assert (first["from_record"], first["went_on_from_round"]) == (False, None)
    assert first["folder"].startswith(str(home / "data" / "runs" / "local"))
    stored = [json.loads(line) for line in results_bytes(first["folder"]).splitlines()]
    assert [row["round"] for row in first["rounds"]] == [1, 2, 3]
    for row, kept in zip(first["rounds"], stored, strict=True):
        assert "correct" not in row
        assert row.items() <= kept.items()
    times = [row["round_time_s"] for row in first["rounds"]]
    assert first["sim_time_s"] == pytest.approx(sum(times))
    waiting = [row["mean_waiting_time_s"] for row in first["rounds"]]
    assert first["mean_waiting_time_s"] == pytest.approx(sum(waiting) / 3)
    assert first["accuracy"] == first["rounds"][-1]["accuracy"]

    assert first["tables"] == [str(tables / "rounds.csv"), str(tables / "devices.csv")]
    with open(tables / "rounds.csv", newline="") as file:
        rounds = list(csv.DictReader(file))
    assert [float(row["accuracy"]) for row in rounds] == [r["accuracy"] for r in first["rounds"]]
    with open(tables / "devices.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 3 * 3

    status, out, err = run(f"run {TINY} --json", *tiny)
    assert (status, err) == (0, "")
    assert json.loads(out) == {**first, "from_record": True, "tables": []}

    status, out, err = run(f"run {TINY}", *tiny)
    assert (status, err) == (0, "")  # nothing is computed, so there is no bar
    assert out.startswith("FedQuad: ")
    for number, row in enumerate(first["rounds"], start=1):
        line = out.splitlines()[1 + number].split()
        assert line[:2] == [str(number), f"{row['accuracy']:.2%}"]
    assert "read from the record" in out
    assert first["folder"] in out


def test_the_bar_shows_accuracy_time_and_waiting(run, home, tiny):
    status, out, err = run(f"run {TINY} --method fedra", *tiny)
    assert status == 0
    assert "computed in one go" in out
    _, out, _ = run(f"run {TINY} --method fedra --json", *tiny)
    last = json.loads(out)["rounds"][-1]
    assert "3/3" in err
    assert f"accuracy {100 * last['accuracy']:.1f} %" in err
    assert f"simulated {last['sim_time_s']:,.0f} s" in err
    assert f"waiting {last['mean_waiting_time_s']:,.1f} s" in err


def test_a_run_that_was_cut_off_goes_on_and_fresh_starts_over(run, home, tmp_path, tiny):
    from fedquad.federation.runs import run_federated
    from fedquad.runs.store import RunStore

    def interrupt(row):
        if row["round"] == 2:
            raise KeyboardInterrupt

    config = tiny_config(tiny)
    with pytest.raises(KeyboardInterrupt):
        run_federated(config, local_store(), on_round=interrupt)
    status, out, err = run(f"run {TINY}", *tiny)
    assert status == 0
    assert "going on from round 2 of 3" in err
    assert "computed in 2 goes" in out

    whole = RunStore(tmp_path / "whole")
    run_federated(config, whole)
    _, out, _ = run(f"run {TINY} --json", *tiny)
    values = json.loads(out)
    [folder] = [path for path in whole.root.iterdir() if path.name.endswith(values["run_id"])]
    assert results_bytes(values["folder"]) == results_bytes(folder)

    status, out, err = run(f"run {TINY} --fresh", *tiny)
    assert status == 0
    assert "going on" not in err
    assert "computed in one go" in out
    assert results_bytes(values["folder"]) == results_bytes(folder)


def test_options_of_the_method_are_settings_of_the_run(run, home, tiny):
    ids = {}
    for options in ("", "--option gamma=0.5", "--option gamma=0.99", "--option gamma=0.5 --seed 1"):
        status, out, _ = run(f"run {SIZES} --rounds 1 --method hetlora --json {options}", *tiny)
        assert status == 0
        values = json.loads(out)
        ids[options] = values["run_id"]
    assert values["config"]["method_options"] == {"gamma": 0.5}
    assert ids["--option gamma=0.99"] == ids[""]  # the default, spelled out
    assert len(set(ids.values())) == 3


def test_a_fleet_of_ones_own(run, home, tiny, fleet):
    path = fleet("phone,4000000000,1e12", "laptop,9000000000,5e12")
    options = ["--fleet", path, *tiny]
    sizes = SIZES.replace("--devices 3 ", "") + " --rounds 1"
    status, out, _ = run(f"run {sizes} --json", *options)
    assert status == 0
    values = json.loads(out)
    assert values["config"]["num_devices"] == 2
    assert values["rounds"][0]["participants"] == 2
    status, out, _ = run(f"run {sizes} --json --devices 2", *options)
    assert json.loads(out) == {**values, "from_record": True}
    status, out, err = run(f"run {sizes} --json --devices 3", *options)
    assert (status, out) == (2, "")
    assert "devices = 3 cannot be used: expected 2, as" in err


@pytest.mark.parametrize(
    ("header", "lines", "expected"),
    [
        ("device_id,flops_per_second", ["a,1e12"], "memory_budget_bytes is missing"),
        (HEADER, ["a,4000000000,-1"], "flops_per_second in line 2"),
        (HEADER, ["a,4000000000,0"], "flops_per_second in line 2"),
        (HEADER, ["a,4000000000,1e12", "a,4000000000,1e12"], "line 2 has this one too"),
        (HEADER, [], "at least one device"),
    ],
    ids=["missing column", "negative", "zero", "id twice", "no device"],
)
def test_fleet_files_that_cannot_be_used(run, home, tiny, fleet, tree, header, lines, expected):
    status, out, err = run("run --fleet", fleet(*lines, header=header), *tiny)
    assert (status, out) == (2, "")
    assert expected in last_line(err)
    assert "Traceback" not in err
    assert tree(home) == []


BAD = {
    "unknown method": ("--method fedsgd", "one of fedquad, fedquad-no-qd"),
    "no such module": ("--method nowhere:Method", "a module that can be imported"),
    "no such class": ("--method fedquad.methods.fedra:FedRB", "a subclass of"),
    "unknown option name": ("--option colour=1", "options of fedquad: reward_offset_s"),
    "an option without a value": ("--option gamma", "NAME=VALUE, the value a number"),
    "an option that is a word": ("--option gamma=large", "NAME=VALUE, the value a number"),
    "an option twice": ("--option waiting_limit_s=1 --option waiting_limit_s=2", "no name twice"),
    "no device": ("--devices 0", "num_devices = 0"),
    "no worker": ("--workers 0", "workers = 0"),
    "no round": ("--rounds 0", "num_rounds = 0"),
    "unknown task": ("--task nope", "micro-mnli"),
    "unknown heterogeneity": ("--heterogeneity extreme", "one of low, medium, high"),
    "no fleet file": ("--fleet nowhere.csv", "a CSV file that can be read"),
    "no alpha": ("--partition-alpha nan", "a number > 0, or inf"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_leaves_nothing(run, home, tree, case):
    arguments, expected = BAD[case]
    status, out, err = run(f"run {arguments}")
    assert (status, out) == (2, "")
    [line] = err.strip().splitlines()
    assert line.startswith("fedquad: ")
    assert expected in line
    assert tree(home) == []


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--devices", "41"], "num_devices = 41 cannot be used: expected at most 40"),
        (["--option", "reward_offset_s=-1"], "reward_offset_s"),
    ],
)
def test_what_only_task_and_method_can_refuse_leaves_nothing_either(
    run, home, tiny, tree, options, expected
):
    status, out, err = run("run", *options, *tiny)
    assert (status, out) == (2, "")
    assert expected in last_line(err)
    assert tree(home) == []


def test_a_record_of_other_settings_is_refused_by_name(run, home, tiny):
    _, out, _ = run(f"run {TINY} --json", *tiny)
    path = Path(json.loads(out)["folder"]) / "config.json"
    record = json.loads(path.read_text())
    record["settings"]["local_steps"] = 7
    path.write_text(json.dumps(record))
    status, out, err = run(f"run {TINY}", *tiny)
    assert (status, out) == (2, "")
    assert "settings.local_steps is 7 in the record and 1 now" in last_line(err)


def test_a_run_that_somebody_else_computes_is_refused(run, home, tiny):
    from fedquad.federation.runs import run_settings
    from fedquad.federation.setting import FederatedSetting

    config = tiny_config(tiny)
    with local_store().open(run_settings(config), FederatedSetting(config).sources()):
        status, out, err = run(f"run {TINY}", *tiny)
    assert (status, out) == (2, "")
    assert "is being computed by another process" in last_line(err)
    status, _, _ = run(f"run {TINY}", *tiny)
    assert status == 0


def test_rounds_that_are_printed():
    assert shown_rounds(1) == [0]
    assert shown_rounds(MAX_ROUNDS_PRINTED) == list(range(MAX_ROUNDS_PRINTED))
    for count in range(1, 200):
        shown = shown_rounds(count)
        assert shown == sorted(set(shown))
        assert (shown[0], shown[-1]) == (0, count - 1)
        assert len(shown) <= MAX_ROUNDS_PRINTED


@pytest.mark.slow
def test_interrupted_killed_and_resumed_with_the_same_bytes(run, home, tmp_path, tiny, monkeypatch):
    command = f"run {SIZES} --rounds 60"
    arguments = [sys.executable, "-m", "fedquad", *command.split(), *tiny]
    folder = None
    done = 0
    for number, code in ((signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)):
        process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)
        try:
            folder = wait_for_rounds(home, done + 2, process)
            process.send_signal(signal.SIGSTOP)  # it cannot end before the signal comes
            if number == signal.SIGINT:  # two processes on one run
                status, out, err = run(command, *tiny)
                assert (status, out) == (2, "")
                assert f"by another process (pid {process.pid})" in last_line(err)
            process.send_signal(number)
            process.send_signal(signal.SIGCONT)
            _, err = process.communicate(timeout=120)
        finally:
            process.kill()
            process.wait()
        assert process.returncode == code
        if number == signal.SIGINT:
            assert "checkpoints are kept" in last_line(err)
        else:
            # A round that was stored is played again if its checkpoint was not yet.
            assert re.search(rf"going on from round ({done - 1}|{done}) of 60", err)
        done = results_bytes(folder).count(b"\n")
        assert 2 <= done < 60
    status, out, _ = run(f"{command} --json", *tiny)
    assert status == 0
    values = json.loads(out)
    assert done - 1 <= values["went_on_from_round"] <= done
    assert values["attempts"] == 3

    whole = tmp_path / "whole"
    whole.mkdir()
    monkeypatch.setenv("FEDQUAD_HOME", str(whole))
    _, out, _ = run(f"{command} --json", *tiny)
    other = json.loads(out)
    assert (other["from_record"], other["attempts"]) == (False, 1)
    assert results_bytes(values["folder"]) == results_bytes(other["folder"])


@pytest.mark.slow
def test_a_method_of_ones_own_in_the_current_folder_and_in_workers(
    run, home, tmp_path, tiny, monkeypatch
):
    text = 'from fedquad.methods.fedra import FedRA\n\n\nclass Mine(FedRA):\n    name = "mine"\n'
    (tmp_path / "my_method.py").write_text(text)
    # -P, as the installed command: the current folder is not on the import path by itself.
    command = [sys.executable, "-P", "-m", "fedquad", "run", *TINY.split(), *tiny]
    command += ["--method", "my_method:Mine", "--workers", "2", "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    mine = json.loads(done.stdout)
    assert mine["method"] == "my_method:Mine"
    _, out, _ = run(f"run {TINY} --method fedra --json", *tiny)
    assert json.loads(out)["rounds"] == mine["rounds"]


def wait_for_rounds(home, count, process):
    """The folder of the only run, when it has so many rounds and a checkpoint."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        assert process.poll() is None, process.stderr.read()
        for path in home.glob("data/runs/local/*/results.jsonl"):
            has_checkpoint = os.path.exists(path.parent / "checkpoint" / "state")
            if has_checkpoint and path.read_bytes().count(b"\n") >= count:
                return path.parent
        time.sleep(0.01)
    raise AssertionError("no rounds were stored")


def last_line(text):
    """The error; a progress bar may stand before it."""
    return text.strip().splitlines()[-1]
