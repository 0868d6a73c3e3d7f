"""Names of a package that are imported when they are first used (PEP 562)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy(
    package: str, names: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return `__getattr__` and `__dir__` for a package whose modules are imported one by one.

    No module of the package may have the same name as one of these names. Once imported, the module
    would replace that name in the package.

    Args:
        package: The package.
        names: For each module of the package, the names that it provides, separated by blanks. The
            modules themselves are available too. A module name with a dot refers to a module
            outside the package.
    """
    paths = {module: module if "." in module else f"{package}.{module}" for module in names}
    where = {name: paths[module] for module, own in names.items() for name in own.split()}

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
