from __future__ import annotations

import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from toy_host import EVAL_ROWS, RANK, ToyHost, fresh_adapter, job, make_host

from fedquad.config import InputError
from fedquad.federation.executor import InProcessExecutor, joined
from fedquad.federation.jobs import EvalBatch, Failure
from fedquad.federation.wire import WireError
from fedquad.methods.method import LocalUpdate


def executor_of(folder, **fates) -> InProcessExecutor:
    return InProcessExecutor(make_host({"folder": str(folder), "fates": fates}))


def test_updates_come_in_the_order_of_the_jobs_one_at_a_time(tmp_path):
    updates = executor_of(tmp_path).fine_tune([job(device) for device in (4, 0, 2)])
    assert next(updates).device == 4
    assert [path.name for path in tmp_path.glob("started-*")] == ["started-4"]
    assert [update.device for update in updates] == [0, 2]


@pytest.mark.parametrize(
    ("fate", "words"),
    [
        ("diverge", "training loss nan"),
        ("nan", "head.classifier.weight = nan .* finite"),
        ("infinite", "train_loss = inf .* finite"),
        ("other", "device = 2 .* 1"),
    ],
)
def test_a_device_whose_update_cannot_be_used_is_left_out(tmp_path, fate, words):
    executor = executor_of(tmp_path, **{"1": fate})
    outcomes = list(executor.fine_tune([job(0), job(1), job(2)]))
    assert [type(outcome) for outcome in outcomes] == [LocalUpdate, Failure, LocalUpdate]
    assert outcomes[1].device == 1
    assert re.search(words, outcomes[1].reason)


def test_an_error_that_is_no_divergence_is_raised(tmp_path):
    executor = executor_of(tmp_path, **{"1": "refuse", "2": "bug"})
    with pytest.raises(InputError, match="device = 1"):
        list(executor.fine_tune([job(1)]))
    with pytest.raises(ZeroDivisionError):
        executor.probe([job(2)])


def test_probes_come_in_the_order_of_the_jobs_or_fail(tmp_path):
    executor = executor_of(tmp_path, **{"1": "diverge"})
    first, failure, last = executor.probe([job(3), job(1), job(0)])
    assert failure == Failure(device=1, reason="training loss nan")
    host = make_host({"folder": str(tmp_path)})
    assert first.tolist() == host.probe(job(3)).tolist()
    assert last.tolist() == host.probe(job(0)).tolist()
    assert first.tolist() != last.tolist()


def test_a_probe_that_is_not_finite_is_a_failure(tmp_path):
    class Broken(ToyHost):
        def probe(self, job):
            return np.array([1.0, math.nan, 2.0])

    (failure,) = InProcessExecutor(Broken({"folder": str(tmp_path)})).probe([job(5)])
    assert failure.device == 5
    assert "nan" in failure.reason


def test_what_is_trained_and_evaluated_starts_from_what_was_broadcast(tmp_path):
    executor = executor_of(tmp_path)
    (before,) = executor.fine_tune([job(0)])
    loss = executor.evaluate().loss
    adapter = replace(fresh_adapter(), head={"classifier.weight": torch.zeros(3, 40)})
    executor.broadcast(adapter)
    assert executor.global_adapter() is adapter
    (after,) = executor.fine_tune([job(0)])
    assert after.train_loss == pytest.approx(math.log(3))  # all classes alike
    assert executor.evaluate().loss == pytest.approx(math.log(3))
    assert before.train_loss != after.train_loss
    assert loss != executor.evaluate().loss


@pytest.mark.parametrize(
    "adapter",
    [
        fresh_adapter().layers((0, 1)),
        fresh_adapter().truncate_rank(RANK - 1),
        replace(fresh_adapter(), head={"classifier.weight": torch.full((3, 40), math.inf)}),
    ],
    ids=["layers", "rank", "infinite"],
)
def test_a_global_adapter_that_cannot_be_used_is_refused(tmp_path, adapter):
    executor = executor_of(tmp_path)
    before = executor.global_adapter()
    with pytest.raises(WireError):
        executor.broadcast(adapter)
    assert executor.global_adapter() is before


def test_one_thread_works_and_the_others_are_given_back(tmp_path):
    class Counting(ToyHost):
        def fine_tune(self, job):
            threads.append(torch.get_num_threads())
            return super().fine_tune(job)

        def evaluate(self, batches):
            threads.append(torch.get_num_threads())
            return super().evaluate(batches)

    threads: list[int] = []
    torch.set_num_threads(2)
    try:
        fates = {"1": "diverge", "2": "bug"}
        executor = InProcessExecutor(Counting({"folder": str(tmp_path), "fates": fates}))
        for _ in executor.fine_tune([job(0), job(1)]):
            assert torch.get_num_threads() == 2  # the server's own work between devices
        with pytest.raises(ZeroDivisionError):
            list(executor.fine_tune([job(2)]))
        executor.evaluate()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert threads == [1, 1, 1, 1]


def test_the_evaluation_is_that_of_all_rows_in_the_order_of_the_split(tmp_path):
    executor = executor_of(tmp_path)
    evaluation = executor.evaluate()
    host = make_host({})
    expected = {}
    for batch in reversed(range(host.num_eval_batches)):
        (part,) = host.evaluate([batch])
        expected |= dict(zip(part.rows.tolist(), part.correct.tolist(), strict=True))
    assert evaluation.correct.tolist() == [expected[row] for row in range(EVAL_ROWS)]
    assert evaluation.accuracy == sum(expected.values()) / EVAL_ROWS


def part(rows, correct, losses) -> EvalBatch:
    return EvalBatch(rows=np.array(rows), correct=np.array(correct), losses=np.array(losses))


def test_parts_of_an_evaluation_are_put_together():
    parts = [part([2, 0], [True, False], [0.5, 1.0]), part([1], [True], [3.0])]
    evaluation = joined(parts)
    assert evaluation.correct.tolist() == [False, True, True]
    assert evaluation.accuracy == 2 / 3
    assert evaluation.loss == 1.5


@pytest.mark.parametrize("rows", [[0, 0], [0, 2], [1, 2]])
def test_a_row_that_is_missing_or_there_twice_is_refused(rows):
    with pytest.raises(WireError, match=f"rows evaluated .*{rows[1]}"):
        joined([part(rows, [True, True], [0.0, 0.0])])
