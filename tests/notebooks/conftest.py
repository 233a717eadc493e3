"""Every notebook in the smoke profile, computed once; and a browser to look at pages with."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest
from filelock import FileLock

from fedquad import paths

if TYPE_CHECKING:
    from playwright.sync_api import Browser

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="session")
def reproduce() -> Callable[..., subprocess.CompletedProcess]:
    """The command, in another folder than the repository's, with results in ``home``."""

    def run(home: Path, *items: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-m", "fedquad", "reproduce", *items, "--profile", "smoke"],
            env={**os.environ, "FEDQUAD_HOME": str(home)},
            cwd=home,
            capture_output=True,
            text=True,
            check=True,
        )

    return run


@pytest.fixture(scope="session")
def home(tmp_path_factory, worker_id, reproduce) -> Path:
    """Results of all notebooks, computed once for all processes that run these tests."""
    root = tmp_path_factory.getbasetemp()
    root = root if worker_id == "master" else root.parent
    folder = root / "smoke"
    with FileLock(root / "smoke.lock"):
        if not (folder / "log").exists():
            folder.mkdir()
            (folder / "log").write_text(reproduce(folder).stderr)
    return folder


@pytest.fixture(scope="session")
def browser_path() -> str:
    """Where the machine has Chromium; nothing is downloaded."""
    executable = next(filter(None, map(shutil.which, BROWSERS)), None)
    if executable is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is on the path")
    return executable


@pytest.fixture(scope="module")  # its event loop runs for as long as it lives
def browser(browser_path) -> Iterator[Browser]:
    """The machine's Chromium, headless."""
    sync_api = pytest.importorskip("playwright.sync_api")
    flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    flags += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=flags)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def example() -> Callable[[str], ModuleType]:
    """A file of ``notebooks/examples`` as a module, by its name."""

    def load(name: str) -> ModuleType:
        path = paths.notebooks_dir() / "examples" / f"{name}.py"
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load
