"""What a posterior over weights is, whichever method found it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from bayes_htr.errors import CheckpointError
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

    @abstractmethod
    def centre(self) -> dict[str, Tensor]:
        """Parameters and hyperparameters in the middle: means or medians, as `draw` has them."""

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
    """

    default_scale: ClassVar[float] = 0.01
    """Where standard deviations start, unless told otherwise."""

    def __init__(self, placed: Sequence[PlacedParameter]) -> None:
        super().__init__()
        self.names = tuple(p.name for p in placed)
        self.placed = tuple(_without_values(p) for p in placed)

    @classmethod
    @abstractmethod
    def around(
        cls: type[V],
        model: BayesianClassifier,
        placed: Sequence[PlacedParameter],
        hyperparameters: Mapping[str, Tensor],
        options: Mapping[str, Any],
    ) -> V:
        """An untrained guide around given weights.

        Args:
            model: The model.
            placed: The trainable parameters with their densities, at the values to start from.
            hyperparameters: Where hyperparameters start, by name, unconstrained; may lack some.
            options: Those of `htr.SVI.options`, also of other guides.
        """

    @classmethod
    def rebuilt(
        cls: type[V],
        model: BayesianClassifier,
        settings: Mapping[str, Any],
        state: Mapping[str, Tensor],
    ) -> V:
        """The inverse of `settings`, which has the parameters' `names`, and `state_dict`.

        Raises:
            CheckpointError: They do not fit the model.
        """
        try:
            by_name = {p.name: p for p in model.placed(0)}
            guide = cls.around(model, [by_name[n] for n in settings["names"]], {}, settings)
            guide.load_state_dict(state)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"the saved {cls.kind} guide does not fit the model: {error}"
            ) from error
        return guide

    def follow(self, placed: Sequence[PlacedParameter]) -> None:
        """Take other densities of the same parameters: those of another epoch of a schedule."""
        self.placed = tuple(_without_values(p) for p in placed)

    @abstractmethod
    def rsample(self) -> dict[str, Tensor]:
        """One draw with gradient to what is learnt, from Torch's global generator; as `draw`."""

    @abstractmethod
    def divergence(self, sample: Mapping[str, Tensor]) -> Tensor:
        """`KL(guide | prior)`, 0-d with gradient, in nats for all parameters together.

        Closed form where there is one, else its estimate from the sample. So `-E[log p(y | x, W)]`
        plus this is the negative evidence lower bound.
        """


def _without_values(placed: PlacedParameter) -> PlacedParameter:
    """The same with no more of the parameter's tensor than its shape."""
    shape = nn.Parameter(torch.empty_like(placed.parameter.tensor, device="meta"))
    device = placed.parameter.tensor.device
    matrices = tuple(replace(m, index=m.index.to(device)) for m in placed.matrices)
    return replace(
        placed, parameter=replace(placed.parameter, tensor=shape, matrices=()), matrices=matrices
    )
