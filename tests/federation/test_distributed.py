"""Real worker processes; each start costs the seconds that importing torch takes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from toy_host import fresh_adapter, job, make_host

from fedquad.config import InputError
from fedquad.federation.distributed import DistributedExecutor
from fedquad.federation.executor import Executor, InProcessExecutor
from fedquad.federation.jobs import Failure, HostSpec
from fedquad.federation.wire import WireError
from fedquad.methods.aggregation import LayerwiseMean
from fedquad.methods.method import LocalUpdate
from fedquad.runs.pool import WorkerError


def spec(folder: Path, **arguments) -> HostSpec:
    return HostSpec(factory="toy_host:make_host", arguments={"folder": str(folder), **arguments})


def children() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def wait_for(condition) -> None:
    while not condition():
        time.sleep(0.02)


# What the devices of the shared executor do.
FATES = {
    "20": "diverge",
    "21": "nan",
    "22": "infinite",
    "23": "other",
    "24": "bug",
    "25": "refuse",
    "26": "shout",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("toy")


@pytest.fixture(scope="module")
def two_workers(folder):
    with DistributedExecutor(spec(folder, fates=FATES), workers=2) as executor:
        yield executor


def play(executor: Executor, num_rounds: int = 2) -> list[object]:
    """Rounds of training, probing and evaluation, and every bit that comes out."""
    bits: list[object] = []
    adapter = executor.global_adapter()
    for round_idx in range(num_rounds):
        jobs = [job(device, (device % 3, 2)[device % 3 == 2 :], round_idx) for device in range(7)]
        bits += [squares.tobytes() for squares in executor.probe(jobs)]
        total = LayerwiseMean(adapter)
        for update in executor.fine_tune(jobs):
            total.add(update)
            state = update.adapter.state()
            bits += [(name, tensor.numpy().tobytes()) for name, tensor in state.items()]
            bits += [(update.device, update.num_samples, update.train_loss)]
            bits += [list(update.gradient_norms.items())]
        adapter = total.finish()
        executor.broadcast(adapter)
        evaluation = executor.evaluate()
        bits += [evaluation.accuracy, evaluation.loss, evaluation.correct.tobytes()]
    return bits + [tensor.numpy().tobytes() for tensor in adapter.state().values()]


def in_process(folder: Path) -> list[object]:
    return play(InProcessExecutor(make_host({"folder": str(folder)})))


def test_two_workers_give_the_bytes_of_this_process(two_workers, folder):
    two_workers.broadcast(fresh_adapter())
    assert play(two_workers) == in_process(folder)
    used = {path.read_text() for path in folder.glob("started-*")}
    assert str(os.getpid()) in used  # of the run in this process, which came last


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 3])
def test_any_number_of_workers_gives_the_bytes_of_this_process(tmp_path, workers):
    with DistributedExecutor(spec(tmp_path), workers=workers) as executor:
        assert play(executor) == in_process(tmp_path)


def test_both_workers_work_and_this_process_does_not(two_workers, folder):
    assert len(list(two_workers.fine_tune([job(device) for device in range(10)]))) == 10
    used = {(folder / f"started-{device}").read_text() for device in range(10)}
    assert used == {str(child.pid) for child in children()}


@pytest.mark.parametrize(
    ("device", "words"),
    [
        (20, "training loss nan"),
        (21, "head.classifier.weight = nan .* finite"),
        (22, "train_loss = inf .* finite"),
        (23, "device = 24 .* 23, which was asked for"),
    ],
)
def test_a_device_whose_update_cannot_be_used_is_left_out(two_workers, device, words):
    outcomes = list(two_workers.fine_tune([job(0), job(device), job(2)]))
    assert [type(outcome) for outcome in outcomes] == [LocalUpdate, Failure, LocalUpdate]
    assert outcomes[1].device == device
    assert re.search(words, outcomes[1].reason)


def test_a_probe_that_diverges_is_a_failure(two_workers):
    answers = two_workers.probe([job(20), job(1)])
    assert answers[0] == Failure(device=20, reason="training loss nan")
    assert answers[1].shape == (3,)


def test_an_error_in_a_worker_is_raised_here_and_the_workers_go_on(two_workers):
    with pytest.raises(WorkerError, match=r"ZeroDivisionError: a bug in device's code") as raised:
        list(two_workers.fine_tune([job(0), job(24), job(1), job(2)]))
    assert "toy_host.py" in "".join(raised.value.__cause__.__notes__)
    with pytest.raises(InputError) as refused:
        two_workers.probe([job(25)])
    assert str(refused.value) == str(InputError("device", 25, "an index below 2"))
    assert [update.device for update in two_workers.fine_tune([job(1)])] == [1]


def test_a_round_that_is_given_up_does_not_disturb_the_next_one(two_workers):
    updates = two_workers.fine_tune([job(device) for device in range(8)])
    assert next(updates).device == 0
    assert two_workers.evaluate().correct.shape == (70,)
    with pytest.raises(RuntimeError, match="another call"):
        next(updates)
    assert [update.device for update in two_workers.fine_tune([job(5), job(3)])] == [5, 3]


def test_no_jobs_no_updates(two_workers):
    assert list(two_workers.fine_tune([])) == []
    assert two_workers.probe([]) == []


def test_a_global_adapter_that_cannot_be_used_is_refused(two_workers):
    before = two_workers.global_adapter()
    with pytest.raises(WireError, match="layers"):
        two_workers.broadcast(fresh_adapter().layers((0,)))
    assert two_workers.global_adapter() is before


def test_workers_are_silent_and_what_they_print_goes_to_stderr(two_workers, capfd):
    list(two_workers.fine_tune([job(0), job(26)]))
    two_workers.broadcast(two_workers.global_adapter())
    two_workers.evaluate()
    output, errors = capfd.readouterr()
    assert output == ""
    assert errors in ("", "a worker prints\n")  # printed at once or at the worker's end


@pytest.mark.slow
def test_few_updates_are_held_however_slow_the_first_device_is(tmp_path):
    def started() -> int:
        return len(list(tmp_path.glob("started-*")))

    with DistributedExecutor(spec(tmp_path, fates={"0": "wait"}), workers=2) as executor:
        updates = executor.fine_tune([job(device) for device in range(12)])
        with ThreadPoolExecutor(1) as thread:
            first = thread.submit(next, updates)
            wait_for(lambda: started() == 4)
            time.sleep(0.5)  # a fifth device would have started by now
            num_started = started()
            (tmp_path / "go").touch()
        assert num_started == 4
        assert first.result().device == 0
        assert [update.device for update in updates] == list(range(1, 12))
        list(executor.fine_tune([job(device) for device in range(2)]))
        # And however slow the one is who takes the updates.
        updates = executor.fine_tune([job(device) for device in range(20, 40)])
        next(updates)
        time.sleep(0.5)
        assert len(list(tmp_path.glob("started-[23]?"))) <= 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fate", "words"),
    [("die", r"worker \d of 2 was killed \(SIGKILL"), ("exit", r"ended .* exit code 3")],
)
def test_a_worker_that_dies_in_mid_round_is_an_error_and_leaves_nobody(tmp_path, fate, words):
    others = set(children())
    executor = DistributedExecutor(spec(tmp_path, fates={"0": "wait", "3": fate}), workers=2)
    # Device 0 never ends: only that somebody notices the death of its neighbour ends this.
    with pytest.raises(WorkerError, match=words):
        list(executor.fine_tune([job(device) for device in range(8)]))
    assert set(children()) <= others
    with pytest.raises(RuntimeError, match="closed"):
        executor.evaluate()
    executor.close()


@pytest.mark.slow
def test_a_worker_that_is_killed_while_it_waits_is_noticed_at_the_next_call(tmp_path):
    others = set(children())
    with DistributedExecutor(spec(tmp_path), workers=2) as executor:
        victim = next(iter(set(children()) - others))
        victim.kill()
        with pytest.raises(WorkerError, match="SIGKILL"):
            executor.broadcast(fresh_adapter())
    assert set(children()) <= others


@pytest.mark.slow
def test_close_ends_workers_at_rest_by_themselves_and_busy_ones_at_once(tmp_path):
    others = set(children())
    executor = DistributedExecutor(spec(tmp_path, fates={"1": "wait"}), workers=2)
    processes = [line.process for line in executor._workers._lines]
    updates = executor.fine_tune([job(0), job(1)])
    assert next(updates).device == 0
    executor.close()
    executor.close()
    assert sorted(process.returncode for process in processes) == [-signal.SIGKILL, 0]
    assert set(children()) <= others
    with pytest.raises(RuntimeError, match="closed"):
        next(updates)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wanted", "error", "words"),
    [
        ({"arguments": {"refuse": True}}, InputError, "num_devices = 9 .* at most 4"),
        ({"factory": "toy_host:no_such"}, InputError, "factory = 'toy_host:no_such'"),
        ({"factory": "os:_exit", "arguments": {}}, WorkerError, "TypeError"),
    ],
)
def test_a_host_that_cannot_be_made_is_an_error_and_leaves_nobody(wanted, error, words):
    others = set(children())
    with pytest.raises(error, match=words):
        DistributedExecutor(HostSpec(**{"factory": "toy_host:make_host", **wanted}), workers=2)
    assert set(children()) <= others


@pytest.mark.slow
def test_a_worker_that_cannot_even_start_is_an_error(tmp_path, monkeypatch):
    broken = tmp_path / "torch.py"
    broken.write_text("raise SystemExit(9)")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(WorkerError, match=r"ended by itself with exit code 9"):
        DistributedExecutor(spec(tmp_path), workers=1)


# A plain script without the `if __name__ == "__main__"` guard that spawn asks for.
SCRIPT = """
import signal
import sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a shell's background jobs
print("script runs", flush=True)
sys.path.append(sys.argv[1])
import toy_host
from fedquad.federation.distributed import DistributedExecutor
from fedquad.federation.jobs import HostSpec
arguments = {"folder": sys.argv[2], "fates": {"0": sys.argv[3]}}
spec = HostSpec(factory="toy_host:make_host", arguments=arguments)
executor = DistributedExecutor(spec, workers=2)
updates = list(executor.fine_tune([toy_host.job(device) for device in range(3)]))
print("script ends", [update.device for update in updates], flush=True)
"""


def start_script(folder: Path, fate: str, **options) -> subprocess.Popen:
    script = folder / "plain_script.py"
    script.write_text(SCRIPT)
    here = str(Path(__file__).parent)
    return subprocess.Popen(
        [sys.executable, "-W", "error::UserWarning", str(script), here, str(folder), fate],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


@pytest.mark.slow
def test_a_script_without_a_main_guard_and_without_close_ends_cleanly_and_silently(tmp_path):
    process = start_script(tmp_path, "")
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    assert output == "script runs\nscript ends [0, 1, 2]\n"
    assert errors == ""


@pytest.mark.slow
@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_worker_outlives_its_parent(tmp_path, kind):
    process = start_script(tmp_path, "wait", start_new_session=True)
    wait_for(lambda: (tmp_path / "started-2").exists() or process.poll() is not None)
    workers = psutil.Process(process.pid).children(recursive=True)
    assert len(workers) == 2
    os.killpg(process.pid, kind)
    _, errors = process.communicate(timeout=120)
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert alive == []
    assert process.returncode != 0
    assert errors.count("Traceback") == errors.count("KeyboardInterrupt") == (kind == signal.SIGINT)


CELL = """
import sys
sys.path.append({here!r})
import toy_host
from fedquad.federation.distributed import DistributedExecutor
from fedquad.federation.jobs import HostSpec
spec = HostSpec(factory="toy_host:make_host", arguments={{"folder": {folder!r}}})
with DistributedExecutor(spec, workers=2) as executor:
    print("devices", [u.device for u in executor.fine_tune([toy_host.job(n) for n in range(3)])])
"""


@pytest.mark.slow
def test_workers_start_from_a_notebook(tmp_path):
    import nbformat
    from nbclient import NotebookClient

    source = CELL.format(here=str(Path(__file__).parent), folder=str(tmp_path))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    printed = [output.get("text", "") for output in notebook.cells[0].outputs]
    assert printed == ["devices [0, 1, 2]\n"]
