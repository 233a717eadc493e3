"""A device that runs out of memory does less, says so, and sends what that would have given."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from fedquad.config import Assignment, FederatedConfig, LayerConfig
from fedquad.cost.layer_costs import LayerCosts
from fedquad.federation.device import DeviceHost
from fedquad.federation.fallback import fine_tune_within
from fedquad.federation.jobs import DeviceJob
from fedquad.federation.setting import FederatedSetting, config_to_json
from fedquad.fleet.device_memory import DeviceMemory, MemoryLimitError, is_out_of_memory
from fedquad.methods import METHODS
from fedquad.methods.method import History
from fedquad.model.backbone import find_layers

MB = 10**6
COSTS = LayerCosts(
    num_layers=3,
    fixed_bytes=MB,
    bytes_per_lora_layer=2 * MB,
    bytes_saved_per_quantized_layer=MB,
    forward_flops=300,
    flops_per_lora_layer=200,
    flops_per_quantized_layer=50,
)


class OtherMemory(DeviceMemory):
    """A machine with another amount of memory than this one."""

    def __init__(self, budget_bytes: int) -> None:
        super().__init__()
        self._budget_bytes = budget_bytes

    def budget_bytes(self) -> int:
        return self._budget_bytes


def job(depth: int, quantized: int = 0) -> DeviceJob:
    config = LayerConfig(depth, quantized)
    assignment = Assignment.from_layer_config(config, 3, lora_rank=4)
    return DeviceJob(device=1, round_idx=1, assignment=assignment)


def size(assignment: Assignment) -> tuple[int, int]:
    return len(assignment.trainable_layers), len(assignment.quantized_layers)


@pytest.fixture
def setting(tiny_federated) -> FederatedSetting:
    return FederatedSetting(tiny_federated(method="fedquad"))


@pytest.fixture
def host(setting) -> DeviceHost:
    return DeviceHost(setting)


def run_out(host: DeviceHost, error_at: Callable[[int], BaseException | None]) -> None:
    """Let every second forward fail with the error that a depth is given, if any."""
    layers = find_layers(host.model.get_base_model())
    calls = itertools.count(1)

    def look(module: torch.nn.Module, inputs: object) -> None:
        depth = sum(any(w.requires_grad for w in layer.parameters()) for layer in layers)
        if next(calls) % 2 == 0 and (error := error_at(depth)):
            raise error

    layers[-1].register_forward_pre_hook(look)


def within(
    host: DeviceHost, setting: FederatedSetting, asked: DeviceJob, budget_bytes: int = MB**2
):
    memory = OtherMemory(budget_bytes)
    return fine_tune_within(host, asked, memory=memory, costs=COSTS, method=setting.method)


def same_bytes(a, b) -> bool:
    states = [{n: t.numpy().tobytes() for n, t in u.adapter.state().items()} for u in (a, b)]
    return states[0] == states[1] and a.train_loss == b.train_loss


def test_what_fits_is_done_as_it_was_asked_for(host, setting):
    update, fallback = within(host, setting, job(3, 1))
    assert fallback is None
    assert same_bytes(update, DeviceHost(setting).fine_tune(job(3, 1)))


def test_out_of_memory_while_training_gives_what_a_smaller_assignment_gives(host, setting):
    out = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    run_out(host, lambda depth: out if depth == 3 else None)
    update, fallback = within(host, setting, job(3))
    # First everything quantized, which does not help here; then one layer less.
    assert size(fallback.assignment) == (2, 1)
    assert [reason.split(":")[0] for reason in fallback.reasons] == [
        "3 trained, 0 quantized of 3 layers",
        "3 trained, 2 quantized of 3 layers",
    ]
    assert fallback.too_many_bytes == COSTS.price(job(3, 2).assignment).bytes
    assert update.assignment == fallback.assignment
    assert same_bytes(update, DeviceHost(setting).fine_tune(job(2, 1)))


def test_a_price_beyond_the_memory_is_not_even_tried(host, setting):
    run_out(host, lambda depth: AssertionError("was tried") if depth > 1 else None)
    # (3, 0) costs 7 MB, (3, 2) 5, (2, 1) 4, (1, 0) 3.
    update, fallback = within(host, setting, job(3), budget_bytes=3 * MB)
    assert size(fallback.assignment) == (1, 0)
    assert len(fallback.reasons) == 3
    assert "needs 7,000,000 bytes, 3,000,000 are there" in fallback.reasons[0]
    assert fallback.too_many_bytes is None
    assert same_bytes(update, DeviceHost(setting).fine_tune(job(1)))


def test_where_nothing_fits_every_reason_is_given(host, setting):
    with pytest.raises(MemoryLimitError) as caught:
        within(host, setting, job(2), budget_bytes=MB)
    assert str(caught.value).count("1,000,000 are there") == 3


def test_other_errors_are_no_lack_of_memory(host, setting):
    run_out(host, lambda depth: RuntimeError("shapes do not fit"))
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        within(host, setting, job(2))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("size mismatch"), False),
        (ValueError("std::bad_alloc"), False),
    ],
)
def test_lack_of_memory_has_many_names(error, expected):
    assert is_out_of_memory(error) is expected


@pytest.mark.parametrize("name", METHODS)
def test_every_method_names_ever_smaller_assignments(tiny_federated, name):
    """Each is part of the one before, costs less, and at the end there is none."""
    setting = FederatedSetting(tiny_federated(method=name, heterogeneity="low"))
    statuses = setting.fleet.statuses(0)
    norms = np.ones(setting.num_layers)
    probes = dict.fromkeys(range(len(statuses)), norms)
    history = History(round_idx=0, mean_completion_time_s=None, gradient_norms=norms, probes=probes)
    assignment = setting.method.assign(statuses, history)[0]
    steps = 0
    while (smaller := setting.method.smaller(assignment)) is not None:
        assert set(smaller.trainable_layers) <= set(assignment.trainable_layers)
        assert set(smaller.active_layers) <= set(assignment.active_layers)
        assert smaller.lora_rank == assignment.lora_rank
        costs = setting.costs
        assert costs.price(smaller).bytes < costs.price(assignment).bytes
        assignment, steps = smaller, steps + 1
    assert len(assignment.trainable_layers) == 1
    assert steps >= 1


def test_inclusivefl_takes_a_sub_model_that_shrank(tiny_federated):
    """Its server knows whole sub-models only, so the device's next smaller one is one."""
    setting = FederatedSetting(tiny_federated(method="inclusivefl"))
    host = DeviceHost(setting)
    layers = (0, 1)
    asked = replace(
        job(3).assignment, active_layers=layers, trainable_layers=layers, quantized_layers=()
    )
    update, fallback = within(host, setting, replace(job(3), assignment=asked), 4 * MB)
    assert fallback.assignment.active_layers == (0,)
    accumulator = setting.method.accumulator(host.global_adapter())
    accumulator.add(update)
    new = accumulator.finish()
    assert all(torch.equal(t, update.adapter.lora[0][n]) for n, t in new.lora[0].items())


LIMITED = """
import json, resource, sys
from dataclasses import replace
import psutil, torch
from fedquad.config import Assignment, FederatedConfig, LayerConfig
from fedquad.cost.layer_costs import LayerCosts
from fedquad.federation.device import DeviceHost
from fedquad.federation.fallback import fine_tune_within
from fedquad.federation.jobs import DeviceJob
from fedquad.federation.setting import FederatedSetting, config_from_json
from fedquad.fleet.device_memory import DeviceMemory

torch.set_num_threads(1)
setting = FederatedSetting(config_from_json(json.loads(sys.argv[1])))
costs = LayerCosts.from_json(sys.argv[2])
memory = DeviceMemory()
host = DeviceHost(setting)
job = DeviceJob(device=0, round_idx=0, assignment=Assignment.from_layer_config(
    LayerConfig(1), setting.num_layers, 16))
host.fine_tune(job)  # what is allocated once is there
how, spare = sys.argv[3], int(sys.argv[4])
if how == "system":
    taken = psutil.Process().memory_info().vms
    resource.setrlimit(resource.RLIMIT_AS, (taken + spare,) * 2)
else:
    memory = DeviceMemory(limit_bytes=psutil.Process().memory_info().rss + spare, reserve_bytes=0)
    memory.budget_bytes = lambda: 2**60  # prices say yes, the machine says no
deep = replace(job, assignment=Assignment.from_layer_config(
    LayerConfig(setting.num_layers), setting.num_layers, 16))
update, fallback = fine_tune_within(
    host, deep, memory=memory, costs=costs, method=setting.method)
print(json.dumps({"depth": len(update.assignment.trainable_layers),
    "quantized": len(update.assignment.quantized_layers), "reasons": fallback.reasons}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["system", "owner"])
def test_a_real_limit_is_met_by_doing_less(how):
    """A process that may not take more memory: torch's allocation fails, or the watch stops it."""
    config = FederatedConfig(
        method="fedquad-no-qd",
        num_devices=2,
        local_steps=1,
        batch_size=64,
        train_samples=256,
        eval_samples=8,
        clock_local_steps=1,
    )
    costs = replace(COSTS, num_layers=12)
    command = [sys.executable, "-c", LIMITED, json.dumps(config_to_json(config)), costs.to_json()]
    # A layer keeps about 15 MB for the backward pass.
    done = subprocess.run(
        [*command, how, str(60 * MB)], capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert 1 <= found["depth"] < 12
    assert found["quantized"] == 0
    words = "can't allocate memory" if how == "system" else "memory ran low while training"
    assert words in found["reasons"][0]
