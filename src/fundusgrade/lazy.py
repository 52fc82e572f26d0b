"""Lazy import of the public names of a package."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module


def lazy_attributes(package: str, modules: Mapping[str, str]) -> Callable[[str], object]:
    """The `__getattr__` of a package (PEP 562) whose public names, the keys, are defined in the modules named.

    PyTorch takes seconds to import and OpenCV a fraction of one; help is fast because a command imports only what it
    needs. The function raises AttributeError for any other name, as Python expects.
    """

    def get(name: str) -> object:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{modules[name]}"), name)

    return get
