"""``fedquad doctor``: what this machine can run, and what is missing."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from cyclopts import Parameter

from fedquad.cli.options import print_json


def doctor(*, json: Annotated[bool, Parameter(negative="")] = False) -> int:
    """Say what this machine can run, what is missing, and what to do about it.

    Nothing is changed and nothing downloaded. Exit status 1 if the embedded
    profile, the default one, cannot run.

    Parameters
    ----------
    json
        Print a JSON list of findings instead of text.
    """
    from fedquad.doctor import examine, render_text

    findings = examine()
    if json:
        print_json([dataclasses.asdict(finding) for finding in findings])
    else:
        print(render_text(findings))
    statuses = {finding.name: finding.status for finding in findings}
    return int(statuses["profile embedded"] == "missing")
