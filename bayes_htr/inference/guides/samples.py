"""Posteriors as stored draws: those of a sampler such as NUTS, and the single draw of MAP."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from bayes_htr.inference.guides.base import Guide
from bayes_htr.models import BayesianModel
from bayes_htr.priors import Hyperparameter


class Samples(Guide):
    """Stored draws of the parameters and hyperparameters.

    Args:
        draws: `(S, *shape)` by name, the same `S` for all.
    """

    kind: ClassVar[str] = "samples"

    def __init__(self, draws: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.names = tuple(draws)
        lengths = {len(values) for values in draws.values()}
        if len(lengths) != 1 or 0 in lengths:
            raise ValueError(f"the draws have lengths {sorted(lengths)}; give one or more of each")
        for number, values in enumerate(draws.values()):
            self.register_buffer(f"draws{number}", values.detach().clone())

    def __len__(self) -> int:
        return len(self.get_buffer("draws0"))

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {n: self.get_buffer(f"draws{i}")[index] for i, n in enumerate(self.names)}

    def draw(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Return one of the stored draws at random."""
        return self[int(torch.randint(len(self), (), generator=generator))]

    def draws(self, samples: int, seed: int) -> Iterator[dict[str, Tensor]]:
        """Yield evenly spaced draws if there are enough, and otherwise random ones."""
        if samples > len(self):
            yield from super().draws(samples, seed)
            return
        for i in range(samples):
            yield self[i * len(self) // samples]

    def centre(self) -> dict[str, Tensor]:
        """Return the means of the stored draws."""
        return {n: self.get_buffer(f"draws{i}").mean(0) for i, n in enumerate(self.names)}

    def settings(self) -> dict[str, Any]:
        """Return the names."""
        return {"names": list(self.names)}

    @classmethod
    def from_state(
        cls, model: BayesianModel, settings: Mapping[str, Any], state: Mapping[str, Tensor]
    ) -> Samples:
        """Make a guide from the results of `settings` and `state_dict`."""
        return cls({n: state[f"draws{i}"] for i, n in enumerate(settings["names"])})


class PointMass(Guide):
    """All probability at one value of each hyperparameter and at the weights of a network.

    The guide holds no weights: it belongs to a network, and parameters that a guide does not draw
    keep their values in the network. Run folders have no file for this guide, since the coordinates
    are stored with the weights.

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
        """Return the hyperparameters by name, 0-d in float64 on the CPU."""
        coordinates = self.coordinates(self.hyperpriors)
        values = {name: float(x.value(coordinates[name])) for name, x in self.hyperpriors.items()}
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}

    def draw(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the centre, whatever the generator."""
        return self.centre()

    def draws(self, samples: int, seed: int) -> Iterator[dict[str, Tensor]]:
        """Yield one draw, however many are asked for, because they would all be equal."""
        yield self.centre()

    def spectrum_draws(self, samples: int, seed: int) -> Iterator[dict[str, Tensor]]:
        """Yield one draw of the hyperparameters, because all matrices are points."""
        yield self.centre()

    def coordinates(self, hyperpriors: Mapping[str, Hyperparameter]) -> dict[str, Tensor]:
        """Return the coordinates, as they were given, of those `hyperpriors` that the guide has."""
        return {
            name: self.get_buffer(f"coordinate{number}").clone()
            for number, name in enumerate(self.hyperpriors)
            if name in hyperpriors
        }

    def settings(self) -> dict[str, Any]:
        """Return the names of the hyperparameters."""
        return {"names": list(self.hyperpriors)}
