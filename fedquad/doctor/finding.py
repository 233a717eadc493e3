"""One thing that was looked at, and how it is said."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from fedquad.config import InputError

LINE_WIDTH = 100


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes
    ----------
    name : str
        What: ``torch``, ``memory``, ``profile embedded``, …
    status : {"ok", "limited", "missing"}
        ``limited``: works, but not everything, or not as tried.
    detail : str
        What was found.
    remedy : str
        What to do about it; empty where there is nothing to do.
    """

    name: str
    status: Literal["ok", "limited", "missing"]
    detail: str
    remedy: str = ""


def look(name: str, check: Callable[[], Finding]) -> Finding:
    """A check's finding; one that the machine does not allow is itself a finding."""
    try:
        return check()
    except InputError as error:
        return Finding(name, "missing", f"needs {error.accepted}")
    except (ImportError, OSError) as error:
        return Finding(name, "missing", f"cannot be used: {error}")


def render_text(findings: Iterable[Finding]) -> str:
    """The findings as lines for a terminal, each remedy below what it mends."""
    lines: list[str] = []
    for finding in findings:
        start = f"{finding.status:<8} {finding.name:<18} "
        indent = " " * len(start)
        lines.append(textwrap.fill(start + finding.detail, LINE_WIDTH, subsequent_indent=indent))
        if finding.remedy:
            lines.append(
                textwrap.fill(f"{indent}-> {finding.remedy}", LINE_WIDTH, subsequent_indent=indent)
            )
    return "\n".join(lines)
