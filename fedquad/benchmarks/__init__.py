"""Measured times and bytes of kernels, a layer and models: ``python -m fedquad.benchmarks``.

Runs from a plain checkout with torch, triton and transformers, nothing
installed or fetched; imports nothing of the command line or the notebooks.
"""
