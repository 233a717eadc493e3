"""pyproject.toml (ranges), requirements.lock (exact) and environment.yml (conda) agree."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

REPOSITORY = Path(__file__).resolve().parents[2]
PYPROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
# What environment.yml is for; the lock file also serves other systems, by markers.
LINUX = {"python_version": "3.11", "python_full_version": "3.11.7", "sys_platform": "linux"}
LINUX |= {"platform_system": "Linux", "platform_machine": "x86_64", "os_name": "posix"}
LINUX |= {"implementation_name": "cpython", "extra": ""}


def read_requirements(name: str) -> list[Requirement]:
    """Requirements of a pip file, comments and hashes left out."""
    text = (REPOSITORY / name).read_text().replace("\\\n", " ")
    lines = (line.split("#")[0].split("--hash")[0].strip() for line in text.splitlines())
    return [Requirement(line) for line in lines if line]


def exact_versions() -> dict[str, str]:
    """Name and version of everything that `make setup` installs on Linux with Python 3.11."""
    pinned = {}
    for requirement in read_requirements("requirements.lock") + read_requirements(
        "requirements-torch.txt"
    ):
        if requirement.marker is None or requirement.marker.evaluate(LINUX):
            (only,) = requirement.specifier
            assert only.operator == "==", requirement
            name = canonicalize_name(requirement.name)
            assert name not in pinned, f"{name} is pinned twice"
            pinned[name] = only.version
    return pinned


# Extras that ask for older versions than the others; pyproject.toml says of what.
NOT_LOCKED = ("flower",)


def declared() -> dict[str, Requirement]:
    """Direct dependencies of pyproject.toml that are locked, those of the extras too."""
    project = PYPROJECT["project"]
    extras = project["optional-dependencies"]
    lists = [project["dependencies"]]
    lists += [lines for name, lines in extras.items() if name not in NOT_LOCKED]
    requirements = [Requirement(line) for lines in lists for line in lines]
    return {canonicalize_name(requirement.name): requirement for requirement in requirements}


def test_lock_holds_every_dependency_within_its_range():
    pinned = exact_versions()
    for name, requirement in declared().items():
        assert name in pinned, f"{name} is not in the lock file: run `make lock`"
        assert requirement.specifier.contains(pinned[name]), (requirement, pinned[name])


def test_environment_has_the_locked_versions():
    environment = yaml.safe_load((REPOSITORY / "environment.yml").read_text())
    python, _, pip = environment["dependencies"]
    assert f">={python.removeprefix('python=')}" == PYPROJECT["project"]["requires-python"]

    pinned = exact_versions()
    expected = [f"{name}=={pinned[name]}" for name in sorted(declared())]
    expected = [line + "; sys_platform == 'linux'" * line.startswith("triton") for line in expected]
    expected.append("-e .")
    as_lines = "\n".join(f"      - {line}" for line in expected)
    assert pip["pip"] == expected, f"environment.yml should list\n{as_lines}"


def test_lock_names_no_place_to_download_from():
    text = (REPOSITORY / "requirements.lock").read_text()
    assert not re.search(r"https?://|index-url|find-links|file:", text)


def test_lock_is_hashed_and_torch_apart():
    text = (REPOSITORY / "requirements.lock").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert all("--hash=sha256:" in line for line in lines)
    names = {requirement.name for requirement in read_requirements("requirements.lock")}
    # Whatever torch needs beyond these is the CUDA libraries of a CUDA build.
    torch_needs = {"filelock", "fsspec", "jinja2", "networkx", "setuptools", "sympy", "triton"}
    assert torch_needs | {"typing-extensions"} <= names
    assert not {name for name in names if name.startswith(("nvidia", "cuda", "torch"))}


def test_uv_resolves_for_the_torch_that_is_installed():
    (torch,) = read_requirements("requirements-torch.txt")
    assert [Requirement(line) for line in PYPROJECT["tool"]["uv"]["constraint-dependencies"]] == [
        torch
    ]


def test_citation_and_package_have_one_version():
    import fedquad

    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    assert citation["version"] == fedquad.__version__ == importlib.metadata.version("fedquad")
    Version(fedquad.__version__)


def imported_modules(folder: Path) -> set[str]:
    names = set().union(*(imported_modules_of(path) for path in folder.rglob("*.py")))
    return names - set(sys.stdlib_module_names) - {"fedquad"}


def imported_modules_of(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("folder", ["fedquad", "kernels"])
def test_what_is_imported_is_declared(folder):
    project = {canonicalize_name(Requirement(d).name) for d in PYPROJECT["project"]["dependencies"]}
    distributions = importlib.metadata.packages_distributions()
    for module in imported_modules(REPOSITORY / folder) - OF_FLOWER:
        providers = {canonicalize_name(name) for name in distributions[module]}
        assert providers & project, f"{module} is imported, {providers} not declared"


# An extra, which need not be installed here: its modules by name.
OF_FLOWER = {"flwr", "cryptography"}


def test_flower_is_an_extra_that_nothing_else_imports():
    declared = PYPROJECT["project"]["optional-dependencies"]["flower"]
    assert {canonicalize_name(Requirement(line).name) for line in declared} == OF_FLOWER
    for path in (REPOSITORY / "fedquad").rglob("*.py"):
        if path.parent.name != "flower":
            found = imported_modules_of(path)
            assert not found & OF_FLOWER, path


def test_every_room_is_packaged():
    """A new package of the library must be listed in pyproject.toml, or wheels lack it."""
    setuptools = PYPROJECT["tool"]["setuptools"]
    folders = {"fedquad": "fedquad", **setuptools["package-dir"]}
    found = {}
    for package, folder in folders.items():
        for path in (REPOSITORY / folder).rglob("*.py"):
            inside = path.parent.relative_to(REPOSITORY / folder).parts
            found[".".join((package, *inside))] = path.parent
    assert set(setuptools["packages"]) == set(found)
    assert setuptools["packages"] == sorted(setuptools["packages"])
    for package, folder in found.items():
        assert (folder / "__init__.py").is_file(), package
