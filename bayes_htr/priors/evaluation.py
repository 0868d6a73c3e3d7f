"""The energy of one matrix under its prior, with its gradient."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from bayes_htr.errors import SpectrumError
from bayes_htr.priors.matrix_prior import MatrixPrior, Values
from bayes_htr.priors.prior import how_to_leave_out
from bayes_htr.spectra import Gradient, MatrixView, TopPair
from bayes_htr.spectra.matrices import check_finite


class Evaluation(NamedTuple):
    """The energy of a matrix and its derivatives.

    Attributes:
        value: The energy, 0-d, without the terms that do not act.
        penalty: The energy of all terms at strength 1, as a number.
        rest: `(m, n)`: the part of the gradient that does not act through the largest singular
            value.
        slope: 0-d: the derivative with respect to the largest singular value.
        hyper_slopes: The derivatives with respect to the unconstrained hyperparameters, by name.
        parts: The parts of the spectrum from which the energy was computed, as constants.
        top: The largest singular value with its vectors, if there is a `slope`.
        block: The block of vectors from which the next search for `top` may start.
    """

    value: Tensor
    penalty: float
    rest: Tensor | None
    slope: Tensor | None
    hyper_slopes: dict[str, Tensor]
    parts: dict[str, Tensor]
    top: TopPair | None = None
    block: Tensor | None = None

    @property
    def gradient(self) -> Gradient:
        """The gradient with respect to the matrix."""
        if self.slope is None or self.top is None:
            return Gradient(self.rest)
        return Gradient(self.rest, self.slope * self.top.u, self.top.v)


def evaluate(
    prior: MatrixPrior,
    view: MatrixView,
    strengths: Sequence[float],
    hyperparameters: Mapping[str, Tensor],
) -> Evaluation:
    """Compute the energy of a matrix, and its derivatives if gradients are enabled.

    Args:
        prior: The prior of the matrix.
        view: The matrix.
        strengths: The strengths of the prior's terms.
        hyperparameters: The unconstrained coordinates of the hyperparameters, by name.

    Raises:
        SpectrumError: A law cannot score the matrix, or the gradient of its energy is not finite.
    """
    wanted = torch.is_grad_enabled()
    leaves = {n: hyperparameters[n].detach().requires_grad_(wanted) for n in prior.optimised}
    values = {n: prior.optimised[n].value(u).to(view.W) for n, u in leaves.items()}
    try:
        energy, penalty = _energy(prior, view, strengths, values)
    except SpectrumError as error:
        if view.is_zero:
            raise SpectrumError(
                f"{prior.name} is zero, and {prior.stated!r} cannot score a zero matrix. "
                + how_to_leave_out(prior.name)
            ) from error
        raise
    rest, slope = None, None
    hyper_slopes: dict[str, Tensor] = {}
    if energy.requires_grad:
        parts = {n: p for n, p in view.parts.items() if p.requires_grad}
        slopes = torch.autograd.grad(energy, [*parts.values(), *leaves.values()], allow_unused=True)
        rest, slope = view.pull_back(dict(zip(parts, slopes, strict=False)))
        for (name, u), g in zip(leaves.items(), slopes[len(parts) :], strict=True):
            hyper_slopes[name] = torch.zeros_like(u) if g is None else g
        _check_gradient(prior, view, [rest, slope, *hyper_slopes.values()])
    return Evaluation(
        energy.detach().to(view.W),
        penalty,
        rest,
        slope,
        hyper_slopes,
        {n: p.detach() for n, p in view.parts.items() if n != "entries" or prior.optimised},
        None if slope is None else view.top,
        view.block,
    )


def _energy(
    prior: MatrixPrior, view: MatrixView, strengths: Sequence[float], values: Values
) -> tuple[Tensor, float]:
    """Return the energy of a matrix without the terms that do not act.

    Args:
        prior: The prior of the matrix.
        view: The matrix.
        strengths: The strengths of the prior's terms.
        values: The hyperparameters that a mode optimises, by name.

    Returns:
        The energy, 0-d, with gradient to the parts of `view` and the hyperparameters; and the
        penalty, which is the energy of all terms at strength 1.

    Raises:
        SpectrumError: A law cannot score the matrix.
    """
    energies: list[Tensor] = []
    penalties: list[float] = []
    for term, strength in zip(prior.terms, strengths, strict=True):
        own = {argument: values[h.name] for argument, h in term.optimised.items()}
        if strength == 0:
            energies.append(view.W.new_zeros(()))
            penalties.append(0.0)
            continue
        energy = term.statistic.energy(view, own)
        penalties.append(energy.item())
        if not math.isfinite(penalties[-1]):
            check_finite(view.W, view.name)
            raise term.statistic.not_finite(view, penalties[-1])
        if term.statistic.law.conjugate is None:
            energies.append(strength * energy)
        else:  # the power is one of the law within the integral over the tail index
            energies.append(term.statistic.energy(view, own, strength))
    if len(energies) == 1 and not prior.gates:
        return energies[0], penalties[0]
    acts = [1.0] * len(energies)
    for threshold, members in prior.gates:
        if sum(penalties[j] for j in members) < threshold:
            for j in members:
                acts[j] = 0.0
    total = torch.stack([e.to(energies[0]) for e in energies]) @ energies[0].new_tensor(acts)
    return total, sum(penalties)


def _check_gradient(
    prior: MatrixPrior, view: MatrixView, gradients: Sequence[Tensor | None]
) -> None:
    """Raise if the norm of a gradient is not finite, although the energy is.

    The sum of squares overflows in float32 where a component is beyond 1e19. Clipping would divide
    by infinity there, and the network would never move.
    """
    given = [g.detach() for g in gradients if g is not None and g.numel()]
    squares = [torch.dot(g.reshape(-1), g.reshape(-1)).to(view.W.device) for g in given]
    if squares and not bool(torch.isfinite(torch.stack([s.double() for s in squares])).all()):
        raise SpectrumError(
            f"{prior.name}: the energy of {prior.stated!r} is finite, and the norm of its gradient "
            f"is not in {str(view.W.dtype).removeprefix('torch.')}: the norm of the matrix is "
            f"{view.norm:.3g}. {how_to_leave_out(prior.name)}"
        )
