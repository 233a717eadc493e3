"""A worker process: makes a host and answers the server's requests, one after the other."""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist

from fedquad.config import InputError
from fedquad.federation import messages
from fedquad.federation.jobs import DeviceJob, Failure, Host, HostSpec
from fedquad.federation.transport import SERVER, Transport
from fedquad.federation.wire import Message, WireError, decode
from fedquad.training.local import DivergenceError


class Worker:
    """Turns each request into its answer; between requests it holds the host and nothing else."""

    def __init__(self) -> None:
        self._host: Host | None = None

    def answer(self, payload: bytes) -> bytes | None:
        """The answer to a request; None to the last one.

        Whatever goes wrong is an answer, too: the server decides what follows.
        """
        try:
            message = decode(payload)
            if message.kind == "leave":
                return None
            return self._answer(message)
        except Exception as error:
            return messages.encode_error(error)

    def _answer(self, message: Message) -> bytes:
        if message.kind == "start":
            self._host = make_host(messages.decode_spec(message))
            adapter = self._host.global_adapter()
            return messages.encode_ready(adapter, self._host.num_eval_batches)
        host = self._host
        if host is None:
            raise WireError("kind", message.kind, "'start' before anything else")
        if message.kind == "broadcast":
            host.receive(messages.decode_adapter(message, host.global_adapter()))
            return messages.RECEIVED
        if message.kind == "evaluate":
            return messages.encode_eval(host.evaluate(message.integers("batches")))
        job = messages.decode_job(message)
        if message.kind == "probe":
            return _or_failure(job, lambda: messages.encode_squares(host.probe(job), job))
        return _or_failure(job, lambda: messages.encode_update(host.fine_tune(job), job.round_idx))


def _or_failure(job: DeviceJob, function: Callable[[], bytes]) -> bytes:
    try:
        return function()
    except DivergenceError as error:
        failure = Failure(device=job.device, reason=str(error))
        return messages.encode_failure(failure, job.round_idx)


def make_host(spec: HostSpec) -> Host:
    """Call the factory that a spec names.

    Raises
    ------
    InputError
        A factory that cannot be imported here.
    """
    module, _, function = spec.factory.partition(":")
    try:
        factory = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        accepted = f"module:function, importable in a worker ({error})"
        raise InputError("factory", spec.factory, accepted) from error
    return factory(spec.arguments)


def serve(transport: Transport) -> None:
    """Answer the server until it says that it is done, or is gone."""
    worker = Worker()
    try:
        while (answer := worker.answer(transport.receive(SERVER))) is not None:
            transport.send(answer, SERVER)
    except ConnectionError:
        pass  # the server is gone; there is nobody to tell


def main(arguments: Sequence[str] | None = None) -> None:
    """The process that `fedquad.federation.local_workers` starts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", help="file in which the processes find each other")
    parser.add_argument("rank", type=int, help="1, 2, ...; the server is 0")
    parser.add_argument("size", type=int, help="processes, the server included")
    parsed = parser.parse_args(arguments)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the server decides
    threading.Thread(target=_leave_with_server, daemon=True).start()
    torch.set_num_threads(1)
    store = dist.FileStore(parsed.store, parsed.size)
    store.set(here(parsed.rank), "")
    serve(Transport(store, parsed.rank, parsed.size))


def here(rank: int) -> str:
    """The key under which a worker says that it has started."""
    return f"here/{rank}"


def _leave_with_server() -> None:
    """Leave at once, whatever is being computed, when the server's end of the pipe closes."""
    # Not sys.stdin: a thread that waits inside its buffer upsets the interpreter's shutdown.
    while os.read(0, 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
    # Nothing is left to do, and to take torch and transformers down in order costs a second.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
