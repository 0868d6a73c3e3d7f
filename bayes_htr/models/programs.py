"""The model as a Pyro program in weight and in spectral coordinates.

Both have the likelihood of `"map"`, and the hyperparameters as sites under their own names, in
their own coordinates (not unconstrained ones), a Gamma tail index too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from bayes_htr.models.generative import Frames, sample_matrix
from bayes_htr.models.matrix_prior import DensityTerm, MatrixPrior, hyperprior
from bayes_htr.models.placed import PlacedParameter, latents_of_all
from bayes_htr.priors import ESD, MaxEigenvalue

Weights = Callable[[], dict[str, Tensor]]
"""A program that samples the trainable parameters, and returns them by name."""


def weight_program(parameters: list[PlacedParameter]) -> Weights:
    """Sites of the parameters themselves, with the density `factor` over their entries.

    The base measure of the parameters is flat; the density is `MatrixPrior.log_density`.
    """

    def program() -> dict[str, Tensor]:
        like = _like(parameters)
        hyper = _hyperparameters(parameters, like)
        values = {}
        for p in parameters:
            flat = dist.ImproperUniform(dist.constraints.real, (), p.shape)
            values[p.name] = pyro.sample(p.name, flat)
            if p.matrices:
                pyro.factor(f"{p.name}:prior", p.log_density(values[p.name], hyper))
        return values

    return program


def spectral_program(parameters: list[PlacedParameter], frames: Frames) -> Weights:
    """Sites of spectra, frames and hyperparameters (`bayes_htr.models.generative`).

    Flat parameters stay at their present values.
    """
    held = held_frames(parameters) if frames == "held" else {}

    def program() -> dict[str, Tensor]:
        like = _like(parameters)
        hyper = _hyperparameters(parameters, like)
        values = {}
        for p in parameters:
            if not p.matrices:
                values[p.name] = p.parameter.tensor.detach()
                continue
            priors = (m.prior for m in p.matrices)
            drawn = {q.name: sample_matrix(q, hyper, held.get(q.name), like) for q in priors}
            values[p.name] = p.join(drawn)
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
                found[m.prior.name] = U.to(W), Vh.mT.to(W)
    return found


def spectral_start(
    parameters: list[PlacedParameter], hyper: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Values of the sites at the present weights, with given hyperparameters.

    A spectrum outside the support of its law is moved into it.
    """
    found = dict(hyper)
    for p in parameters:
        split = p.split(p.parameter.tensor.detach())
        for m in p.matrices:
            found |= _matrix_start(m.prior, split[m.prior.name], hyper)
    return found


def _matrix_start(prior: MatrixPrior, W: Tensor, hyper: Mapping[str, Tensor]) -> dict[str, Tensor]:
    name = prior.name
    if not prior.spectral:
        return {name: W.flatten() if prior.vector else W.clone()}
    U, sigma, Vh = torch.linalg.svd(W.double(), full_matrices=False)
    # A frame is its own orthonormal factor up to signs, which both sides share.
    found = {f"{name}:left": U.to(W), f"{name}:right": Vh.mT.to(W)}
    statistic = prior.spectral[0].statistic
    if isinstance(statistic, MaxEigenvalue):
        top = sigma[0].square()
        ratios = (sigma[1:].square() / top).clamp(1e-4, 1 - 1e-4)
        return found | {f"{name}:lambda_max": top.to(W), f"{name}:ratios": ratios.to(W)}
    x = sigma.square() if isinstance(statistic, ESD) else sigma
    x = _inside(prior.spectral[0], x, hyper)
    return found | {f"{name}:spectrum": x.to(W)}


def _inside(term: DensityTerm, x: Tensor, hyper: Mapping[str, Tensor]) -> Tensor:
    """`x` with what lies outside the law's support moved just inside."""
    law = term.statistic.law
    numbers = {k: v for k, v in law.arguments.items() if isinstance(v, float)}
    nearest = law.on_support(x, numbers | {k: hyper[u.name] for k, u in term.latents.items()})
    return torch.where(nearest > x, 1.01 * nearest, torch.where(nearest < x, 0.99 * nearest, x))


def _like(parameters: list[PlacedParameter]) -> Tensor:
    return parameters[0].parameter.tensor.detach()


def _hyperparameters(parameters: list[PlacedParameter], like: Tensor) -> dict[str, Tensor]:
    return {
        name: pyro.sample(name, hyperprior(latent, like))
        for name, latent in latents_of_all(parameters).items()
    }
