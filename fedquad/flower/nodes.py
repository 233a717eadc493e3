"""Flower's nodes as our devices: who is who, and requests whose every end is accounted for."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fedquad.config import InputError
from fedquad.federation.jobs import Failure
from fedquad.federation.wire import MAX_HEADER_BYTES, WireError
from fedquad.flower.payloads import ANSWER, REPORT, RUN, DeviceReport
from fedquad.flower.records import read, records

# Flower names a handler of a node `<type>.<action>`.
HELLO, FINE_TUNE, PROBE = "query.hello", "train.fine_tune", "train.probe"

_FIRST_POLL_S, _LONGEST_POLL_S = 0.01, 0.5
_MAX_REASON = 300

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Sent:
    """A request under way, or why it is not."""

    device: int
    node: int = 0
    message_id: str = ""
    deadline_s: float = 0.0
    failure: Failure | None = None


class Nodes:
    """The devices of a run behind a `Grid`.

    Flower's ids of nodes are random: each node is asked for its name first, and
    again if it comes back under another id. A request ends with an answer or with
    a `Failure` that says why there is none: an exception in the node, no answer in
    time, no connection. Flower itself would leave such a node out and say nothing.

    Parameters
    ----------
    grid : Grid
        Of the ServerApp.
    run : bytes
        The run's payload, which goes with every request: a node keeps nothing.
    answer_timeout_s : float
        From a request to its answer. In a simulation nodes wait for their turn, too.
    max_under_way : int or None
        Requests that are sent ahead of the answer that is next in order; None: all.
    """

    def __init__(
        self,
        grid: Grid,
        run: bytes,
        *,
        answer_timeout_s: float,
        max_under_way: int | None = None,
    ) -> None:
        self._grid = grid
        self._run = run
        self._answer_timeout_s = answer_timeout_s
        self._max_under_way = max_under_way
        self._name_of: dict[int, str] = {}  # of every node that has said it, by node
        self._refused: dict[int, str] = {}  # why a node is none of the run's, by node
        self._devices: dict[str, int] | None = None  # index by name; None until all are there

    def connect(
        self, count: int, timeout_s: float, order: Callable[[str], object]
    ) -> list[DeviceReport]:
        """Wait until so many devices are there; they are the run's from then on.

        Parameters
        ----------
        count : int
            At least; all that have come by then take part.
        timeout_s : float
        order : callable
            From a device's name to what devices are sorted by.

        Returns
        -------
        list of DeviceReport
            By index of the device.

        Raises
        ------
        InputError
            Fewer come in time, or two have one name. Names what each node said.
        """
        deadline = time.monotonic() + timeout_s
        reports: dict[str, DeviceReport] = {}
        while True:
            self._meet(reports)
            if len(reports) >= count:
                break
            if time.monotonic() >= deadline:
                refused = "".join(f"; {reason}" for reason in self._refused.values())
                accepted = f"at least {count} within {timeout_s:g} s{refused}"
                raise InputError("devices that are connected", len(reports), accepted)
            time.sleep(_LONGEST_POLL_S)
        names = sorted(reports, key=order)
        self._devices = {name: index for index, name in enumerate(names)}
        return [reports[name] for name in names]

    def ask(
        self, kind: str, requests: Iterable[tuple[int, RecordDict]]
    ) -> Iterator[RecordDict | Failure]:
        """The answers to requests to devices, in their order, as they come.

        Parameters
        ----------
        kind : str
            ``HELLO``, ``FINE_TUNE`` or ``PROBE``.
        requests : iterable of (int, RecordDict)
            A device and what it is sent; the run's payload is added.
        """
        nodes = self._nodes()
        under_way: deque[_Sent] = deque()
        waiting = iter(requests)
        limit = self._max_under_way
        while True:
            while limit is None or len(under_way) < limit:
                if (request := next(waiting, None)) is None:
                    break
                under_way.append(self._send(kind, nodes, *request))
            if not under_way:
                return
            yield self._receive(under_way.popleft())

    def _nodes(self) -> Mapping[int, int]:
        """The connected devices' nodes, after those that came back have said their name."""
        self._meet({})
        devices, connected = self._devices or {}, set(self._grid.get_node_ids())
        return {
            devices[name]: node
            for node, name in self._name_of.items()
            if name in devices and node in connected
        }

    def _meet(self, reports: dict[str, DeviceReport]) -> None:
        """Ask unknown nodes for their names; ``reports`` takes what they say."""
        unknown = [node for node in self._grid.get_node_ids() if node not in self._name_of]
        unknown = [node for node in unknown if node not in self._refused]
        sent = [self._push(HELLO, node, node, {}) for node in unknown]
        for node, request in zip(unknown, sent, strict=True):
            answer = self._receive(request)
            try:
                if isinstance(answer, Failure):
                    raise WireError(f"node {node}", answer.reason, "its name")
                message = read(answer, ANSWER, MAX_HEADER_BYTES)
                if message.kind == "failure":
                    raise WireError(f"node {node}", message.text("reason"), "its name")
                report = DeviceReport.decode(message)
                self._take(node, report.name)
            except WireError as error:
                self._refused[node] = str(error)
                _log.warning("left out of the run: %s", error)
            else:
                reports[report.name] = report

    def _take(self, node: int, name: str) -> None:
        connected = set(self._grid.get_node_ids())
        for other, taken in list(self._name_of.items()):
            if taken == name and other in connected:
                raise WireError(f"node {node}", name, f"a name other than that of node {other}")
            if taken == name:  # it was away and has another id now
                del self._name_of[other]
        if self._devices is not None and name not in self._devices:
            raise WireError(f"node {node}", name, "a device that was there when the run began")
        self._name_of[node] = name

    def _send(self, kind: str, nodes: Mapping[int, int], device: int, parts: RecordDict) -> _Sent:
        if device not in nodes:
            return _Sent(device, failure=Failure(device=device, reason="is not connected"))
        return self._push(kind, device, nodes[device], parts)

    def _push(self, kind: str, device: int, node: int, parts: Mapping) -> _Sent:
        content = records({RUN: self._run})
        content.update(parts)
        message = Message(content, node, kind, ttl=self._answer_timeout_s)
        deadline = time.monotonic() + self._answer_timeout_s
        ids = [number for number in self._grid.push_messages([message]) if number]
        if not ids:
            return _Sent(device, failure=Failure(device=device, reason="could not be sent to"))
        return _Sent(device, node, ids[0], deadline)

    def _receive(self, sent: _Sent) -> RecordDict | Failure:
        if sent.failure is not None:
            return sent.failure
        poll_s = _FIRST_POLL_S
        while not (replies := list(self._grid.pull_messages([sent.message_id]))):
            if time.monotonic() >= sent.deadline_s:
                reason = f"did not answer within {self._answer_timeout_s:g} s"
                return Failure(device=sent.device, reason=reason)
            time.sleep(poll_s)
            poll_s = min(1.5 * poll_s, _LONGEST_POLL_S)
        reply = replies[0]
        if reply.has_error():
            reason = " ".join(f"{reply.error.reason}".split())[:_MAX_REASON]
            reason = f"Flower's error {reply.error.code}: {reason}"
            return Failure(device=sent.device, reason=reason)
        if reply.metadata.src_node_id != sent.node:
            reason = f"node {reply.metadata.src_node_id} answered for node {sent.node}"
            return Failure(device=sent.device, reason=reason)
        return reply.content


def report_of(content: RecordDict) -> DeviceReport | None:
    """The report beside an answer, if a device sent one."""
    if REPORT not in content:
        return None
    return DeviceReport.decode(read(content, REPORT, MAX_HEADER_BYTES))
