"""Where the time of a GPU goes: seconds of each kernel, as CUPTI counts them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

_LONGEST = 12
_NAME_LENGTH = 80


def profile_call(call: Callable[[], object], repeats: int = 3) -> dict[str, Any]:
    """Mean seconds that kernels of a call keep the GPU busy, and the longest of them.

    Returns
    -------
    dict
        ``busy_device_s``, without the gaps between kernels; ``num_kernels``;
        ``longest_kernels``, a list of name, launches and seconds a call.

    Raises
    ------
    RuntimeError
        No kernel was seen.
    """
    call()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for _ in range(repeats):
            call()
        torch.cuda.synchronize()
    launches: dict[str, int] = defaultdict(int)
    seconds: dict[str, float] = defaultdict(float)
    for event in profiler.events():
        if event.device_type == DeviceType.CUDA:
            launches[event.name] += 1
            seconds[event.name] += 1e-6 * event.time_range.elapsed_us()
    if not seconds:
        raise RuntimeError("the profiler has seen no kernel")
    longest = sorted(seconds, key=seconds.__getitem__, reverse=True)[:_LONGEST]
    return {
        "busy_device_s": sum(seconds.values()) / repeats,
        "num_kernels": round(sum(launches.values()) / repeats),
        "longest_kernels": [
            {
                "name": name[:_NAME_LENGTH],
                "launches": round(launches[name] / repeats),
                "device_s": seconds[name] / repeats,
            }
            for name in longest
        ],
    }
