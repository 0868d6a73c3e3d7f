"""The generative model of a network's weights: spectral coordinates.

Each matrix is `W = U diag(sqrt(lambda)) V'` with a spectrum from its law and Haar frames. The sites
of a matrix `w`:

- `w:spectrum`: `K` eigenvalues (`ESD`) or singular values (`SingularValues`), unordered: the `i`-th
  belongs to the `i`-th columns of the frames;
- `w:lambda_max`, `w:ratios`: under `MaxEigenvalue`, the largest eigenvalue, and those of the others
  to it;
- `w:left`, `w:right`: `(m, K)` and `(n, K)` normal matrices whose orthonormal factors are the
  frames;
- `w`: where only the entries have a law; of a vector `(n,)`.

Hyperparameters are sites under their own names. A second factor on the same matrix, and a strength
other than 1, enter as the factor `w:factor`. Of several spectral factors `ESD` decides the sites,
or else `SingularValues`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from bayes_htr.models.matrix_prior import DensityTerm, MatrixPrior
from bayes_htr.spectra.frames import frame_of

Frames = Literal["sampled", "held"]
FRAMES = ("sampled", "held")


def sample_matrix(
    prior: MatrixPrior,
    values: Mapping[str, Tensor],
    frames: tuple[Tensor, Tensor] | None,
    like: Tensor,
) -> Tensor:
    """The sites of one matrix.

    Args:
        prior: Its density.
        values: Hyperparameters by name.
        frames: The frames `(m, K)`, `(n, K)` if they are held.
        like: Of the dtype and device of the result.

    Returns:
        The matrix, `(m, n)`.
    """
    name, (m, n) = prior.name, prior.shape
    if not prior.spectral:
        first, *rest = prior.entries
        shape = (n,) if prior.vector else (m, n)
        law = first.law(values, like).expand(shape).to_event(len(shape))
        W = pyro.sample(name, law).reshape(m, n)
        factor = (first.strength - 1) * law.log_prob(W.reshape(shape))
        _factor(name, factor, rest, W, values, changed=first.strength != 1)
        return W.to(like)
    lam = _spectrum(prior, prior.spectral[0], values, like)
    U, V = _frames(name, prior, like) if frames is None else frames
    W = (U * lam.sqrt().to(U)) @ V.mT
    first, *others = prior.spectral
    factor = lam.new_zeros(())
    if first.strength != 1:
        factor = (1 - 1 / first.strength) * first.log_factor(lam, values)
    for term in others:
        factor = factor + term.log_factor(lam, values)
    changed = first.strength != 1 or bool(others)
    _factor(name, factor, prior.entries, W, values, changed=changed)
    return W


def _spectrum(
    prior: MatrixPrior, term: DensityTerm, values: Mapping[str, Tensor], like: Tensor
) -> Tensor:
    """The eigenvalues, from the sites of the first spectral factor."""
    name, K, law = prior.name, prior.smaller, term.law(values, like)
    if term.statistic.of_largest:
        top = pyro.sample(f"{name}:lambda_max", law)
        if K == 1:
            return top.reshape(1)
        unit = dist.Uniform(top.new_zeros(()), top.new_ones(()))
        ratios = pyro.sample(f"{name}:ratios", unit.expand((K - 1,)).to_event(1))
        return torch.cat([top.reshape(1), top * ratios])
    x = pyro.sample(f"{name}:spectrum", law.expand((K,)).to_event(1))
    return term.statistic.to_eigenvalues(x)


def _frames(name: str, prior: MatrixPrior, like: Tensor) -> tuple[Tensor, Tensor]:
    """Haar frames of both sides."""
    frames = []
    for side, rows in zip(("left", "right"), prior.shape, strict=True):
        normal = dist.Normal(like.new_zeros(()), like.new_ones(()))
        G = pyro.sample(f"{name}:{side}", normal.expand((rows, prior.smaller)).to_event(2))
        frames.append(frame_of(G))
    return frames[0], frames[1]


def _factor(
    name: str,
    factor: Tensor,
    entries: tuple[DensityTerm, ...] | list[DensityTerm],
    W: Tensor,
    values: Mapping[str, Tensor],
    *,
    changed: bool,
) -> None:
    for term in entries:
        factor = factor + term.log_prob(W.flatten(), values)
    if changed or entries:
        pyro.factor(f"{name}:factor", factor)
