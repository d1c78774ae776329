"""Imports on first use: names of a package (PEP 562), and the error for a package that is not installed."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def lazy_names(package: str, homes: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The functions ``__getattr__`` and ``__dir__`` of a package; ``homes`` has the module that defines each name."""

    def find(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}; it has {', '.join(sorted(homes))}.")
        return getattr(importlib.import_module(homes[name]), name)

    return find, lambda: sorted(homes)


def not_installed(error: ImportError, what: str, install: str) -> ImportError:
    """The error for an optional package that is missing: ``what`` needs it, and what pip has to ``install``."""
    return ImportError(f"{error.name} is not installed; {what} needs it. Install it with: pip install '{install}'.")
