"""The model as a Pyro program in weight and in spectral coordinates.

Both have the likelihood of `"map"`, and the hyperparameters as sites under their own names, in
their own coordinates (not unconstrained ones), a Gamma tail index too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from bayes_htr.models.generative import Frames, sample_matrix
from bayes_htr.models.matrix_prior import DensityTerm, MatrixPrior, hyperprior
from bayes_htr.models.placed import PlacedParameter, latents_of_all

Weights = Callable[[], dict[str, Tensor]]
"""A program that samples the trainable parameters, and returns them by name."""


def weight_program(
    parameters: list[PlacedParameter], constants: Sequence[PlacedParameter] = ()
) -> Weights:
    """Sites of the parameters themselves, with the density `factor` over their entries.

    The base measure of the parameters is flat; the density is `MatrixPrior.log_density`. Constants
    are frozen parameters that inform hyperparameters.
    """

    def program() -> dict[str, Tensor]:
        hyper = _hyperparameters(parameters, constants)
        values = {}
        for p in parameters:
            flat = dist.ImproperUniform(dist.constraints.real, (), p.shape)
            values[p.name] = pyro.sample(p.name, flat)
            if p.matrices:
                pyro.factor(f"{p.name}:prior", p.log_density(values[p.name], hyper))
        return values

    return program


def spectral_program(
    parameters: list[PlacedParameter],
    frames: Frames,
    constants: Sequence[PlacedParameter] = (),
) -> Weights:
    """Sites of spectra, frames and hyperparameters (`bayes_htr.models.generative`).

    Flat parameters stay at their present values. Constants are frozen parameters that inform
    hyperparameters.
    """
    held = held_frames(parameters) if frames == "held" else {}

    def program() -> dict[str, Tensor]:
        hyper = _hyperparameters(parameters, constants)
        values = {}
        for p in parameters:
            if not p.matrices:
                values[p.name] = p.parameter.tensor.detach()
                continue
            priors = (m.prior for m in p.matrices)
            own = _precise(p.parameter.tensor.detach())
            drawn = {q.name: sample_matrix(q, hyper, held.get(q.name), own) for q in priors}
            values[p.name] = p.join(drawn).to(p.parameter.tensor)
        return values

    return program


def held_frames(parameters: list[PlacedParameter]) -> dict[str, tuple[Tensor, Tensor]]:
    """The singular vectors of the present weights of spectral matrices, by name."""
    found = {}
    for p in parameters:
        split = p.split(p.parameter.tensor.detach())
        for m in p.matrices:
            if m.prior.spectral:
                W = split[m.prior.name]
                U, _, Vh = torch.linalg.svd(W.double(), full_matrices=False)
                found[m.prior.name] = U.to(_precise(W)), Vh.mT.to(_precise(W))
    return found


def spectral_start(
    parameters: list[PlacedParameter], hyper: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Values of the sites at the present weights, with given hyperparameters.

    A spectrum, or entries, outside the support of their law are moved into it.
    """
    found = dict(hyper)
    for p in parameters:
        split = p.split(p.parameter.tensor.detach())
        for m in p.matrices:
            found |= _matrix_start(m.prior, split[m.prior.name], hyper)
    return found


def _matrix_start(prior: MatrixPrior, W: Tensor, hyper: Mapping[str, Tensor]) -> dict[str, Tensor]:
    name, like = prior.name, _precise(W)
    if not prior.spectral:
        x = _inside(prior.entries[0], W.double(), hyper).to(like)
        return {name: x.flatten() if prior.vector else x}
    U, sigma, Vh = torch.linalg.svd(W.double(), full_matrices=False)
    # A frame is its own orthonormal factor, at any length; this is that of normal columns.
    sides = {"left": U * len(U) ** 0.5, "right": Vh.mT * Vh.shape[1] ** 0.5}
    found = {f"{name}:{side}": frame.to(like) for side, frame in sides.items()}
    first = prior.spectral[0]
    if first.statistic.of_largest:
        top = _inside(first, sigma[:1].square(), hyper)
        found[f"{name}:lambda_max"] = top.to(like).squeeze()
        if prior.smaller > 1:
            eps = torch.finfo(like.dtype).eps
            ratios = (sigma[1:].square() / top).clamp(eps**2, 1 - eps)
            found[f"{name}:ratios"] = ratios.to(like)
        return found
    x = first.statistic.of_eigenvalues(sigma.square())
    return found | {f"{name}:spectrum": _inside(first, x, hyper).to(like)}


def _inside(term: DensityTerm, x: Tensor, hyper: Mapping[str, Tensor]) -> Tensor:
    """`x` with what lies outside the law's support, or at its end, moved just inside."""
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


def _like(parameters: list[PlacedParameter]) -> Tensor:
    """Of the dtype and device of hyperparameters."""
    if not parameters:
        return torch.zeros(())
    return _precise(parameters[0].parameter.tensor.detach())


def _precise(tensor: Tensor) -> Tensor:
    """A tensor in float32 at least: spectra and frames in half precision have no digits."""
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()


def _hyperparameters(
    parameters: list[PlacedParameter], constants: Sequence[PlacedParameter]
) -> dict[str, Tensor]:
    """The sites of all hyperparameters, and what constants say of them."""
    like = _like(parameters)
    found = {
        name: pyro.sample(name, hyperprior(latent, like))
        for name, latent in latents_of_all([*parameters, *constants]).items()
    }
    for p in constants:
        pyro.factor(f"{p.name}:prior", p.log_density(p.parameter.tensor.detach(), found))
    return found
