"""What `fedquad.kernels` gives, and what it costs to import it."""

from __future__ import annotations

import subprocess
import sys

import pytest

import fedquad.kernels

LAZY = """
import sys
import fedquad.kernels
print([name for name in ("torch", "triton", "numpy") if name in sys.modules])
"""

WITHOUT_TRITON = """
import sys
sys.modules["triton"] = None  # what makes importing it fail
import torch
from fedquad.kernels import dequantize_blocks, pack_bits, quantize_blocks, unpack_bits
from fedquad.kernels.language import has_triton
assert not has_triton()
x = torch.tensor([[127.0, -3.0]])
assert torch.equal(dequantize_blocks(*quantize_blocks(x), cols=2), x)
assert torch.equal(unpack_bits(pack_bits(x > 0), 2), x[0] > 0)
"""


def run(code):
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=100
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_importing_the_package_imports_neither_torch_nor_triton():
    assert run(LAZY) == "[]"


def test_the_reference_runs_where_there_is_no_triton():
    run(WITHOUT_TRITON)


@pytest.mark.parametrize("name", fedquad.kernels.__all__)
def test_every_public_name_is_a_function_with_a_docstring(name):
    function = getattr(fedquad.kernels, name)
    assert function.__name__ == name
    assert function.__doc__
    assert name in dir(fedquad.kernels)


def test_other_names_are_errors():
    with pytest.raises(AttributeError, match=r"'fedquad\.kernels' has no attribute 'nothing'"):
        _ = fedquad.kernels.nothing
