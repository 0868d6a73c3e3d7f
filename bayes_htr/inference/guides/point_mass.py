"""A point mass: the posterior that MAP leaves, all of it at one network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from bayes_htr.engine import bind
from bayes_htr.inference.guides.base import Guide
from bayes_htr.models import BayesianClassifier
from bayes_htr.priors import Hyperparameter


class PointMass(Guide):
    """All probability at one value of each hyperparameter and at the weights of a network.

    The guide holds no weights: it belongs to a network, and a parameter that a guide does not draw
    has the value that it has there. Run folders store no file of it, since the coordinates are
    stored with the weights.

    Args:
        coordinates: Hyperparameters by name in unconstrained coordinates, 0-d each.
        hyperpriors: Hyperparameters with their hyperpriors by name; coordinates of others are
            ignored.
    """

    kind: ClassVar[str] = "point_mass"

    def __init__(
        self, coordinates: Mapping[str, Tensor], hyperpriors: Mapping[str, Hyperparameter]
    ) -> None:
        super().__init__()
        self.hyperpriors = {n: h for n, h in hyperpriors.items() if n in coordinates}
        for number, name in enumerate(self.hyperpriors):
            self.register_buffer(f"coordinate{number}", coordinates[name].detach().clone())

    def centre(self) -> dict[str, Tensor]:
        """The hyperparameters by name, 0-d in float64 on the CPU."""
        coordinates = self.coordinates(self.hyperpriors)
        values = {name: float(x.value(coordinates[name])) for name, x in self.hyperpriors.items()}
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

    def coordinates(self, hyperpriors: Mapping[str, Hyperparameter]) -> dict[str, Tensor]:
        """The coordinates as they were given, for those of the hyperparameters that are here."""
        return {
            name: self.get_buffer(f"coordinate{number}").clone()
            for number, name in enumerate(self.hyperpriors)
            if name in hyperpriors
        }

    def settings(self) -> dict[str, Any]:
        """The names of the hyperparameters."""
        return {"names": list(self.hyperpriors)}

    @classmethod
    def from_state(
        cls, model: BayesianClassifier, settings: Mapping[str, Any], state: Mapping[str, Tensor]
    ) -> PointMass:
        """The inverse of `settings` and `state_dict`."""
        coordinates = {n: state[f"coordinate{i}"] for i, n in enumerate(settings["names"])}
        return cls(coordinates, bind(model.priors, model.net).hyperpriors)
