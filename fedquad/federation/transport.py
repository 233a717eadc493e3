"""Payloads between the server and its workers, point to point over torch.distributed (gloo)."""

from __future__ import annotations

from datetime import timedelta

import torch
import torch.distributed as dist

from fedquad.federation.wire import MAX_PAYLOAD_BYTES, WireError

SERVER = 0
"""Rank of the server; the workers are 1, 2, ..."""

# Everybody is there when the group is made, so that it takes milliseconds.
_CONNECT_TIMEOUT = timedelta(seconds=60)
# A worker may compute for hours, a server may be stopped in a debugger. That the other side is
# gone is not learned from the time but from its socket, which the system closes.
_MESSAGE_TIMEOUT = timedelta(days=365)


class Transport:
    """One process's end of all lines.

    It has a gloo group of its own, so a process can hold several, beside or
    without a default group. Different ranks may be written to and read from in
    different threads at the same time.

    Parameters
    ----------
    store : torch.distributed.Store
        In which the processes find each other.
    rank, size : int
        This process among all, the server included.
    hostname : str
        The address to listen on. The default is reached from this machine alone.

    Raises
    ------
    ConnectionError
        The others did not come.
    """

    def __init__(
        self, store: dist.Store, rank: int, size: int, hostname: str = "127.0.0.1"
    ) -> None:
        options = dist.ProcessGroupGloo._Options()
        # Given, gloo does not look up this machine's name, and warns of nothing.
        options._devices = [dist.ProcessGroupGloo.create_device(hostname=hostname)]
        options._timeout = _CONNECT_TIMEOUT
        try:
            self._group = dist.ProcessGroupGloo(store, rank, size, options)
        except RuntimeError as error:
            raise ConnectionError(str(error)) from error

    def send(self, payload: bytes, rank: int) -> None:
        """Send a payload; returns when the other side takes it.

        Raises
        ------
        ConnectionError
            The other side is gone.
        """
        length = torch.tensor([len(payload)])
        content = torch.frombuffer(bytearray(payload), dtype=torch.uint8)
        try:
            for tensor in (length, content):
                self._group.send([tensor], rank, 0).wait(_MESSAGE_TIMEOUT)
        except RuntimeError as error:
            raise ConnectionError(str(error)) from error

    def receive(self, rank: int) -> bytes:
        """Wait for a payload.

        Raises
        ------
        ConnectionError
            The other side is gone.
        WireError
            A length that cannot be; nothing sensible can follow it.
        """
        length = torch.zeros(1, dtype=torch.int64)
        try:
            self._group.recv([length], rank, 0).wait(_MESSAGE_TIMEOUT)
            size = int(length)
            if not 0 < size <= MAX_PAYLOAD_BYTES:
                raise WireError("payload length", size, f"from 1 to {MAX_PAYLOAD_BYTES} bytes")
            content = torch.empty(size, dtype=torch.uint8)
            self._group.recv([content], rank, 0).wait(_MESSAGE_TIMEOUT)
        except RuntimeError as error:
            raise ConnectionError(str(error)) from error
        return content.numpy().tobytes()
