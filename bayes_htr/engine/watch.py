"""What becomes of a network after its priors were bound.

A scored parameter that is replaced is scored anew at the next call, and one that is gone is an
error (`MatrixEnergy.update`). One that is frozen becomes a constant, which is left out until it is
trainable again. What is noticed here is a parameter that comes to the network: if it has a prior,
the energy would lack it without a word. One in a module that was there is noticed at the next call,
and one in a module that has taken the place of another within 16 calls.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn

from bayes_htr.errors import PriorError
from bayes_htr.priors import ParameterPrior, Priors

_EVERY = 16
"""After so many calls all modules are looked at again."""


class NetworkWatch:
    """Notices parameters that a network gets.

    Args:
        priors: The priors.
        resolved: What they were resolved to.
        root: The unwrapped network.
    """

    _members: Sequence[dict[str, Any]]

    def __init__(self, priors: Priors, resolved: Iterable[ParameterPrior], root: nn.Module) -> None:
        self._priors = priors
        self._calls = 0
        self._names = {p.name for p in resolved}
        self._look(root)

    def check(self, root: nn.Module) -> None:
        """Look at the network again, at the price of a count if nothing has come.

        Raises:
            PriorError: A new parameter has a prior.
        """
        self._calls += 1
        is_same_size = sum(map(len, self._members)) == self._size
        if is_same_size and (self._calls % _EVERY or _count_parameters(root) == self._count):
            return
        new = [
            p.name
            for p in self._priors.resolve(root)
            if p.name not in self._names and p.prior is not None
        ]
        if new:
            raise PriorError(
                f"{', '.join(new)} came to the network after its priors were bound, and has a "
                "prior that the energy lacks; bind the priors again"
            )
        self._look(root)

    def _look(self, root: nn.Module) -> None:
        """Remember how many members the network has."""
        self._count = _count_parameters(root)
        modules = list(root.modules())
        self._members = [m._parameters for m in modules] + [m._modules for m in modules]
        self._size = sum(map(len, self._members))

    def __getstate__(self) -> dict[str, Any]:
        """Without the members of the network, which a copy looks up in its own."""
        return self.__dict__ | {"_members": (), "_size": -1}


def _count_parameters(root: nn.Module) -> int:
    """How many parameters the modules of a network have; those of shared modules count again."""
    count, modules = 0, [root]
    while modules:
        module = modules.pop()
        count += sum(p is not None for p in module._parameters.values())
        modules += [m for m in module._modules.values() if m is not None]
    return count
