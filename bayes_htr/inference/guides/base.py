"""What a posterior over weights is, whichever method found it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from bayes_htr.errors import CheckpointError
from bayes_htr.inference.guides.hyperparameters import FrozenEvidence
from bayes_htr.models import BayesianModel
from bayes_htr.priors import Densities, Hyperparameter, ParameterPrior
from bayes_htr.priors.parameter_prior import hyperparameters_by_name

V = TypeVar("V", bound="VariationalGuide")


class Guide(nn.Module, ABC):
    """A distribution over the trainable parameters of a network and the hyperparameters.

    Its `state_dict` is all that it has learnt: with the model and `settings`, `from_state` makes it
    again.
    """

    kind: ClassVar[str]
    """The name by which run folders know it."""

    @abstractmethod
    def draw(self, generator: torch.Generator) -> dict[str, Tensor]:
        """One draw, without gradient.

        Returns:
            The trainable parameters by name in their shapes, and the hyperparameters by name, 0-d,
            in their own coordinates (not unconstrained ones).
        """

    def spectrum_draws(self, samples: int, seed: int) -> Iterator[dict[str, Tensor]] | None:
        """As `draws`, but with the eigenvalues of matrices in place of weights.

        Returns:
            For each draw the eigenvalues `(K,)` by the matrix's name, in any order, and the
            hyperparameters; matrices that are points are not named. `None` if the guide does not
            know eigenvalues without weights.
        """
        return None

    @abstractmethod
    def centre(self) -> dict[str, Tensor]:
        """Parameters and hyperparameters in the middle: means or medians, as `draw` has them."""

    def coordinates(self, hyperpriors: Mapping[str, Hyperparameter]) -> dict[str, Tensor]:
        """The hyperparameters at the centre in unconstrained coordinates, by name, 0-d each.

        Args:
            hyperpriors: Hyperparameters with their hyperpriors, by name; those that the guide does
                not have are left out.
        """
        centre = self.centre()
        return {n: h.coordinate(centre[n]) for n, h in hyperpriors.items() if n in centre}

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Plain data from which, with the model, an untrained one is built."""

    @classmethod
    @abstractmethod
    def from_state(
        cls, model: BayesianModel, settings: Mapping[str, Any], state: Mapping[str, Tensor]
    ) -> Guide:
        """The inverse of `settings` and `state_dict`."""

    def draws(self, samples: int, seed: int) -> Iterator[dict[str, Tensor]]:
        """So many draws; the same for the same seed."""
        generator = torch.Generator().manual_seed(seed)
        for _ in range(samples):
            yield self.draw(generator)


class VariationalGuide(Guide):
    """A guide that is fitted by stochastic gradients of the evidence lower bound.

    Args:
        densities: The parameters with their priors as densities.

    Attributes:
        names: The names of the trainable parameters.
        priors: The trainable parameters with their priors, without values.
        evidence: What frozen parameters say about hyperparameters.
        epoch: The epoch that the priors belong to.
    """

    options: ClassVar[frozenset[str]] = frozenset({"init_scale"})
    """Those settings of `htr.SVI` that are for some guides alone, and for this one."""

    renamed: ClassVar[Mapping[str, str]] = {}
    """How keys of states began in earlier versions, and how they begin now."""

    def __init__(self, densities: Densities) -> None:
        super().__init__()
        self.evidence = FrozenEvidence(densities.frozen)
        self.epoch = 0
        self.names = tuple(p.name for p in densities.trainable)
        self.priors = tuple(p.without_values() for p in densities.trainable)

    @property
    def drawn(self) -> tuple[str, ...]:
        """Names of the parameters of which every entry has a law; none in this class."""
        return ()

    @classmethod
    @abstractmethod
    def from_weights(
        cls: type[V],
        densities: Densities,
        hyperparameters: Mapping[str, Tensor],
        options: Mapping[str, Any],
    ) -> V:
        """An untrained guide around the present weights.

        Args:
            densities: The parameters, at the values to start from, with their densities.
            hyperparameters: Where hyperparameters start, by name, unconstrained; may lack some.
            options: Those of `htr.SVI.options`, also of other guides.
        """

    @classmethod
    def from_state(
        cls: type[V],
        model: BayesianModel,
        settings: Mapping[str, Any],
        state: Mapping[str, Tensor],
    ) -> V:
        """The inverse of `settings`, with the parameters' `names` and `epoch`, and `state_dict`.

        Raises:
            CheckpointError: They do not fit the model.
        """
        try:
            epoch = int(settings.get("epoch", 0))
            guide = cls.from_weights(_named(model.densities(0), settings["names"]), {}, settings)
            if epoch:
                guide.set_epoch(_named(model.densities(epoch), settings["names"]), epoch)
            guide.load_state_dict(state)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"the saved {cls.kind} guide does not fit the model: {error}"
            ) from error
        return guide

    def set_epoch(self, densities: Densities, epoch: int) -> None:
        """Take other densities of the same parameters: those of another epoch of a schedule."""
        self.priors = tuple(p.without_values() for p in densities.trainable)
        self.evidence, self.epoch = FrozenEvidence(densities.frozen), epoch

    def hyperparameter_coordinates(self) -> list[nn.Parameter]:
        """What is learnt of the posteriors of hyperparameters, if the guide learns it apart."""
        return []

    @property
    def hyperpriors(self) -> dict[str, Hyperparameter]:
        """The hyperparameters that it has posteriors of, by name."""
        hyperpriors = hyperparameters_by_name(self.priors)
        for term in self.evidence.terms:
            hyperpriors |= {h.name: h for h in term.hyperparameters.values()}
        return hyperpriors

    @abstractmethod
    def rsample(self, *, again: bool = False) -> dict[str, Tensor]:
        """One draw with gradient to what is learnt, from Torch's global generator; as `draw`.

        Args:
            again: Whether it is another draw of the same step, before anything has moved.
        """

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """As of any module; states of earlier versions are read too."""
        for before, now in self.renamed.items():
            state_dict = {
                now + key.removeprefix(before) if key.startswith(before) else key: value
                for key, value in state_dict.items()
            }
        return super().load_state_dict(state_dict, *args, **kwargs)

    @abstractmethod
    def kl(self, sample: Mapping[str, Tensor]) -> Tensor:
        """`KL(guide | prior)`, 0-d with gradient, in nats for all parameters together.

        Closed form where there is one, else its estimate from the sample. So `-E[log p(y | x, W)]`
        plus this is the negative evidence lower bound.
        """

    def kl_in_step(self, sample: Mapping[str, Tensor]) -> Tensor:
        """As `kl`, but without the gradient that `add_known_gradient` adds."""
        return self.kl(sample)

    def add_known_gradient(self, scale: float) -> None:  # most guides know none
        """Add `scale` times the rest of the gradient of the KL divergence to `.grad`, in place.

        What is known without differentiating does not cost the passes over memory, and the
        tensors as large as the weights, that a summand of the loss costs.
        """


def start_scale(init_scale: float | None, parameters: Sequence[ParameterPrior]) -> float:
    """The standard deviation of weights at the start.

    As given; else 0.01, but under spectral priors that of the weights themselves, their root mean
    square: from a narrow start a guide shrinks to zero (`docs/benchmarks.md`, "Mean field under a
    spectral prior").

    Args:
        init_scale: As given.
        parameters: The parameters that have it, at the values to start from.
    """
    if init_scale is not None:
        return init_scale
    spectral = [p.parameter.tensor.detach().flatten().double() for p in parameters if p.is_spectral]
    return (torch.cat(spectral).square().mean().sqrt().item() if spectral else 0.0) or 0.01


def _named(densities: Densities, names: Sequence[str]) -> Densities:
    """The same with the trainable parameters of these names, in their order."""
    by_name = {p.name: p for p in densities.trainable}
    return densities._replace(trainable=[by_name[name] for name in names])
