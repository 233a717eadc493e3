"""The site as a reader meets it: built from executed notebooks, opened in a real browser."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from filelock import FileLock

from fedquad import paths
from fedquad.notebook_registry import NOTEBOOKS
from fedquad.report.figures import FIGURES

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

REPOSITORY = paths.checkout_root()
GALLERY = (REPOSITORY / "figures" / "README.md").read_text(encoding="utf-8")
WITH_EQUATIONS = [
    f"notebooks/{stem}.html" for stem in ("00_start_here", "05_configuration_selection")
]


class Links(HTMLParser):
    """What a page refers to, what a reader of it loads, and the places it has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.followed: list[str] = []
        self.loaded: list[str] = []
        self.places: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attributes}
        self.places |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.followed.append(values["href"])
        elif tag == "link" and "href" in values:
            self.loaded.append(values["href"])
        elif "src" in values:
            self.loaded.append(values["src"])


@pytest.fixture(scope="session")
def site(browser_path, home, tmp_path_factory, worker_id) -> Path:
    """The pages, with the notebooks as the smoke profile executed them.

    Where no browser can look at them they are not built: it takes minutes.
    """
    pytest.importorskip("myst_nb")
    root = tmp_path_factory.getbasetemp()
    root = root if worker_id == "master" else root.parent
    command = [sys.executable, str(REPOSITORY / "docs" / "build.py")]
    command += ["--executed", str(home / "figures" / "smoke" / "notebooks")]
    with FileLock(root / "site.lock"):
        if not (root / "site" / "html" / "index.html").exists():
            subprocess.run([*command, "--output", str(root / "site")], check=True)
    return root / "site" / "html"


@pytest.fixture
def page(browser):
    """A page that notes what goes wrong, and has no network."""
    context = browser.new_context(viewport={"width": 1400, "height": 1000})
    page = context.new_page()
    problems: list[str] = []
    page.on("console", lambda said: problems.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("requestfailed", lambda request: problems.append(f"failed: {request.url}"))
    page.on("request", lambda one: outside(one.url) and problems.append(f"outside: {one.url}"))
    yield page
    context.close()
    assert not problems


def outside(url: str) -> bool:
    return urlsplit(url).scheme not in ("file", "data", "blob", "about")


def open_page(page, path: Path) -> None:
    page.goto(path.as_uri(), wait_until="load")
    # Images are loaded when they come into view.
    page.evaluate("document.querySelectorAll('img').forEach(image => image.loading = 'eager')")
    page.wait_for_function("[...document.images].every(image => image.complete)")


def wait_for_equations(page) -> int:
    """Number of equations, when MathJax is done with them."""
    page.wait_for_function(
        "[...document.querySelectorAll('.math')].every(e => e.querySelector('mjx-container'))"
    )
    return page.locator("mjx-container").count()


def test_no_link_is_broken_and_nothing_is_fetched_from_elsewhere(site):
    pages = {path: Links(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}
    broken, fetched = [], []
    for path, links in pages.items():
        name = path.relative_to(site)
        for link in links.followed + links.loaded:
            parts = urlsplit(link)
            if parts.scheme in ("http", "https"):
                if link in links.loaded:
                    fetched.append((name, link))
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if parts.scheme or not target.is_file():
                broken.append((name, link))
            elif parts.fragment and target in pages:
                is_there = unquote(parts.fragment) in pages[target].places
                broken += [] if is_there else [(name, link)]
    assert not fetched
    assert not broken
    assert len(pages) > len(NOTEBOOKS) + 10


def test_every_committed_figure_is_on_the_gallerys_page(site, page):
    open_page(page, site / "figures" / "README.html")
    shown = page.evaluate(
        "[...document.querySelectorAll('article img')].map(i => [i.alt, i.naturalWidth])"
    )
    committed = re.findall(r"^!\[(.*?)\]", GALLERY, re.MULTILINE)
    assert [alt for alt, _ in shown] == committed
    assert all(width > 100 for _, width in shown)
    stored = [*(REPOSITORY / "figures").glob("reference/**/*.png")]
    stored += (REPOSITORY / "figures").glob("glue/**/*.png")
    assert len(committed) == len([one for one in stored if one.stem in FIGURES])


@pytest.mark.parametrize("stem", NOTEBOOKS)
def test_a_notebooks_page_shows_its_figures_and_equations(site, page, stem):
    open_page(page, site / "notebooks" / f"{stem}.html")
    figures = page.evaluate(
        "[...document.querySelectorAll('.cell_output img')].map(i => i.naturalWidth)"
    )
    assert len(figures) >= len(NOTEBOOKS[stem].figures)
    assert all(width > 100 for width in figures)
    text = page.locator("article").inner_text()
    assert "VBox(" not in text  # an explorer shows its still picture, not its name
    assert str(REPOSITORY) not in text
    wait_for_equations(page)
    assert page.locator("mjx-merror, .problematic, .system-message").count() == 0
    prose = page.evaluate(
        "[...document.querySelectorAll('article p, article li')].map(e => e.innerText).join('\\n')"
    )
    assert not re.search(r"\$[^$\n]*\\[a-z]+", prose)  # an equation that stayed TeX


@pytest.mark.parametrize("path", WITH_EQUATIONS)
def test_equations_are_drawn_with_glyphs(site, page, path):
    open_page(page, site / path)
    assert wait_for_equations(page) > 5
    box = page.locator("mjx-container[display=true]").first.bounding_box()
    assert box["width"] > 100
    assert box["height"] > 15


def test_solutions_are_folded_until_they_are_asked_for(site, page):
    open_page(page, site / "notebooks" / "walkthrough_algorithm_1.html")
    solution = page.locator("details").first
    assert not solution.locator("p").first.is_visible()
    solution.locator("summary").click()
    assert solution.locator("p").first.is_visible()
    wait_for_equations(page)
    assert page.locator("details mjx-container").count() > 3


def test_the_reference_has_every_room_and_their_functions(site, page):
    open_page(page, site / "api" / "index.html")
    rooms = page.locator("article .toctree-l1 > a").all_inner_texts()
    folders = {path.name for path in (REPOSITORY / "fedquad").iterdir() if path.is_dir()}
    folders -= {"__pycache__", "cli", "benchmarks"}
    assert {f"fedquad.{name}" for name in folders} <= set(rooms)
    open_page(page, site / "api" / "fedquad.cost.html")
    assert "batch_size" in page.locator("[id='fedquad.cost.accounting.step_cost']").inner_text()


def test_the_search_finds_a_page_without_a_server(site, page):
    open_page(page, site / "index.html")
    assert page.locator("nav .toctree-l1, .sidebar-tree .toctree-l1").count() > len(NOTEBOOKS)
    page.goto((site / "search.html").as_uri() + "?q=quantization")
    page.wait_for_selector("#search-results li a")
