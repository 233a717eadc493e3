"""What this machine can run, what is missing, and what to do about it, in words."""

from __future__ import annotations

import platform
import sys

from fedquad.config import PROFILES, Profile
from fedquad.doctor import machine, sources, versions
from fedquad.doctor.finding import Finding, look, render_text
from fedquad.paths import checkout_root

__all__ = ["Finding", "examine", "render_text"]


def examine() -> list[Finding]:
    """Look at everything, then say for each profile whether it can run here.

    Nothing is changed, nothing downloaded; the hub is asked for at most
    `HUB_WAIT_S` seconds. Findings of profiles come last.
    """
    findings = [Finding("python", "ok", f"{platform.python_version()} at {sys.executable}")]
    findings += versions.packages()
    findings += [
        look("gpu", machine.gpu),
        look("memory", machine.memory),
        look("disk", machine.disk),
        look("jupyter kernel", machine.jupyter_kernel),
        look("embedded encoder", lambda: sources.weights("embedded")),
        look("minilm encoder", lambda: sources.weights("minilm")),
        look("glue", sources.glue),
        sources.hub(),
        look("results", machine.results),
    ]
    found = {finding.name: finding for finding in findings}
    return findings + [_profile(profile, found) for profile in PROFILES.values()]


def _profile(profile: Profile, found: dict[str, Finding]) -> Finding:
    """Whether a profile can run, or what it lacks."""
    name = f"profile {profile.name}"
    needed = [*versions.SAID_APART, "packages", "other packages", "jupyter kernel", "results"]
    lacks = [need for need in needed if need in found and found[need].status == "missing"]
    if checkout_root() is None:
        lacks.append("the notebooks, which only a checkout has")
    # An encoder without a finding of its own comes from the hub, and so does a task without files.
    if found.get(f"{profile.model} encoder", found["hub"]).status != "ok":
        lacks.append(f"the encoder {profile.model}")
    if found["hub"].status != "ok":
        local = sources.local_tasks() if found["glue"].status == "ok" else []
        brought = [task for task in profile.tasks if not task.startswith("micro-")]
        lacks += [f"the task {task}" for task in brought if task not in local]
    if lacks:
        return Finding(name, "missing", f"{profile.description}; lacks {', '.join(lacks)}")
    if "GPU" in profile.hardware and found["gpu"].status != "ok":
        return Finding(name, "limited", f"{profile.description}; meant for {profile.hardware}")
    return Finding(name, "ok", profile.description)
