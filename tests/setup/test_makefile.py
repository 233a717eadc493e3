"""What `make` says and calls, without setting anything up."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from fedquad.cli.app import app

REPOSITORY = Path(__file__).resolve().parents[2]
MAKEFILE = (REPOSITORY / "Makefile").read_text()
TARGETS = re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)[1].split()


def make(*arguments: str) -> subprocess.CompletedProcess:
    command = ["make", "--directory", str(REPOSITORY), "--no-print-directory", *arguments]
    # A `make test WORKERS=4` around this process would pass its variables on.
    around = (
        "MAKEFLAGS",
        "MAKEOVERRIDES",
        "MFLAGS",
        "FIG",
        "FRESH",
        "PROFILE",
        "PYTHON",
        "WORKERS",
    )
    env = {name: value for name, value in os.environ.items() if name not in around}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)


def test_help_is_the_default_and_lists_every_target():
    listed = make()
    assert listed.stdout == make("help").stdout
    assert set(re.findall(r"^  ([a-z-]+)  +\w", listed.stdout, re.MULTILINE)) == set(TARGETS)


@pytest.mark.parametrize(
    ("arguments", "called"),
    [
        ((), "reproduce  --profile embedded --workers 2"),
        (("FIG=fig02", "PROFILE=reference"), "reproduce fig02 --profile reference --workers 2"),
        (("FIG=fig01 fig03", "WORKERS=1"), "reproduce fig01 fig03 --profile embedded --workers 1"),
        (("FRESH=1",), "reproduce  --profile embedded --workers 2 --fresh"),
        (("FRESH=0",), "reproduce  --profile embedded --workers 2"),
    ],
)
def test_figures_passes_its_variables_on(arguments, called):
    dry_run = make("--dry-run", "figures", *arguments)
    assert dry_run.stdout.splitlines()[-1].strip() == f".venv/bin/fedquad {called}"


def test_every_command_it_calls_exists():
    nightly = (REPOSITORY / ".github" / "workflows" / "nightly.yml").read_text()
    called = set(re.findall(r"/fedquad ([a-z]+)", MAKEFILE + nightly))
    assert {"reproduce", "verify", "claims"} <= called <= set(app)


def test_a_python_that_is_too_old_is_named(tmp_path):
    old = tmp_path / "python3.9"
    old.write_text('#!/bin/sh\n[ "$1" = -V ] && echo "Python 3.9.18" && exit 0\nexit 1\n')
    old.chmod(0o755)
    result = make("test", f"PYTHON={old}", f"VENV={tmp_path / 'venv'}")
    assert result.returncode != 0
    assert f"needs Python 3.11 or newer, and {old} is Python 3.9.18" in result.stderr
    assert "make test PYTHON=" in result.stderr
    assert not (tmp_path / "venv").exists()


@pytest.mark.parametrize("workflow", ["ci", "nightly"])
def test_workflows_call_what_there_is(workflow):
    content = yaml.safe_load((REPOSITORY / ".github" / "workflows" / f"{workflow}.yml").read_text())
    (job,) = content["jobs"].values()
    commands = [step["run"] for step in job["steps"] if "run" in step]
    for command in commands:
        if command.startswith("make "):
            assert command.split()[1] in TARGETS
        elif command.startswith("bash "):
            subprocess.run(["bash", "-n", command.split()[1]], cwd=REPOSITORY, check=True)
    assert commands
