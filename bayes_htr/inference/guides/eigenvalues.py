"""The posterior of the eigenvalues of one matrix, and its KL divergence from the prior.

The singular vectors are given, and label the eigenvalues. Every free eigenvalue has a normal law in
an unconstrained coordinate:

- `z = log(lambda - lower)` where the prior's support is `(lower, inf)`, and
  `z = logit((lambda - lower) / (upper - lower))` where it has an upper end;
- where the prior has a law of the largest eigenvalue, `lambda_1` so, and of each other one the
  logit of its ratio to `lambda_1`, on (0, 1).

`z_i ~ N(z(lambda_0i), (2 s_i)^2)`: without ends `lambda_i = lambda_0i exp(2 s_i eps_i)`, so that
`s_i` is the standard deviation of the logarithm of the singular value. The other eigenvalues are
points. One-dimensional expectations are Gauss-Hermite sums. `docs/spectral-guide.md`.
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
"""Logits are kept within so much, where float64 still tells the ends from what is inside."""

Elementwise = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class SupportTransform:
    """The open interval `(lower, upper)` of positive numbers, with its unconstrained coordinate.

    Attributes:
        lower: 0 or more.
        upper: Perhaps infinite.
        margin: Medians are kept off the ends (but 0) by this part of the lower end, or of the
            width if that is less; with the gradient that they have there, which leads inside.
    """

    lower: float = 0.0
    upper: float = math.inf
    margin: float = 1e-2

    @property
    def is_bounded(self) -> bool:
        """Whether it has an end but 0."""
        return self.lower > 0 or self.upper < math.inf

    def inside(self, x: Tensor) -> Tensor:
        """`x`, moved inside if it is not, with the gradient of `x`."""
        if not self.is_bounded:
            return x
        low = self.lower + self.margin * min(self.lower, self.upper - self.lower)
        high = self.upper - self.margin * (self.upper - self.lower)
        kept = x.clamp(min=low, max=None if math.isinf(self.upper) else high)
        return x + (kept - x).detach()

    def coordinate(self, x: Tensor) -> Tensor:
        """The unconstrained coordinate of `x` once it is inside."""
        x = self.inside(x)
        if math.isinf(self.upper):
            return (x - self.lower).log()
        return (x - self.lower).log() - (self.upper - x).log()

    def value(self, z: Tensor) -> Tensor:
        """What has the coordinate `z`."""
        if math.isinf(self.upper):
            return self.lower + z.exp()
        return self.lower + (self.upper - self.lower) * z.clamp(-_FARTHEST, _FARTHEST).sigmoid()

    def log_slope(self, z: Tensor) -> Tensor:
        """`log dx/dz`."""
        if math.isinf(self.upper):
            return z
        return math.log(self.upper - self.lower) + F.logsigmoid(z) + F.logsigmoid(-z)

    def ratio(self, x: Tensor, step: Tensor) -> Tensor:
        """By what `x` is multiplied when its coordinate moves by `step`."""
        if not self.is_bounded:
            return step.exp()
        return self.value(self.coordinate(x) + step) / x


RATIO = SupportTransform(0.0, 1.0, margin=1e-3)
"""Of an eigenvalue to the largest."""


@dataclass(frozen=True)
class EigenvaluePosterior:
    """The posterior of the eigenvalues of one matrix.

    Attributes:
        prior: The prior on its matrix.
        free: How many eigenvalues have a spread; the first of those that are given.

    Raises:
        PriorError: Laws whose supports cannot be taken together.
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
        """Whether a law of the largest eigenvalue makes ratios to it the coordinates."""
        return bool(self._of_top)

    @cached_property
    def interval(self) -> SupportTransform:
        """Where every eigenvalue may be, or, with ratios, the largest."""
        return SupportTransform(*_support(self._of_top or self._of_all))

    @property
    def needs_medians(self) -> bool:
        """Whether factors depend on the medians, and not on the spread alone."""
        return self.has_ratios or self.interval.is_bounded

    def factors(self, medians: Tensor | None, spread: Tensor, noise: Tensor) -> Tensor:
        """By what singular values are multiplied.

        Args:
            medians: `(free,)` eigenvalues; `None` if they are not needed.
            spread: `(free,)`.
            noise: `(..., free)` standard normal.

        Returns:
            `(..., free)`. With ratios, the points are multiplied as the first is; else not at all.
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
        """`(K,)` the eigenvalues themselves, but moved inside the support."""
        if not self.has_ratios:
            return self.interval.inside(eigenvalues)
        top = self.interval.inside(eigenvalues[:1])
        return torch.cat([top, top * RATIO.inside(eigenvalues[1:] / eigenvalues[:1])])

    def kl(self, eigenvalues: Tensor, spread: Tensor, moments: HyperparameterMoments) -> Tensor:
        """`E_q[log q - log p]`: of the free eigenvalues; and `-log p` of the points.

        Densities of the spectrum in any order: its eigenvalues are labelled, so `K!` is left out.
        Points are scored in the coordinate of the prior's statistic, as in `"map"`.

        Args:
            eigenvalues: `(K,)` float64, the free ones first; with ratios the first the largest.
            spread: `(free,)` float64.
            moments: The hyperparameters.

        Returns:
            0-d, differentiable with respect to all three.
        """
        z = self._coordinates(eigenvalues, spread)
        slopes = [i.log_slope(u) for i, u in zip(self._intervals, z, strict=False)]
        entropy = (2 * spread).log().sum() + self.free * _HALF_LOG_2PIE
        entropy = entropy + sum(_mean(slope) for slope in slopes)
        return -entropy - self._expected_log_prior(eigenvalues, spread, moments)

    def expected_log_ratio(
        self, term: ResolvedTerm, eigenvalues: Tensor, spread: Tensor
    ) -> tuple[float, Tensor]:
        """How many values a term scores, and `E sum r(x)` over them, of a tail index `t`."""

        def r(x: Tensor) -> Tensor:
            return log_ratio(term, term.statistic.of_eigenvalues(x), {})

        if term.statistic.of_largest:
            return 1.0, self._mean_of_top(r, eigenvalues, spread)
        mean = self._mean_of_free(r, eigenvalues, spread)
        return float(len(eigenvalues)), mean + self._mean_of_points(r, eigenvalues, spread)

    def _expected_log_prior(
        self, eigenvalues: Tensor, spread: Tensor, moments: HyperparameterMoments
    ) -> Tensor:
        """In `(lambda_1, ratios)` with ratios; else in `lambda`, points in the statistic's own.

        The first law has the Jacobian of its natural coordinate, the others are functions.
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
        """`E sum f(lambda)` over the eigenvalues that have a spread."""
        z = self._coordinates(eigenvalues, spread)
        if not self.has_ratios:
            return _mean(f(self.interval.value(z[0])))
        top = self.interval.value(z[0])
        both = (top.unsqueeze(1) * RATIO.value(z[1])).flatten(0, 1)
        return _mean(f(top)) + _mean(f(both))

    def _mean_of_points(self, f: Elementwise, eigenvalues: Tensor, spread: Tensor) -> Tensor:
        """`E sum f(lambda)` over the others."""
        points = eigenvalues[self.free :]
        if not self.has_ratios:
            return _mean(f(self.interval.inside(points).unsqueeze(0)))
        top = self.interval.value(self._coordinates(eigenvalues, spread)[0])
        return _mean(f(top * RATIO.inside(points / eigenvalues[:1])))

    def _coordinates(self, eigenvalues: Tensor, spread: Tensor) -> list[Tensor]:
        """The unconstrained coordinates at the nodes: `(20, free)`, or `(20, 1)` and the rest."""
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
    """The sum over eigenvalues of the mean over nodes: of `(..., nodes, count)`, or two-fold nodes.

    Leading dimensions are averaged over.
    """
    weights = values.new_tensor(_WEIGHTS / _WEIGHTS.sum())
    Q = values.shape[-2]
    if Q == 1:
        weights = values.new_ones(1)
    elif len(_NODES) ** 2 == Q:
        weights = (weights.unsqueeze(1) * weights).flatten()
    return (values.sum(-1) @ weights).mean()


def _support(terms: tuple[ResolvedTerm, ...]) -> tuple[float, float]:
    """The eigenvalues that all these laws allow."""
    one = torch.ones((), dtype=torch.float64)
    lower, upper = 0.0, math.inf
    for term in terms:
        support = term.law({u.name: one for u in term.hyperparameters.values()}, one).support
        low = max(0.0, float(getattr(support, "lower_bound", 0.0)))
        high = float(getattr(support, "upper_bound", math.inf))
        ends = term.statistic.to_eigenvalues(one.new_tensor([low, high])).tolist()
        lower, upper = max(lower, ends[0]), min(upper, ends[1])
    return lower, upper
