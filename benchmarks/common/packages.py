"""Optional packages of peers, which are imported where a benchmark needs them.

Some are under the GPL. The library may depend on none of them.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Package:
    """A package of the extra `peers`.

    Attributes:
        module: What is imported.
        name: What pip installs.
    """

    module: str
    name: str

    def load(self) -> Any:
        """Import the module, and return it.

        Raises:
            ImportError: The package is not installed, or one that it needs fails to load; the
                message says how to install it.
        """
        try:
            return importlib.import_module(self.module)
        except (ImportError, RuntimeError) as error:  # a torchvision for another torch has the last
            raise ImportError(
                f'this method needs {self.name}: pip install "bayes-htr[peers]" ({error})'
            ) from error


IVON = Package("ivon", "ivon-opt")
LAPLACE = Package("laplace", "laplace-torch")
