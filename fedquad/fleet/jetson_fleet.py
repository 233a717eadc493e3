"""The paper's simulated fleet: three classes of Jetson boards whose memory and speed change."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedquad.config import require_choice, require_int
from fedquad.config.federated import HETEROGENEITY_LEVELS
from fedquad.cost.layer_costs import LayerCosts
from fedquad.fleet.jetson import JETSON_MODES, flops_per_second
from fedquad.fleet.status import DeviceStatus, Fleet

ROUNDS_PER_MODE = 10  # "each device randomly switches its operating mode every 10 training rounds"
_RANGES_ARE_OF_LAYERS = 24

# Streams of random numbers, so that none depends on how much another one drew.
_CLASS_STREAM, _MEMORY_STREAM, _MODE_STREAM = range(3)


@dataclass(frozen=True)
class DeviceClass:
    """A class of devices: its board, and the range of its depth budget at 24 layers."""

    name: str
    board: str
    shallowest: int
    deepest: int


DEVICE_CLASSES = (
    DeviceClass("strong", "AGX", 18, 24),
    DeviceClass("moderate", "NX", 11, 17),
    DeviceClass("weak", "TX2", 4, 10),
)
# Parts of strong, moderate and weak devices.
CLASS_SHARES = {"low": (1, 0, 0), "medium": (1, 1, 0), "high": (3, 3, 4)}


def class_counts(num_devices: int, heterogeneity: str) -> tuple[int, int, int]:
    """How many strong, moderate and weak devices a fleet has.

    Every class gets its share of n rounded down; the devices that are left go one
    each to the classes with the largest remainders, of equal ones to the stronger.
    """
    require_int("num_devices", num_devices, 1)
    require_choice("heterogeneity", heterogeneity, HETEROGENEITY_LEVELS)
    shares = CLASS_SHARES[heterogeneity]
    parts = [divmod(num_devices * share, sum(shares)) for share in shares]
    counts = [count for count, _ in parts]
    by_remainder = sorted(range(len(parts)), key=lambda idx: -parts[idx][1])
    for idx in by_remainder[: num_devices - sum(counts)]:
        counts[idx] += 1
    return tuple(counts)


class JetsonFleet(Fleet):
    """Jetson boards of three classes (Section V-A).

    The class of a device is fixed. Before every round its depth budget is drawn
    uniformly from the range of its class, in layers of the reference model, and
    every 10 rounds its mode uniformly from the modes of its board. Every draw
    depends on the seed and the round alone, and neither on the throughput model
    nor on the costs: fleets that differ in those have the same traces.

    Parameters
    ----------
    num_devices : int
        n.
    heterogeneity : {"low", "medium", "high"}
        Strong devices only; strong and moderate 1:1; strong, moderate, weak 3:3:4
        (`class_counts`).
    costs : LayerCosts
        Of the trained model's L layers: the reference model's, cut by
        `LayerCosts.of_layers`.
    reference_num_layers : int
        L_ref, the layers of the reference model. A class range of 24 layers is
        taken at L_ref / 24 of its ends, and a drawn depth d_ref becomes
        d_i = max(1, floor(d_ref * L / L_ref + 0.5)); M_i = m_f + m_o * d_i.
    throughput_model : {"fp16", "fp32", "roofline"}
        How q_i follows from the mode (`fedquad.fleet.jetson.flops_per_second`).
    arithmetic_intensity : float or None
        FLOPs per byte, for the roofline alone.
    seed : int

    Raises
    ------
    InputError
        An argument out of range.
    """

    def __init__(
        self,
        num_devices: int,
        heterogeneity: str,
        costs: LayerCosts,
        *,
        reference_num_layers: int = 24,
        throughput_model: str = "fp16",
        arithmetic_intensity: float | None = None,
        seed: int = 0,
    ) -> None:
        require_int("reference_num_layers", reference_num_layers, 1)
        require_int("seed", seed, 0)
        counts = class_counts(num_devices, heterogeneity)
        self._seed = seed
        self._num_layers = costs.num_layers
        self._reference_num_layers = reference_num_layers
        in_order = np.repeat(np.arange(len(counts)), counts)
        self._class_of = self._random(_CLASS_STREAM).permutation(in_order)
        self._class_names = [DEVICE_CLASSES[idx].name for idx in self._class_of]
        digits = len(str(num_devices - 1))
        self._names = [f"device-{idx:0{digits}d}" for idx in range(num_devices)]

        ends = [(kind.shallowest, kind.deepest) for kind in DEVICE_CLASSES]
        scaled = _rescaled(np.array(ends), _RANGES_ARE_OF_LAYERS, reference_num_layers)
        self._shallowest = scaled[self._class_of, 0]
        self._num_depths = 1 + scaled[self._class_of, 1] - self._shallowest
        # Python integers: they do not overflow.
        self._bytes_at_depth = [costs.memory_bytes(depth) for depth in range(costs.num_layers + 1)]

        boards = [
            [mode for mode in JETSON_MODES if mode.device == kind.board] for kind in DEVICE_CLASSES
        ]
        modes = [mode for board in boards for mode in board]
        self._mode_names = [mode.name for mode in modes]
        self._mode_flops_per_second = [
            flops_per_second(mode, throughput_model, arithmetic_intensity) for mode in modes
        ]
        num_modes = np.array([len(board) for board in boards])
        self._num_modes = num_modes[self._class_of]
        self._first_mode = (np.cumsum(num_modes) - num_modes)[self._class_of]

    @property
    def num_devices(self) -> int:
        return len(self._names)

    def statuses(self, round_idx: int) -> list[DeviceStatus]:
        require_int("round_idx", round_idx, 0)
        drawn = self._uniform(self._num_depths, _MEMORY_STREAM, round_idx)
        depths = _rescaled(
            self._shallowest + drawn, self._reference_num_layers, self._num_layers
        ).tolist()
        drawn = self._uniform(self._num_modes, _MODE_STREAM, round_idx // ROUNDS_PER_MODE)
        modes = (self._first_mode + drawn).tolist()
        return [
            DeviceStatus(
                device_id=name,
                device_class=class_name,
                mode=self._mode_names[mode],
                depth_budget=depth,
                memory_budget_bytes=self._bytes_at_depth[depth],
                flops_per_second=self._mode_flops_per_second[mode],
            )
            for name, class_name, mode, depth in zip(
                self._names, self._class_names, modes, depths, strict=True
            )
        ]

    def _random(self, *stream: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence(self._seed, spawn_key=stream))

    def _uniform(self, counts: np.ndarray, *stream: int) -> np.ndarray:
        """One integer below ``counts`` a device; a device's draw is the same for any classes."""
        return (self._random(*stream).random(len(counts)) * counts).astype(np.int64)


def _rescaled(depths: np.ndarray, of_layers: int, to_layers: int) -> np.ndarray:
    """max(1, floor(depth * to_layers / of_layers + 0.5)), in integers."""
    return np.maximum(1, (2 * depths * to_layers + of_layers) // (2 * of_layers))
