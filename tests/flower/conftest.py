"""Flower is an extra: without it these tests are skipped, and say so."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))

collect_ignore_glob: list[str] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if importlib.util.find_spec("flwr") is None:
        here = Path(__file__).parent
        skip = pytest.mark.skip(reason="flwr is not installed: pip install 'fedquad[flower]'")
        for item in items:
            if here in item.path.parents:
                item.add_marker(skip)
