"""The priors of a network's parameters, as `Priors.resolve` returns them.

A parameter holds one matrix, several (as `in_proj_weight` does) or none. `ParameterPrior` splits a
parameter into its matrices and joins them again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bayes_htr.errors import PriorError
from bayes_htr.priors.law import Hyperparameter
from bayes_htr.priors.matrix_prior import MatrixPrior, ResolvedTerm, Values
from bayes_htr.priors.prior import Prior
from bayes_htr.spectra import Parameter


@dataclass(frozen=True)
class ParameterPrior:
    """The prior of one parameter of a network, and the priors of its matrices.

    Attributes:
        parameter: The parameter.
        prior: The parameter's prior, or that of its first matrix with a prior; `None` if the
            parameter has a flat prior.
        pattern: The pattern that gave the prior.
        note: The reason why the prior is flat, or the remark that it is a constant.
        matrices: The priors of the matrices that have one; a vector counts as a matrix with one
            row.
        flat: The reason, by name, for each matrix that has a flat prior although other matrices of
            the parameter have a prior.
    """

    parameter: Parameter
    prior: Prior | None = None
    pattern: str = ""
    note: str = ""
    matrices: tuple[MatrixPrior, ...] = ()
    flat: Mapping[str, str] = field(default_factory=dict, compare=False)
    _layouts: dict[torch.device, _Layout] = field(default_factory=dict, compare=False, repr=False)

    @property
    def name(self) -> str:
        """The parameter's name."""
        return self.parameter.name

    @property
    def shape(self) -> torch.Size:
        """The parameter's shape."""
        return self.parameter.tensor.shape

    @property
    def is_spectral(self) -> bool:
        """Whether the spectrum of one of its matrices has a law."""
        return any(matrix.spectral for matrix in self.matrices)

    @property
    def hyperparameters(self) -> dict[str, Hyperparameter]:
        """The hyperparameters of its matrices by name."""
        return {name: h for m in self.matrices for name, h in m.hyperparameters.items()}

    def density_at(self, epoch: int | None, *, adapters: bool = False) -> ParameterPrior:
        """Return this prior as densities at an epoch; it is flat if no term acts at that epoch.

        Args:
            epoch: Counted from 0; needed where a prior is scheduled.
            adapters: Whether the prior may be on the product of an adapter's factors.

        Raises:
            PriorError: The prior is not a density (`MatrixPrior.density_at`), only some of the
                parameter's matrices have a prior, or the network computes the weight from other
                parameters.
        """
        if self.matrices and self.parameter.computed is not None and not adapters:
            instead = (
                "Use htr.MAP or htr.bind, make the weight a parameter "
                "(parametrize.remove_parametrizations, remove_weight_norm, remove_spectral_norm, "
                "prune.remove)"
                if self.parameter.computed.adapter is None
                else "Use htr.SVI(guide='spectral'), htr.MAP or htr.bind"
            )
            raise PriorError(
                f"{self.name} is computed by the network from "
                f"{', '.join(self.parameter.computed.part_paths)}: {self.matrices[0].stated!r} is "
                f"no density of these parameters. {instead}, or leave it out: "
                f"{{{self.name!r}: None}}"
            )
        if 0 < len(self.matrices) < len(self.parameter.matrices):
            names = [m.name for m in self.matrices]
            flat = [m.name for m in self.parameter.matrices if m.name not in names]
            raise PriorError(
                f"{', '.join(flat)} has no prior, and {', '.join(names)} of the same parameter "
                "has one: a posterior takes all or none of them. Give the others a wide prior, "
                "such as Entries(Normal(0.0, 10.0)), or use htr.MAP"
            )
        densities = (matrix.density_at(epoch) for matrix in self.matrices)
        return replace(self, matrices=tuple(d for d in densities if d.terms), _layouts={})

    def without_values(self) -> ParameterPrior:
        """Return this prior with a parameter that has only a shape and no values."""
        empty = nn.Parameter(torch.empty_like(self.parameter.tensor, device="meta"))
        device = self.parameter.tensor.device
        parameter = replace(self.parameter, tensor=empty, matrices=())
        return replace(self, parameter=parameter, _layouts={device: self._layout(device)})

    def split(self, tensor: Tensor) -> dict[str, Tensor]:
        """Return the matrices in a tensor `(..., *shape)` by name, as views wherever possible."""
        flat = tensor.reshape(*tensor.shape[: tensor.ndim - len(self.shape)], -1)
        parts = {}
        for matrix, place in zip(self.matrices, self._layout(tensor.device).places, strict=True):
            part = flat[..., place]
            parts[matrix.name] = (
                part.unflatten(-1, matrix.shape) if isinstance(place, slice) else part
            )
        return parts

    def join(self, matrices: Mapping[str, Tensor]) -> Tensor:
        """Return the parameter `(..., *shape)` that holds these matrices `(..., m, n)`.

        It is the inverse of `split`.
        """
        parts = [matrices[m.name].flatten(-2) for m in self.matrices]
        flat = parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
        order = self._layout(flat.device).order
        if order is not None:
            flat = flat[..., order]
        return flat.reshape(flat.shape[:-1] + self.shape)

    def log_density(self, tensor: Tensor, values: Values) -> Tensor:
        """Return the log density `(...)` of the parameter `(..., *shape)` in weight coordinates."""
        total = tensor.new_zeros(tensor.shape[: tensor.ndim - len(self.shape)])
        parts = self.split(tensor)
        for matrix in self.matrices:
            total = total + matrix.log_density(parts[matrix.name], values)
        return total

    def _layout(self, device: torch.device) -> _Layout:
        if device not in self._layouts:
            positions = torch.arange(self.shape.numel()).reshape(self.shape)
            self._layouts[device] = _Layout.of([m.view(positions) for m in self.matrices], device)
        return self._layouts[device]


class _Layout(NamedTuple):
    """The positions of the entries of matrices in a flattened parameter.

    Attributes:
        places: For each matrix a slice, if its entries are contiguous and in order, so that the
            matrix is a view; otherwise the position of each entry, `(m, n)`.
        order: For each entry of the parameter its position in the concatenated matrices; `None` if
            the entries are in the same order.
    """

    places: list[slice | Tensor]
    order: Tensor | None

    @classmethod
    def of(cls, positions: Sequence[Tensor], device: torch.device) -> _Layout:
        """Return the layout of matrices whose entries have these positions, `(m, n)` each."""
        places = [_place(p, device) for p in positions]
        flat = torch.cat([p.flatten() for p in positions]) if positions else torch.arange(0)
        in_order = torch.equal(flat, torch.arange(len(flat)))
        return cls(places, None if in_order else flat.argsort().to(device))


def _place(positions: Tensor, device: torch.device) -> slice | Tensor:
    start = int(positions[0, 0]) if positions.numel() else 0
    place = slice(start, start + positions.numel())
    in_order = torch.equal(positions.flatten(), torch.arange(place.start, place.stop))
    return place if in_order else positions.to(device)


class Densities(NamedTuple):
    """The parameters of a network with their priors as densities, at one epoch.

    Attributes:
        trainable: The trainable parameters.
        frozen: The frozen parameters that share hyperparameters with the trainable ones, and
            are therefore evidence about them.
        adapters: The products of adapters' trainable factors that have a prior. These are densities
            of the nonzero eigenvalues of a product, not of the factors.
    """

    trainable: list[ParameterPrior]
    frozen: list[ParameterPrior]
    adapters: list[ParameterPrior]

    @classmethod
    def at(
        cls, resolved: Iterable[ParameterPrior], epoch: int | None, *, adapters: bool = False
    ) -> Densities:
        """Return the densities at an epoch, which is needed where a prior is scheduled.

        Args:
            resolved: The parameters and computed weights with their priors.
            epoch: Counted from 0.
            adapters: Whether priors on the products of adapters are accepted; otherwise they are an
                error.

        Raises:
            PriorError: A prior is no density.
        """
        resolved = list(resolved)
        products = []
        for p in resolved:
            computed = p.parameter.computed
            if computed is not None and p.parameter.tensor.requires_grad and p.matrices:
                taken = adapters and computed.adapter is not None
                products.append(p.density_at(epoch, adapters=taken))  # raises if it is not
        products = [p for p in products if p.matrices]
        resolved = [p for p in resolved if p.parameter.computed is None]
        is_trainable = [p.parameter.tensor.requires_grad for p in resolved]
        pairs = list(zip(resolved, is_trainable, strict=True))
        trainable = [p.density_at(epoch) for p, learns in pairs if learns]
        frozen = [p.density_at(epoch) for p, learns in pairs if not learns and p.hyperparameters]
        shared = hyperparameters_by_name([*trainable, *products]).keys()
        return cls(trainable, [p for p in frozen if p.hyperparameters.keys() & shared], products)


def hyperparameters_by_name(parameters: Iterable[ParameterPrior]) -> dict[str, Hyperparameter]:
    """Return the hyperparameters of all matrices by name."""
    return {name: h for p in parameters for name, h in p.hyperparameters.items()}


_FEW_ENTRIES = 10_000


def grouped_entries(
    parameters: Sequence[ParameterPrior],
) -> list[tuple[ResolvedTerm, list[tuple[int, str]]]]:
    """Return the laws of entries, each with the matrices whose entries are scored in one call.

    Small matrices are scored together, because many calls would cost more than the arithmetic.
    Large matrices are not, because concatenation would copy them.

    Returns:
        For each law a list of matrices, each as the index of its parameter and its name.
    """
    small: list[tuple[ResolvedTerm, list[tuple[int, str]]]] = []
    large: list[tuple[ResolvedTerm, list[tuple[int, str]]]] = []
    for i, parameter in enumerate(parameters):
        for matrix in parameter.matrices:
            place = (i, matrix.name)
            for term in matrix.entries:
                alike = next((places for law, places in small if law == term), None)
                if math.prod(matrix.shape) > _FEW_ENTRIES:
                    large.append((term, [place]))
                elif alike is not None:
                    alike.append(place)
                else:
                    small.append((term, [place]))
    return small + large


def informing_values(parameters: Sequence[ParameterPrior]) -> dict[str, float]:
    """Return the number of values that inform each hyperparameter; `p^s` counts one `s` times."""
    counts: dict[str, float] = {}
    for matrix in (m for p in parameters for m in p.matrices):
        for name, count in matrix.informing_values().items():
            counts[name] = counts.get(name, 0.0) + count
    return counts
