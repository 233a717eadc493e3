"""Times of a device and of the clock on the wall, in turns, with quantiles."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

UNITS = ("wall_s", "device_s")
# A GPU runs at up to about 2 GHz: more cycles than the host needs to queue everything.
_CYCLES_PER_SECOND = 3e9
_LEAST_CYCLES = 300_000
# More than the second-level cache of any card, so that no operand is found there.
_CACHE_BYTES = 256 * 2**20


class Deadline:
    """The moment at which measuring ends; never for None."""

    def __init__(self, seconds: float | None = None) -> None:
        self._end = None if seconds is None else time.monotonic() + seconds

    @property
    def passed(self) -> bool:
        return self._end is not None and time.monotonic() >= self._end


class Stopwatch:
    """Time a row of calls, one after the other, on one device.

    Parameters
    ----------
    torch_device : str
    flush_cache : bool
        Overwrite the cache of a GPU before each measurement: for single kernels.
    """

    def __init__(self, torch_device: str, *, flush_cache: bool = False) -> None:
        self.device = torch.device(torch_device)
        self.on_gpu = self.device.type == "cuda"
        self._flush = None
        if flush_cache and self.on_gpu:
            self._flush = torch.empty(_CACHE_BYTES, dtype=torch.uint8, device=self.device)

    def wall(self, calls: Sequence[Callable[[], object]]) -> list[float]:
        """Seconds of each call on the wall; the device has finished at every reading."""
        marks = [self._now()]
        for call in calls:
            call()
            marks.append(self._now())
        return np.diff(marks).tolist()

    def device_times(
        self, calls: Sequence[Callable[[], object]], queueing_s: Sequence[float]
    ) -> list[float] | None:
        """Seconds of each call on the GPU, by its own events; None on a CPU.

        The GPU is kept asleep until the host has queued a call, so that it does not
        wait for the next launch: time that a call spends on the host is in `wall`.
        (A queue holds some 1000 launches. Of a longer call the rest is queued while
        the first ones run.)

        Parameters
        ----------
        queueing_s : sequence of float
            Seconds the host may need to queue each call; its wall time will do.
        """
        if not self.on_gpu:
            return None
        return [self._device_time(*pair) for pair in zip(calls, queueing_s, strict=True)]

    def _device_time(self, call: Callable[[], object], queueing_s: float) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(self.device)
        torch.cuda._sleep(int(_CYCLES_PER_SECOND * queueing_s) + _LEAST_CYCLES)
        if self._flush is not None:
            self._flush.zero_()
        start.record()
        call()
        end.record()
        torch.cuda.synchronize(self.device)
        return 1e-3 * start.elapsed_time(end)

    def _now(self) -> float:
        if self.on_gpu:
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


class Turns:
    """Times of several cases that took turns.

    Attributes
    ----------
    failed : dict
        Name -> what a case raised; it was left out from then on.
    """

    def __init__(self, cases: Mapping[str, Mapping[str, Callable[[], object]]]) -> None:
        self.failed: dict[str, Exception] = {}
        self._phases = {name: list(phases) for name, phases in cases.items()}
        self._rows: dict[tuple[str, str], list[list[float]]] = {
            (name, unit): [] for name in cases for unit in UNITS
        }

    def add(self, name: str, wall: list[float], device: list[float] | None) -> None:
        """One more repeat of a case: seconds of its phases."""
        self._rows[name, "wall_s"].append(wall)
        if device is not None:
            self._rows[name, "device_s"].append(device)

    def summary(self, name: str) -> dict[str, Any]:
        """Medians and quartiles, as `quantiles` names them, of every phase of a case.

        Where there are several phases, of ``full``, their sum, too.
        """
        phases = self._phases[name]
        result: dict[str, Any] = {"repeats": len(self._rows[name, "wall_s"])}
        for unit in UNITS:
            for phase in [*phases, "full"] if len(phases) > 1 else phases:
                result |= quantiles(self._column(name, phase, unit), f"{phase}_{unit}")
        return result

    def ratios(self, name: str, other: str, phase: str, unit: str) -> list[float]:
        """Time of a case over that of another one in the same repeat."""
        pairs = zip(self._column(name, phase, unit), self._column(other, phase, unit), strict=False)
        return [own / others for own, others in pairs]

    def _column(self, name: str, phase: str, unit: str) -> list[float]:
        rows = self._rows[name, unit]
        if phase == "full":
            return [sum(row) for row in rows]
        place = self._phases[name].index(phase)
        return [row[place] for row in rows]


def take_turns(
    stopwatch: Stopwatch,
    cases: Mapping[str, Mapping[str, Callable[[], object]]],
    *,
    repeats: int,
    deadline: Deadline,
) -> Turns:
    """Time all cases, each once in every repeat, so that ratios are fair.

    Parameters
    ----------
    cases : mapping
        Name -> phase -> call. The phases of a case run in their order, each on what
        the one before left.
    repeats : int
        Stops earlier, after two of them at least, when the deadline passes.
    """
    turns = Turns(cases)
    # A collection in the middle of a step would be charged to it; between repeats it is quick,
    # since only what is new is looked at.
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        for repeat in range(repeats):
            gc.collect()
            if deadline.passed and repeat >= 2:
                break
            for name in [name for name in cases if name not in turns.failed]:
                calls = list(cases[name].values())
                try:
                    wall = stopwatch.wall(calls)
                    device = stopwatch.device_times(calls, wall)
                except Exception as error:
                    turns.failed[name] = error.with_traceback(None)  # frames hold tensors
                else:
                    turns.add(name, wall, device)
    finally:
        gc.enable()
        gc.unfreeze()
    return turns


def quantiles(values: Sequence[float], name: str) -> dict[str, Any]:
    """Median and quartiles: ``name``, ``name_q25``, ``name_q75``; None without values."""
    suffixes = {"": 0.5, "_q25": 0.25, "_q75": 0.75}
    return {
        f"{name}{suffix}": float(np.quantile(values, q)) if len(values) else None
        for suffix, q in suffixes.items()
    }
