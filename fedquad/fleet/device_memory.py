"""Memory of the machine that a device really runs on: how much there is, and a watch over it."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch
from torch import nn

from fedquad.config import require_int

# For what the interpreter and libraries take beside a step's tensors.
RESERVE_BYTES = 32 * 2**20

_CGROUP = Path("/sys/fs/cgroup")  # a container's own limit, which psutil does not know


class MemoryLimitError(MemoryError):
    """The memory that is left would not do for what comes next; it has not been taken."""


class DeviceMemory:
    """The memory that this process may still take.

    Make it before the model is loaded: what the process holds then is not counted
    as the model's.

    Parameters
    ----------
    torch_device : str
        ``cpu`` or ``cuda``: whose memory.
    limit_bytes : int, optional
        What the device's owner gives to the whole process (on ``cuda``: of the
        card). None: all that is free.
    reserve_bytes : int
        Left free at all times.

    Attributes
    ----------
    cap_bytes : int or None
        Of the budget, where experience says less than what is measured.

    Raises
    ------
    InputError
        A limit below 1, a negative reserve.
    """

    def __init__(
        self,
        torch_device: str = "cpu",
        *,
        limit_bytes: int | None = None,
        reserve_bytes: int = RESERVE_BYTES,
    ) -> None:
        if limit_bytes is not None:
            require_int("limit_bytes", limit_bytes, 1)
        require_int("reserve_bytes", reserve_bytes, 0)
        self._torch_device = torch.device(torch_device)
        self._limit_bytes = limit_bytes
        self._reserve_bytes = reserve_bytes
        self._held_at_first = self._held_bytes()
        self.cap_bytes: int | None = None

    def available_bytes(self) -> int:
        """What can be taken now, beside the reserve; negative where that is touched."""
        free = self._free_bytes()
        if self._limit_bytes is not None:
            free = min(free, self._limit_bytes - self._held_bytes())
        return free - self._reserve_bytes

    def budget_bytes(self) -> int:
        """M_i: model, adapter and step may take so much together, what is loaded included."""
        loaded = max(0, self._held_bytes() - self._held_at_first)
        budget = max(0, self.available_bytes() + loaded)
        return budget if self.cap_bytes is None else min(budget, self.cap_bytes)

    @contextmanager
    def watched(self, modules: Iterable[nn.Module]) -> Iterator[None]:
        """Look before each forward of these modules, such as a model's layers.

        A system that runs out of memory ends a process and says nothing; this stops
        before. A look takes some microseconds.

        Raises
        ------
        MemoryLimitError
            In the forward, where less than the reserve is left.
        """

        def look(module: nn.Module, inputs: tuple[object, ...]) -> None:
            if (available := self.available_bytes()) < 0:
                short = f"{-available:,} bytes short, {self._reserve_bytes:,} of reserve counted"
                raise MemoryLimitError(f"memory ran low while training: {short}")

        hooks = [module.register_forward_pre_hook(look) for module in modules]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _held_bytes(self) -> int:
        if self._torch_device.type == "cuda":
            return torch.cuda.memory_allocated(self._torch_device)
        return psutil.Process().memory_info().rss

    def _free_bytes(self) -> int:
        if self._torch_device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(self._torch_device)
            cached = torch.cuda.memory_reserved(self._torch_device) - self._held_bytes()
            return free + cached
        return min(psutil.virtual_memory().available, _free_in_cgroup())


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out: on a card, in Python, or in torch on the CPU."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    # On the CPU torch has no type of its own for it, nor for what comes out of C++.
    words = ("DefaultCPUAllocator", "std::bad_alloc")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)


def give_back() -> None:
    """Return to the system what an attempt that failed has left, so that it can be measured."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)  # glibc keeps what was freed


def _free_in_cgroup() -> int:
    """What this process's container may still take; without one (or a limit) without end."""
    try:
        limit = int((_CGROUP / "memory.max").read_text())
        held = int((_CGROUP / "memory.current").read_text())
        parts = (line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
        return limit - held + int(dict(parts)["inactive_file"])  # files, which give way
    except (OSError, ValueError, KeyError):  # no such file, or "max"
        return 2**63 - 1
