"""Many runs side by side, in worker processes of one thread each, under one progress bar."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import types
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from tqdm.auto import tqdm

Report = Callable[[int], None]
"""Called with the steps a run has done so far."""

POLL_S = 0.2


class WorkerError(RuntimeError):
    """A worker process died (killed, or out of memory), or failed with an error of its own."""


class _StoppedError(Exception):
    """Another run failed or the user interrupted; this one goes on from its checkpoint later."""


def run_all(
    function: Callable[[Any, Report], None],
    items: Sequence[Any],
    totals: Sequence[int],
    *,
    workers: int = 1,
    progress: bool = True,
    description: str = "steps",
    unit: str = "step",
) -> None:
    """Call ``function(item, report)`` for every item.

    Parameters
    ----------
    function : callable
        Importable by name. It stores what it finds and returns nothing. An
        exception of its own stops the others at their next step.
    items : sequence
        What can be pickled.
    totals : sequence of int
        Steps (or other units) of each item: the length of its part of the bar.
    workers : int
        Processes; 1 runs everything in this one. Either way with one torch
        thread, since sums depend on the number of threads.

    Raises
    ------
    WorkerError
        If a worker process dies. What the others have stored is kept.
    """
    workers = min(workers, len(items))
    if not items:
        return
    # Left to its default otherwise, so that $TQDM_DISABLE counts.
    options = {} if progress else {"disable": True}
    with tqdm(total=sum(totals), unit=unit, desc=description, **options) as bar:
        if workers <= 1:
            _run_here(function, items, bar)
        else:
            _run_in_workers(function, items, workers, bar)


def _advance(bar: tqdm, steps: int) -> None:
    if steps != bar.n:  # an update by nothing would print a line into a log all the same
        bar.update(steps - bar.n)


def _run_here(function: Callable[[Any, Report], None], items: Sequence[Any], bar: tqdm) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        done = [0] * len(items)

        def report(index: int, steps: int) -> None:
            done[index] = steps
            _advance(bar, sum(done))

        for index, item in enumerate(items):
            function(item, partial(report, index))
    finally:
        torch.set_num_threads(threads)


def _run_in_workers(
    function: Callable[[Any, Report], None], items: Sequence[Any], workers: int, bar: tqdm
) -> None:
    context = multiprocessing.get_context("spawn")
    # Plain memory without a lock: a worker that is killed cannot leave one held.
    done = context.RawArray("q", len(items))
    stop = context.RawValue("b", 0)
    executor = ProcessPoolExecutor(
        workers, mp_context=context, initializer=_start_worker, initargs=(done, stop)
    )
    try:
        with _caller_not_imported():
            futures = [
                executor.submit(_call, function, item, index) for index, item in enumerate(items)
            ]
        pending: set[Future] = set(futures)
        while pending:
            finished, pending = wait(pending, timeout=POLL_S, return_when=FIRST_EXCEPTION)
            _advance(bar, sum(done))
            for future in finished:
                future.result()
    except BrokenProcessPool:
        raise WorkerError(
            "a worker process died (killed, or out of memory?). Finished runs are kept; run the "
            "same again to go on with the others, with fewer workers if memory was short"
        ) from None
    finally:
        stop.value = 1
        executor.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _caller_not_imported() -> Iterator[None]:
    """Keep spawn from importing the caller's script again.

    The workers need nothing from it, and a script without the
    ``if __name__ == "__main__"`` guard would start itself over in each of them.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


_shared: tuple[Any, Any]


def _start_worker(done: Any, stop: Any) -> None:
    global _shared
    _shared = (done, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides, and sets `stop`
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    torch.set_num_threads(1)


def _leave_with_parent() -> None:
    """A parent that was killed must not leave workers behind that hold its runs."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _call(function: Callable[[Any, Report], None], item: Any, index: int) -> None:
    done, stop = _shared

    def report(steps: int) -> None:
        if stop.value:
            raise _StoppedError
        done[index] = steps

    function(item, report)
