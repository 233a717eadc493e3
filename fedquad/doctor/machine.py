"""The machine itself: GPU, memory, disk, Jupyter kernel, a place for results."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from fedquad.doctor.finding import Finding
from fedquad.paths import project_root, runs_dir

GB = 1e9
ENOUGH_MEMORY_BYTES = 4 * GB  # two workers that fine-tune the embedded encoder, and a notebook
ENOUGH_DISK_BYTES = 1 * GB


def gpu() -> Finding:
    import torch

    if torch.cuda.is_available():
        gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        names = ", ".join(f"{gpu.name} with {gpu.total_memory / GB:.0f} GB" for gpu in gpus)
        return Finding("gpu", "ok", f"{names}; triton kernels are compiled for it")
    detail = "no CUDA GPU: the CPU computes, triton kernels run only under their interpreter"
    has_driver = shutil.which("nvidia-smi") is not None
    remedy = "an NVIDIA driver is here: install a CUDA build of torch" if has_driver else ""
    return Finding("gpu", "limited", detail, remedy)


def memory() -> Finding:
    import psutil

    memory = psutil.virtual_memory()
    detail = (
        f"{memory.available / GB:.1f} of {memory.total / GB:.1f} GB free, "
        f"{psutil.cpu_count()} CPU cores"
    )
    if memory.available < ENOUGH_MEMORY_BYTES:
        return Finding("memory", "limited", detail, "use one worker and close other programs")
    return Finding("memory", "ok", detail)


def disk() -> Finding:
    folder = _existing(project_root())
    free = shutil.disk_usage(folder).free
    detail = f"{free / GB:.1f} GB free at {folder}"
    if free < ENOUGH_DISK_BYTES:
        remedy = "free some, or name another place for results in FEDQUAD_HOME"
        return Finding("disk", "limited", detail, remedy)
    return Finding("disk", "ok", detail)


def jupyter_kernel() -> Finding:
    from jupyter_client.kernelspec import KernelSpecManager

    folder = KernelSpecManager().find_kernel_specs().get("python3")
    if folder is None:
        remedy = "`python -m ipykernel install --sys-prefix`"
        return Finding("jupyter kernel", "missing", "none named python3 is registered", remedy)
    return Finding("jupyter kernel", "ok", f"python3 at {folder}")


def results() -> Finding:
    wanted = runs_dir("")
    try:
        with tempfile.TemporaryFile(dir=_existing(wanted)):
            pass
    except OSError as error:
        detail = f"{wanted} cannot be written: {error.strerror}"
        return Finding("results", "missing", detail, "name another folder in FEDQUAD_HOME")
    return Finding("results", "ok", f"go to {wanted}")


def _existing(path: Path) -> Path:
    """The path itself or its nearest ancestor that exists."""
    return next(folder for folder in (path, *path.parents) if folder.exists())
