"""What each command prints, in words and as JSON."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys

import pytest

from fedquad.cli import app
from fedquad.config import FineTuneConfig

TINY_RUN = "--steps 2 --batch-size 4 --max-length 16 --train-samples 32 --eval-samples 20"
MEMORY = "memory --model roberta-base --batch-size 2 --length 16"
COMMANDS = [name for name in app if not name.startswith("-")]


def test_help_is_quick_and_lists_every_command(run):
    code = """
import sys, fedquad.cli
try:
    fedquad.cli.main(["--help"])
finally:
    print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *shown, torch_loaded = done.stdout.strip().splitlines()
    for command in COMMANDS:
        assert any(f" {command} " in line for line in shown), command
    assert torch_loaded == "False"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_documented(run, command):
    status, shown, _ = run(f"{command} --help")
    assert status == 0
    box = shown.partition("─ Parameters")[2].splitlines()[1:-1]
    # A required option has a star before it, and then the others are set further in.
    options = [line for line in box if re.match(r"│ {1,4}(\*  )?--", line)]
    assert options or not box
    for line in options:
        described = line.strip("│ *").split("  ", 1)
        assert len(described) == 2, f"{line} says nothing"
        assert described[1].strip()


def test_finetune_has_an_option_for_every_setting(run):
    _, shown, _ = run("finetune --help")
    fields = {field.name for field in dataclasses.fields(FineTuneConfig)}
    own = {"num_steps": "steps", "tuning": "full"}
    own |= {"trainable_layers": "layers", "quantized_layers": "quantized"}
    for name in fields:
        assert f"--{own.get(name, name).replace('_', '-')}" in shown


def test_memory_prints_bytes_and_flops_as_json(run):
    command = [sys.executable, "-m", "fedquad", *MEMORY.split(), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    cost = json.loads(done.stdout)
    parts = ("weight_bytes", "gradient_bytes", "optimizer_bytes", "activation_bytes")
    assert sum(cost[part] for part in parts) == cost["total_bytes"]
    assert cost["optimizer_bytes"] == 2 * cost["gradient_bytes"]
    assert cost["backward_flops"] > 0
    assert cost["forward_flops"] > 0
    assert cost["trainable_layers"] is None


def test_memory_options_change_what_is_priced(run):
    costs = {}
    for options in ("--depth 3", "--layers 9-11", "--layers 0,9-11", "--full", "--dtype bfloat16"):
        status, out, _ = run(f"{MEMORY} --json {options}")
        assert status == 0
        costs[options] = json.loads(out)
    assert costs["--depth 3"] == costs["--layers 9-11"]
    assert costs["--depth 3"]["trainable_layers"] == [9, 10, 11]
    assert costs["--layers 0,9-11"]["activation_bytes"] > costs["--depth 3"]["activation_bytes"]
    assert costs["--full"]["trainable_parameters"] > 1e8
    assert costs["--dtype bfloat16"]["weight_bytes"] < 0.51 * costs["--full"]["weight_bytes"] * 1.01


def test_memory_without_json_is_a_table(run):
    status, out, err = run(MEMORY)
    assert status == 0
    assert err == ""
    assert "LoRA on all layers" in out
    assert "activations are" in out


def test_finetune_counts_rows_stores_the_run_and_reads_it_again(run, home, tiny_model, task_folder):
    command = [sys.executable, "-m", "fedquad", "finetune", "--json"]
    command += [
        *TINY_RUN.split(),
        "--depth",
        "2",
        "--model",
        str(tiny_model),
        "--task",
        str(task_folder),
    ]
    first, second = (
        subprocess.run(command, capture_output=True, text=True, check=True) for _ in range(2)
    )
    values = json.loads(first.stdout)
    assert values["rows_read"] == 32 + 20
    assert values["rows_refused"] == 2
    assert [row["line"] for row in values["first_refused"]] == [42, 43]
    assert values["steps"] == 2
    assert values["rows_evaluated"] == 20
    assert values["accuracy"] * 20 == pytest.approx(round(values["accuracy"] * 20))
    assert values["loss"] > 0
    assert values["config"]["trainable_layers"] == [1, 2]
    assert values["from_record"] is False
    assert os.path.isfile(os.path.join(values["folder"], "results.jsonl"))
    assert values["folder"].startswith(str(home / "data" / "runs" / "local"))
    assert json.loads(second.stdout) == {**values, "from_record": True}


def test_finetune_without_json_says_the_same_in_words(run, home, tiny_model, task_folder):
    options = ["--model", tiny_model, "--task", task_folder]
    status, out, _ = run(f"finetune {TINY_RUN}", *options)
    assert status == 0
    for line in ("accuracy", "loss", "steps         2", "rows read     52", "rows refused  2"):
        assert line in out
    assert "train line 42" in out


def test_full_fine_tuning_is_another_run(run, home, tiny_model, task_folder):
    options = ["--model", tiny_model, "--task", task_folder, "--json"]
    ids = set()
    for choice in ([], ["--full"], ["--layers", "0"], ["--depth", "1"]):
        status, out, _ = run(f"finetune {TINY_RUN}", *options, *choice)
        assert status == 0
        ids.add(json.loads(out)["run_id"])
    assert len(ids) == 4


@pytest.mark.parametrize(
    ("choice", "trained", "quantized", "words"),
    [
        (["--quantized", "2"], None, [0, 1], "LoRA on all layers, 2 layers quantized"),
        (["--depth", "2", "--quantized", "1"], [1, 2], [1], "LoRA depth 2, 1 layer quantized"),
        (["--layers", "0,2", "--quantized", "1"], [0, 2], [0], "layers 0,2, 1 layer quantized"),
        (["--full", "--quantized", "1"], None, [0], "full fine-tuning, 1 layer quantized"),
    ],
)
def test_quantized_layers_are_counted_from_the_lowest_trained_one(
    run, home, tiny_model, task_folder, choice, trained, quantized, words
):
    options = ["--model", tiny_model, "--task", task_folder, *choice]
    status, out, _ = run(f"finetune {TINY_RUN} --activation-bits 4 --json", *options)
    assert status == 0
    config = json.loads(out)["config"]
    assert (config["trainable_layers"], config["quantized_layers"]) == (trained, quantized)
    assert config["activation_bits"] == 4
    status, out, _ = run(f"finetune {TINY_RUN} --activation-bits 4", *options)
    assert words in out


def test_claims_are_listed_before_any_figure_is_there(run, home, tree):
    status, out, _ = run("claims --profile smoke --beside embedded --json")
    assert status == 0
    rows = json.loads(out)
    assert {row["item"] for row in rows} >= {"fig01", "fig02", "fig03", "fig04"}
    for row in rows:
        assert row["claim"]
        assert row["verdict"].startswith("not attempted")
        assert row["embedded_verdict"].startswith("not attempted")
    assert tree(home) == []


def test_labels_outside_the_set_are_refused_by_line(run, home, tiny_model, task_folder):
    with (task_folder / "dev.tsv").open("a") as file:
        file.write("a b\tmaybe\n")
    options = ["--model", tiny_model, "--task", task_folder, "--json"]
    status, out, _ = run(f"finetune {TINY_RUN}", *options)
    assert status == 0
    refused = [row for row in json.loads(out)["first_refused"] if row["split"] == "eval"]
    assert [row["line"] for row in refused] == [22]
    assert "maybe" in refused[0]["reason"]
