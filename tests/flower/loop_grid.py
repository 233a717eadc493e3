"""A `Grid` in this process: it runs the real ClientApp, and loses or spoils what it is told."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from flwr.app import Context, Error, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from fedquad.flower.client_app import app

Fate = Callable[[Message, Message], Message | None]
"""From a request and the node's reply to what comes back; None: nothing ever."""


class LoopGrid(Grid):
    """Nodes that answer at once.

    Parameters
    ----------
    node_configs : dict
        Node config by node id.
    fates : dict of int to Fate
        By node id; others answer as they are.
    """

    def __init__(
        self, node_configs: dict[int, dict[str, Any]], fates: dict[int, Fate] | None = None
    ) -> None:
        self.node_configs = dict(node_configs)
        self.fates = dict(fates or {})
        self.requests: list[Message] = []
        self._states = {node: RecordDict() for node in node_configs}
        self._replies: dict[str, Message] = {}
        # Of the process: Flower sets it before an app runs.
        TaskIdentity.run_id = TaskIdentity.task_id = TaskIdentity.node_id = 1

    def set_run(self, run: Any) -> None:
        """Nothing depends on it."""

    @property
    def run(self) -> Any:
        return None

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        raise NotImplementedError

    def get_node_ids(self) -> list[int]:
        return list(self.node_configs)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        ids = []
        for message in messages:
            node, number = message.metadata.dst_node_id, f"message-{len(self.requests)}"
            message.metadata.__dict__["_message_id"] = number
            self.requests.append(message)
            ids.append(number)
            reply = self._answer(node, message)
            if node in self.fates:
                reply = self.fates[node](message, reply)
            if reply is not None:
                self._replies[number] = reply
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        found = [number for number in message_ids if number in self._replies]
        return [self._replies.pop(number) for number in found]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Any:
        raise NotImplementedError

    def _answer(self, node: int, message: Message) -> Message:
        context = Context(
            run_id=1,
            node_id=node,
            node_config=self.node_configs[node],
            state=self._states.setdefault(node, RecordDict()),
            run_config={},
        )
        try:
            return app(message, context)
        except Exception as error:  # as Flower does
            return Message(Error(code=2, reason=f"{type(error)}:<'{error}'>"), reply_to=message)
