"""Every kernel compiles for GPUs that are not here, with vector loads and stores."""

from __future__ import annotations

import ast
import importlib
import json
import os
import pkgutil
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import fedquad.kernels

pytest.importorskip("triton", reason="Triton has wheels for Linux only")

FOLDER = Path(fedquad.kernels.__file__).parent
PROGRAM = Path(__file__).with_name("compile_variants.py")

# What a thread moves through one pointer with narrow accesses before they are a tile's: scales,
# statistics, a bias or a row of a mask are a few 32-bit words, times the stages of a loop.
FEW_WORDS = 16
FEW_BYTES = 8


def global_accesses(ptx, arguments):
    """Bits that each load and store moves at once: {(argument, "load" or "store"): [bits, ...]}.

    A pointer is followed from its parameter through the 64-bit registers that are computed from it.
    """
    sources = {}
    accesses = {}

    def source(registers):
        return next((sources[name] for name in registers if name in sources), None)

    lines = [line.split("//")[0].strip() for line in ptx.splitlines()]
    for line in lines:
        if parameter := re.search(r"ld\.param\S*\s+(%rd\d+), \[\w+_param_(\d+)\]", line):
            register, place = parameter[1], int(parameter[2])
            if place < len(arguments):
                sources[register] = arguments[place]
        elif access := re.search(r"\b(ld|st)\.global((?:[.:]+\w+)*)[^\[]*\[\s*(%rd\d+)", line):
            width = int(re.search(r"\.[bfsu](\d+)$", access[2])[1])
            width *= int((re.search(r"\.v(\d)\.", access[2]) or (0, 1))[1])
            key = (source([access[3]]), "load" if access[1] == "ld" else "store")
            accesses.setdefault(key, []).append(width)
        elif copy := re.search(r"cp\.async\.c.*?\[.*?\[\s*(%rd\d+).*?\], (\w+)", line):
            accesses.setdefault((source([copy[1]]), "load"), []).append(8 * int(copy[2], 0))
        elif computed := re.match(r"(?:@!?%p\d+ )?\w+\S*\s+(%rd\d+),(.*);", line):
            origin = source(re.findall(r"%rd\d+", computed[2]))
            if origin is not None:
                sources.setdefault(computed[1], origin)
    return accesses


def narrow_accesses(accesses):
    """Of tiles, those that move 32 bits or less at once, as words for the message."""
    problems = []
    for (argument, kind), widths in accesses.items():
        narrow = [width for width in widths if width <= 32]
        allowed = 32 * FEW_WORDS if min(widths) == 32 else 8 * FEW_BYTES
        if sum(narrow) > allowed:
            counts = ", ".join(f"{n} of {width} bits" for width, n in Counter(widths).items())
            problems.append(f"{kind}s through {argument} are narrow: {counts} a thread")
    return problems


def kernels_of(path):
    """Functions of a file that are launched: jitted, and asking which program they are."""
    return {
        node.name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
        and any(isinstance(d, ast.Name) and d.id == "jit" for d in node.decorator_list)
        and any(isinstance(n, ast.Attribute) and n.attr == "program_id" for n in ast.walk(node))
    }


def test_every_kernel_has_a_variant_to_compile():
    listed = set()
    for info in pkgutil.iter_modules(fedquad.kernels.__path__):
        module = importlib.import_module(f"fedquad.kernels.{info.name}")
        kernels = [variant.kernel.fn for variant in getattr(module, "COMPILED", ())]
        listed |= {(kernel.__module__.rpartition(".")[2], kernel.__name__) for kernel in kernels}
    written = {(path.stem, name) for path in FOLDER.glob("*.py") for name in kernels_of(path)}
    assert ("block_kernels", "_quantize_kernel") in written
    missing = sorted(f"{name} of kernels/{module}.py" for module, name in written - listed)
    assert not missing, f"in no module's list COMPILED: {', '.join(missing)}"


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90])
def test_every_variant_compiles_and_moves_its_tiles_in_vectors(capability):
    run = subprocess.run(
        [sys.executable, str(PROGRAM), str(capability)],
        env={name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert run.returncode == 0, run.stderr
    failures = []
    results = json.loads(run.stdout)
    for result in results:
        problems = [result["error"]] if result["error"] else []
        if result["ptx"] and result["vectorised"]:
            accesses = global_accesses(result["ptx"], result["arguments"])
            problems += narrow_accesses(accesses)
            if not any(max(widths) > 32 for widths in accesses.values()):
                problems.append(f"nothing is wider than 32 bits: {accesses}")
            if any(argument is None for argument, _ in accesses):
                problems.append(f"an address comes from no argument: {accesses}")
        name = f"{result['module']}.{result['kernel']} on sm_{capability}"
        failures += [f"{name}: {problem}; of {result['variant']}" for problem in problems]
    if failures:
        pytest.fail("\n".join(failures), pytrace=False)  # whole: an assertion would shorten it
    assert len(results) > 20


PTX = """
	ld.param.b64 	%rd1, [kernel_param_0];
	ld.param.b64 	%rd2, [kernel_param_2];
	ld.param.b32 	%r7, [kernel_param_1];
	mad.wide.s32 	%rd3, %r7, 4, %rd1;
	add.s64 	%rd4, %rd2, %rd9;
	@%p1 ld.global.v4.b32 { %r1, %r2, %r3, %r4 }, [ %rd3 + 16 ];
	ld.global.L1::evict_last.b64 	%rd9, [%rd3];
	@%p3 cp.async.cg.shared.global [ %r1 + 0 ], [ %rd4 + 0 ], 0x10, %r3;
	@!%p2 st.global.b8 [ %rd4 + 0 ], { %rs1 };
	st.global.v2.b64 	[%rd4+8], {%rd5, %rd6};
"""


def test_accesses_are_read_from_ptx():
    assert global_accesses(PTX, ["x_ptr", "rows", "y_ptr"]) == {
        ("x_ptr", "load"): [128, 64],
        ("y_ptr", "load"): [128],
        ("y_ptr", "store"): [8, 128],
    }


def test_narrow_accesses_of_tiles_are_named():
    narrow = {("x_ptr", "load"): [32] * 32, ("scales_ptr", "load"): [32] * 3}
    narrow |= {("codes_ptr", "store"): [8] * 16}
    assert narrow_accesses(narrow) == [
        "loads through x_ptr are narrow: 32 of 32 bits a thread",
        "stores through codes_ptr are narrow: 16 of 8 bits a thread",
    ]
    assert not narrow_accesses({("x_ptr", "store"): [64] * 4, ("y_ptr", "load"): [128]})
