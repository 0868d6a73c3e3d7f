"""The parameters of a network with their densities, and how a parameter is put together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bayes_htr.engine.latents import Latent
from bayes_htr.errors import PriorError
from bayes_htr.models.matrix_prior import DensityTerm, MatrixPrior
from bayes_htr.priors import Assignment, Prior, Priors, factor_at
from bayes_htr.spectra import Parameter


@dataclass(frozen=True)
class PlacedMatrix:
    """A matrix with its density, and where its entries are in the parameter.

    Attributes:
        prior: The density.
        place: Where they are in the flat parameter: a slice where the matrix lies in one piece and
            in order, which makes it a view; else `(m, n)`, the place of each entry.
    """

    prior: MatrixPrior
    place: slice | Tensor

    def of(self, tensor: Tensor) -> Tensor:
        """The matrix in a parameter `(..., *shape)` whose last dimensions are `shape`, flat."""
        found = tensor[..., self.place]
        return found.unflatten(-1, self.prior.shape) if isinstance(self.place, slice) else found

    def to(self, device: torch.device) -> PlacedMatrix:
        """The same for tensors on a device."""
        if isinstance(self.place, slice):
            return self
        return replace(self, place=self.place.to(device))

    @property
    def places(self) -> Tensor:
        """The place of each entry, `(m n,)`."""
        if isinstance(self.place, slice):
            return torch.arange(self.place.start, self.place.stop)
        return self.place.flatten()


def _place(index: Tensor) -> slice | Tensor:
    """Where entries are that have the places `index`, `(m, n)`."""
    start = int(index[0, 0]) if index.numel() else 0
    place = slice(start, start + index.numel())
    in_order = torch.equal(index.flatten(), torch.arange(place.start, place.stop))
    return place if in_order else index


@dataclass(frozen=True)
class PlacedParameter:
    """A trainable parameter with the densities of its matrices; none where it is flat.

    Attributes:
        parameter: The parameter.
        matrices: Its matrices; a vector counts as one row.
    """

    parameter: Parameter
    matrices: tuple[PlacedMatrix, ...]

    @property
    def name(self) -> str:
        """The parameter's name."""
        return self.parameter.name

    @property
    def shape(self) -> torch.Size:
        """The parameter's shape."""
        return self.parameter.tensor.shape

    def split(self, tensor: Tensor) -> dict[str, Tensor]:
        """The matrices in a tensor `(..., *shape)` by name."""
        flat = tensor.reshape(*tensor.shape[: tensor.ndim - len(self.shape)], -1)
        return {m.prior.name: m.of(flat) for m in self.matrices}

    def join(self, matrices: Mapping[str, Tensor]) -> Tensor:
        """The parameter `(..., *shape)` that holds matrices `(..., m, n)`: inverse of `split`."""
        parts = [matrices[m.prior.name].flatten(-2) for m in self.matrices]
        flat = parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
        if self._order is not None:
            flat = flat[..., self._order]
        return flat.reshape(flat.shape[:-1] + self.shape)

    @cached_property
    def _order(self) -> Tensor | None:
        """Where each entry of the parameter is in its matrices; `None` where they are in order."""
        if len(self.matrices) == 1 and isinstance(self.matrices[0].place, slice):
            return None
        indices = [m.place for m in self.matrices if isinstance(m.place, Tensor)]
        places = torch.cat([m.places.cpu() for m in self.matrices])
        if torch.equal(places, torch.arange(len(places))):
            return None
        order = places.argsort()
        return order.to(indices[0].device) if indices else order

    def log_density(self, tensor: Tensor, values: Mapping[str, Tensor]) -> Tensor:
        """The log density of the parameter in weight coordinates."""
        total = tensor.new_zeros(tensor.shape[: tensor.ndim - len(self.shape)])
        split = self.split(tensor)
        for m in self.matrices:
            total = total + m.prior.log_density(split[m.prior.name], values)
        return total


_FEW_ENTRIES = 10_000

Scored = tuple[DensityTerm, list[tuple[int, str]]]
"""A law of entries, and for each matrix that has it the place of its parameter and its name."""


def scored_together(
    placed: Sequence[PlacedParameter],
) -> list[Scored]:
    """The laws of entries, each with the matrices whose entries it is to score in one call.

    Small ones are taken together, since many calls cost more than the numbers; large ones are not,
    since putting them together would copy them.
    """
    small: list[Scored] = []
    large: list[Scored] = []
    for i, p in enumerate(placed):
        for m in p.matrices:
            for term in m.prior.entries:
                place = (i, m.prior.name)
                if math.prod(m.prior.shape) > _FEW_ENTRIES:
                    large.append((term, [place]))
                elif (alike := next((x for law, x in small if law == term), None)) is not None:
                    alike.append(place)
                else:
                    small.append((term, [place]))
    return small + large


class Placed(NamedTuple):
    """The parameters of a network with their densities.

    Attributes:
        trainable: The trainable ones.
        informing: The frozen ones that share hyperparameters with these, and so inform them.
    """

    trainable: list[PlacedParameter]
    informing: list[PlacedParameter]


def placed_parameters(priors: Priors, net: nn.Module, epoch: int | None) -> Placed:
    """The parameters of a network with their densities.

    Args:
        priors: The priors.
        net: The network.
        epoch: Counted from 0; needed where a prior is scheduled.

    Raises:
        PriorError: A prior that is no density (`MatrixPrior.of`), or a threshold on the sum of all.
    """
    assignments = priors.resolve(net)
    if priors.threshold is not None:
        names = ", ".join(a.parameter.name for a in assignments if a.prior is not None)
        raise PriorError(
            f"{names}: {priors!r} acts only above a threshold and is no density; leave out "
            ".above(...), as in Priors(ESD(Lomax(2.0))), or use htr.MAP"
        )
    strength = priors.strength * factor_at(priors.schedules, epoch)
    trainable = [_placed(a, strength, epoch) for a in assignments if _requires_grad(a)]
    frozen = [
        _placed(a, strength, epoch)
        for a in assignments
        if not _requires_grad(a) and _has_latents(a.prior)
    ]
    shared = latents_of_all(trainable).keys()
    return Placed(trainable, [p for p in frozen if latents_of_all([p]).keys() & shared])


def _placed(a: Assignment, strength: float, epoch: int | None) -> PlacedParameter:
    matrices = []
    if a.prior is not None:
        tensor = a.parameter.tensor
        places = torch.arange(tensor.numel()).reshape(tensor.shape)
        views = {m.name: m.view(places) for m in a.parameter.matrices}
        for name, index in (views or {a.parameter.name: places.reshape(1, -1)}).items():
            shape = (index.shape[0], index.shape[1])
            prior = MatrixPrior.of(a.prior, name, shape, strength, epoch, vector=not views)
            if prior.spectral or prior.entries:
                matrices.append(PlacedMatrix(prior, _place(index)))
    return PlacedParameter(a.parameter, tuple(matrices))


def _requires_grad(a: Assignment) -> bool:
    return a.parameter.tensor.requires_grad


def _has_latents(prior: Prior | None) -> bool:
    return prior is not None and any(t.statistic.law.latents for t in prior.terms)


def latents_of_all(parameters: list[PlacedParameter]) -> dict[str, Latent]:
    """The hyperparameters of all matrices by name."""
    return {
        name: latent
        for p in parameters
        for m in p.matrices
        for name, latent in m.prior.latents.items()
    }


def informing_values(parameters: list[PlacedParameter]) -> dict[str, float]:
    """From how many values each hyperparameter is inferred; under `p^s` one counts `s` times."""
    counts: dict[str, float] = {}
    for matrix in (m for p in parameters for m in p.matrices):
        for name, count in matrix.prior.informing_values().items():
            counts[name] = counts.get(name, 0.0) + count
    return counts
