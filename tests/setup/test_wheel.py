"""The library as a wheel, outside the checkout: imports, accounting, embedded encoder, own text."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.slow


def call(*command: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name not in ("PYTHONPATH", "FEDQUAD_HOME", "FEDQUAD_GLUE")
    }
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=inherited | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=500,
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy, since setuptools leaves its own folders beside the sources."""
    folder = tmp_path_factory.mktemp("build")
    source = folder / "source"
    for name in ("fedquad", "kernels", "data"):
        ignore = shutil.ignore_patterns("__pycache__", *["runs"] * (name == "data"))
        shutil.copytree(REPOSITORY / name, source / name, ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    stored_run = source / "data" / "runs" / "reference" / "results.jsonl"
    stored_run.parent.mkdir(parents=True)
    stored_run.write_text("{}\n")
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    result = call(*build, "--wheel-dir", folder, source, cwd=folder)
    assert result.returncode == 0, result.stderr
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """``bin`` of an environment with the wheel; everything else comes from the running one.

    A path in a ``.pth`` file is only appended to ``sys.path``: the ``.pth``
    files in it, among them that of our own editable install, are not read.
    """
    folder = tmp_path_factory.mktemp("environment")
    created = call(sys.executable, "-m", "venv", "--without-pip", folder / "venv", cwd=folder)
    assert created.returncode == 0, created.stderr
    scheme = {"base": str(folder / "venv"), "platbase": str(folder / "venv")}
    site = Path(sysconfig.get_path("purelib", "venv", scheme))
    (site / "running.pth").write_text(sysconfig.get_path("purelib") + "\n")
    scripts = Path(sysconfig.get_path("scripts", "venv", scheme))
    python = scripts / "python"
    install = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps"]
    result = call(*install, "--no-index", "--ignore-installed", wheel, cwd=folder)
    assert result.returncode == 0, result.stderr
    return scripts


def test_everything_comes_from_the_wheel(installed, tmp_path):
    code = """
import sys, fedquad
assert "torch" not in sys.modules, "import fedquad must be quick"
import fedquad.kernels, fedquad.data, fedquad.report.claims
from pathlib import Path
assert (Path(fedquad.__file__).parent / "flower" / "app" / "pyproject.toml").is_file()
from fedquad import FineTuneConfig, paths
assert paths.checkout_root() is None
for module in (fedquad, fedquad.kernels, fedquad.data): print(module.__file__)
for file in sorted(paths.package_data().rglob("*")): print(file.relative_to(paths.package_data()))
"""
    result = call(installed / "python", "-c", code, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    modules, files = result.stdout.split("\n")[:3], set(result.stdout.split("\n")[3:])
    assert all(module.startswith(str(installed.parent)) for module in modules)
    shipped = {
        str(path.relative_to(REPOSITORY / "data"))
        for folder in ("architectures", "encoders", "layer_costs", "learning_rates", "paper")
        for path in (REPOSITORY / "data" / folder).rglob("*")
        if path.is_file() and not path.name.startswith("checkpoint")
    }
    assert {"paper/claims.csv", "layer_costs/roberta-large.json"} <= shipped
    assert shipped <= files
    assert not any("runs" in file for file in files)


def test_accounting(installed, tmp_path):
    command = [installed / "fedquad", "memory", "--model", "roberta-base", "--json"]
    result = call(*command, "--batch-size", 2, "--length", 16, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    cost = json.loads(result.stdout)
    parts = ("weight_bytes", "gradient_bytes", "optimizer_bytes", "activation_bytes")
    assert cost["total_bytes"] == sum(cost[part] for part in parts)
    assert cost["forward_flops"] > 0


def test_doctor_from_an_empty_folder(installed, tmp_path):
    home, empty = tmp_path / "home", tmp_path / "empty"
    home.mkdir()
    empty.mkdir()
    result = call(installed / "fedquad", "doctor", "--json", cwd=empty, HOME=str(home))
    assert result.returncode in (0, 1), result.stderr
    found = {finding["name"]: finding for finding in json.loads(result.stdout)}
    assert found["embedded encoder"]["status"] == "ok", found["embedded encoder"]
    assert str(home / ".fedquad") in found["results"]["detail"]
    assert "the notebooks" in found["profile embedded"]["detail"]
    assert not list(empty.iterdir())
    assert not (home / ".fedquad").exists()


def test_embedded_encoder_on_own_text(installed, tmp_path):
    task = tmp_path / "task"
    task.mkdir()
    rows = [("the dog is good", 1), ("the dog is bad", 0)] * 8
    lines = "\n".join(["sentence\tlabel", *(f"{text}\t{label}" for text, label in rows)])
    (task / "train.tsv").write_text(lines + "\n")
    (task / "dev.tsv").write_text(lines + "\n")
    home = tmp_path / "home"
    home.mkdir()
    command = [installed / "fedquad", "finetune", "--task", task, "--model", "embedded"]
    settings = ["--depth", 2, "--steps", 2, "--batch-size", 4, "--json"]
    result = call(*command, *settings, cwd=tmp_path, FEDQUAD_HOME=str(home))
    assert result.returncode == 0, result.stderr
    outcome = json.loads(result.stdout)
    assert outcome["steps"] == 2
    assert 0 <= outcome["accuracy"] <= 1
    assert any(home.rglob("results.jsonl"))
