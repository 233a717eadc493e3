from __future__ import annotations

import pytest
from toy_host import fresh_adapter, job

from fedquad.config import InputError
from fedquad.federation import messages
from fedquad.federation.jobs import HostSpec
from fedquad.federation.wire import decode, encode
from fedquad.federation.worker import Worker, make_host


@pytest.fixture
def worker(tmp_path):
    worker = Worker()
    fates = {"1": "diverge", "2": "bug", "3": "refuse"}
    arguments = {"folder": str(tmp_path), "fates": fates}
    spec = HostSpec(factory="toy_host:make_host", arguments=arguments)
    ready = worker.answer(messages.encode_spec(spec))
    assert decode(ready).kind == "ready"
    return worker


def kind_of(answer: bytes) -> str:
    return decode(answer).kind


def test_every_request_has_its_answer_and_the_last_one_has_none(worker):
    assert kind_of(worker.answer(messages.encode_adapter(fresh_adapter()))) == "received"
    assert kind_of(worker.answer(messages.encode_job("fine_tune", job(0)))) == "update"
    assert kind_of(worker.answer(messages.encode_job("probe", job(0)))) == "squares"
    assert kind_of(worker.answer(messages.encode_eval_request([0, 3]))) == "evaluation"
    assert worker.answer(messages.LEAVE) is None


@pytest.mark.parametrize("kind", ["fine_tune", "probe"])
def test_a_divergence_is_a_failure_and_other_errors_are_errors(worker, kind):
    assert kind_of(worker.answer(messages.encode_job(kind, job(1)))) == "failure"
    error = messages.decode_error(decode(worker.answer(messages.encode_job(kind, job(2)))))
    assert str(error) == "ZeroDivisionError: a bug in device's code"
    error = messages.decode_error(decode(worker.answer(messages.encode_job(kind, job(3)))))
    assert type(error) is InputError
    assert kind_of(worker.answer(messages.encode_job(kind, job(0)))) != "error"  # it goes on


def test_requests_that_cannot_be_used_are_answered_with_an_error(worker):
    broken = messages.encode_adapter(fresh_adapter())[:-3]
    for request in (b"", broken, encode("dance", {}), encode("evaluate", {"batches": [-1]})):
        assert kind_of(worker.answer(request)) == "error"
    fewer = messages.encode_adapter(fresh_adapter().layers((0,)))
    assert "layers" in str(messages.decode_error(decode(worker.answer(fewer))))


def test_nothing_is_done_before_the_start():
    error = messages.decode_error(decode(Worker().answer(messages.encode_job("probe", job(0)))))
    assert "'start' before anything else" in str(error)


@pytest.mark.parametrize("factory", ["no_such_module:f", "toy_host:no_such", "toy_host", ":f", ""])
def test_a_factory_that_cannot_be_imported_is_named(factory):
    with pytest.raises(InputError, match=f"factory = '{factory}'"):
        make_host(HostSpec(factory=factory))
