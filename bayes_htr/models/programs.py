"""The model as a Pyro program, in weight and in spectral coordinates.

Both programs have the same likelihood as `"map"`. The hyperparameters, also a Gamma tail index, are
sites under their own names, in their own coordinates and not in unconstrained ones.

In spectral coordinates each matrix is `W = U diag(sqrt(lambda)) V'` with a spectrum from its law
and uniformly distributed singular vectors. The sites of a matrix `w`:

- `w:spectrum`: `K` eigenvalues (`ESD`) or singular values (`SingularValues`), unordered: the `i`-th
  belongs to the `i`-th columns of `U` and `V`;
- `w:lambda_max`, `w:ratios`: under `MaxEigenvalue`, the largest eigenvalue, and the ratios of the
  others to it;
- `w:left`, `w:right`: `(m, K)` and `(n, K)` matrices, whose orthonormal factors are `U` and `V`
  (`bayes_htr.models.frames`);
- `w`: the matrix itself, where only the entries have a law; for a vector `(n,)`.

A second factor on the same matrix, and a strength other than 1, enter as the factor `w:factor`. If
there are several spectral factors `ESD` decides the sites, or else `SingularValues`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal

import pyro
import pyro.distributions as dist
import torch
from pyro.poutine.indep_messenger import IndepMessenger
from pyro.poutine.runtime import _PYRO_STACK
from torch import Tensor, nn

from bayes_htr.models.frames import FrameSite
from bayes_htr.models.sites import WeightSite
from bayes_htr.priors import MatrixPrior, ParameterPrior, ResolvedTerm
from bayes_htr.priors.parameter_prior import hyperparameters_by_name
from bayes_htr.spectra import frame_of

Frames = Literal["sampled", "held"]
FRAMES = ("sampled", "held")

Weights = Callable[[], dict[str, Tensor]]
"""A program that samples the trainable parameters and returns them by name."""


def weight_program(
    parameters: list[ParameterPrior], frozen: Sequence[ParameterPrior] = ()
) -> Weights:
    """Return a program whose sites are the parameters, with a density over their entries.

    A site is a `WeightSite` with the density `ParameterPrior.log_density` and draws from the
    prior, or with a flat density if there is no prior. `frozen` has the frozen parameters that are
    evidence about hyperparameters. Within plates to the left of the data, values have the batch
    shape of the plates.
    """
    parameters = [_without_gradient(p) for p in parameters]

    def program() -> dict[str, Tensor]:
        hyper = _hyperparameters(parameters, frozen)
        return {p.name: pyro.sample(p.name, weight_site(p, hyper)) for p in parameters}

    return program


def _without_gradient(p: ParameterPrior) -> ParameterPrior:
    """Return the prior of a constant that shares the memory of the parameter.

    Traces of TorchScript require a constant.
    """
    tensor = nn.Parameter(p.parameter.tensor.detach(), requires_grad=False)
    return replace(p, parameter=replace(p.parameter, tensor=tensor))


def weight_site(p: ParameterPrior, hyper: Mapping[str, Tensor]) -> WeightSite:
    """Return the distribution of a parameter, given hyperparameters of a batch shape."""
    start = p.parameter.tensor
    if not p.matrices:
        return WeightSite(p.name, start, reason=f"no prior on {p.name}")
    own = {name: hyper[name] for name in p.hyperparameters}
    batched = {name: value.unsqueeze(-1) if value.ndim else value for name, value in own.items()}

    def draw(n: int) -> Tensor:
        flat = {name: value.reshape(-1) for name, value in own.items()}
        values = {name: value.repeat(n // len(value)) for name, value in flat.items()}
        return p.join({m.name: m.sample(n, values) for m in p.matrices})

    return WeightSite(p.name, start, partial(p.log_density, values=batched), draw)


def spectral_program(
    parameters: list[ParameterPrior],
    frames: Frames,
    frozen: Sequence[ParameterPrior] = (),
) -> Weights:
    """Return a program whose sites are spectra, singular vectors and hyperparameters.

    The docstring of the module describes the sites. Parameters with a flat prior stay at their
    present values. `frozen` has the frozen parameters that are evidence about hyperparameters.
    """
    parameters = [_without_gradient(p) for p in parameters]
    held = held_frames(parameters) if frames == "held" else {}

    def program() -> dict[str, Tensor]:
        _refuse_plates()
        hyper = _hyperparameters(parameters, frozen)
        values = {}
        for p in parameters:
            if not p.matrices:
                values[p.name] = p.parameter.tensor.detach()
                continue
            like = _precise(p.parameter.tensor.detach())
            matrices = {
                m.name: _sample_matrix(m, hyper, held.get(m.name), like) for m in p.matrices
            }
            values[p.name] = p.join(matrices).to(p.parameter.tensor)
        return values

    return program


def _refuse_plates() -> None:
    """Raise an error if there is a plate around the program, such as that of several particles."""
    for handler in _PYRO_STACK:
        if isinstance(handler, IndepMessenger):
            raise ValueError(
                f"pyro_model('spectral') takes no plates around it, such as {handler.name!r}; set "
                "vectorize_particles=False or parallel=False, or take pyro_model('weight')"
            )


def held_frames(parameters: list[ParameterPrior]) -> dict[str, tuple[Tensor, Tensor]]:
    """Return the singular vectors of the present weights of spectral matrices, by name."""
    frames = {}
    for p in parameters:
        split = p.split(p.parameter.tensor.detach())
        for m in p.matrices:
            if m.spectral:
                W = split[m.name]
                U, _, Vh = torch.linalg.svd(W.double(), full_matrices=False)
                frames[m.name] = U.to(_precise(W)), Vh.mT.to(_precise(W))
    return frames


def spectral_start(
    parameters: list[ParameterPrior], hyper: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the values of the sites at the present weights, with given hyperparameters.

    A spectrum, or entries, outside the support of their law are moved into it.
    """
    start = dict(hyper)
    for p in parameters:
        split = p.split(p.parameter.tensor.detach())
        for m in p.matrices:
            start |= _matrix_start(m, split[m.name], hyper)
    return start


def _matrix_start(prior: MatrixPrior, W: Tensor, hyper: Mapping[str, Tensor]) -> dict[str, Tensor]:
    name, like = prior.name, _precise(W)
    if not prior.spectral:
        x = _inside(prior.entries[0], W.double(), hyper).to(like)
        return {name: x.flatten() if prior.is_vector else x}
    U, sigma, Vh = torch.linalg.svd(W.double(), full_matrices=False)
    # A frame is its own orthonormal factor.
    start = {f"{name}:left": U.to(like), f"{name}:right": Vh.mT.to(like)}
    first = prior.spectral[0]
    if first.statistic.of_largest:
        top = _inside(first, sigma[:1].square(), hyper)
        start[f"{name}:lambda_max"] = top.to(like).squeeze()
        if prior.rank > 1:
            eps = torch.finfo(like.dtype).eps
            ratios = (sigma[1:].square() / top).clamp(eps**2, 1 - eps)
            start[f"{name}:ratios"] = ratios.to(like)
        return start
    x = first.statistic.of_eigenvalues(sigma.square())
    return start | {f"{name}:spectrum": _inside(first, x, hyper).to(like)}


def _inside(term: ResolvedTerm, x: Tensor, hyper: Mapping[str, Tensor]) -> Tensor:
    """Return the values `x`, moved just inside the law's support.

    Only those values move that are outside the support or at its end.
    """
    support = term.law(hyper, x).support
    low = getattr(support, "lower_bound", None)
    high = getattr(support, "upper_bound", None)
    if low is not None:
        low = torch.as_tensor(low).to(x)
        scale = torch.where(low == 0, x.abs().amax() * torch.finfo(x.dtype).eps, low.abs() / 100)
        margin = scale if high is None else torch.minimum(scale, (high - low) / 100)
        x = torch.where(x <= low, low + margin, x)
        if high is not None:
            x = torch.where(x >= high, high - margin, x)
    return x


def _like(parameters: list[ParameterPrior]) -> Tensor:
    """Return a tensor with the dtype and the device of hyperparameters."""
    if not parameters:
        return torch.zeros(())
    return _precise(parameters[0].parameter.tensor.detach())


def _precise(tensor: Tensor) -> Tensor:
    """Return a tensor in at least float32, because half precision is too inaccurate for spectra."""
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()


def _hyperparameters(
    parameters: list[ParameterPrior], frozen: Sequence[ParameterPrior]
) -> dict[str, Tensor]:
    """Return the sites of all hyperparameters, and the density of frozen parameters given them."""
    like = _like(parameters)
    values = {
        name: pyro.sample(name, hyperparameter.distribution(like))
        for name, hyperparameter in hyperparameters_by_name([*parameters, *frozen]).items()
    }
    for p in frozen:
        pyro.factor(f"{p.name}:prior", p.log_density(p.parameter.tensor.detach(), values))
    return values


def _sample_matrix(
    prior: MatrixPrior,
    values: Mapping[str, Tensor],
    frames: tuple[Tensor, Tensor] | None,
    like: Tensor,
) -> Tensor:
    """Return the sites of one matrix.

    Args:
        prior: The density of the matrix.
        values: Hyperparameters by name.
        frames: The frames `(m, K)` and `(n, K)`, if they are held fixed.
        like: A tensor with the dtype and the device of the result.

    Returns:
        The matrix, `(m, n)`.
    """
    name, (m, n) = prior.name, prior.shape
    if not prior.spectral:
        first, *rest = prior.entries
        shape = (n,) if prior.is_vector else (m, n)
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
    prior: MatrixPrior, term: ResolvedTerm, values: Mapping[str, Tensor], like: Tensor
) -> Tensor:
    """Return the eigenvalues, from the sites of the first spectral factor."""
    name, K, law = prior.name, prior.rank, term.law(values, like)
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
    """Draw the Haar frames of both sides."""
    frames = []
    for side, rows in zip(("left", "right"), prior.shape, strict=True):
        X = pyro.sample(f"{name}:{side}", FrameSite(rows, prior.rank, like))
        frames.append(frame_of(X))
    return frames[0], frames[1]


def _factor(
    name: str,
    factor: Tensor,
    entries: tuple[ResolvedTerm, ...] | list[ResolvedTerm],
    W: Tensor,
    values: Mapping[str, Tensor],
    *,
    changed: bool,
) -> None:
    for term in entries:
        factor = factor + term.log_prob(W.flatten(), values)
    if changed or entries:
        pyro.factor(f"{name}:factor", factor)
