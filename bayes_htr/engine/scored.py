"""One matrix under its prior: its energy, and the gradient of that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bayes_htr.engine.latents import Latent, latents_of
from bayes_htr.errors import PriorError
from bayes_htr.priors import Flat, Prior, factor_at
from bayes_htr.spectra import (
    Factors,
    Gradient,
    Matrix,
    MatrixView,
    Need,
    Parameter,
    PulledBack,
    TopPair,
)


@dataclass(frozen=True)
class Scored:
    """One matrix (or vector) and the prior it is scored under.

    Attributes:
        parameter: The parameter's name.
        path: The name by which the unwrapped network finds it.
        matrix: The matrix in it; `None` for a vector, which is scored as one row.
        prior: The prior.
        latents: For each of its terms, the hyperparameters with hyperpriors by argument.
    """

    parameter: str
    path: str
    matrix: Matrix | None
    prior: Prior
    latents: list[dict[str, Latent]]

    @cached_property
    def flat(self) -> Flat:
        """The prior taken apart."""
        return self.prior.flat()

    @property
    def name(self) -> str:
        """What errors call it."""
        return self.parameter if self.matrix is None else self.matrix.name

    @cached_property
    def latent_names(self) -> list[str]:
        """The hyperparameters, each once."""
        return list(dict.fromkeys(x.name for term in self.latents for x in term.values()))

    @cached_property
    def is_cheap(self) -> bool:
        """Whether only entries are scored: then nothing is worth holding."""
        return all(not t.statistic.of_spectrum for t in self.flat.terms)

    @cached_property
    def holds_entries(self) -> bool:
        """Whether a hyperparameter of the entries' law needs them at every call."""
        pairs = zip(self.flat.terms, self.latents, strict=True)
        return any(not t.statistic.of_spectrum and latents for t, latents in pairs)

    def strengths(self, strength: float, epoch: int | None) -> tuple[float, ...]:
        """The strength of each term at an epoch, that of all priors included."""
        return tuple(strength * t.strength * factor_at(t.schedules, epoch) for t in self.flat.terms)

    def needs(self, strengths: Sequence[float]) -> Need:
        """What the terms of positive strength need of the matrix."""
        needs = Need()
        for term, strength in zip(self.flat.terms, strengths, strict=True):
            if strength:
                needs |= term.statistic.needs
        return needs

    def tensor(self, root: nn.Module) -> Tensor:
        """The parameter in the unwrapped network; `get_parameter` without its costs.

        Raises:
            PriorError: It is there no more.
        """
        *modules, name = self._steps
        try:
            for module in modules:
                root = root._modules[module]  # type: ignore[assignment]
            found = root._parameters[name]
            if found is None:
                raise KeyError(name)
            return found
        except (KeyError, AttributeError) as error:
            raise PriorError(
                f"the network has no parameter {self.path!r} any more; bind its priors again"
            ) from error

    @cached_property
    def _steps(self) -> list[str]:
        return self.path.split(".")

    def view(self, tensor: Tensor) -> Tensor:
        """The parameter as its matrix; a vector as one row."""
        return tensor.reshape(1, -1) if self.matrix is None else self.matrix.view(tensor)


def scored_matrices(parameter: Parameter, prior: Prior) -> list[Scored]:
    """The matrices of a parameter under a prior; a vector alone."""
    return [
        Scored(
            parameter.name,
            parameter.path,
            matrix,
            prior,
            latents_of(prior, parameter.name if matrix is None else matrix.name),
        )
        for matrix in parameter.matrices or (None,)
    ]


class Evaluation(NamedTuple):
    """An energy and what belongs to it.

    Attributes:
        value: 0-d, gates applied.
        penalty: The energy before strength, as a number.
        rest: The gradient with respect to the matrix but for what acts through the largest
            singular value.
        slope: In the latter, 0-d.
        latent_gradients: With respect to the unconstrained hyperparameters, by name.
        parts: The parts of the spectrum that it was computed from, as constants.
        top: The largest singular value with its vectors, if the energy has a slope in it.
        block: Where the next iteration for it may start.
    """

    value: Tensor
    penalty: float
    rest: Tensor | None
    slope: Tensor | None
    latent_gradients: dict[str, Tensor]
    parts: dict[str, Tensor]
    top: TopPair | None
    block: Tensor | None

    @property
    def gradient(self) -> Gradient:
        """With respect to the matrix."""
        if self.slope is None or self.top is None:
            return Gradient(self.rest, None)
        return Gradient(self.rest, Factors(self.slope * self.top.u, self.top.v))


def evaluate(
    scored: Scored,
    view: MatrixView,
    strengths: Sequence[float],
    latents: Mapping[str, Tensor],
    laws: Mapping[str, Latent],
) -> Evaluation:
    """The energy of a matrix with its gradient, where gradients are enabled.

    Args:
        scored: The matrix and its prior.
        view: It, as priors see it.
        strengths: Of the prior's terms.
        latents: Hyperparameters in unconstrained coordinates, by name.
        laws: Their hyperpriors.
    """
    wanted = torch.is_grad_enabled()
    leaves = {n: latents[n].detach().requires_grad_(wanted) for n in scored.latent_names}
    values = {n: laws[n].value(u).to(view.W) for n, u in leaves.items()}
    energy, penalty = _energy(scored, view, strengths, values)
    pulled = PulledBack(None, None)
    latent_gradients: dict[str, Tensor] = {}
    if energy.requires_grad:
        parts = {n: p for n, p in view.parts.items() if p.requires_grad}
        found = torch.autograd.grad(energy, [*parts.values(), *leaves.values()], allow_unused=True)
        pulled = view.pull_back(dict(zip(parts, found, strict=False)))
        rest = zip(leaves.items(), found[len(parts) :], strict=True)
        latent_gradients = {n: torch.zeros_like(u) if g is None else g for (n, u), g in rest}
    return Evaluation(
        energy.detach().to(view.W),
        penalty,
        pulled.rest,
        pulled.slope,
        latent_gradients,
        {n: p.detach() for n, p in view.parts.items() if n != "entries"},
        None if pulled.slope is None else view.top,
        view.block,
    )


def _energy(
    scored: Scored, view: MatrixView, strengths: Sequence[float], values: Mapping[str, Tensor]
) -> tuple[Tensor, float]:
    """The energy of one matrix at given strengths, gates applied, and its penalty at strength 1."""
    terms: list[Tensor] = []
    columns: list[float] = []
    for term, strength, latents in zip(scored.flat.terms, strengths, scored.latents, strict=True):
        given = {argument: values[latent.name] for argument, latent in latents.items()}
        if strength == 0:
            terms.append(view.W.new_zeros(()))
            columns.append(0.0)
            continue
        column = term.statistic.energy(view, given)
        columns.append(column.item())
        if term.statistic.law.conjugate is None:
            terms.append(strength * column)
        else:
            terms.append(term.statistic.energy(view, given, strength))
    open_ = [True] * len(terms)
    for threshold, members in scored.flat.gates:
        if sum(columns[j] for j in members) < threshold:
            for j in members:
                open_[j] = False
    total = torch.stack([t.to(terms[0]) for t in terms]) @ torch.tensor(
        open_, dtype=terms[0].dtype, device=terms[0].device
    )
    return total, sum(columns)
