"""What frozen parameters say of hyperparameters that they share with trainable ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from bayes_htr.errors import PriorError
from bayes_htr.inference.guides.spectrum_law import Given
from bayes_htr.models.matrix_prior import DensityTerm, spectrum_of
from bayes_htr.models.placed import PlacedParameter


class Constants(nn.Module):
    """The values that laws with hyperparameters score in frozen parameters.

    It has no state of its own: the values are those of the network.

    Args:
        placed: The frozen parameters with their densities.

    Raises:
        PriorError: A value where its law has no density.
    """

    def __init__(self, placed: Sequence[PlacedParameter]) -> None:
        super().__init__()
        self.terms: list[DensityTerm] = []
        for p in placed:
            for name, W in p.split(p.parameter.tensor.detach()).items():
                (prior,) = (m.prior for m in p.matrices if m.prior.name == name)
                for term in (*prior.spectral, *prior.entries):
                    if term.latents:
                        self._add(term, name, W)

    def _add(self, term: DensityTerm, name: str, W: Tensor) -> None:
        x = _statistic(term, W)
        like = {latent.name: latent.value(x.new_zeros(())) for latent in term.latents.values()}
        if not bool(term.law(like, x).support.check(x).all()):
            raise PriorError(
                f"{name} is frozen and has values outside of the support of {term.statistic!r}, "
                "which so says nothing of its hyperparameters; give it another prior, or train it"
            )
        self.register_buffer(f"values{len(self.terms)}", x, persistent=False)
        self.terms.append(term)

    def scored(self) -> Iterator[tuple[DensityTerm, Tensor]]:
        """Each law, and the values that it scores: `(count,)` float64."""
        for i, term in enumerate(self.terms):
            yield term, self.get_buffer(f"values{i}")

    def energy(self, given: Given) -> Tensor:
        """`-E log p` of all values, 0-d float64, with gradient to the hyperparameters."""
        total = torch.zeros((), dtype=torch.float64)
        for term, x in self.scored():
            energy = -given.log_prob(term, x).sum()
            total = total.to(energy.device) + energy
        return total


def _statistic(term: DensityTerm, W: Tensor) -> Tensor:
    if not term.statistic.of_spectrum:
        return W.flatten().double()
    return term.statistic.of_eigenvalues(spectrum_of(W))
