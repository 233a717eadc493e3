"""Imported first by tests of the extra: without Flower they are skipped, and say so."""

from __future__ import annotations

import pytest

for module in ("flwr", "cryptography"):
    pytest.importorskip(module, reason="Flower is an extra: pip install 'fedquad[flower]'")
