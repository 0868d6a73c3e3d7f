"""What becomes of a network after its priors were bound.

A scored parameter that is replaced is scored anew at the next call, and one that is gone is an
error (`MatrixEnergy.update`). One that is frozen becomes a constant, which is left out until it is
trainable again. What is noticed here is a parameter that comes to the network: if it has a prior,
the energy would lack it without a word.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from bayes_htr.errors import PriorError
from bayes_htr.priors import ParameterPrior, Priors


class NetworkWatch:
    """Notices parameters that a network gets.

    Args:
        priors: The priors.
        resolved: What they were resolved to.
        root: The unwrapped network.
    """

    def __init__(self, priors: Priors, resolved: Iterable[ParameterPrior], root: nn.Module) -> None:
        self._priors = priors
        self._names = {p.name for p in resolved}
        self._count = _count_parameters(root)

    def check(self, root: nn.Module) -> None:
        """Look at the network again, at the price of a count if nothing has come.

        Raises:
            PriorError: A new parameter has a prior.
        """
        count = _count_parameters(root)
        if count == self._count:
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
        self._count = count


def _count_parameters(root: nn.Module) -> int:
    """How many parameters the modules of a network have; those of shared modules count again."""
    count, modules = 0, [root]
    while modules:
        module = modules.pop()
        count += sum(p is not None for p in module._parameters.values())
        modules += [m for m in module._modules.values() if m is not None]
    return count
