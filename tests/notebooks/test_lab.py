"""Notebooks driven in JupyterLab by a real browser: restart, run all, move a slider."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import nbformat
import pytest

from fedquad import paths

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

# Each has an explorer, and they train nothing.
DRIVEN = ("walkthrough_algorithm_1", "walkthrough_lora_depth")
TOKEN = "of-this-test"
STARTED_WITHIN_S = 120
LOADED_WITHIN_MS, RUN_WITHIN_MS = 120_000, 300_000
IDLE = ".jp-Notebook-ExecutionIndicator[data-status='idle']"
# A cell that waits has a star for a number.
ALL_RAN = """() => {
    const prompts = [...document.querySelectorAll('.jp-Notebook .jp-CodeCell .jp-InputPrompt')];
    return prompts.every(prompt => /\\[\\d+\\]/.test(prompt.innerText));
}"""
# All cells stay in the page, wherever it is scrolled to.
SETTINGS = {"tracker": {"windowingMode": "none"}}


def free_port() -> int:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return unused.getsockname()[1]


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Iterator[tuple[str, Path]]:
    """A JupyterLab on copies of the notebooks: its address and its folder."""
    pytest.importorskip("jupyterlab")
    folder = tmp_path_factory.mktemp("lab")
    for stem in DRIVEN:
        shutil.copy2(paths.notebooks_dir() / f"{stem}.ipynb", folder)
    settings = folder / "settings" / "@jupyterlab" / "notebook-extension"
    settings.mkdir(parents=True)
    for name, values in SETTINGS.items():
        (settings / f"{name}.jupyterlab-settings").write_text(json.dumps(values))
    port = free_port()
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    command += [f"--ServerApp.port={port}", f"--IdentityProvider.token={TOKEN}"]
    command += [f"--ServerApp.root_dir={folder}", "--LabApp.news_url=None"]
    own = {"JUPYTERLAB_SETTINGS_DIR": folder / "settings", "FEDQUAD_HOME": folder / "home"}
    own |= {"JUPYTER_CONFIG_DIR": folder / "config", "JUPYTER_RUNTIME_DIR": folder / "runtime"}
    own |= {"JUPYTERLAB_WORKSPACES_DIR": folder / "workspaces"}
    environment = os.environ | {name: str(value) for name, value in own.items()}
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            address = f"http://127.0.0.1:{port}"
            wait_until_started(f"{address}/api/status?token={TOKEN}", server, folder / "log")
            yield address, folder
        finally:
            server.terminate()
            server.wait(60)


def wait_until_started(url: str, server: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + STARTED_WITHIN_S
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urlopen(url):
                return
        except (URLError, ConnectionError):
            time.sleep(0.5)
    pytest.fail(f"JupyterLab did not start:\n{log.read_text()}")


def wait_for_kernel(address: str, stem: str) -> None:
    """Until the notebook's kernel runs and the page is connected to it: menus answer before."""
    deadline = time.monotonic() + STARTED_WITHIN_S
    while time.monotonic() < deadline:
        with urlopen(f"{address}/api/sessions?token={TOKEN}") as response:
            sessions = json.load(response)
        kernels = [one["kernel"] for one in sessions if stem in one["path"]]
        if any(one["connections"] and one["execution_state"] == "idle" for one in kernels):
            return
        time.sleep(0.5)
    pytest.fail(f"no kernel for {stem}: {sessions}")


@pytest.mark.parametrize("stem", DRIVEN)
def test_restart_and_run_all_and_an_explorer_that_is_alive(lab, browser, stem, tmp_path):
    address, folder = lab
    context = browser.new_context(viewport={"width": 1400, "height": 1200})
    page = context.new_page()
    page.set_default_timeout(LOADED_WITHIN_MS)
    page.goto(f"{address}/lab/tree/{stem}.ipynb?token={TOKEN}&reset")
    page.wait_for_selector(".jp-Notebook .jp-CodeCell")
    wait_for_kernel(address, stem)
    page.locator(".lm-MenuBar-itemLabel", has_text="Run").first.click()
    page.get_by_role("menuitem", name="Restart Kernel and Run All Cells").click()
    page.locator(".jp-Dialog button.jp-mod-accept").click()
    cells = page.locator(".jp-Notebook .jp-CodeCell")
    page.wait_for_function(ALL_RAN, timeout=RUN_WITHIN_MS)
    prompts = cells.locator(".jp-InputPrompt").all_inner_texts()
    assert prompts == [f"[{number}]:" for number in range(1, len(prompts) + 1)]

    # What lies out of sight is drawn when it is scrolled to.
    page.locator(".jp-Notebook h2", has_text="Sliders").scroll_into_view_if_needed()
    picture = page.locator(".jp-Notebook .jupyter-widgets img")
    picture.wait_for()
    before = picture.get_attribute("src")
    handle = page.locator(".jp-Notebook .jupyter-widgets .noUi-handle").first
    handle.focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    page.wait_for_function(
        "before => [...document.querySelectorAll('.jupyter-widgets img')]"
        ".some(image => image.src !== before)",
        arg=before,
    )
    page.screenshot(path=tmp_path / f"{stem}.png")
    page.keyboard.press("Control+s")
    page.wait_for_selector(IDLE)
    page.wait_for_function("!document.querySelector('.jp-mod-dirty')")
    context.close()
    saved = nbformat.read(folder / f"{stem}.ipynb", as_version=4)
    ran = [cell for cell in saved.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in ran] == list(range(1, len(ran) + 1))
    outputs = [output for cell in ran for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
