"""The ClientApp: what a Flower node does when the server asks it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedquad.config import InputError
from fedquad.federation import messages
from fedquad.federation.executor import one_thread
from fedquad.federation.jobs import DeviceJob, Failure
from fedquad.federation.wire import encode
from fedquad.flower.node import Node, real_node, simulated_node
from fedquad.flower.payloads import ADAPTER, ANSWER, JOB, REPORT, RUN, RunSpec
from fedquad.flower.records import read, record, records
from fedquad.training.local import DivergenceError

_STATE = "fedquad"
# What a device may say of itself; anything else is a defect, which Flower reports as such.
_EXPECTED = (InputError, DivergenceError, MemoryError, OSError)

app = ClientApp()


@app.query("hello")
def hello(message: Message, context: Context) -> Message:
    """Who the node is; of a real device also its memory and speed."""

    def answer(node: Node) -> dict[str, bytes]:
        return {ANSWER: node.report().encode()}

    return _reply(message, context, answer, refusal=_refused_to_name_itself)


@app.train("fine_tune")
def fine_tune(message: Message, context: Context) -> Message:
    """A device's local steps of a round."""
    job = messages.decode_job(read(message.content, JOB))

    def answer(node: Node) -> dict[str, bytes]:
        node.receive(read(message.content, ADAPTER), job)
        update, report = node.fine_tune(job)
        parts = {ANSWER: messages.encode_update(update, job.round_idx)}
        return parts if report is None else parts | {REPORT: report.encode()}

    return _reply(message, context, answer, refusal=_failed(job))


@app.train("probe")
def probe(message: Message, context: Context) -> Message:
    """Squared gradient norms at the global weights."""
    job = messages.decode_job(read(message.content, JOB))

    def answer(node: Node) -> dict[str, bytes]:
        node.receive(read(message.content, ADAPTER), job)
        return {ANSWER: messages.encode_squares(node.probe(job), job)}

    return _reply(message, context, answer, refusal=_failed(job))


def _reply(
    message: Message,
    context: Context,
    answer: Callable[[Node], dict[str, bytes]],
    refusal: Callable[[str], bytes],
) -> Message:
    state: dict[str, Any] = dict(context.state.get(_STATE, {}))
    try:
        with one_thread():
            spec = RunSpec.decode(read(message.content, RUN))
            content = records(answer(_node(spec, context, state)))
    except _EXPECTED as error:
        content = RecordDict({ANSWER: record(refusal(f"{error}"))})
    context.state[_STATE] = ConfigRecord(state)  # Flower keeps it for the node's next request
    return Message(content, reply_to=message)


def _node(spec: RunSpec, context: Context, state: dict[str, Any]) -> Node:
    torch_device = str(context.node_config.get("torch-device", "cpu"))
    if spec.costs is None:
        return simulated_node(spec, context.node_config, torch_device)
    return real_node(spec, context.node_config, torch_device, state)


def _failed(job: DeviceJob) -> Callable[[str], bytes]:
    def refusal(reason: str) -> bytes:
        return messages.encode_failure(Failure(device=job.device, reason=reason), job.round_idx)

    return refusal


def _refused_to_name_itself(reason: str) -> bytes:
    return encode("failure", {"reason": reason})
