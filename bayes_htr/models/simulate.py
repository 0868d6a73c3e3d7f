"""Draws of a network's weights from its priors."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from bayes_htr._checks import whole_number
from bayes_htr.errors import PriorError
from bayes_htr.models.classifier import BayesianClassifier
from bayes_htr.models.matrix_prior import DensityTerm, MatrixPrior, hyperprior
from bayes_htr.models.placed import PlacedParameter, latents_of_all
from bayes_htr.priors.tempered import tempered_distribution
from bayes_htr.spectra.frames import haar

_FLOAT64 = torch.zeros((), dtype=torch.float64)


def sample_prior(
    model: BayesianClassifier, n: int, *, seed: int = 0, epoch: int | None = None
) -> dict[str, Tensor]:
    """Draws of the network's parameters from their priors.

    Hyperparameters with hyperpriors are drawn first; the law of each matrix is simulated at its
    strength, with Haar frames. The global random state is left as it was.

    Args:
        model: The model.
        n: How many draws.
        seed: Of the draws.
        epoch: The epoch at which scheduled priors are taken.

    Returns:
        `(n, *shape)` for each trainable parameter by name, in its dtype and on its device, and
        `(n,)` for each hyperparameter. Flat parameters stay at their present values, and a
        warning names them.

    Raises:
        PriorError: A prior that is no density, or a product or power that cannot be simulated.
        ValueError: `n` is less than 1.
    """
    n = whole_number(n, "n", at_least=1)
    parameters = model.placed(epoch)
    warn_of_flat(parameters, stacklevel=3)
    return simulated(parameters, n, seed)


def warn_of_flat(parameters: Sequence[PlacedParameter], *, stacklevel: int) -> None:
    """Warn of parameters without a prior, on behalf of a caller."""
    flat = [p.name for p in parameters if not p.matrices]
    if flat:
        warnings.warn(
            f"no prior on {', '.join(flat)}: they stay at their present values; give vectors "
            "Entries(Normal(0.0, 1.0)), for instance",
            stacklevel=stacklevel,
        )


def simulated(parameters: list[PlacedParameter], n: int, seed: int) -> dict[str, Tensor]:
    """What `sample_prior` returns."""
    found: dict[str, Tensor] = {}
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # that of the CPU, where all draws are made
        for name, latent in latents_of_all(parameters).items():
            found[name] = hyperprior(latent, _FLOAT64).sample((n,))
        for p in parameters:
            tensor = p.parameter.tensor.detach()
            if not p.matrices:
                found[p.name] = tensor.expand(n, *p.shape).clone()
                continue
            drawn = {m.prior.name: simulate(m.prior, n, found) for m in p.matrices}
            found[p.name] = p.join(drawn).to(tensor)
    return found


def simulate(prior: MatrixPrior, n: int, values: Mapping[str, Tensor]) -> Tensor:
    """Draws of one matrix, `(n, *shape)`, in float64, from Torch's global generator.

    Args:
        prior: Its density.
        n: How many.
        values: Draws `(n,)` of its hyperparameters by name.

    Raises:
        PriorError: It cannot be simulated.
    """
    term = _only_factor(prior)
    if prior.entries:
        law = _simulated_law(term, values, prior.name)
        return law.expand((n, prior.shape[0] * prior.shape[1])).sample().unflatten(-1, prior.shape)
    lam = simulate_spectrum(prior, n, values)
    U, V = (haar(side, prior.smaller, (n,)) for side in prior.shape)
    return (U * lam.sqrt().unsqueeze(-2)) @ V.mT


def simulate_spectrum(prior: MatrixPrior, n: int, values: Mapping[str, Tensor]) -> Tensor:
    """Draws of the spectrum alone, `(n, K)`, unordered, of a prior on it; else as `simulate`."""
    term = _only_factor(prior)
    return _spectra(term, _simulated_law(term, values, prior.name), n, prior.smaller)


def _only_factor(prior: MatrixPrior) -> DensityTerm:
    factors = (*prior.spectral, *prior.entries)
    if len(factors) > 1:
        raise PriorError(
            f"{prior.name}: a product of priors has no simulator; draw from one factor, or sample "
            "the product with htr.NUTS"
        )
    return factors[0]


def _spectra(term: DensityTerm, law: Any, n: int, K: int) -> Tensor:
    """Draws of the spectrum, `(n, K)`."""
    if term.statistic.of_largest:
        top = law.expand((n, 1)).sample()
        return torch.cat([top, top * torch.rand(n, K - 1, dtype=top.dtype)], dim=1)
    return term.statistic.to_eigenvalues(law.expand((n, K)).sample())


def _simulated_law(term: DensityTerm, values: Mapping[str, Tensor], name: str) -> Any:
    """The law to draw from, batched over the draws of its hyperparameters."""
    if term.strength == 1:
        drawn = {latent.name: values[latent.name].unsqueeze(-1) for latent in term.latents.values()}
        return term.law(drawn, _FLOAT64)
    if term.latents:
        raise PriorError(
            f"{name}: {term.statistic!r} has hyperpriors and the strength {term.strength:g}: it "
            "cannot be simulated; take strength 1, or numbers, or sample it with htr.NUTS"
        )
    try:
        return tempered_distribution(term.statistic.law, term.strength)
    except PriorError as error:
        raise PriorError(f"{name}: {error}") from error
