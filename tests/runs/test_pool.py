from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from fedquad.runs.finetune import load_or_run, run_settings
from fedquad.runs.pool import WorkerError, run_all
from fedquad.runs.store import RunStore

# What the workers do; it must be importable in them, as the library's own functions are.
TOY = """
import os, signal, time
import torch
from pathlib import Path

def work(item, report):
    folder, name, steps, fate = item
    started = Path(folder, name + ".started")
    started.write_text(str(os.getpid()))
    for step in range(steps):
        report(step)
        time.sleep(0.01)
        if fate == "fail" and step == 5:
            raise ValueError("no good: " + name)
        if fate == "die" and step == 5:
            os.kill(os.getpid(), signal.SIGKILL)
    report(steps)
    Path(folder, name + ".done").write_text(str(torch.get_num_threads()))
"""

# A plain script without the `if __name__ == "__main__"` guard that spawn asks for.
SCRIPT = """
import signal
import sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a shell's background jobs
print("script runs", flush=True)
sys.path.insert(0, sys.argv[1])
from fedquad.runs.pool import run_all
import toy
items = [(sys.argv[1], name, int(sys.argv[2]), "") for name in "abc"]
run_all(toy.work, items, [int(sys.argv[2])] * 3, workers=2)
print("script ends", flush=True)
"""


@pytest.fixture
def toy(tmp_path, monkeypatch):
    (tmp_path / "toy.py").write_text(TOY)
    monkeypatch.syspath_prepend(tmp_path)
    import toy

    yield toy
    del sys.modules["toy"]


def items_in(folder: Path, *fates: str, steps: int = 20) -> list[tuple]:
    return [(str(folder), f"run{i}", steps, fate) for i, fate in enumerate(fates)]


def done(folder: Path) -> set[str]:
    return {path.stem for path in folder.glob("*.done")}


@pytest.mark.parametrize("workers", [1, 2])
def test_everything_is_done_once_with_one_thread(toy, tmp_path, capfd, workers):
    items = items_in(tmp_path, "", "", "")
    run_all(toy.work, items, [20] * 3, workers=workers, description="toys")
    assert done(tmp_path) == {"run0", "run1", "run2"}
    assert {path.read_text() for path in tmp_path.glob("*.done")} == {"1"}
    here = {path.read_text() == str(os.getpid()) for path in tmp_path.glob("*.started")}
    assert here == {workers == 1}
    bar = capfd.readouterr().err
    assert "toys: 100%" in bar
    assert "60/60" in bar


def test_nothing_to_do_shows_nothing(toy, capfd):
    run_all(toy.work, [], [], workers=2)
    assert capfd.readouterr().err == ""


def test_the_bar_is_silent_when_asked(toy, tmp_path, capfd):
    run_all(toy.work, items_in(tmp_path, "", ""), [20, 20], progress=False)
    assert capfd.readouterr().err == ""


def test_an_error_in_a_worker_is_raised_here_and_stops_the_others(toy, tmp_path):
    items = items_in(tmp_path, "fail") + items_in(tmp_path, "", "", "", steps=3000)[1:]
    with pytest.raises(ValueError, match="no good: run0"):
        run_all(toy.work, items, [20, 3000, 3000], workers=2, progress=False)
    assert done(tmp_path) == set()


def test_an_error_here_gives_the_threads_back(toy, tmp_path):
    torch.set_num_threads(2)
    try:
        with pytest.raises(ValueError, match="no good"):
            run_all(toy.work, items_in(tmp_path, "fail"), [20], progress=False)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_a_worker_that_dies_is_an_error_and_finished_work_stays(toy, tmp_path):
    items = items_in(tmp_path, "", "", "die")
    with pytest.raises(WorkerError, match=r"died .*Finished runs are kept"):
        run_all(toy.work, items, [20] * 3, workers=2, progress=False)
    assert done(tmp_path) >= {"run0"}
    assert "run2" not in done(tmp_path)


def start_script(folder: Path, steps: int, **options) -> subprocess.Popen:
    (folder / "toy.py").write_text(TOY)
    script = folder / "plain_script.py"
    script.write_text(SCRIPT)
    return subprocess.Popen(
        [sys.executable, str(script), str(folder), str(steps)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def test_a_script_without_a_main_guard_is_not_started_again_by_its_workers(tmp_path):
    process = start_script(tmp_path, 10)
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    assert output.split("\n") == ["script runs", "script ends", ""]
    assert done(tmp_path) == {"a", "b", "c"}


@pytest.mark.parametrize(
    "kind", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_no_worker_outlives_its_parent(tmp_path, kind):
    process = start_script(tmp_path, 1_000_000, start_new_session=True)
    while len(list(tmp_path.glob("*.started"))) < 2:
        time.sleep(0.05)
        assert process.poll() is None
    workers = psutil.Process(process.pid).children(recursive=True)
    assert len(workers) >= 2
    os.killpg(process.pid, kind) if kind == signal.SIGINT else process.send_signal(kind)
    _, errors = process.communicate(timeout=120)
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert alive == []
    assert process.returncode != 0
    if kind == signal.SIGINT:
        assert errors.count("KeyboardInterrupt") == 1


def test_any_number_of_workers_gives_the_same_bytes(tiny, tmp_path):
    configs = [tiny(trainable_layers=layers, seed=1) for layers in ((0,), (1, 2), (0, 1, 2))]
    stores = {workers: RunStore(tmp_path / str(workers)) for workers in (1, 2)}
    for workers, store in stores.items():
        results = load_or_run(configs, store, workers=workers, progress=False)
        assert [result.config for result in results] == configs
        assert not any(result.from_record for result in results)
    for config in configs:
        one, two = (store.read(run_settings(config)) for store in stores.values())
        assert one.results_sha256 == two.results_sha256


CELL = """
from pathlib import Path
from fedquad.config import FineTuneConfig
from fedquad.runs.finetune import load_or_run, results_frame
from fedquad.runs.store import RunStore
configs = {configs!r}
results = load_or_run(configs, RunStore(Path({root!r})), workers=2)
print("accuracies", [result.accuracy for result in results])
"""


@pytest.mark.slow
def test_workers_start_from_a_notebook(tiny, tmp_path, monkeypatch):
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("TQDM_DISABLE", "1")
    configs = [tiny(num_steps=2, seed=seed) for seed in (0, 1)]
    source = CELL.format(configs=configs, root=str(tmp_path / "runs"))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    printed = [output.get("text", "") for output in notebook.cells[0].outputs]
    assert any(text.startswith("accuracies [") for text in printed), printed
    results = load_or_run(configs, RunStore(tmp_path / "runs"), progress=False)
    assert all(result.from_record for result in results)
