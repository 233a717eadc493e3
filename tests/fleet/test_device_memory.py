"""The memory of a real device: what it measures, and how a training is stopped in time."""

from __future__ import annotations

import psutil
import pytest
import torch

from fedquad.config import InputError
from fedquad.fleet.device_memory import DeviceMemory, MemoryLimitError, give_back

MB = 2**20


def rss() -> int:
    return psutil.Process().memory_info().rss


def test_the_owners_limit_is_the_processs():
    memory = DeviceMemory(limit_bytes=rss() + 100 * MB, reserve_bytes=10 * MB)
    assert 80 * MB < memory.available_bytes() <= 91 * MB


def test_without_a_limit_it_is_what_the_system_has():
    memory = DeviceMemory(reserve_bytes=0)
    assert 0 < memory.budget_bytes() <= psutil.virtual_memory().total


def test_a_model_that_is_loaded_stays_in_the_budget():
    """M_i is of the model and its step together: it does not fall as the model comes in."""
    memory = DeviceMemory(limit_bytes=rss() + 300 * MB, reserve_bytes=0)
    before = memory.budget_bytes()
    weights = torch.ones(100 * MB // 4)
    assert memory.available_bytes() < before - 90 * MB
    assert abs(memory.budget_bytes() - before) < 20 * MB
    del weights
    give_back()
    assert memory.available_bytes() > before - 20 * MB


def test_a_forward_is_stopped_before_the_memory_is_gone():
    layers = torch.nn.ModuleList(torch.nn.Linear(4, 4) for _ in range(3))
    memory = DeviceMemory(limit_bytes=rss() + 60 * MB, reserve_bytes=0)
    held = []
    with memory.watched(layers):
        for layer in layers[:2]:
            layer(torch.ones(1, 4))
            held.append(torch.ones(40 * MB // 4))
        with pytest.raises(MemoryLimitError, match="memory ran low"):
            layers[2](torch.ones(1, 4))
    layers[0](torch.ones(1, 4))  # nobody looks any more


@pytest.mark.parametrize(
    "values", [{"limit_bytes": 0}, {"limit_bytes": 1.5}, {"reserve_bytes": -1}]
)
def test_limits_that_cannot_be(values):
    with pytest.raises(InputError):
        DeviceMemory(**values)
