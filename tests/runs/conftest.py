"""Disks that are really small, folders that are really read-only."""

from __future__ import annotations

import os
import subprocess
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with 64 KiB on it."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no permission to mount a small tmpfs: {error}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def fill() -> Callable[[Path], Path]:
    """Fills the file system of a folder to the last byte; returns the file to delete."""

    def fill_up(folder: Path) -> Path:
        ballast = folder / "ballast"
        with ballast.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(b"\0" * 4096)
            except OSError:
                pass
        return ballast

    return fill_up


@pytest.fixture
def read_only_disk(small_disk: Path) -> Callable[[], Path]:
    """The small disk, turned read-only on call; root cannot write to it either."""

    def turn() -> Path:
        subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
        return small_disk

    return turn


@pytest.fixture
def as_nobody() -> Callable[[Callable[[], int]], int]:
    """Runs a function in a forked process without root's rights; returns its exit status."""

    def run(function: Callable[[], int]) -> int:
        with warnings.catch_warnings():
            # The child only opens files; the threads of the test runner do not matter to it.
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child == 0:
            status = 99
            try:
                if os.getuid() == 0:
                    os.setgid(65534)
                    os.setuid(65534)
                status = function()
            finally:
                os._exit(status)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    return run
