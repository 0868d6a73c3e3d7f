"""The energy of one matrix under its prior, with its gradient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from bayes_htr.errors import SpectrumError
from bayes_htr.priors.matrix_prior import MatrixPrior
from bayes_htr.priors.prior import how_to_leave_out
from bayes_htr.spectra import Gradient, MatrixView, TopPair


class Evaluation(NamedTuple):
    """The energy of a matrix and its derivatives.

    Attributes:
        value: The energy, 0-d, without the terms that do not act.
        penalty: The energy of all terms at strength 1, as a number.
        rest: `(m, n)`: the gradient of all that does not act through the largest singular value.
        slope: 0-d: the slope in the largest singular value.
        hyper_slopes: The slopes in the unconstrained hyperparameters, by name.
        parts: The parts of the spectrum that it was computed from, as constants.
        top: The largest singular value with its vectors, if the energy has a slope in it.
        block: Where the next iteration for it may start.
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
    """Evaluate a matrix; with derivatives where gradients are enabled.

    Args:
        prior: Its prior.
        view: The matrix.
        strengths: Of the prior's terms.
        hyperparameters: The unconstrained coordinates of the hyperparameters, by name.

    Raises:
        SpectrumError: A law cannot score the matrix, or only with a gradient that is not finite.
    """
    wanted = torch.is_grad_enabled()
    leaves = {n: hyperparameters[n].detach().requires_grad_(wanted) for n in prior.optimised}
    values = {n: prior.optimised[n].value(u).to(view.W) for n, u in leaves.items()}
    try:
        energy, penalty = prior.energy(view, strengths, values)
    except SpectrumError as error:
        if view.W.numel() > 1 and not view.W.any():
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
        {n: p.detach() for n, p in view.parts.items() if n != "entries"},
        None if slope is None else view.top,
        view.block,
    )


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
            f"{view.W.norm().item():.3g}. {how_to_leave_out(prior.name)}"
        )
