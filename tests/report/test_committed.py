"""What is committed follows from what is committed: pages and verdicts from the csv files."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest

from fedquad import paths
from fedquad.report.claims import judge
from fedquad.report.gallery import committed_folders, update_readme, write_gallery
from fedquad.report.tables import save_table

ROOT = paths.checkout_root()
FOLDERS = committed_folders(ROOT / "figures")


def test_the_embedded_and_the_real_text_are_committed():
    assert {"reference", "glue", "glue/mnli"} <= set(FOLDERS)


@pytest.mark.parametrize(
    "committed",
    sorted(path for folder in FOLDERS.values() for path in folder.glob("claims_*.csv")),
    ids=lambda path: f"{path.parent.name}-{path.stem}",
)
def test_verdicts_follow_from_the_figures(committed, tmp_path):
    item = committed.stem.removeprefix("claims_")
    save_table(judge(committed.parent, [item]), committed.stem, folder=tmp_path)
    now, then = (pd.read_csv(folder / committed.name) for folder in (tmp_path, committed.parent))
    pd.testing.assert_frame_equal(now, then)


def test_pages_are_those_the_generators_make(tmp_path):
    shutil.copytree(ROOT / "figures", tmp_path / "figures")
    shutil.copy(ROOT / "README.md", tmp_path)
    gallery = write_gallery(tmp_path / "figures")
    update_readme(tmp_path / "README.md", tmp_path / "figures")
    for made in (gallery, tmp_path / "README.md"):
        committed = ROOT / Path(made).relative_to(tmp_path)
        assert made.read_text() == committed.read_text(), f"{committed}: run make gallery"
