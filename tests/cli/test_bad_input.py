"""Bad input ends in one clear line on stderr, exit status 2, and nothing half-written."""

from __future__ import annotations

import json
import os
import shutil

import pytest

import fedquad.cost.accounting
from fedquad.cli import main
from fedquad.model import pretrained

TINY_RUN = "--steps 2 --batch-size 4 --max-length 16 --train-samples 32 --eval-samples 20"

BAD = {
    "unknown command": ("frobnicate", 'Unknown command "frobnicate"'),
    "unknown option": ("memory --colour red", "--colour"),
    "unknown profile": ("reproduce --profile tiny", "one of smoke, embedded, reference, glue"),
    "unknown figure": ("reproduce fig99 --profile smoke", "one of start, tab02, fig01"),
    "unknown task to reproduce": ("reproduce --profile smoke --task nope", "micro-mnli"),
    "a seed twice": ("reproduce --profile smoke --seeds 1 1", "none twice"),
    "unknown profile of claims": ("claims --profile tiny", "one of smoke, embedded"),
    "nothing to verify": ("verify --profile smoke", "finished runs"),
    "unknown model": ("memory --model gpt-9", "roberta-large"),
    "depth 0": ("memory --depth 0", "an integer from 1 to 24"),
    "depth above L": ("memory --depth 25", "an integer from 1 to 24"),
    "layers out of bounds": ("memory --layers 20-24", "from 0 to 23"),
    "layers backwards": ("memory --layers 3-1", "ascending"),
    "layers that are words": ("memory --layers first", "ascending"),
    "depth and layers": ("memory --depth 2 --layers 0-1", "at most one of"),
    "unknown dtype": ("memory --dtype int4", "float32"),
    "rows longer than the model takes": ("memory --length 5000", "length"),
    "no number": ("memory --batch-size many", "batch-size"),
    "steps 0": ("finetune --steps 0", "num_steps"),
    "quantized below 0": ("finetune --quantized -1", "quantized = -1"),
    "the output layer quantized": ("finetune --quantized 12", "an integer from 0 to 11"),
    "more quantized than trained": ("finetune --depth 3 --quantized 3", "from 0 to 2"),
    "no layer below the output": ("finetune --layers 11 --quantized 1", "from 0 to 0"),
    "bits of nothing": ("finetune --activation-bits 4", "8 if no layer is quantized"),
    "three bits": ("finetune --quantized 2 --activation-bits 3", "activation_bits"),
    "learning rate": ("finetune --learning-rate -1", "learning_rate"),
    "unknown task": ("finetune --task nope", "micro-mnli"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_leaves_nothing(run, home, case, tree):
    arguments, expected = BAD[case]
    status, out, err = run(arguments)
    assert status == 2
    assert out == ""
    [line] = err.strip().splitlines()
    assert line.startswith("fedquad: ")
    assert expected in line
    assert tree(home) == []


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--depth", "0"], "an integer from 1 to 3"),
        (["--depth", "4"], "an integer from 1 to 3"),
        (["--layers", "2-3"], "from 0 to 2"),
    ],
)
def test_layers_that_the_model_lacks(run, home, tiny_model, task_folder, options, expected, tree):
    status, out, err = run("finetune", "--model", tiny_model, "--task", task_folder, *options)
    assert (status, out) == (2, "")
    assert expected in err
    assert tree(home) == []


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "a folder that holds"),
        (b"", "not empty"),
        (b"text\tclass\na b\tyes\n", "header line"),
        ("sentence\tlabel\na b\tyes\n".encode("utf-16"), "UTF-8"),
        (b"sentence\tlabel\n", "found 0 in train.tsv"),
    ],
    ids=["no file", "empty", "missing columns", "wrong encoding", "header only"],
)
def test_folders_that_are_no_task(run, home, tiny_model, task_folder, content, expected, tree):
    (task_folder / "train.tsv").unlink()
    if content is not None:
        (task_folder / "train.tsv").write_bytes(content)
    status, out, err = run("finetune", "--model", tiny_model, "--task", task_folder)
    assert (status, out) == (2, "")
    assert expected in last_line(err)
    assert tree(home) == []


def test_a_hub_name_without_a_network(run, home, task_folder, tree):
    status, out, err = run("finetune", "--model", "nobody/nothing", "--task", task_folder)
    assert (status, out) == (2, "")
    assert "HF_HUB_OFFLINE" in last_line(err)
    assert "Traceback" not in err
    assert [path for path in tree(home) if path.endswith(("jsonl", "json"))] == []


def test_runs_that_cannot_be_written(run, home, tiny_model, task_folder, tree):
    (home / "data").mkdir()
    (home / "data" / "runs").write_text("a file where the folder should be")
    options = ["--model", tiny_model, "--task", task_folder]
    status, out, err = run(f"finetune {TINY_RUN}", *options)
    assert (status, out) == (2, "")
    assert "home/data/runs" in last_line(err)
    assert "Traceback" not in err
    assert tree(home) == ["data", "data/runs"]


def test_a_corrupt_run_is_refused_and_left_as_it_is(run, home, tiny_model, task_folder):
    options = ["--model", tiny_model, "--task", task_folder, "--json"]
    _, out, _ = run(f"finetune {TINY_RUN}", *options)
    results = os.path.join(json.loads(out)["folder"], "results.jsonl")
    with open(results, "w") as file:
        file.write("no JSON\n")
    status, out, err = run(f"finetune {TINY_RUN}", *options)
    assert (status, out) == (2, "")
    assert "results.jsonl, line 1" in last_line(err)
    with open(results) as file:
        assert file.read() == "no JSON\n"
    status, out, _ = run(f"finetune {TINY_RUN}", *options, "--fresh")
    assert status == 0
    assert json.loads(out)["from_record"] is False


def test_a_damaged_encoder_is_refused(
    run, home, tmp_path, monkeypatch, task_folder, tiny_model, tree
):
    folder = tmp_path / "data" / "encoders" / "embedded"
    folder.parent.mkdir(parents=True)
    shutil.copytree(tiny_model, folder)
    (folder / "card.json").write_text(json.dumps({"sha256": "0" * 64}))
    monkeypatch.setattr(pretrained, "package_data", lambda: tmp_path / "data")
    status, out, err = run("finetune", "--model", "embedded", "--task", task_folder)
    assert (status, out) == (2, "")
    assert "SHA-256" in last_line(err)
    assert [path for path in tree(home) if path.endswith("jsonl")] == []


def test_an_unexpected_error_keeps_its_traceback(monkeypatch):
    def broken(model, **setting):
        raise RuntimeError("a defect")

    monkeypatch.setattr(fedquad.cost.accounting, "step_cost", broken)
    with pytest.raises(RuntimeError, match="a defect"):
        main(["memory", "--model", "roberta-base"])


def last_line(text):
    """The error; progress bars may stand before it."""
    return text.strip().splitlines()[-1]
