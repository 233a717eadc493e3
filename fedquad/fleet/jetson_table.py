"""Table I of the paper, from the same modes that the simulated devices run in."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import pandas as pd

from fedquad.fleet.jetson import JETSON_MODES, TABLE_I_MODES, get_mode


class _PaperRow(NamedTuple):
    """What Table I states of a board."""

    ai_performance: str
    gpu_type: str
    cpu_ghz: float
    gpu_ghz: float


# The AI performances do not compare: the TX2's is its FP16 peak in MaxN, the other two are INT8.
PAPER_TABLE_I = {
    "TX2 Max-Q": _PaperRow("1.33 TFLOPS", "256-core Pascal", 1.2, 0.85),
    "NX 10 W 4-core": _PaperRow("21 TOPS", "384-core Volta", 1.2, 0.8),
    "AGX 30 W 6-core": _PaperRow("32 TOPS", "512-core Volta", 1.45, 0.9),
}
_BOARDS = {"TX2": "Jetson TX2", "NX": "Jetson NX", "AGX": "AGX Xavier"}
_ARCHITECTURES = {"TX2": "Pascal", "NX": "Volta", "AGX": "Volta"}


def jetson_table(modes: Iterable[str] = TABLE_I_MODES) -> pd.DataFrame:
    """Boards in their modes, with what the paper states beside what we compute.

    Parameters
    ----------
    modes : iterable of str
        Names of modes; by default the three of Table I, `ALL_MODES` for all.

    Returns
    -------
    DataFrame
        ``board, mode, gpu_type, paper_gpu_type, cpu_cores, cpu_ghz,
        paper_cpu_ghz, gpu_ghz, paper_gpu_ghz, memory_gb_per_s,
        paper_ai_performance, fp16_tflops, fp32_tflops, clocks_checked``. Peaks are
        of the mode; a GPU's cores are those the mode leaves on; the paper's columns
        are empty for modes that it does not list. ``clocks_checked`` is False where
        clocks and bandwidth could not be checked against NVIDIA's table.

    Raises
    ------
    InputError
        An unknown mode.
    """
    rows = []
    for name in modes:
        mode = get_mode(name)
        paper = PAPER_TABLE_I.get(name)
        cores, ghz = mode.cpu.split()
        rows.append(
            {
                "board": _BOARDS[mode.device],
                "mode": mode.mode,
                "gpu_type": f"{mode.cuda_cores}-core {_ARCHITECTURES[mode.device]}",
                "paper_gpu_type": paper.gpu_type if paper else "",
                "cpu_cores": cores,
                "cpu_ghz": float(ghz),
                "paper_cpu_ghz": paper.cpu_ghz if paper else math.nan,
                "gpu_ghz": mode.gpu_mhz / 1000,
                "paper_gpu_ghz": paper.gpu_ghz if paper else math.nan,
                "memory_gb_per_s": mode.memory_gb_per_s,
                "paper_ai_performance": paper.ai_performance if paper else "",
                "fp16_tflops": mode.fp16_flops / 1e12,
                "fp32_tflops": mode.fp32_flops / 1e12,
                "clocks_checked": mode.verified,
            }
        )
    return pd.DataFrame(rows)


ALL_MODES = tuple(mode.name for mode in JETSON_MODES)
