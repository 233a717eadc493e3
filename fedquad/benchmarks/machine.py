"""What a measurement was made with: card, driver, versions, commit, and the code that was timed."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import fedquad
from fedquad.runs.environment import describe_environment

# What decides whether two measurements may stand side by side in one file.
MUST_AGREE = ("device", "torch", "triton", "transformers", "threads", "sources")
TIMED_CODE = ("kernels", "model/activation_quantization")
FEDERATED_CODE = ("federation", "fleet", "methods", "training", "model")


def device_name(torch_device: str) -> str:
    """Name of the card, or of the processor."""
    if torch.device(torch_device).type == "cuda":
        return torch.cuda.get_device_name(torch_device)
    return describe_environment()["cpu"].split(" (")[0]


def slug(name: str) -> str:
    """A name as a file name: ``NVIDIA H100 80GB HBM3`` is ``nvidia-h100-80gb-hbm3``."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def default_name(torch_device: str, part: str = "") -> str:
    """File name of this machine's measurements, or of one part of them."""
    prefix = f"{part}-" if part else ""
    prefix += "cpu-" if torch.device(torch_device).type == "cpu" else ""
    return f"{prefix}{slug(device_name(torch_device))}.json"


def describe_machine(torch_device: str, code: Sequence[str] = TIMED_CODE) -> dict[str, Any]:
    """Everything a reader needs to judge the times of this code, as JSON values."""
    described = {"device": device_name(torch_device), **describe_environment(torch_device)}
    described |= {"triton": _version("triton"), "cuda": torch.version.cuda}
    described |= {"driver": None, "memory_bytes": None, "multiprocessors": None}
    if torch.device(torch_device).type == "cuda":
        properties = torch.cuda.get_device_properties(torch_device)
        described["driver"] = _said_by(
            "nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"
        )
        described["memory_bytes"] = properties.total_memory
        described["multiprocessors"] = properties.multi_processor_count
    described["commit"] = os.environ.get("FEDQUAD_COMMIT") or _said_by(
        "git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"
    )
    described["sources"] = sources_digest(code)
    return described


def sources_digest(code: Sequence[str] = TIMED_CODE) -> str:
    """Digest of the code that is timed, so that old times are not taken for those of new code."""
    digest = hashlib.sha256()
    for path in sorted(_files_of(code)):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def _files_of(code: Sequence[str]) -> list[Path]:
    # In a checkout `kernels` stands beside the package, installed it is in it.
    folders = [Path(root) / part for root in fedquad.__path__ for part in code]
    return [path for folder in folders if folder.is_dir() for path in folder.rglob("*.py")]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _said_by(*command: str) -> str | None:
    if shutil.which(command[0]) is None:
        return None
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip().splitlines()[0] if done.returncode == 0 and done.stdout else None
