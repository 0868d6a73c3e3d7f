"""The posterior of the eigenvalues of one matrix, and its KL divergence from the prior.

The singular vectors are given, and label the eigenvalues. Every free eigenvalue has a normal law in
an unconstrained coordinate `z`:

- `z = log(lambda - lower)` if the prior's support is `(lower, inf)`, and
  `z = logit((lambda - lower) / (upper - lower))` if it has an upper end;
- if the prior has a law of the largest eigenvalue, this is the coordinate of `lambda_1` alone. That
  of each other eigenvalue is the logit of its ratio to `lambda_1`, on (0, 1).

The law is `z_i ~ N(z(lambda_0i), (2 s_i)^2)`. If the support has no ends, the eigenvalue is
`lambda_i = lambda_0i exp(2 s_i eps_i)`, so that `s_i` is the standard deviation of the logarithm of
the singular value. The other eigenvalues are point estimates. One-dimensional expectations are
Gauss-Hermite sums (`docs/spectral-guide.md`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bayes_htr.errors import PriorError
from bayes_htr.inference.guides.hyperparameters import HyperparameterMoments, log_ratio
from bayes_htr.priors import MatrixPrior, ResolvedTerm

_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(20)
_HALF_LOG_2PIE = 0.5 * math.log(2 * math.pi * math.e)
_FARTHEST = 30.0
"""The largest absolute value of a logit, at which float64 still tells a value from the end of its
interval."""

Elementwise = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class SupportTransform:
    """The open interval `(lower, upper)` of positive numbers, with its unconstrained coordinate.

    Attributes:
        lower: The lower end, 0 or more.
        upper: The upper end, which may be infinite.
        margin: The smallest distance of medians from the ends, except from 0, as a fraction of the
            lower end, or of the width if that is less. A median that is moved keeps its gradient,
            which leads inside.
    """

    lower: float = 0.0
    upper: float = math.inf
    margin: float = 1e-2

    @property
    def is_bounded(self) -> bool:
        """Whether the interval has an end other than 0 and infinity."""
        return self.lower > 0 or self.upper < math.inf

    def inside(self, x: Tensor) -> Tensor:
        """Return `x`, moved into the interval if it is outside, with the gradient of `x`."""
        if not self.is_bounded:
            return x
        low = self.lower + self.margin * min(self.lower, self.upper - self.lower)
        high = self.upper - self.margin * (self.upper - self.lower)
        kept = x.clamp(min=low, max=None if math.isinf(self.upper) else high)
        return x + (kept - x).detach()

    def coordinate(self, x: Tensor) -> Tensor:
        """Return the unconstrained coordinate of `x` once it is inside."""
        x = self.inside(x)
        if math.isinf(self.upper):
            return (x - self.lower).log()
        return (x - self.lower).log() - (self.upper - x).log()

    def value(self, z: Tensor) -> Tensor:
        """Return the value whose coordinate is `z`."""
        if math.isinf(self.upper):
            return self.lower + z.exp()
        return self.lower + (self.upper - self.lower) * z.clamp(-_FARTHEST, _FARTHEST).sigmoid()

    def log_slope(self, z: Tensor) -> Tensor:
        """Return `log dx/dz`."""
        if math.isinf(self.upper):
            return z
        return math.log(self.upper - self.lower) + F.logsigmoid(z) + F.logsigmoid(-z)

    def ratio(self, x: Tensor, step: Tensor) -> Tensor:
        """Return the factor by which `x` changes if its coordinate moves by `step`."""
        if not self.is_bounded:
            return step.exp()
        return self.value(self.coordinate(x) + step) / x


RATIO = SupportTransform(0.0, 1.0, margin=1e-3)
"""The interval of the ratio of an eigenvalue to the largest one."""


@dataclass(frozen=True)
class EigenvaluePosterior:
    """The posterior of the eigenvalues of one matrix.

    Attributes:
        prior: The prior on the matrix.
        free: The number of eigenvalues with a spread, which come first.

    Raises:
        PriorError: The supports of the prior's laws have no common interval.
    """

    prior: MatrixPrior
    free: int

    def __post_init__(self) -> None:
        scored = self._of_top or self._of_all
        if not self.interval.lower < self.interval.upper:
            laws = ", ".join(repr(term.statistic) for term in scored)
            raise PriorError(f"{self.prior.name}: the supports of {laws} have nothing in common")
        if self.has_ratios and self._of_all and _support(self._of_all) != (0.0, math.inf):
            raise PriorError(
                f"{self.prior.name}: beside a law of the largest eigenvalue the spectral guide "
                "takes laws of all eigenvalues on (0, inf) only, such as ESD(Lomax(2.0))"
            )

    @cached_property
    def has_ratios(self) -> bool:
        """Whether the coordinates are ratios to the largest eigenvalue, because it has a law."""
        return bool(self._of_top)

    @cached_property
    def interval(self) -> SupportTransform:
        """The interval of every eigenvalue, or of the largest one if the others are ratios."""
        return SupportTransform(*_support(self._of_top or self._of_all))

    @property
    def needs_medians(self) -> bool:
        """Whether factors depend on the medians as well as on the spread."""
        return self.has_ratios or self.interval.is_bounded

    def factors(self, medians: Tensor | None, spread: Tensor, noise: Tensor) -> Tensor:
        """Return the factors by which a draw multiplies singular values.

        Args:
            medians: `(free,)` medians of eigenvalues; `None` if they are not needed.
            spread: `(free,)` spreads.
            noise: `(..., free)` standard normal noise.

        Returns:
            `(..., free)`. With ratios, singular values without a spread have the factor of the
            first one; otherwise they stay as they are.
        """
        step = 2 * spread * noise
        if not self.needs_medians:
            return (step / 2).exp()
        assert medians is not None
        if not self.has_ratios:
            return self.interval.ratio(medians, step).sqrt()
        top = self.interval.ratio(medians[:1], step[..., :1])
        others = RATIO.ratio(medians[1:] / medians[:1], step[..., 1:])
        return torch.cat([top, top * others], dim=-1).sqrt()

    def medians(self, eigenvalues: Tensor) -> Tensor:
        """Return the eigenvalues `(K,)`, moved into the support."""
        if not self.has_ratios:
            return self.interval.inside(eigenvalues)
        top = self.interval.inside(eigenvalues[:1])
        return torch.cat([top, top * RATIO.inside(eigenvalues[1:] / eigenvalues[:1])])

    def kl(self, eigenvalues: Tensor, spread: Tensor, moments: HyperparameterMoments) -> Tensor:
        """Return `E_q[log q - log p]` of the free eigenvalues, plus `-log p` of the others.

        The densities are those of labelled eigenvalues, so that the factor `K!` is left out. Point
        estimates are scored in the coordinate of the prior's statistic, as in `"map"`.

        Args:
            eigenvalues: `(K,)` float64, the free ones first; with ratios, the first is the largest.
            spread: `(free,)` float64.
            moments: The moments of the hyperparameters.

        Returns:
            0-d, differentiable with respect to all three arguments.
        """
        z = self._coordinates(eigenvalues, spread)
        slopes = [i.log_slope(u) for i, u in zip(self._intervals, z, strict=False)]
        entropy = (2 * spread).log().sum() + self.free * _HALF_LOG_2PIE
        entropy = entropy + sum(_mean(slope) for slope in slopes)
        return -entropy - self._expected_log_prior(eigenvalues, spread, moments)

    def expected_log_ratio(
        self, term: ResolvedTerm, eigenvalues: Tensor, spread: Tensor
    ) -> tuple[float, Tensor]:
        """Return the number of values that a term scores, and `E sum r(x)` over them."""

        def r(x: Tensor) -> Tensor:
            return log_ratio(term, term.statistic.of_eigenvalues(x), {})

        if term.statistic.of_largest:
            return 1.0, self._mean_of_top(r, eigenvalues, spread)
        mean = self._mean_of_free(r, eigenvalues, spread)
        return float(len(eigenvalues)), mean + self._mean_of_points(r, eigenvalues, spread)

    def _expected_log_prior(
        self, eigenvalues: Tensor, spread: Tensor, moments: HyperparameterMoments
    ) -> Tensor:
        """Return the expected log density of the prior.

        It is a density over `(lambda_1, ratios)` with ratios, and otherwise over `lambda`, where
        point estimates are in the statistic's own coordinate. The first law has the Jacobian of its
        natural coordinate, and the others are functions of the spectrum.
        """

        def density(x: Tensor) -> Tensor:
            values = (moments.log_prob(t, t.statistic.of_eigenvalues(x)) for t in self._of_all)
            return sum(values, torch.zeros_like(x))

        def natural(x: Tensor) -> Tensor:
            return density(x) + self._of_all[0].statistic.log_derivative(x)

        def top(x: Tensor) -> Tensor:
            # A density of lambda_1 has lambda_1^-(K-1), which the coordinates take back.
            power = self.free - 1 if self._of_all else 0
            total = sum((moments.log_prob(t, x) for t in self._of_top), torch.zeros_like(x))
            return total + power * x.log() if power else total

        value = torch.zeros_like(spread[0])
        if self._of_all:
            value = self._mean_of_free(natural, eigenvalues, spread)
            value = value + self._mean_of_points(density, eigenvalues, spread)
        return value + self._mean_of_top(top, eigenvalues, spread) if self.has_ratios else value

    def _mean_of_top(self, f: Elementwise, eigenvalues: Tensor, spread: Tensor) -> Tensor:
        return _mean(f(self.interval.value(self._coordinates(eigenvalues, spread)[0])))

    def _mean_of_free(self, f: Elementwise, eigenvalues: Tensor, spread: Tensor) -> Tensor:
        """Return `E sum f(lambda)` over the eigenvalues that have a spread."""
        z = self._coordinates(eigenvalues, spread)
        if not self.has_ratios:
            return _mean(f(self.interval.value(z[0])))
        top = self.interval.value(z[0])
        both = (top.unsqueeze(1) * RATIO.value(z[1])).flatten(0, 1)
        return _mean(f(top)) + _mean(f(both))

    def _mean_of_points(self, f: Elementwise, eigenvalues: Tensor, spread: Tensor) -> Tensor:
        """Return `E sum f(lambda)` over the eigenvalues that are point estimates."""
        points = eigenvalues[self.free :]
        if not self.has_ratios:
            return _mean(f(self.interval.inside(points).unsqueeze(0)))
        top = self.interval.value(self._coordinates(eigenvalues, spread)[0])
        return _mean(f(top * RATIO.inside(points / eigenvalues[:1])))

    def _coordinates(self, eigenvalues: Tensor, spread: Tensor) -> list[Tensor]:
        """Return the unconstrained coordinates at the quadrature nodes.

        They are `(20, free)`, or with ratios `(20, 1)` of the largest and those of the others.
        """
        nodes = spread.new_tensor(_NODES).unsqueeze(1)
        free = eigenvalues[: self.free]
        if not self.has_ratios:
            return [self.interval.coordinate(free) + 2 * spread * nodes]
        return [
            self.interval.coordinate(free[:1]) + 2 * spread[:1] * nodes,
            RATIO.coordinate(free[1:] / free[:1]) + 2 * spread[1:] * nodes,
        ]

    @property
    def _intervals(self) -> tuple[SupportTransform, SupportTransform]:
        return self.interval, RATIO

    @cached_property
    def _of_top(self) -> tuple[ResolvedTerm, ...]:
        return tuple(t for t in self.prior.spectral if t.statistic.of_largest)

    @cached_property
    def _of_all(self) -> tuple[ResolvedTerm, ...]:
        return tuple(t for t in self.prior.spectral if not t.statistic.of_largest)


def _mean(values: Tensor) -> Tensor:
    """Sum `(..., nodes, count)` over eigenvalues after the mean over one or two sets of nodes.

    The result is the average over leading dimensions.
    """
    weights = values.new_tensor(_WEIGHTS / _WEIGHTS.sum())
    Q = values.shape[-2]
    if Q == 1:
        weights = values.new_ones(1)
    elif len(_NODES) ** 2 == Q:
        weights = (weights.unsqueeze(1) * weights).flatten()
    return (values.sum(-1) @ weights).mean()


def _support(terms: tuple[ResolvedTerm, ...]) -> tuple[float, float]:
    """Return the interval of eigenvalues that is in the support of all these laws."""
    one = torch.ones((), dtype=torch.float64)
    lower, upper = 0.0, math.inf
    for term in terms:
        support = term.law({u.name: one for u in term.hyperparameters.values()}, one).support
        low = max(0.0, float(getattr(support, "lower_bound", 0.0)))
        high = float(getattr(support, "upper_bound", math.inf))
        ends = term.statistic.to_eigenvalues(one.new_tensor([low, high])).tolist()
        lower, upper = max(lower, ends[0]), min(upper, ends[1])
    return lower, upper
