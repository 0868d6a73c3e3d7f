"""A parameter of a network as a site of a Pyro program.

Pyro needs three things from a site: its density, draws, and an initial value. A `WeightSite` has
the density and the draws of a prior, or a flat density if there is none. Guides and samplers of
Pyro that choose an initial value in the support start at the present weights or around them.
Neither zero nor a draw from a heavy-tailed law would be a good place to start.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from pyro.infer.autoguide.initialization import InitMessenger
from pyro.poutine.runtime import _PYRO_STACK
from torch import Tensor
from torch.distributions import biject_to, constraints, transform_to
from torch.distributions.transforms import AffineTransform, identity_transform

from bayes_htr.errors import PriorError

Density = Callable[[Tensor], Tensor]
"""A function that returns the log densities `(...)` of values `(..., *shape)`."""

Draw = Callable[[int], Tensor]
"""A function that returns `n` draws `(n, *shape)`, or raises `PriorError` without a simulator."""


def with_data_dimension(value: Tensor, event_dim: int) -> Tensor:
    """Add a 1 for the examples to the end of the batch shape of a value, if it has a batch shape.

    Weights are the same for all examples. `Predictive(parallel=True)` leaves this dimension out of
    a posterior sample with event dimensions.
    """
    batch = value.shape[: value.ndim - event_dim]
    if not batch or batch[-1] == 1:
        return value
    return value.reshape((*batch, 1, *value.shape[len(batch) :]))


class _Around(constraints.Constraint):
    """The real values, with a given value as the zero of the coordinates of `transform_to`."""

    def __init__(self, start: Tensor) -> None:
        self.start = start
        super().__init__()

    def check(self, value: Tensor) -> Any:
        """Return whether values are numbers."""
        return constraints.real.check(value)


@biject_to.register(_Around)
def _as_they_are(constraint: _Around) -> Any:
    return identity_transform  # the coordinates of guides and NUTS are the values


@transform_to.register(_Around)
def _around(constraint: _Around) -> Any:
    return AffineTransform(constraint.start, 1.0)


class WeightSite(TorchDistribution):
    """The distribution of one parameter of a network.

    Args:
        name: The parameter's name.
        start: The present value, without gradient, which is also the draw if none can be made.
        density: The function of the log density; without one the density is flat.
        draw: The function that draws from the prior, without batch shape.
        reason: The reason why there are no draws, if there are none: a sentence without a full
            stop.
        batch_shape: The batch shape.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012  (of torch's base class)

    def __init__(
        self,
        name: str,
        start: Tensor,
        density: Density | None = None,
        draw: Draw | None = None,
        *,
        reason: str = "",
        batch_shape: torch.Size = torch.Size(),  # noqa: B008  (immutable)
    ) -> None:
        self.name = name
        self.start = start
        self.density = density
        self.draw = draw
        self.reason = reason
        super().__init__(batch_shape, start.shape, validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        """The real values, in coordinates around the present value while Pyro looks for a start.

        `init_to_feasible`, the default of most guides, starts at the zero of these coordinates, and
        `init_to_uniform`, that of NUTS, within 2 of it.
        """
        if any(isinstance(handler, InitMessenger) for handler in _PYRO_STACK):
            return _Around(self.start.clone())
        return constraints.real

    def expand(self, batch_shape: Any, _instance: Any = None) -> WeightSite:
        """Return the same distribution for a batch of values."""
        own = (self.name, self.start, self.density, self.draw)
        return WeightSite(*own, reason=self.reason, batch_shape=torch.Size(batch_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log density of values `(..., *event_shape)`: `(...)`, in their dtype."""
        value = with_data_dimension(value, len(self.event_shape))
        if self.density is not None:
            return self.density(value)
        shape = value.shape[: value.ndim - len(self.event_shape)]
        return value.new_zeros(torch.broadcast_shapes(shape, self.batch_shape))

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008  (immutable)
        """Draw values `(*sample_shape, *batch_shape, *event_shape)`.

        The present value is returned if there is nothing to draw from.
        """
        value, _ = self._draws(torch.Size(sample_shape))
        return value

    def __call__(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008  (immutable)
        """Draw as `sample` does, and warn if there is nothing to draw from."""
        value, reason = self._draws(torch.Size(sample_shape))
        if reason is not None:
            warnings.warn(
                f"{reason}; where nothing else gives {self.name} a value it has its present one",
                stacklevel=2,
            )
        return value

    @torch.no_grad()
    def _draws(self, sample_shape: torch.Size) -> tuple[Tensor, str | None]:
        """Return the draws, and the reason why there are none."""
        shape = sample_shape + self.batch_shape
        reason = self.reason
        if self.draw is not None:
            try:
                drawn = self.draw(shape.numel())
                return drawn.to(self.start).reshape(shape + self.event_shape), None
            except PriorError as error:
                reason = str(error)
        return self.start.expand(shape + self.event_shape).clone(), reason
