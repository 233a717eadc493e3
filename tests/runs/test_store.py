from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fedquad.runs.journal import CorruptRunError, StoreError, StoreWriteError
from fedquad.runs.run import StoreMismatchError
from fedquad.runs.store import RunStore, StoreBusyError, results_sha256, run_slug

SETTINGS = {"experiment": "Toy", "task": "toy", "seed": 3}
SOURCES = {"task": {"fingerprint": "aa"}}

# Counts to 40; what a row holds depends on all rows before it, so a resume that skips or repeats
# a step shows. The checkpoint lags behind the rows by up to four steps.
TOY = """
import hashlib, json, sys, time
from pathlib import Path
from fedquad.runs.store import RunStore
settings, sources = json.loads(sys.argv[2]), json.loads(sys.argv[3])
with RunStore(Path(sys.argv[1])).open(settings, sources, fresh="fresh" in sys.argv) as run:
    print("open", flush=True)
    state = json.loads(run.load_checkpoint() or b'{"step": 0, "digest": ""}')
    run.rewind(state["step"])
    while not run.is_complete:
        step = state["step"] + 1
        digest = hashlib.sha256(f"{state['digest']}{step}".encode()).hexdigest()
        state = {"step": step, "digest": digest}
        time.sleep(0.002)
        run.log(step=step)
        run.append({**state, "final": True} if step == 40 else state)
        if step % 4 == 0 and step < 40:
            run.save_checkpoint(json.dumps(state).encode())
    if "hold" in sys.argv:
        sys.stdin.read()
"""


def start_toy(root: Path, *options: str) -> subprocess.Popen:
    arguments = [str(root), json.dumps(SETTINGS), json.dumps(SOURCES), *options]
    return subprocess.Popen(
        [sys.executable, "-c", TOY, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen) -> None:
    _, errors = process.communicate()
    assert process.returncode == 0, errors


def finished(root: Path, value: int = 1) -> RunStore:
    store = RunStore(root)
    with store.open(SETTINGS, SOURCES) as run:
        run.log(wall_time_s=0.5)
        run.append({"step": 1, "value": value, "final": True})
    return store


def test_a_finished_run_is_read_back(tmp_path):
    store = finished(tmp_path / "runs")
    stored = store.read(SETTINGS)
    assert stored.rows == [{"step": 1, "value": 1, "final": True}]
    assert stored.telemetry == [{"wall_time_s": 0.5}]
    assert (stored.settings, stored.sources) == (SETTINGS, SOURCES)
    assert stored.directory.name == f"toy-s3-{stored.run_id}"
    names = sorted(path.name for path in stored.directory.iterdir())
    assert names == ["config.json", "results.jsonl", "telemetry.jsonl"]
    assert stored.results_sha256 == results_sha256(stored.directory)


@pytest.mark.parametrize(
    ("settings", "slug"),
    [
        ({}, "run"),
        (
            {"task": "sst2", "model": "minilm@53aa", "tuning": "lora", "trainable_layers": [2, 5]},
            "sst2-minilm-lora-l2to5",
        ),
        (
            {"tuning": "lora", "trainable_layers": [0, 5], "quantized_layers": [0, 3]},
            "lora-l0to5-q0to3",
        ),
        ({"task": "folder:../A b", "trainable_layers": [3], "seed": 1}, "folder-a-b-l3-s1"),
    ],
)
def test_folders_have_names_for_people(settings, slug):
    assert run_slug(settings) == slug


def test_a_folder_is_found_by_its_id_and_two_of_them_are_refused(tmp_path):
    store = finished(tmp_path)
    directory = store.directory(SETTINGS)
    renamed = directory.rename(tmp_path / f"my-favourite-{directory.name.rpartition('-')[2]}")
    assert store.read(SETTINGS).directory == renamed
    directory.mkdir()
    with pytest.raises(StoreMismatchError, match=r"my-favourite.*toy-s3"):
        store.read(SETTINGS)


def test_what_is_not_there_or_not_finished_is_none_and_writes_nothing(tmp_path):
    store = RunStore(tmp_path / "runs")
    assert store.read(SETTINGS) is None
    assert not store.root.exists()
    with store.open(SETTINGS, SOURCES) as run:
        run.append({"step": 1})
        assert store.read(SETTINGS) is None


def test_a_finished_run_takes_no_more_rows(tmp_path):
    store = finished(tmp_path)
    with store.open(SETTINGS, SOURCES) as run:
        assert run.is_complete
        with pytest.raises(StoreError, match="finished"):
            run.append({"step": 2})


def test_rows_after_the_final_one_are_corrupt(tmp_path):
    store = finished(tmp_path)
    with (store.directory(SETTINGS) / "results.jsonl").open("a") as file:
        file.write('{"step": 2}\n')
    with pytest.raises(CorruptRunError, match="line 1"):
        store.read(SETTINGS)
    with pytest.raises(CorruptRunError, match="line 1"):
        store.open(SETTINGS, SOURCES)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"settings": 1, "sources": {}}'])
def test_a_damaged_config_is_named_and_kept(tmp_path, content):
    store = finished(tmp_path)
    path = store.directory(SETTINGS) / "config.json"
    path.write_bytes(content)
    for use in (lambda: store.read(SETTINGS), lambda: store.open(SETTINGS, SOURCES)):
        with pytest.raises(CorruptRunError, match=r"config\.json"):
            use()
    assert path.read_bytes() == content


def test_results_without_a_config_are_refused(tmp_path):
    store = finished(tmp_path)
    (store.directory(SETTINGS) / "config.json").unlink()
    with pytest.raises(CorruptRunError, match=r"config\.json"):
        store.open(SETTINGS, SOURCES)


def test_other_settings_under_the_same_id_name_the_field(tmp_path):
    store = finished(tmp_path)
    path = store.directory(SETTINGS) / "config.json"
    record = json.loads(path.read_text())
    record["settings"]["seed"] = 4
    path.write_text(json.dumps(record))
    for use in (lambda: store.read(SETTINGS), lambda: store.open(SETTINGS, SOURCES)):
        with pytest.raises(StoreMismatchError, match=r"settings\.seed is 4 .* and 3 now"):
            use()


def test_other_sources_name_the_field_and_can_be_replaced(tmp_path):
    store = finished(tmp_path)
    other = {"task": {"fingerprint": "bb"}}
    with pytest.raises(StoreMismatchError, match=r"sources\.task\.fingerprint is 'aa'.*--fresh"):
        store.open(SETTINGS, other)
    assert store.read(SETTINGS).sources == SOURCES
    with store.open(SETTINGS, other, fresh=True) as run:
        run.append({"final": True})
    assert store.read(SETTINGS).sources == other


def test_fresh_replaces_a_run_only_when_it_is_finished(tmp_path):
    store = finished(tmp_path, value=1)
    with store.open(SETTINGS, SOURCES, fresh=True) as run:
        run.append({"step": 1, "value": 2})
        run.save_checkpoint(b"half way")
    assert store.read(SETTINGS).rows[0]["value"] == 1
    with store.open(SETTINGS, SOURCES, fresh=True) as run:
        assert run.rows == []
        assert run.load_checkpoint() is None
        run.append({"step": 1, "value": 3, "final": True})
    assert store.read(SETTINGS).rows == [{"step": 1, "value": 3, "final": True}]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".working",
        store.directory(SETTINGS).name,
    ]
    assert not [path for path in (tmp_path / ".working").iterdir() if path.is_dir()]


@pytest.mark.parametrize("moved", [1, 2])
def test_a_swap_that_was_cut_short_is_completed(tmp_path, moved):
    store = finished(tmp_path, value=1)
    directory = store.directory(SETTINGS)
    other = finished(tmp_path / "other", value=2).directory(SETTINGS)
    fresh = tmp_path / ".working" / f"{directory.name}.fresh"
    other.rename(fresh)
    directory.rename(fresh.with_suffix(".old"))
    if moved == 2:
        fresh.rename(directory)
    assert store.read(SETTINGS).rows[0]["value"] == moved
    store.open(SETTINGS, SOURCES).close()
    assert store.read(SETTINGS).rows[0]["value"] == 2
    assert not [path for path in (tmp_path / ".working").iterdir() if path.is_dir()]


def test_a_checkpoint_left_by_a_crash_after_the_final_row_goes(tmp_path):
    store = finished(tmp_path)
    checkpoint = store.directory(SETTINGS) / "checkpoint"
    checkpoint.mkdir()
    (checkpoint / "state").write_bytes(b"x")
    store.open(SETTINGS, SOURCES).close()
    assert not checkpoint.exists()


def test_a_second_process_is_refused_by_pid_until_the_first_is_killed(tmp_path):
    process = start_toy(tmp_path, "hold")
    assert process.stdout.readline() == "open\n"
    store = RunStore(tmp_path)
    with pytest.raises(StoreBusyError, match=rf"another process \(pid {process.pid}\)"):
        store.open(SETTINGS, SOURCES)
    second = start_toy(tmp_path)
    _, errors = second.communicate()
    assert second.returncode != 0
    assert f"StoreBusyError: {store.directory(SETTINGS)}" in errors
    store.open({**SETTINGS, "seed": 4}, SOURCES).close()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    store.open(SETTINGS, SOURCES).close()


def test_two_openings_in_one_process_are_refused_too(tmp_path):
    store = RunStore(tmp_path)
    with store.open(SETTINGS, SOURCES), pytest.raises(StoreBusyError):
        store.open(SETTINGS, SOURCES)
    store.open(SETTINGS, SOURCES).close()


@pytest.mark.parametrize("seed", range(3))
def test_killed_at_any_moment_it_ends_with_the_same_bytes(tmp_path, seed):
    finish(start_toy(tmp_path / "whole"))
    expected = RunStore(tmp_path / "whole").read(SETTINGS).results_sha256
    store, chance = RunStore(tmp_path / "killed"), random.Random(seed)
    kills = 0
    while store.read(SETTINGS) is None:
        process = start_toy(store.root)
        if process.stdout.readline() and kills < 12:
            time.sleep(chance.uniform(0, 0.02))
            process.kill()
            kills += 1
        process.communicate()
    stored = store.read(SETTINGS)
    assert stored.results_sha256 == expected
    assert [row["step"] for row in stored.rows] == list(range(1, 41))
    store.open(SETTINGS, SOURCES).close()
    assert not (stored.directory / "checkpoint").exists()


def test_a_fresh_run_killed_at_any_moment_leaves_a_whole_record(tmp_path):
    store, chance = RunStore(tmp_path), random.Random(0)
    finish(start_toy(tmp_path))
    expected = store.read(SETTINGS).results_sha256
    for _ in range(6):
        process = start_toy(tmp_path, "fresh")
        process.stdout.readline()
        time.sleep(chance.uniform(0, 0.1))
        process.kill()
        process.communicate()
        assert store.read(SETTINGS).results_sha256 == expected
    finish(start_toy(tmp_path, "fresh"))
    assert store.read(SETTINGS).results_sha256 == expected


def test_a_read_only_store_is_read_and_refuses_to_be_written(read_only_disk):
    disk = read_only_disk()
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    finished(disk / "runs")
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    store = RunStore(disk / "runs")
    assert store.read(SETTINGS).rows
    with pytest.raises(StoreWriteError, match=rf"{disk}.*[Rr]ead-only"):
        store.open({**SETTINGS, "seed": 4}, SOURCES)
    assert not store.directory({**SETTINGS, "seed": 4}).exists()


def test_a_folder_without_permission_is_named(tmp_path, as_nobody):
    for folder in (tmp_path, *tmp_path.parents[:3]):
        if folder.stat().st_mode & 0o055 != 0o055 and folder.owner() == tmp_path.owner():
            folder.chmod(0o755)
    root = tmp_path / "runs"
    root.mkdir(mode=0o555)

    def attempt() -> int:
        try:
            RunStore(root).open(SETTINGS, SOURCES)
        except StoreWriteError as error:
            return 7 if str(root) in str(error) and "Permission denied" in str(error) else 8
        return 9

    assert as_nobody(attempt) == 7


def test_a_full_disk_stops_a_run_with_its_rows_safe(small_disk, fill):
    store = RunStore(small_disk / "runs")
    run = store.open(SETTINGS, SOURCES)
    run.append({"step": 1})
    run.save_checkpoint(b"state of step 1")
    ballast = fill(small_disk)
    with pytest.raises(StoreWriteError, match=r"checkpoint.*No space left.*rows.*safe"):
        run.save_checkpoint(b"x" * 8192)
    run.close()
    with pytest.raises(StoreWriteError, match="No space left"):
        store.open({**SETTINGS, "seed": 4}, SOURCES)
    ballast.unlink()
    with store.open(SETTINGS, SOURCES) as again:
        assert again.rows == [{"step": 1}]
        assert again.load_checkpoint() == b"state of step 1"


def test_a_file_where_the_store_should_be_is_named(tmp_path):
    (tmp_path / "runs").write_text("not a folder")
    for root in (tmp_path / "runs", tmp_path / "runs" / "local"):
        for use in (
            RunStore(root).open,
            lambda settings, _, root=root: RunStore(root).read(settings),
        ):
            with pytest.raises(StoreWriteError, match="runs is a file; expected a folder"):
                use(SETTINGS, SOURCES)
