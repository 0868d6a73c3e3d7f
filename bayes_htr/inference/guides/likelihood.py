"""The posterior of the hyperparameters of a likelihood, such as the scale of the noise.

In a guide they are independent of the weights, and a draw has both. MAP has a point in
unconstrained coordinates, as it has for the hyperparameters of priors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bayes_htr.errors import CheckpointError
from bayes_htr.inference.guides.base import Guide, VariationalGuide
from bayes_htr.inference.guides.hyperparameters import HyperparameterPosterior
from bayes_htr.inference.guides.samples import Samples
from bayes_htr.models import BayesianModel, Likelihood

_OWN_STREAM = 2**62
"""Added to a seed, so that draws of the likelihood are independent of those of the weights."""


class LikelihoodPoint(nn.Module):
    """The hyperparameters of a likelihood at a point; a module without parameters if it has none.

    Args:
        likelihood: The likelihood.
        start: The initial unconstrained coordinates by name; those that are left out are given by
            `Hyperparameter.start`.
        like: A tensor of their dtype and on their device.
    """

    def __init__(self, likelihood: Likelihood, start: Mapping[str, Tensor], like: Tensor) -> None:
        super().__init__()
        self.hyperparameters = likelihood.hyperparameters
        self.coordinates = nn.ParameterList(
            nn.Parameter(start.get(name, h.start()).to(like).clone())
            for name, h in self.hyperparameters.items()
        )

    def latents(self) -> dict[str, Tensor]:
        """Return the unconstrained coordinates by name."""
        return dict(zip(self.hyperparameters, self.coordinates, strict=True))

    def values(self) -> dict[str, Tensor]:
        """Return the hyperparameters by name, 0-d, with gradient."""
        named = zip(self.hyperparameters.items(), self.coordinates, strict=True)
        return {name: hyperparameter.value(u) for (name, hyperparameter), u in named}

    def energy(self) -> Tensor:
        """Return minus the log density of the coordinates under the hyperpriors.

        It is 0-d and has a gradient.
        """
        energies = [self.hyperparameters[n].energy(u) for n, u in self.latents().items()]
        return torch.stack(energies).sum()


def likelihood_posterior(
    likelihood: Likelihood, start: Mapping[str, Tensor], like: Tensor, num_data: float
) -> HyperparameterPosterior:
    """Return the independent posterior of the hyperparameters of a likelihood, before training.

    Args:
        likelihood: The likelihood.
        start: The unconstrained coordinates of hyperparameters at the start by name, not
            necessarily of all.
        like: A tensor of their dtype and on their device.
        num_data: The number of examples that they are inferred from.
    """
    own = likelihood.hyperparameters
    return HyperparameterPosterior(own, start, like, dict.fromkeys(own, num_data))


class GuideWithLikelihood(Guide):
    """A guide over weights, with the posterior of the likelihood's hyperparameters beside it.

    In run folders it has the kind and the settings of the guide over the weights; the rest is in
    its state.

    Args:
        guide: The guide over weights and the hyperparameters of priors.
        likelihood: The posterior of the likelihood's hyperparameters.
    """

    def __init__(self, guide: Guide, likelihood: HyperparameterPosterior) -> None:
        super().__init__()
        self.guide = guide
        self.likelihood_posterior = likelihood

    @property
    def kind(self) -> str:  # type: ignore[override]  # that of the guide inside
        """The name by which run folders know the guide over the weights."""
        return self.guide.kind

    def draw(self, generator: torch.Generator) -> dict[str, Tensor]:
        return self.guide.draw(generator) | self.likelihood_posterior.draw(generator)

    def draws(self, samples: int, seed: int) -> Iterator[dict[str, Tensor]]:
        """Yield draws whose weights are those that the guide inside would draw alone."""
        generator = torch.Generator().manual_seed(seed + _OWN_STREAM)
        for draw in self.guide.draws(samples, seed):
            yield draw | self.likelihood_posterior.draw(generator)

    def spectrum_draws(self, samples: int, seed: int) -> Iterator[dict[str, Tensor]] | None:
        inner = self.guide.spectrum_draws(samples, seed)
        if inner is None:
            return None
        generator = torch.Generator().manual_seed(seed + _OWN_STREAM)
        return (draw | self.likelihood_posterior.draw(generator) for draw in inner)

    def centre(self) -> dict[str, Tensor]:
        return self.guide.centre() | self.likelihood_posterior.centre()

    def settings(self) -> dict[str, Any]:
        """Return the settings of the guide inside."""
        return self.guide.settings()


def with_likelihood(
    kind: type[VariationalGuide | Samples],
    model: BayesianModel,
    settings: Mapping[str, Any],
    state: Mapping[str, Tensor],
) -> Guide:
    """Return the guide that a run folder holds, with the likelihood's posterior if there is one.

    Args:
        kind: The class of the guide over the weights.
        model: The model.
        settings: The result of `settings`.
        state: The result of `state_dict`.

    Raises:
        CheckpointError: The guide and its state do not fit the model.
    """
    own = _below("likelihood_posterior.", state)
    if not own:
        return kind.from_state(model, settings, state)
    guide = kind.from_state(model, settings, _below("guide.", state))
    like = next(iter(own.values()))
    posterior = likelihood_posterior(model.likelihood, {}, like.new_zeros(()), 0.0)
    try:
        posterior.load_state_dict(own)
    except RuntimeError as error:
        raise CheckpointError(
            f"the saved posterior of the likelihood does not fit {model.likelihood!r}: {error}"
        ) from error
    return GuideWithLikelihood(guide, posterior)


def _below(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state of a submodule."""
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
