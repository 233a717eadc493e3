"""Where the project keeps things. Never derived from the working directory."""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path


def package_data() -> Path:
    """Folder of the files that ship with the library (encoder, paper tables).

    In a checkout this is ``data/``; in an installed wheel it is the package
    ``fedquad.data``, which setuptools fills from the same folder.
    """
    checkout = checkout_root()
    if checkout is not None:
        return checkout / "data"
    return Path(str(files("fedquad.data")))


def checkout_root() -> Path | None:
    """Root of the checkout this library was imported from, or None when installed."""
    root = Path(__file__).resolve().parent.parent
    is_checkout = (root / "pyproject.toml").is_file() and (root / "notebooks").is_dir()
    return root if is_checkout else None


def project_root() -> Path:
    """Where results go: ``$FEDQUAD_HOME``, else the checkout, else ``~/.fedquad``."""
    if home := os.environ.get("FEDQUAD_HOME"):
        return Path(home).expanduser().resolve()
    return checkout_root() or Path.home() / ".fedquad"


def runs_dir(profile: str) -> Path:
    return project_root() / "data" / "runs" / profile


def figures_dir(profile: str) -> Path:
    return project_root() / "figures" / profile


def notebooks_dir() -> Path:
    """The source notebooks; they exist in a checkout only."""
    root = checkout_root()
    if root is None:
        raise FileNotFoundError(
            "the notebooks are not part of the installed library; clone the repository to run them"
        )
    return root / "notebooks"


def glue_folder() -> Path | None:
    """First existing of ``$FEDQUAD_GLUE``, ``data/glue`` and ``../shared/glue``."""
    if configured := os.environ.get("FEDQUAD_GLUE"):
        return Path(configured).expanduser().resolve()
    root = project_root()
    for candidate in (root / "data" / "glue", root.parent / "shared" / "glue"):
        if candidate.is_dir():
            return candidate
    return None
