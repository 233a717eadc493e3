"""A run from start to end, as on a machine that has torch and transformers and nothing else."""

import json
import shutil
import subprocess
import sys

import pytest

from fedquad.paths import checkout_root

# What a GPU machine need not have.
ABSENT = ("cyclopts", "papermill", "nbformat", "nbclient", "jupyter_client", "IPython", "pyarrow")
RUN = """
import runpy, sys
for name in {absent}:
    sys.modules[name] = None
import fedquad, fedquad.kernels
assert fedquad.__file__.startswith({root!r}), fedquad.__file__
assert fedquad.kernels.__file__.startswith({root!r}), fedquad.kernels.__file__
sys.argv[0] = "fedquad.benchmarks"
runpy.run_module("fedquad.benchmarks", run_name="__main__")
"""


@pytest.fixture
def plain_copy(tmp_path):
    """The checkout's files without its environment, its history and its records."""
    source, target = checkout_root(), tmp_path / "copy"
    no_caches = shutil.ignore_patterns("__pycache__")
    for name in ("fedquad", "kernels"):
        shutil.copytree(source / name, target / name, ignore=no_caches)
    shutil.copytree(source / "data" / "paper", target / "data" / "paper")
    shutil.copy(source / "data" / "__init__.py", target / "data")
    shutil.copy(source / "pyproject.toml", target)
    (target / "notebooks").mkdir()
    return target


def run(copy, *arguments):
    code = RUN.format(absent=ABSENT, root=str(copy))
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)


def test_everything_runs_from_a_plain_copy(plain_copy, small_model):
    options = ["--models", small_model(), "--lengths", 16, "--batch-size", 2, "--repeats", 2]
    done = run(plain_copy, "all", *options)
    assert done.returncode == 0, done.stderr
    folder = plain_copy / "data" / "benchmarks"
    [path] = folder.glob("cpu-*.json")
    record = json.loads(path.read_text())
    assert {row["status"] for row in record["rows"]} == {"ok"}
    assert {row["kind"] for row in record["rows"]} == {"kernel", "layer", "steps"}
    methods = {row["method"] for row in record["rows"] if row["kind"] == "steps"}
    assert methods == {"none", "checkpointing", "hooks", "fused"}
    machine = record["machine"]
    assert machine["device"]
    assert machine["threads"] == 1
    assert machine["torch"]
    assert len(machine["sources"]) == 16
    again = run(plain_copy, "all", *options)
    assert again.returncode == 0, again.stderr
    assert len(again.stdout.splitlines()) == 1  # nothing is measured twice
    assert json.loads(path.read_text()) == record
    reported = run(plain_copy, "report")
    assert reported.returncode == 0, reported.stderr
    assert {path.name for path in folder.iterdir()} == {
        "README.md",
        path.name,
        f"{path.stem}.png",
    }
    text = (folder / "README.md").read_text()
    for section in ("### Targets", "### Whole models", "### One layer", "### Kernels"):
        assert section in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["steps", "--models", "gpt-9"], "model = 'gpt-9'"),
        (["steps", "--methods", "magic"], "none, checkpointing, hooks, fused"),
        (["steps", "--torch-device", "abacus"], "cpu, or cuda"),
        (["steps", "--repeats", "0"], "repeats = 0"),
        (["steps", "--time-limit", "-1"], "time_limit = -1.0"),
        (["report", "--folder", "nowhere"], "folder = 'nowhere'"),
    ],
)
def test_bad_input_is_one_line(arguments, message, capsys):
    from fedquad.benchmarks.__main__ import main

    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert message in str(ended.value)
    assert "\n" not in str(ended.value)
