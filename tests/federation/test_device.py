from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from fedquad.config import Assignment, InputError
from fedquad.federation.device import DeviceHost, host_from_json
from fedquad.federation.jobs import DeviceJob
from fedquad.federation.setting import FederatedSetting, config_to_json
from fedquad.model.backbone import load_backbone
from fedquad.model.lora import attach_lora, lora_tensors, set_trainable_layers
from fedquad.training.local import DivergenceError, LocalTrainer, cosine_rate, row_order

ALL = (0, 1, 2)


def job(device=0, active=ALL, trained=None, quantized=(), rank=4, round_idx=0) -> DeviceJob:
    assignment = Assignment(
        num_layers=3,
        active_layers=active,
        trainable_layers=active if trained is None else trained,
        quantized_layers=quantized,
        lora_rank=rank,
    )
    return DeviceJob(device=device, round_idx=round_idx, assignment=assignment)


def bits(update) -> list[object]:
    tensors = [(name, t.numpy().tobytes()) for name, t in update.adapter.state().items()]
    return [*tensors, update.train_loss, update.num_samples, list(update.gradient_norms.items())]


def differs_by(one, other) -> float:
    states = one.adapter.state(), other.adapter.state()
    assert states[0].keys() == states[1].keys()
    return max((states[0][name] - states[1][name]).abs().max().item() for name in states[0])


JOBS = [
    job(0, active=(1, 2)),
    job(1, active=(0, 2), rank=2),
    job(2),
    job(3, trained=(1, 2), quantized=(1,)),
    job(1, trained=(2,), round_idx=1),
]


@pytest.mark.parametrize("seed", range(3))
def test_the_first_devices_of_a_host_send_the_same_in_any_order(tiny_federated, seed):
    """A fresh host each time: its model is as it was loaded, and has dropout."""
    order = np.random.default_rng(seed).permutation(len(JOBS))
    hosts = [DeviceHost(FederatedSetting(tiny_federated())) for _ in range(2)]
    expected = [bits(hosts[0].fine_tune(one)) for one in JOBS]
    for place in order:
        assert bits(hosts[1].fine_tune(JOBS[place])) == expected[place]


def test_a_device_takes_the_steps_of_fine_tuning_alone(tiny_federated):
    """The same model, rows and seeds without any federation: `LocalTrainer` over its shard."""
    config = tiny_federated(local_steps=3)
    host = DeviceHost(FederatedSetting(config))
    update = host.fine_tune(job(2, trained=(1, 2), round_idx=1))
    backbone = load_backbone(config.model, num_labels=2, seed=config.seed)
    model = attach_lora(
        backbone.model, rank=4, alpha=4, fresh_modules=backbone.fresh_modules, seed=config.seed
    )
    set_trainable_layers(model, (1, 2))
    trainer = LocalTrainer(
        model,
        host.rows(2),
        num_steps=3,
        batch_size=config.batch_size,
        learning_rate=cosine_rate(1, config.num_rounds, config.learning_rate),
        seed=(config.seed, 1, 2),
        schedule="constant",
    )
    losses = [trainer.step() for _ in range(3)]
    assert update.train_loss == math.fsum(losses) / 3
    assert update.num_samples == 25
    trained = lora_tensors(model)
    assert tuple(update.adapter.lora) == (1, 2)
    for layer, tensors in update.adapter.lora.items():
        for name, tensor in tensors.items():
            assert torch.equal(tensor, trained[layer][name])


def test_the_rate_falls_from_round_to_round_or_within_each(tiny_federated):
    across, within = (
        DeviceHost(FederatedSetting(tiny_federated(rate_schedule=schedule, num_rounds=10)))
        for schedule in ("rounds", "within-round")
    )
    late = {"round_idx": 9}
    moved = differs_by(across.fine_tune(job(**late)), within.fine_tune(job(**late)))
    assert moved > 1e-3  # one is near the end of its cosine, the other starts at the peak


def test_a_low_rank_trains_as_a_model_of_that_rank(tiny_federated):
    host = DeviceHost(FederatedSetting(tiny_federated(local_steps=3)))
    small = DeviceHost(FederatedSetting(tiny_federated(local_steps=3, lora_rank=2, lora_alpha=2)))
    small.receive(host.global_adapter().truncate_rank(2))
    update, alone = host.fine_tune(job(rank=2)), small.fine_tune(job(rank=2))
    assert update.lora_rank == 2
    assert differs_by(update, alone) < 1e-6
    assert update.train_loss == pytest.approx(alone.train_loss, rel=1e-6)
    for layer, norm in update.gradient_norms.items():
        assert norm == pytest.approx(alone.gradient_norms[layer], rel=1e-5)
    assert differs_by(update, host.fine_tune(job(1, rank=2))) > 1e-3  # of other rows


def test_quantized_layers_change_the_update_by_little_but_do(tiny_federated):
    host = DeviceHost(FederatedSetting(tiny_federated()))
    plain = host.fine_tune(job())
    quantized = host.fine_tune(job(quantized=(0, 1)))
    # Not the tensors: the size of Adam's first steps is the rate's, whatever the gradient's.
    for layer, norm in quantized.gradient_norms.items():
        assert norm == pytest.approx(plain.gradient_norms[layer], rel=0.05)
    assert quantized.gradient_norms != plain.gradient_norms
    coarse = DeviceHost(FederatedSetting(tiny_federated(activation_bits=4)))
    assert coarse.fine_tune(job(quantized=(0, 1))).gradient_norms != quantized.gradient_norms


def test_a_probe_measures_the_gradients_of_the_first_batch(tiny_federated):
    config = tiny_federated()
    host = DeviceHost(FederatedSetting(config))
    host.fine_tune(job(1))  # leaves gradients behind
    squares = host.probe(job(3, trained=(1, 2)))
    backbone = load_backbone(config.model, num_labels=2, seed=config.seed)
    model = attach_lora(
        backbone.model, rank=4, alpha=4, fresh_modules=backbone.fresh_modules, seed=config.seed
    ).eval()
    shard = host.rows(3)
    batch = shard.batch(row_order(len(shard), config.batch_size, (config.seed, 0, 3), 0))
    labels = batch.pop("labels")
    cross_entropy(model(**batch).logits, labels).backward()
    expected = [
        sum(weight.grad.double().square().sum().item() for weight in tensors.values())
        for tensors in lora_tensors(model).values()
    ]
    assert squares[0] == 0.0
    np.testing.assert_allclose(squares[1:], expected[1:], rtol=1e-5)


def test_a_device_that_diverges_leaves_nothing_behind(tiny_federated):
    config = tiny_federated()
    host, twin = (DeviceHost(FederatedSetting(config)) for _ in range(2))
    state = host.global_adapter().state()
    state["head.classifier.weight"] = state["head.classifier.weight"] * 1e38
    host.receive(type(host.global_adapter()).from_state(state, host.global_adapter().layout))
    for attempt in (host.fine_tune, host.probe):
        with pytest.raises(DivergenceError):
            attempt(job(2))
    host.receive(twin.global_adapter())
    assert bits(host.fine_tune(job(0, active=(0, 2)))) == bits(
        twin.fine_tune(job(0, active=(0, 2)))
    )


def test_a_host_in_a_worker_is_the_same(tiny_federated):
    config = tiny_federated(partition_alpha=math.inf, method_options=(), seed=3)
    here, there = (
        DeviceHost(FederatedSetting(config)),
        host_from_json({"config": config_to_json(config)}),
    )
    assert there.config == config
    assert bits(there.fine_tune(job(1))) == bits(here.fine_tune(job(1)))


def test_devices_have_rows_of_their_own_and_no_others(tiny_federated):
    host = DeviceHost(FederatedSetting(tiny_federated(num_devices=7)))
    shards = [set(shard.tolist()) for shard in host._shards]
    assert [len(shard) for shard in shards] == [14] * 7
    assert len(set.union(*shards)) == 7 * 14
    with pytest.raises(InputError, match=r"device = 7 .* below 7"):
        host.fine_tune(job(7))
