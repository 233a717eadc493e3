"""The machine a result was computed on: what decides whether bytes can be compared."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("fedquad", "torch", "transformers", "peft", "tokenizers", "numpy")


def describe_environment(torch_device: str = "cpu") -> dict[str, Any]:
    """Versions, processor and threads, as JSON values; nothing that names a person or a path."""
    on_gpu = torch.device(torch_device).type == "cuda"
    return {
        "python": platform.python_version(),
        **{package: _version(package) for package in PACKAGES},
        "platform": f"{platform.system()}-{platform.machine()}",
        "cpu": cpu_model(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(torch_device) if on_gpu else None,
    }


def same_arithmetic(recorded: dict[str, Any], here: dict[str, Any]) -> bool:
    """Whether equal settings must give equal bytes: same kind of CPU, same torch, same threads."""
    if recorded.get("gpu") or here.get("gpu"):
        return False  # its atomic additions come in any order
    return all(recorded.get(key) == here.get(key) for key in ("cpu", "torch", "threads"))


def cpu_model() -> str:
    """Name of the processor and the vector instructions that torch uses on it.

    Hypervisors shorten the name, so family and model are added where Linux
    tells them: ``AMD EPYC (family 25, model 17) AVX512``.
    """
    fields: dict[str, str] = {}
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().split("\n\n")[0].splitlines():
            key, _, value = line.partition(":")
            fields[key.strip()] = value.strip()
    name = fields.get("model name") or platform.processor() or platform.machine()
    if "cpu family" in fields and "model" in fields:
        name += f" (family {fields['cpu family']}, model {fields['model']})"
    return f"{name} {torch.backends.cpu.get_cpu_capability()}"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
