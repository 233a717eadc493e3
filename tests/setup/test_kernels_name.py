"""Our folder ``kernels`` never gets in the way of the PyPI package of that name."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from transformers.utils.import_utils import KERNELS_MIN_VERSION

REPOSITORY = Path(__file__).resolve().parents[2]

# Stands for the PyPI package: every name exists, every call gives a decorator that changes nothing.
PYPI_KERNELS = """
import sys
class _Anything:
    def __call__(self, *args, **kwargs):
        return lambda target: target
    def __getattr__(self, name):
        return _Anything()
    def __or__(self, other):
        return self
def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return _Anything()
"""

PROBE = """
import sys
import torch
from transformers import BertConfig, BertModel
from transformers.utils.import_utils import is_kernels_available
torch.set_num_threads(1)
model = BertModel(BertConfig(vocab_size=50, hidden_size=16, num_hidden_layers=2,
                             num_attention_heads=2, intermediate_size=32))
model(torch.zeros(1, 4, dtype=torch.long))
import fedquad.kernels
from pathlib import Path
assert Path(fedquad.kernels.__file__).resolve() == Path(sys.argv[1]), fedquad.kernels.__file__
print("available" if is_kernels_available() else "absent")
if is_kernels_available():
    import kernels
    from kernels import layer
    print(kernels.__file__)
"""


def install_pypi_kernels(folder: Path) -> Path:
    """Lay out a package ``kernels`` with metadata, as pip would."""
    package = folder / "kernels"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(PYPI_KERNELS)
    (package / "layer.py").write_text("")
    info = folder / f"kernels-{KERNELS_MIN_VERSION}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: kernels\nVersion: {KERNELS_MIN_VERSION}\n"
    )
    (info / "RECORD").write_text("kernels/__init__.py,,\nkernels/layer.py,,\n")
    return package


@pytest.mark.parametrize("with_package", [False, True], ids=["without-package", "with-package"])
@pytest.mark.parametrize(
    "from_repository",
    [
        pytest.param(True, id="repository-root"),
        pytest.param(False, id="elsewhere", marks=pytest.mark.slow),
    ],
)
def test_transformers_and_ours_both_work(tmp_path, with_package, from_repository):
    site = tmp_path / "site"
    package = install_pypi_kernels(site) if with_package else None
    search_path = [str(REPOSITORY)] if from_repository else []
    search_path += [str(site)] if with_package else []
    folder = REPOSITORY if from_repository else tmp_path

    # `-c` puts the working directory first on sys.path, as a notebook and `python -m` do.
    run = subprocess.run(
        [sys.executable, "-c", PROBE, str(REPOSITORY / "kernels" / "__init__.py")],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(search_path)},
        capture_output=True,
        text=True,
        timeout=300,
    )

    assert run.returncode == 0, run.stderr
    expected = ["available", str(package / "__init__.py")] if with_package else ["absent"]
    assert run.stdout.split("\n")[:-1] == expected


def test_a_broken_package_says_so_itself(tmp_path):
    """Handing over must not hide an error inside the other package."""
    package = install_pypi_kernels(tmp_path)
    (package / "__init__.py").write_text("raise RuntimeError('broken on purpose')")
    run = subprocess.run(
        [sys.executable, "-c", "import kernels"],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 1
    assert "RuntimeError: broken on purpose" in run.stderr
