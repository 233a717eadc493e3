"""NVIDIA Jetson operating modes, and the speed q a simulated device gets from one."""

from __future__ import annotations

from dataclasses import dataclass

from fedquad.config import InputError, require_choice, require_positive
from fedquad.config.federated import THROUGHPUT_MODELS

# One common fraction of the peak that training reaches (assumed).
EFFICIENCY = 0.3
_FLOP_PER_TENSOR_CORE_CLOCK = 128  # Volta, FP16: 64 fused multiply-adds


@dataclass(frozen=True, kw_only=True)
class JetsonMode:
    """One power mode of one board.

    Attributes
    ----------
    device : {"TX2", "NX", "AGX"}
    mode : str
        NVIDIA's name of the mode.
    cpu : str
        CPU cores and GHz (2D+4A: Denver and A57 cores).
    gpu_mhz : int
    memory_gb_per_s : float
        10^9 bytes a second.
    cuda_cores, tensor_cores : int
        Those the mode leaves on.
    verified : bool
        False where clocks and bandwidth come from memory of NVIDIA's table and
        could not be checked.
    """

    device: str
    mode: str
    cpu: str
    gpu_mhz: int
    memory_gb_per_s: float
    cuda_cores: int
    tensor_cores: int
    verified: bool

    @property
    def name(self) -> str:
        """Such as ``TX2 Max-Q``."""
        return f"{self.device} {self.mode}"

    @property
    def fp32_flops(self) -> float:
        """Peak FLOPs a second: one multiply-add per CUDA core and clock."""
        return 2 * self.cuda_cores * self.gpu_mhz * 1e6

    @property
    def fp16_flops(self) -> float:
        """Peak FLOPs a second: tensor cores where there are some, else twice the FP32 rate."""
        if self.tensor_cores:
            return _FLOP_PER_TENSOR_CORE_CLOCK * self.tensor_cores * self.gpu_mhz * 1e6
        return 2 * self.fp32_flops


def _tx2(mode: str, cpu: str, gpu_mhz: int, memory_gb_per_s: float) -> JetsonMode:
    return JetsonMode(
        device="TX2",
        mode=mode,
        cpu=cpu,
        gpu_mhz=gpu_mhz,
        memory_gb_per_s=memory_gb_per_s,
        cuda_cores=256,
        tensor_cores=0,
        verified=True,
    )


def _nx(mode: str, cpu: str, gpu_mhz: int) -> JetsonMode:
    return JetsonMode(
        device="NX",
        mode=mode,
        cpu=cpu,
        gpu_mhz=gpu_mhz,
        memory_gb_per_s=51.2,
        cuda_cores=384,
        tensor_cores=48,
        verified=True,
    )


def _agx(
    mode: str, cpu: str, gpu_mhz: int, memory_gb_per_s: float, cuda_cores: int = 512
) -> JetsonMode:
    return JetsonMode(
        device="AGX",
        mode=mode,
        cpu=cpu,
        gpu_mhz=gpu_mhz,
        memory_gb_per_s=memory_gb_per_s,
        cuda_cores=cuda_cores,
        tensor_cores=cuda_cores // 8,  # a Volta multiprocessor has 64 cores and 8 tensor cores
        verified=False,
    )


JETSON_MODES: tuple[JetsonMode, ...] = (
    _tx2("MaxN", "2D+4A 2.0", 1300, 59.7),
    _tx2("Max-Q", "4A 1.2", 850, 42.6),
    _tx2("Max-P Core-All", "2D+4A 1.4", 1120, 51.2),
    _tx2("Max-P ARM", "4A 2.0", 1120, 51.2),
    _nx("15 W 2-core", "2c 1.9", 1109),
    _nx("15 W 6-core", "6c 1.4", 1109),
    _nx("10 W 2-core", "2c 1.5", 803),
    _nx("10 W 4-core", "4c 1.2", 803),
    _agx("MAXN", "8c 2.27", 1377, 136.5),
    _agx("10 W", "2c 1.2", 522, 68.2, cuda_cores=256),  # 2 of 4 processing clusters
    _agx("15 W", "4c 1.2", 676, 85.3),
    _agx("30 W 8-core", "8c 1.2", 905, 102.4),
    _agx("30 W 6-core", "6c 1.45", 905, 102.4),
    _agx("30 W 4-core", "4c 1.78", 905, 102.4),
    _agx("30 W 2-core", "2c 2.1", 905, 102.4),
    _agx("15 W desktop", "4c 2.19", 676, 85.3),
)

# The rows of Table I. Its TOPS are INT8 and stand beside an FP16 figure: not used as q.
TABLE_I_MODES = ("TX2 Max-Q", "NX 10 W 4-core", "AGX 30 W 6-core")


def get_mode(name: str) -> JetsonMode:
    """The mode of that `JetsonMode.name`; `InputError` lists the known ones otherwise."""
    modes = {mode.name: mode for mode in JETSON_MODES}
    require_choice("mode", name, modes)
    return modes[name]


def flops_per_second(
    mode: JetsonMode,
    throughput_model: str = "fp16",
    arithmetic_intensity: float | None = None,
) -> float:
    """q_i: FLOPs a second that a device in this mode is taken to reach.

    Parameters
    ----------
    mode : JetsonMode
    throughput_model : {"fp16", "fp32", "roofline"}
        0.3 of the FP16 peak, 0.3 of the FP32 peak, or
        min(0.3 of the FP16 peak, memory bandwidth * arithmetic intensity).
    arithmetic_intensity : float or None
        FLOPs per byte of a step at full depth,
        `fedquad.cost.accounting.StepCost.arithmetic_intensity`; for the roofline.

    Raises
    ------
    InputError
        Unknown throughput model; an intensity missing for the roofline, given for
        another model, or not positive.
    """
    require_choice("throughput_model", throughput_model, THROUGHPUT_MODELS)
    if throughput_model != "roofline":
        if arithmetic_intensity is not None:
            accepted = f"None with the {throughput_model} model; only the roofline uses it"
            raise InputError("arithmetic_intensity", arithmetic_intensity, accepted)
        peak = mode.fp16_flops if throughput_model == "fp16" else mode.fp32_flops
        return EFFICIENCY * peak
    require_positive("arithmetic_intensity", arithmetic_intensity)
    return min(EFFICIENCY * mode.fp16_flops, mode.memory_gb_per_s * 1e9 * arithmetic_intensity)
