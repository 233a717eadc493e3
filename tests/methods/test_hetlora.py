from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForSequenceClassification, BertConfig

from fedquad.config import Assignment, InputError
from fedquad.methods import create_method
from fedquad.methods.hetlora import product_norm
from fedquad.model.adapter import Adapter, adapted_matrices
from fedquad.model.lora import attach_lora, lora_tensors

# peft 0.21 asks transformers 5.23 for an attribute by its old name.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


def all_layers(rank, num_layers=4):
    layers = tuple(range(num_layers))
    return Assignment(
        num_layers=num_layers, active_layers=layers, trainable_layers=layers, lora_rank=rank
    )


def with_tail(adapter, start, value):
    """The adapter with a number in the rows of A and columns of B from ``start`` on."""
    changed = copy.deepcopy(adapter)
    for matrix in adapted_matrices(changed.lora):
        matrix.lora_a[start:] = value
        matrix.lora_b[:, start:] = value
    return changed


def test_the_rank_follows_the_depth_budget(make_setting, make_statuses, make_history):
    method = create_method("hetlora", make_setting(12, lora_rank=16))
    assignments = method.assign(make_statuses(12, 7, 4, 1), make_history(num_layers=12))
    # 16 * (12, 7, 4, 1) / 12 = 16, 9.33, 5.33, 1.33
    assert [a.lora_rank for a in assignments] == [16, 9, 5, 1]
    deep = create_method("hetlora", make_setting(24, lora_rank=4))
    # 4 * (1, 3, 9) / 24 = 0.17, 0.5, 1.5: halves up, and never 0
    assignments = deep.assign(make_statuses(1, 3, 9), make_history(num_layers=24))
    assert [a.lora_rank for a in assignments] == [1, 1, 2]


def test_weights_are_the_norms_of_the_products_by_hand(
    make_setting, make_adapter, make_update, fills
):
    accumulator = create_method("hetlora", make_setting(2)).accumulator(
        make_adapter({0: 9, 1: 9}, head=9)
    )
    small = make_adapter({0: 2, 1: 2}, rank=2, head=0)
    for matrix in adapted_matrices({1: small.lora[1]}):
        matrix.lora_b.zero_()
    accumulator.add(make_update(all_layers(4, 2), make_adapter({0: 1, 1: 1}, head=1), device=0))
    accumulator.add(make_update(all_layers(2, 2), small, device=1))
    after = accumulator.finish()
    # B A is 5 x 3 of rank * value^2: norms 4 sqrt(15) and 2 * 4 sqrt(15), weights 1/3 and 2/3.
    # The rows that the smaller one lacks count as zeros: 1/3 of 1.
    expected = torch.tensor([1 / 3 + 4 / 3, 1 / 3 + 4 / 3, 1 / 3, 1 / 3])
    for matrix in adapted_matrices({0: after.lora[0]}):
        torch.testing.assert_close(matrix.lora_a, expected[:, None].expand(4, 3))
        torch.testing.assert_close(matrix.lora_b, expected.expand(5, 4))
    # In layer 1 its product is 0, so it has no weight, whatever its A is.
    assert fills(after.layers([1])) == {1: 1, "head": 0.5}


def test_each_matrix_has_weights_of_its_own(make_setting, make_adapter, make_update):
    first, second = make_adapter({0: 1}, head=0), make_adapter({0: 3}, head=0)
    for name in ("attention.query.lora_A", "attention.query.lora_B"):
        first.lora[0][name] *= 3
        second.lora[0][name] /= 3
    accumulator = create_method("hetlora", make_setting(1)).accumulator(make_adapter(1))
    for device, adapter in enumerate((first, second)):
        accumulator.add(make_update(all_layers(4, 1), adapter, device))
    query, value = adapted_matrices(accumulator.finish().lora)
    assert torch.allclose(query.lora_a, torch.tensor((9 * 3 + 1 * 1) / 10))
    assert torch.allclose(value.lora_b, torch.tensor((1 * 1 + 9 * 3) / 10))


def test_where_every_product_is_zero_the_mean_is_uniform(make_setting, make_adapter, make_update):
    accumulator = create_method("hetlora", make_setting(1)).accumulator(make_adapter(1))
    for device, value in enumerate((1, 2, 6)):
        adapter = make_adapter({0: value}, head=0)
        for matrix in adapted_matrices(adapter.lora):
            matrix.lora_b.zero_()
        accumulator.add(make_update(all_layers(4, 1), adapter, device))
    for matrix in adapted_matrices(accumulator.finish().lora):
        assert (matrix.lora_a == 3).all()
        assert not matrix.lora_b.any()


@settings(deadline=None, max_examples=50)
@given(
    ranks=st.lists(st.integers(1, 4), min_size=1, max_size=5),
    is_zero=st.lists(st.booleans(), min_size=5, max_size=5),
)
def test_the_running_sum_is_the_weighted_mean(
    ranks, is_zero, make_setting, make_adapter, make_update
):
    accumulator = create_method("hetlora", make_setting(2)).accumulator(make_adapter(2))
    sent = [make_adapter(2, seed=i, rank=rank) for i, rank in enumerate(ranks)]
    for device, adapter in enumerate(sent):
        if is_zero[device]:
            for matrix in adapted_matrices(adapter.lora):
                matrix.lora_b.zero_()
        accumulator.add(make_update(all_layers(ranks[device], 2), adapter, device))
    devices = [[*adapted_matrices(adapter.lora)] for adapter in sent]
    for idx, matrix in enumerate(adapted_matrices(accumulator.finish().lora)):
        products = [d[idx].lora_b.numpy() @ d[idx].lora_a.numpy() for d in devices]
        weights = np.array([np.linalg.norm(product) for product in products])
        weights = weights / weights.sum() if weights.any() else np.full(len(ranks), 1 / len(ranks))
        expected_a, expected_b = np.zeros((4, 3)), np.zeros((5, 4))
        for weight, rank, device in zip(weights, ranks, devices, strict=True):
            expected_a[:rank] += weight * device[idx].lora_a.numpy()
            expected_b[:, :rank] += weight * device[idx].lora_b.numpy()
        np.testing.assert_allclose(matrix.lora_a.numpy(), expected_a, atol=1e-5)
        np.testing.assert_allclose(matrix.lora_b.numpy(), expected_b, atol=1e-5)


@pytest.mark.parametrize("scale", [1e-18, 1.0, 1e18])
def test_the_norm_of_a_product_needs_no_product(scale):
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(4, 300, generator=generator) * scale
    b = torch.randn(500, 4, generator=generator) * scale
    expected = torch.linalg.norm(b.double() @ a.double()).item()
    assert product_norm(a, b) == pytest.approx(expected, rel=1e-12)
    # Rows that cancel: float64 leaves 1e-8 of the norms, not a root of something negative.
    cancelling = torch.stack([a[0], -a[0]]), torch.stack([b[:, 0], b[:, 0]], dim=1)
    assert product_norm(*cancelling) <= 1e-7 * expected
    assert product_norm(a, torch.zeros_like(b)) == 0


@pytest.mark.parametrize(
    ("gamma", "rank", "kept"),
    [(0.99, 16, 15), (0.99, 2, 1), (0.5, 16, 8), (0.29, 100, 29), (0.1, 4, 1), (0.99, 200, 198)],
)
def test_a_device_prunes_when_its_last_rows_shrank(gamma, rank, kept, make_setting, make_adapter):
    method = create_method("hetlora", make_setting(2, lora_rank=rank), {"gamma": gamma})
    received = make_adapter(2, rank=rank)
    shrunk = with_tail(received, kept, 1e-3)
    sent = method.finish_update(received, shrunk, all_layers(rank, 2))
    assert sent.rank == kept
    for layer, tensors in shrunk.truncate_rank(kept).lora.items():
        assert all(torch.equal(sent.lora[layer][name], tensor) for name, tensor in tensors.items())
    for other in (received, with_tail(received, kept, 10.0), with_tail(received, 0, 10.0)):
        assert method.finish_update(received, other, all_layers(rank, 2)).rank == rank


def test_the_last_rank_is_never_pruned_and_has_no_penalty(make_setting, make_adapter):
    method = create_method("hetlora", make_setting(2))
    received = make_adapter(2, rank=1)
    sent = method.finish_update(received, with_tail(received, 0, 0.0), all_layers(1, 2))
    assert sent.rank == 1
    assert method.penalty(all_layers(1, 2)) is None
    without = create_method("hetlora", make_setting(2), {"penalty_weight": 0.0})
    assert without.penalty(all_layers(4, 2)) is None


def test_the_server_keeps_the_pruned_rank(
    make_setting, make_statuses, make_history, make_adapter, make_update
):
    setting = make_setting(4, lora_rank=16)
    method, statuses = create_method("hetlora", setting), make_statuses(4, 4, 2)
    assert method.state_dict() == {"kept_ranks": {}}

    def one_round(sent_ranks):
        assignments = method.assign(statuses, make_history())
        accumulator = method.accumulator(make_adapter(rank=16))
        for device, rank in enumerate(sent_ranks):
            update = make_update(assignments[device], make_adapter(rank=rank), device)
            accumulator.add(update)
        return [assignment.lora_rank for assignment in assignments]

    assert one_round([15, 16, 7]) == [16, 16, 8]
    assert one_round([14, 16, 7]) == [15, 16, 7]
    assert method.state_dict() == {"kept_ranks": {"0": 14, "2": 7}}
    # The kept rank stays when the budget falls below it and comes back.
    poorer = make_statuses(1, 4, 2)
    assert [a.lora_rank for a in method.assign(poorer, make_history())] == [4, 16, 7]
    again = create_method("hetlora", setting)
    again.load_state_dict(method.state_dict())
    assert again.state_dict() == method.state_dict()
    assert [a.lora_rank for a in again.assign(statuses, make_history())] == [14, 16, 7]


@pytest.mark.parametrize(
    "state", [{}, {"kept_ranks": [1]}, {"kept_ranks": {"x": 1}}, {"kept_ranks": {"0": 5}}]
)
def test_a_damaged_state_is_refused(state, make_setting):
    with pytest.raises(InputError, match=r"hetlora|kept rank"):
        create_method("hetlora", make_setting(lora_rank=4)).load_state_dict(state)


@pytest.fixture
def model():
    """Two layers of width 8 with random LoRA of rank 4 on query and value."""
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = BertConfig(**sizes, vocab_size=20, intermediate_size=16, max_position_embeddings=16)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        base = AutoModelForSequenceClassification.from_config(config)
        model = attach_lora(base, rank=4, alpha=4)
        with torch.no_grad():
            for tensors in lora_tensors(model).values():
                for tensor in tensors.values():
                    tensor.normal_()
    return model


@pytest.mark.parametrize(("rank", "start"), [(4, 2), (3, 1)])
def test_the_penalty_is_on_the_last_rows_of_the_model_in_training(rank, start, model, make_setting):
    """gamma 0.5: rows 2 and 3 of four, rows 1 and 2 of three."""
    method = create_method("hetlora", make_setting(2), {"gamma": 0.5, "penalty_weight": 0.25})
    adapter = Adapter.from_model(model).truncate_rank(rank)
    adapter.load_into(model)
    term = method.penalty(all_layers(rank, 2))(model)
    expected = sum(
        np.linalg.norm(matrix.lora_b.numpy()[:, start:rank])
        * np.linalg.norm(matrix.lora_a.numpy()[start:rank])
        for matrix in adapted_matrices(adapter.lora)
    )
    assert term.item() == pytest.approx(0.25 * expected, rel=1e-5)
    term.backward()
    for matrix in adapted_matrices(lora_tensors(model)):
        a, b = matrix.lora_a.grad, matrix.lora_b.grad.T
        for gradient in (a, b):
            assert gradient[start:rank].any(dim=1).all()
            assert not gradient[:start].any()
            assert not gradient[rank:].any()


def test_a_step_with_the_penalty_leaves_the_rows_beyond_the_rank_at_zero(model, make_setting):
    method = create_method("hetlora", make_setting(2))
    fresh = Adapter.from_model(model).truncate_rank(3)
    for matrix in adapted_matrices(fresh.lora):
        matrix.lora_b.zero_()  # as in the first round, where the norm has no gradient
    fresh.load_into(model)
    penalty = method.penalty(all_layers(3, 2))
    weights = [weight for tensors in lora_tensors(model).values() for weight in tensors.values()]
    optimizer = torch.optim.AdamW(weights, lr=0.1, weight_decay=0.0)
    batch = {"input_ids": torch.arange(12).reshape(2, 6), "labels": torch.tensor([0, 1])}
    for _ in range(3):
        optimizer.zero_grad()
        (model(**batch).loss + penalty(model)).backward()
        optimizer.step()
    trained = Adapter.from_model(model)
    for matrix in adapted_matrices(trained.lora):
        assert torch.isfinite(matrix.lora_b).all()
        assert matrix.lora_b[:, :3].any()
        assert not matrix.lora_b[:, 3:].any()
        assert not matrix.lora_a[3:].any()
    # Its tail grew from nothing, so it is not pruned.
    sent = method.finish_update(fresh, trained.truncate_rank(3), all_layers(3, 2))
    assert sent.rank == 3


def test_padding_adds_nothing_to_the_product(make_adapter):
    adapter = make_adapter(2, rank=2)
    padded = adapter.pad_rank(5)
    assert padded.rank == 5
    for small, large in zip(
        adapted_matrices(adapter.lora), adapted_matrices(padded.lora), strict=True
    ):
        assert torch.equal(small.lora_b @ small.lora_a, large.lora_b[:, :2] @ large.lora_a[:2])
        assert not large.lora_a[2:].any()
        assert not large.lora_b[:, 2:].any()
    assert adapter.pad_rank(2).state().keys() == adapter.state().keys()
    with pytest.raises(InputError, match="rank"):
        adapter.pad_rank(1)
