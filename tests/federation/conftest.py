"""Makes `toy_host` importable here, and so in the workers: they take over the import path."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
