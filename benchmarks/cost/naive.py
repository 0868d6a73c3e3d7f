"""The same priors as anyone would write them: all singular values, and autograd through them.

Every step computes `torch.linalg.svdvals`, a formula on the squares, and `backward`. The energies
of the library are compared with these in time, and in float64 their gradients are checked by them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

import bayes_htr as htr


def hill(lam: Tensor) -> Tensor:
    """Hill's exponent of the upper half of a descending spectrum `(K,)`."""
    k = max(1, len(lam) // 2)
    return 1 + k / (lam[:k] / lam[k]).log().sum()


def frechet(lam: Tensor) -> Tensor:
    """Return `MaxEigenvalue(Frechet(2, 1))`."""
    return 3 * lam[0].log() + lam[0] ** -2


def lomax(lam: Tensor) -> Tensor:
    """Return `ESD(Lomax(2, 1))`."""
    return 2 * lam.log1p().sum()


def powerlaw(lam: Tensor) -> Tensor:
    """Return `ESD(ImproperPowerlaw(Hill()), tail=0.5)`: the exponent counts as a constant."""
    return hill(lam).detach() * lam[: max(1, len(lam) // 2)].log().sum()


def weighted_alpha(lam: Tensor) -> Tensor:
    """Return `penalties.weighted_alpha()`: the exponent is differentiated too."""
    return hill(lam) * lam[0].log()


ENERGIES: dict[str, Callable[[Tensor], Tensor]] = {
    "frechet": frechet,
    "lomax": lomax,
    "powerlaw": powerlaw,
    "weighted_alpha": weighted_alpha,
}
"""The priors that are measured, by the names of `experiments.named_priors`."""

TOP_ALONE = frozenset({"frechet"})
"""The priors whose gradient acts through the largest singular value alone."""


class NaiveEnergy:
    """The energy of every matrix of a network.

    Args:
        name: A key of `ENERGIES`.
        priors: The priors of that name in the library, for their strength.
        net: The network.
        dtype: The type that it is computed in.

    Attributes:
        weights: The matrices by name.
    """

    def __init__(
        self, name: str, priors: htr.Priors, net: nn.Module, dtype: torch.dtype = torch.float32
    ) -> None:
        self.weights = {n: p for n, p in net.named_parameters() if p.ndim > 1}
        self._energy = ENERGIES[name]
        self._strength = priors.strength
        self._dtype = dtype

    def __call__(self) -> Tensor:
        """Return the energy, 0-d, with a graph."""
        spectra = (
            torch.linalg.svdvals(W.flatten(1).to(self._dtype)) ** 2 for W in self.weights.values()
        )
        return self._strength * torch.stack([self._energy(lam) for lam in spectra]).sum()

    def gradients(self) -> dict[str, Tensor]:
        """Return the gradient with respect to each matrix, by name."""
        found = torch.autograd.grad(self(), list(self.weights.values()))
        return dict(zip(self.weights, found, strict=True))

    def line(self, scale: float) -> Callable[[Tensor], None]:
        """Return the line of a training loop under this energy."""

        def backward(loss: Tensor) -> None:
            (loss + self() * scale).backward()

        return backward
