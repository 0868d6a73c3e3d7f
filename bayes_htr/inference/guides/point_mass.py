"""A point mass: the posterior that MAP leaves, all of it at one network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from bayes_htr.engine import bind
from bayes_htr.engine.latents import Latent
from bayes_htr.inference.guides.base import Guide
from bayes_htr.models import BayesianClassifier


class PointMass(Guide):
    """All probability at one value of each hyperparameter and at the weights of a network.

    The guide holds no weights: it belongs to a network, and a parameter that a guide does not draw
    has the value that it has there. Run folders store no file of it, since the coordinates are
    stored with the weights.

    Args:
        coordinates: Hyperparameters by name in unconstrained coordinates, 0-d each.
        latents: Hyperparameters with their hyperpriors by name; coordinates of others are ignored.
    """

    kind: ClassVar[str] = "point_mass"

    def __init__(self, coordinates: Mapping[str, Tensor], latents: Mapping[str, Latent]) -> None:
        super().__init__()
        self.latents = {name: x for name, x in latents.items() if name in coordinates}
        for number, name in enumerate(self.latents):
            self.register_buffer(f"coordinate{number}", coordinates[name].detach().clone())

    def centre(self) -> dict[str, Tensor]:
        """The hyperparameters by name, 0-d in float64 on the CPU."""
        coordinates = self.coordinates(self.latents)
        values = {name: float(x.value(coordinates[name])) for name, x in self.latents.items()}
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}

    def draw(self, generator: torch.Generator) -> dict[str, Tensor]:
        """The centre, whatever the generator."""
        return self.centre()

    def draws(self, samples: int, seed: int) -> Iterator[dict[str, Tensor]]:
        """A single draw, however many are asked for: they would all be equal."""
        yield self.centre()

    def spectrum_draws(self, samples: int, seed: int) -> Iterator[dict[str, Tensor]]:
        """A single draw of the hyperparameters; all matrices are points."""
        yield self.centre()

    def coordinates(self, latents: Mapping[str, Latent]) -> dict[str, Tensor]:
        """The coordinates as they were given, for those of the hyperparameters that are here."""
        return {
            name: self.get_buffer(f"coordinate{number}").clone()
            for number, name in enumerate(self.latents)
            if name in latents
        }

    def settings(self) -> dict[str, Any]:
        """The names of the hyperparameters."""
        return {"names": list(self.latents)}

    @classmethod
    def rebuilt(
        cls, model: BayesianClassifier, settings: Mapping[str, Any], state: Mapping[str, Tensor]
    ) -> PointMass:
        """The inverse of `settings` and `state_dict`."""
        coordinates = {n: state[f"coordinate{i}"] for i, n in enumerate(settings["names"])}
        return cls(coordinates, bind(model.priors, model.net).latent_laws)
