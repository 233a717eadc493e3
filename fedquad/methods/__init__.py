"""Federated methods, each one file against the contract of `fedquad.methods.method`.

To add one, put a file with a subclass of `Method` that has a ``name`` in this
folder, or anywhere else and name it ``module:Class``.
"""

from fedquad.methods.method import Accumulator, History, LocalUpdate, Method, MethodSetting
from fedquad.methods.registry import METHODS, create_method, find_method, normalised_options

__all__ = [
    "METHODS",
    "Accumulator",
    "History",
    "LocalUpdate",
    "Method",
    "MethodSetting",
    "create_method",
    "find_method",
    "normalised_options",
]
