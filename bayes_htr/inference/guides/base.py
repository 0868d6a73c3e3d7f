"""What a posterior over weights is, whichever method found it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn
from torch.distributions import biject_to

from bayes_htr.engine.latents import Latent
from bayes_htr.errors import CheckpointError
from bayes_htr.inference.guides.constants import Constants
from bayes_htr.models import BayesianClassifier
from bayes_htr.models.placed import PlacedParameter

V = TypeVar("V", bound="VariationalGuide")


class Guide(nn.Module, ABC):
    """A distribution over the trainable parameters of a network and the hyperparameters.

    Its `state_dict` is all that it has learnt: with the model and `settings`, `rebuilt` makes it
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

    def coordinates(self, latents: Mapping[str, Latent]) -> dict[str, Tensor]:
        """The hyperparameters at the centre in unconstrained coordinates, by name, 0-d each.

        Args:
            latents: Hyperparameters with their hyperpriors by name; others are left out.
        """
        centre = {name: value for name, value in self.centre().items() if name in latents}
        return {
            name: biject_to(latents[name].law.distribution().support).inv(
                torch.tensor(float(value))
            )
            for name, value in centre.items()
        }

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Plain data from which, with the model, an untrained one is built."""

    @classmethod
    @abstractmethod
    def rebuilt(
        cls, model: BayesianClassifier, settings: Mapping[str, Any], state: Mapping[str, Tensor]
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
        placed: The trainable parameters with their densities.
        constants: The frozen ones that share hyperparameters with them, with theirs.

    Attributes:
        epoch: That of whose schedule the densities are.
    """

    options: ClassVar[frozenset[str]] = frozenset({"init_scale"})
    """Those settings of `htr.SVI` that are for some guides alone, and for this one."""

    def __init__(
        self, placed: Sequence[PlacedParameter], constants: Sequence[PlacedParameter] = ()
    ) -> None:
        super().__init__()
        self.constants = Constants(constants)
        self.epoch = 0
        self.names = tuple(p.name for p in placed)
        self.placed = tuple(_without_values(p) for p in placed)

    @property
    def drawn(self) -> tuple[str, ...]:
        """Names of the parameters of which every entry has a law; none in this class."""
        return ()

    @classmethod
    @abstractmethod
    def around(
        cls: type[V],
        model: BayesianClassifier,
        placed: Sequence[PlacedParameter],
        hyperparameters: Mapping[str, Tensor],
        options: Mapping[str, Any],
        constants: Sequence[PlacedParameter] = (),
    ) -> V:
        """An untrained guide around given weights.

        Args:
            model: The model.
            placed: The trainable parameters with their densities, at the values to start from.
            hyperparameters: Where hyperparameters start, by name, unconstrained; may lack some.
            options: Those of `htr.SVI.options`, also of other guides.
            constants: Frozen parameters that share hyperparameters with them.
        """

    @classmethod
    def rebuilt(
        cls: type[V],
        model: BayesianClassifier,
        settings: Mapping[str, Any],
        state: Mapping[str, Tensor],
    ) -> V:
        """The inverse of `settings`, with the parameters' `names` and `epoch`, and `state_dict`.

        Raises:
            CheckpointError: They do not fit the model.
        """
        try:
            epoch = int(settings.get("epoch", 0))
            by_name = {p.name: p for p in model.placed(0)}
            placed = [by_name[n] for n in settings["names"]]
            guide = cls.around(model, placed, {}, settings, model.informing(0))
            if epoch:
                by_name = {p.name: p for p in model.placed(epoch)}
                placed = [by_name[n] for n in settings["names"]]
                guide.follow(placed, model.informing(epoch), epoch)
            guide.load_state_dict(state)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"the saved {cls.kind} guide does not fit the model: {error}"
            ) from error
        return guide

    def follow(
        self,
        placed: Sequence[PlacedParameter],
        constants: Sequence[PlacedParameter] = (),
        epoch: int = 0,
    ) -> None:
        """Take other densities of the same parameters: those of another epoch of a schedule."""
        self.placed = tuple(_without_values(p) for p in placed)
        self.constants, self.epoch = Constants(constants), epoch

    @abstractmethod
    def rsample(self, *, again: bool = False) -> dict[str, Tensor]:
        """One draw with gradient to what is learnt, from Torch's global generator; as `draw`.

        Args:
            again: Whether it is another draw of the same step, before anything has moved.
        """

    @abstractmethod
    def divergence(self, sample: Mapping[str, Tensor]) -> Tensor:
        """`KL(guide | prior)`, 0-d with gradient, in nats for all parameters together.

        Closed form where there is one, else its estimate from the sample. So `-E[log p(y | x, W)]`
        plus this is the negative evidence lower bound.
        """

    def divergence_in_step(self, sample: Mapping[str, Tensor]) -> Tensor:
        """As `divergence`, but without the gradient that `add_known_gradient` adds."""
        return self.divergence(sample)

    def add_known_gradient(self, scale: float) -> None:  # most guides know none
        """Add `scale` times the rest of the gradient of the divergence to `.grad`, in place.

        What is known without differentiating does not cost the passes over memory, and the
        tensors as large as the weights, that a summand of the loss costs.
        """


def start_scale(init_scale: float | None, parameters: Sequence[PlacedParameter]) -> float:
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
    spectral = [
        p.parameter.tensor.detach().flatten().double()
        for p in parameters
        if any(m.prior.spectral for m in p.matrices)
    ]
    return (torch.cat(spectral).square().mean().sqrt().item() if spectral else 0.0) or 0.01


def _without_values(placed: PlacedParameter) -> PlacedParameter:
    """The same with no more of the parameter's tensor than its shape."""
    shape = nn.Parameter(torch.empty_like(placed.parameter.tensor, device="meta"))
    device = placed.parameter.tensor.device
    matrices = tuple(m.to(device) for m in placed.matrices)
    return replace(
        placed, parameter=replace(placed.parameter, tensor=shape, matrices=()), matrices=matrices
    )
