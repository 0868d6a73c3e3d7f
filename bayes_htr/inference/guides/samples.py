"""Draws that are there already: what a sampler such as NUTS leaves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from bayes_htr.inference.guides.base import Guide
from bayes_htr.models import BayesianClassifier


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
        """A random one of them."""
        return self[int(torch.randint(len(self), (), generator=generator))]

    def draws(self, samples: int, seed: int) -> Iterator[dict[str, Tensor]]:
        """Evenly spaced ones, if there are enough; else some again."""
        if samples > len(self):
            yield from super().draws(samples, seed)
            return
        for i in range(samples):
            yield self[i * len(self) // samples]

    def centre(self) -> dict[str, Tensor]:
        """Their means."""
        return {n: self.get_buffer(f"draws{i}").mean(0) for i, n in enumerate(self.names)}

    def settings(self) -> dict[str, Any]:
        """The names."""
        return {"names": list(self.names)}

    @classmethod
    def from_state(
        cls, model: BayesianClassifier, settings: Mapping[str, Any], state: Mapping[str, Tensor]
    ) -> Samples:
        """The inverse of `settings` and `state_dict`."""
        return cls({n: state[f"draws{i}"] for i, n in enumerate(settings["names"])})
