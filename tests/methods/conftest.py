"""Adapters, devices and updates small enough to compute by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedquad.cost.layer_costs import LayerCosts
from fedquad.fleet.fleet import DeviceStatus
from fedquad.methods import History, LocalUpdate, MethodSetting
from fedquad.model.adapter import Adapter, AdapterLayout

LAYOUT = AdapterLayout("encoder.layer", ("classifier",), scaling=1.0)
FIXED_BYTES, BYTES_PER_LAYER = 100, 10


@pytest.fixture(scope="session")
def make_setting():
    """``make_setting(num_layers=4)``: m_f = 100 and m_o = 10 bytes."""

    def make(num_layers: int = 4, lora_rank: int = 4, **changes) -> MethodSetting:
        costs = LayerCosts(
            num_layers=num_layers,
            fixed_bytes=FIXED_BYTES,
            bytes_per_lora_layer=BYTES_PER_LAYER,
            bytes_saved_per_quantized_layer=6,
            forward_flops=10 * num_layers,
            flops_per_lora_layer=20,
            flops_per_quantized_layer=5,
        )
        return MethodSetting(costs=costs, local_steps=2, lora_rank=lora_rank, **changes)

    return make


@pytest.fixture(scope="session")
def make_statuses():
    """``make_statuses(4, 2)``: devices whose memory is exactly that of their depth."""

    def make(*depths: int) -> list[DeviceStatus]:
        return [
            DeviceStatus(
                device_id=f"device-{i}",
                depth_budget=depth,
                memory_budget_bytes=FIXED_BYTES + BYTES_PER_LAYER * depth,
                flops_per_second=100.0,
            )
            for i, depth in enumerate(depths)
        ]

    return make


@pytest.fixture(scope="session")
def make_history():
    """``make_history(round_idx=3)``, of a first round by default."""

    def make(round_idx: int = 0, num_layers: int = 4, probes=None) -> History:
        return History(
            round_idx=round_idx,
            mean_completion_time_s=None,
            gradient_norms=np.ones(num_layers),
            probes={} if probes is None else probes,
        )

    return make


@pytest.fixture(scope="session")
def make_adapter():
    """``make_adapter({0: 1.0, 2: 5.0})``: layers filled with a number, or random from a seed."""

    def make(layers=4, seed: int = 0, rank: int = 4, head: float | None = None) -> Adapter:
        generator = torch.Generator().manual_seed(seed)

        def tensor(*shape: int, fill: float | None) -> torch.Tensor:
            if fill is None:
                return torch.randn(shape, generator=generator)
            return torch.full(shape, float(fill))

        fills = layers if isinstance(layers, dict) else dict.fromkeys(range(layers))
        lora = {
            layer: {
                f"attention.{projection}.lora_{letter}": tensor(*shape, fill=fill)
                for projection in ("query", "value")
                for letter, shape in (("A", (rank, 3)), ("B", (5, rank)))
            }
            for layer, fill in fills.items()
        }
        return Adapter(lora, {"classifier.weight": tensor(2, 3, fill=head)}, LAYOUT)

    return make


@pytest.fixture(scope="session")
def make_update():
    """``make_update(assignment, adapter)``: what a device sends."""

    def make(assignment, adapter, device: int = 0, num_samples: int = 1) -> LocalUpdate:
        return LocalUpdate(
            device=device,
            assignment=assignment,
            adapter=adapter,
            num_samples=num_samples,
            gradient_norms=dict.fromkeys(adapter.lora, 1.0),
            train_loss=1.0,
        )

    return make


@pytest.fixture(scope="session")
def same_bytes():
    """Whether two adapters hold the same tensors, bit for bit."""

    def same(first: Adapter, second: Adapter) -> bool:
        one, two = first.state(), second.state()
        return [*one] == [*two] and all(
            one[key].numpy().tobytes() == two[key].numpy().tobytes() for key in one
        )

    return same


@pytest.fixture(scope="session")
def fills():
    """The one number in each layer, and in the head under ``head``; fails if there are several."""

    def read(adapter: Adapter) -> dict:
        groups = {**adapter.lora, "head": adapter.head}
        values = {
            place: torch.cat([tensor.flatten() for tensor in tensors.values()])
            for place, tensors in groups.items()
        }
        assert all((value == value[0]).all() for value in values.values())
        return {place: value[0].item() for place, value in values.items()}

    return read
