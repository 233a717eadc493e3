"""Worker processes on this machine: started, asked, watched, ended."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from dataclasses import dataclass, field
from pathlib import Path

import torch.distributed as dist

from fedquad.federation import messages
from fedquad.federation.transport import Transport
from fedquad.federation.wire import WireError
from fedquad.federation.worker import here
from fedquad.runs.pool import WorkerError

_POLL_S = 0.2
_START_POLL_S = 0.02
# For a worker that is at rest; importing, or a core that others use, takes no longer.
_LEAVE_S = 10.0


@dataclass(eq=False)
class _Line:
    """The server's end of one worker: its process, and the thread that talks to it."""

    rank: int
    process: subprocess.Popen
    requests: queue.SimpleQueue = field(default_factory=queue.SimpleQueue)
    thread: threading.Thread | None = None
    is_busy: bool = False


class LocalWorkers:
    """Processes that each answer one request at a time.

    A thread per worker sends requests and waits for answers, since a receive of
    gloo can be neither polled nor given up. So this thread is free to see that a
    process has died, and to be interrupted.

    Parameters
    ----------
    count : int
        Workers; their ranks are 1, 2, ..., and ``LOCAL_RANK`` in their environment
        counts from 0.

    Raises
    ------
    WorkerError
        A process that died before it was ready.
    """

    def __init__(self, count: int) -> None:
        self.ranks = range(1, count + 1)
        self._lines: list[_Line] = []
        self._answers: queue.SimpleQueue = queue.SimpleQueue()
        folder = tempfile.TemporaryDirectory(prefix="fedquad-", ignore_cleanup_errors=True)
        # Also runs when nobody closes: at the exit of the interpreter.
        self._finalizer = weakref.finalize(self, _shut_down, self._lines, folder)
        try:
            self._start(Path(folder.name) / "store")
        except BaseException:  # an interrupt, too, leaves no process behind
            self.close()
            raise

    def ask(self, rank: int, request: bytes) -> None:
        """Send a request to a worker that is not busy."""
        self._require_open()
        line = self._lines[rank - 1]
        if line.is_busy:
            raise RuntimeError(f"worker {rank} is busy")
        line.is_busy = True
        line.requests.put(request)

    def idle(self) -> list[int]:
        """Ranks of the workers that wait for a request."""
        return [line.rank for line in self._lines if not line.is_busy]

    def next_answer(self, wait: bool = True) -> tuple[int, bytes] | None:
        """The next answer of any worker and its rank; without ``wait`` None if there is none.

        Raises
        ------
        WorkerError
            A worker died. All are ended then.
        """
        self._require_open()
        while True:
            try:
                rank, answer = self._answers.get(timeout=_POLL_S if wait else 0)
            except queue.Empty:
                self._require_alive()
                if wait:
                    continue
                return None
            if isinstance(answer, Exception):
                self._fail(rank, answer)
            self._lines[rank - 1].is_busy = False
            return rank, answer

    def close(self) -> None:
        """End all workers: gently those at rest, at once those that compute."""
        self._finalizer()

    def _start(self, path: Path) -> None:
        size = len(self.ranks) + 1
        store = dist.FileStore(str(path), size)
        store.set(here(0), "")
        for rank in self.ranks:
            command = [sys.executable, "-P", "-m", "fedquad.federation.worker"]
            process = subprocess.Popen(
                [*command, str(path), str(rank), str(size)],
                stdin=subprocess.PIPE,  # closed by the system when this process is gone
                stdout=2,  # what a worker prints must not mix with what the command prints
                env=_environment(rank),
                start_new_session=True,  # Ctrl-C in a terminal is for this process alone
            )
            self._lines.append(_Line(rank, process))
        while not store.check([here(rank) for rank in self.ranks]):
            self._require_alive()
            time.sleep(_START_POLL_S)
        transport = Transport(store, 0, size)
        for line in self._lines:
            arguments = (transport, line.rank, line.requests, self._answers)
            line.thread = threading.Thread(target=_talk, args=arguments, daemon=True)
            line.thread.start()

    def _require_open(self) -> None:
        if not self._finalizer.alive:
            raise RuntimeError("the workers have been closed")

    def _require_alive(self) -> None:
        for line in self._lines:
            if line.process.poll() is not None:
                self._fail(line.rank, None)

    def _fail(self, rank: int, error: Exception | None) -> None:
        process = self._lines[rank - 1].process
        try:
            how = _how_it_ended(process.wait(timeout=5))
        except subprocess.TimeoutExpired:
            how = f"cannot be reached ({error})"
        self.close()
        raise WorkerError(
            f"worker {rank} of {len(self.ranks)} {how}. What was stored is kept; run the same "
            "again to go on, with fewer workers if memory was short"
        ) from error


def _talk(
    transport: Transport,
    rank: int,
    requests: queue.SimpleQueue,
    answers: queue.SimpleQueue,
) -> None:
    """One worker's conversation, in a thread of its own."""
    try:
        while (request := requests.get()) is not None:
            transport.send(request, rank)
            answers.put((rank, transport.receive(rank)))
        transport.send(messages.LEAVE, rank)
    except (ConnectionError, WireError) as error:
        answers.put((rank, error))


def _shut_down(lines: list[_Line], folder: tempfile.TemporaryDirectory) -> None:
    for line in lines:
        if line.is_busy or line.thread is None:
            line.process.kill()
        else:
            line.requests.put(None)
    deadline = time.monotonic() + _LEAVE_S
    for line in lines:
        try:
            line.process.wait(timeout=max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            line.process.kill()
            line.process.wait()
        line.process.stdin.close()
    for line in lines:  # its worker is gone, so its receive has come back
        if line.thread is not None:
            line.requests.put(None)
            line.thread.join()
    folder.cleanup()


def _environment(rank: int) -> dict[str, str]:
    """This process's environment and import path, with one thread, and a place among the GPUs."""
    path = [entry or os.getcwd() for entry in sys.path]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path),
        "OMP_NUM_THREADS": "1",
        "LOCAL_RANK": str(rank - 1),
    }


def _how_it_ended(code: int) -> str:
    if code < 0:
        return f"was killed ({signal.Signals(-code).name}; out of memory?)"
    return f"ended by itself with exit code {code}"
