"""One model serves all devices: nothing of one device may be left when the next one runs."""

from __future__ import annotations

import pytest

from fedquad.config import Assignment, FederatedConfig
from fedquad.federation.device import DeviceHost
from fedquad.federation.distributed import DistributedExecutor
from fedquad.federation.executor import Executor, InProcessExecutor
from fedquad.federation.jobs import DeviceJob, HostSpec
from fedquad.federation.setting import FederatedSetting, config_to_json
from fedquad.methods.aggregation import LayerwiseMean
from fedquad.methods.method import LocalUpdate

CONFIG = FederatedConfig(
    num_devices=5,
    num_rounds=2,
    local_steps=2,
    batch_size=4,
    max_length=16,
    train_samples=60,
    eval_samples=150,
)


def job(device: int, round_idx: int = 0) -> DeviceJob:
    """Devices that differ in everything: depth, sub-model, rank, quantized layers."""
    active = tuple(range(0, 12, 2)) if device == 3 else tuple(range(12))
    trained = tuple(layer for layer in active if layer >= 2 * device)
    assignment = Assignment(
        num_layers=12,
        active_layers=active,
        trainable_layers=trained,
        quantized_layers=trained[:1] if device == 1 else (),
        lora_rank=16 - 4 * (device == 2),
    )
    return DeviceJob(device=device, round_idx=round_idx, assignment=assignment)


def bits(update: LocalUpdate) -> list[object]:
    state = update.adapter.state()
    tensors = [(name, tensor.numpy().tobytes()) for name, tensor in state.items()]
    return [*tensors, update.train_loss, update.num_samples, list(update.gradient_norms.items())]


@pytest.fixture(scope="module")
def host() -> DeviceHost:
    return DeviceHost(FederatedSetting(CONFIG))


def test_an_update_does_not_depend_on_who_ran_before(host):
    first = [bits(host.fine_tune(job(device))) for device in range(5)]
    host.probe(job(0))
    host.evaluate([0])
    again = [bits(host.fine_tune(job(device))) for device in reversed(range(5))]
    assert first == again[::-1]


def test_a_probe_does_not_depend_on_who_ran_before(host):
    first = {device: host.probe(job(device)).tolist() for device in (0, 3)}
    for before in (0, 1, 3):
        host.fine_tune(job(before))
        assert host.probe(job(3)).tolist() == first[3]
        host.fine_tune(job(before))
        assert host.probe(job(0)).tolist() == first[0]


def test_an_evaluation_does_not_depend_on_how_it_is_cut(host):
    count = host.num_eval_batches
    assert count == 3
    whole = host.evaluate(range(count))
    host.fine_tune(job(0))
    for batch in reversed(range(count)):
        (alone,) = host.evaluate([batch])
        assert alone.losses.tolist() == whole[batch].losses.tolist()


def play(executor: Executor) -> list[object]:
    """Two rounds, and every bit that comes out of them."""
    adapter, found = executor.global_adapter(), []
    for round_idx in range(2):
        probed = [job(device, round_idx) for device in range(5)]
        found += [squares.tolist() for squares in executor.probe(probed)]
        total = LayerwiseMean(adapter)
        for update in executor.fine_tune([job(device, round_idx) for device in (0, 1, 3, 4)]):
            total.add(update)
            found.append(bits(update))
        adapter = total.finish()
        executor.broadcast(adapter)
        evaluation = executor.evaluate()
        found += [evaluation.accuracy, evaluation.loss, evaluation.correct.tolist()]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("workers", [2, 3])
def test_workers_give_the_bytes_of_one_process(workers):
    arguments = {"config": config_to_json(CONFIG)}
    spec = HostSpec(factory="fedquad.federation.device:host_from_json", arguments=arguments)
    with DistributedExecutor(spec, workers=workers) as executor:
        shared = play(executor)
    assert shared == play(InProcessExecutor(DeviceHost(FederatedSetting(CONFIG))))
