"""Names of a package that are imported when they are asked for (PEP 562)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy(
    package: str, names: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package whose modules are imported one by one.

    No module of the package may have one of the names: once imported, it would stand in the
    package under that name.

    Args:
        package: The package.
        names: By module of the package, the names that it is asked for, separated by blanks. The
            modules can be asked for too. A module with a dot is one outside the package.
    """
    paths = {module: module if "." in module else f"{package}.{module}" for module in names}
    where = {name: paths[module] for module, found in names.items() for name in found.split()}

    def get(name: str) -> Any:
        if name in where:
            value = getattr(import_module(where[name]), name)
            setattr(sys.modules[package], name, value)
            return value
        if name in paths and "." not in name:
            return import_module(paths[name])
        raise AttributeError(
            f"module {package!r} has no attribute {name!r}", name=name, obj=sys.modules[package]
        )

    def listed() -> list[str]:
        return sorted({*vars(sys.modules[package]), *where, *(m for m in paths if "." not in m)})

    return get, listed
