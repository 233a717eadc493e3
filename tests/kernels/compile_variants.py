"""Compile every variant of every kernel for one GPU architecture and print what came out as JSON.

Run as a program, by `test_compiles.py`: in the tests' own process the interpreter takes the
kernels' place.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
import sys
import traceback

import triton
from triton.backends.compiler import GPUTarget

import fedquad.kernels


def compile_variant(variant, capability):
    """PTX of a variant, after a cubin was made of it too."""
    names = variant.kernel.arg_names
    source = triton.compiler.ASTSource(
        fn=variant.kernel,
        signature={
            name: "constexpr" if name in variant.constants else variant.signature[name]
            for name in names
        },
        constexprs=dict(variant.constants),
        attrs={
            (place,): [["tt.divisibility", 16]]
            for place, name in enumerate(names)
            if name in variant.divisible_by_16
        },
    )
    target = GPUTarget("cuda", capability, 32)
    compiled = triton.compile(source, target=target, options={"num_warps": variant.num_warps})
    assert compiled.asm["cubin"]
    return compiled.asm["ptx"]


def main(capability):
    results = []
    for info in pkgutil.iter_modules(fedquad.kernels.__path__):
        module = importlib.import_module(f"fedquad.kernels.{info.name}")
        for variant in getattr(module, "COMPILED", ()):
            result = {
                "module": info.name,
                "kernel": variant.kernel.fn.__name__,
                "arguments": [n for n in variant.kernel.arg_names if n not in variant.constants],
                "variant": ", ".join(
                    f"{name}={variant.constants.get(name, variant.signature.get(name))}"
                    for name in variant.kernel.arg_names
                ),
                "vectorised": variant.vectorised,
                "ptx": "",
                "error": "",
            }
            try:
                result["ptx"] = compile_variant(variant, capability)
            except Exception:
                result["error"] = traceback.format_exc()
            results.append(result)
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main(int(sys.argv[1]))
