"""Installed versions against the ranges of pyproject.toml."""

from __future__ import annotations

import importlib.metadata

from packaging.requirements import Requirement

from fedquad.doctor.finding import Finding, look

SAID_APART = ("torch", "transformers", "peft", "triton")


def packages() -> list[Finding]:
    """Installed versions against the ranges of pyproject.toml, the lesser ones in one line."""
    try:
        declared = importlib.metadata.requires("fedquad") or []
    except importlib.metadata.PackageNotFoundError:
        remedy = "install it: `make setup` in a checkout, or `pip install .`"
        return [Finding("packages", "missing", "fedquad itself is not installed", remedy)]
    needed = [
        requirement
        for requirement in map(Requirement, declared)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""})
    ]
    findings = {need.name: look(need.name, lambda need=need: _package(need)) for need in needed}
    apart = [findings.pop(name) for name in SAID_APART if name in findings]
    if "triton" not in {finding.name for finding in apart}:
        detail = "has no wheels for this system: plain PyTorch computes instead"
        apart.append(Finding("triton", "limited", detail))
    wrong = [finding for finding in findings.values() if finding.status != "ok"]
    if not wrong:
        detail = f"all {len(findings)} in tried versions"
        return [*apart, Finding("other packages", "ok", detail)]
    status = "missing" if any(finding.status == "missing" for finding in wrong) else "limited"
    detail = "; ".join(f"{finding.name} {finding.detail}" for finding in wrong)
    return [*apart, Finding("other packages", status, detail, wrong[0].remedy)]


def _package(requirement: Requirement) -> Finding:
    name, tried = requirement.name, requirement.specifier
    remedy = "`make setup` installs the versions that were tried"
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, "missing", "is not installed", remedy)
    detail = version
    if name == "torch":
        import torch

        detail = f"{torch.__version__}, {torch.get_num_threads()} threads"
    if not tried.contains(version, prereleases=True):
        return Finding(name, "limited", f"{detail} was not tried, only {tried}", remedy)
    return Finding(name, "ok", detail)
