"""The methods by name: found by being defined, made from a run's settings."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from fedquad.config import InputError
from fedquad.methods.method import REGISTERED, Method, MethodSetting

# The paper's order, in tables, figures and on the command line.
_FIRST = (
    "fedquad",
    "fedquad-no-qd",
    "fedquad-no-ld",
    "fedlora",
    "fedra",
    "inclusivefl",
    "layersel",
    "hetlora",
)

METHODS: Mapping[str, type[Method]] = MappingProxyType(REGISTERED)
"""Name to class: the paper's methods in its order, then others as they were defined."""


def find_method(name: str) -> type[Method]:
    """The class of a method.

    Parameters
    ----------
    name : str
        A name in `METHODS`, or ``module:Class`` of a method outside of the package
        that can be imported, so that workers find it too.

    Raises
    ------
    InputError
        No such method; the message lists the known ones.
    """
    if name in METHODS:
        return METHODS[name]
    module, is_path, class_name = str(name).partition(":")
    if not is_path:
        accepted = f"one of {', '.join(METHODS)}; or module:Class of a method of your own"
        raise InputError("method", name, accepted)
    try:
        found = getattr(importlib.import_module(module), class_name, None)
    except (ImportError, ValueError) as error:
        raise InputError("method", name, f"a module that can be imported ({error})") from error
    is_method = isinstance(found, type) and issubclass(found, Method)
    if not is_method or "name" not in vars(found):
        accepted = "module:Class, the class a subclass of fedquad.methods.Method with a name"
        raise InputError("method", name, accepted)
    return found


def normalised_options(name: str, options: Mapping[str, float]) -> tuple[tuple[str, float], ...]:
    """The options that differ from the method's defaults, sorted by name.

    So an option that is spelled out at its default is the same run.

    Raises
    ------
    InputError
        No such method or option; the message lists the known ones.
    """
    defaults = find_method(name).defaults
    for option in options:
        if option not in defaults:
            known = ", ".join(f"{key} (default {value:g})" for key, value in defaults.items())
            accepted = f"options of {name}: {known or 'it has none'}"
            raise InputError("method option", option, accepted)
    changed = {key: float(value) for key, value in options.items() if value != defaults[key]}
    return tuple(sorted(changed.items()))


def create_method(
    name: str, setting: MethodSetting, options: Mapping[str, float] = MappingProxyType({})
) -> Method:
    """A fresh method under a run's settings.

    Raises
    ------
    InputError
        No such method or option, or an option out of its range.
    """
    return find_method(name)(setting, **dict(normalised_options(name, options)))


def import_methods_of(folders: Iterable[str], package: str) -> None:
    """Import every module in a package's folders, and put the paper's methods first."""
    for module in pkgutil.iter_modules(folders, prefix=f"{package}."):
        importlib.import_module(module.name)
    for name in (*_FIRST, *(name for name in list(REGISTERED) if name not in _FIRST)):
        if name in REGISTERED:
            REGISTERED[name] = REGISTERED.pop(name)


import_methods_of(sys.modules[__package__].__path__, __package__)
