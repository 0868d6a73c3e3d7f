"""Predictive distributions of targets that are no classes: mixtures over draws of the weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import torch
from rich.table import Table
from torch import Tensor

from bayes_htr._checks import number, whole_number
from bayes_htr._printing import Printable, add_row, compact_table
from bayes_htr._terminal import plural
from bayes_htr._torch import isolated_randomness
from bayes_htr.errors import DataError
from bayes_htr.models import Likelihood

_DRAWS = 1000
"""Draws from which quantiles and scores are computed where there is no closed form."""

_BISECTIONS = 60
_SHOWN = 5


@dataclass(frozen=True, eq=False, repr=False)
class MixturePrediction(Printable):
    """The predictive distribution of the targets of `N` examples, on the CPU.

    It is the average over draws of the weights of the distribution that the likelihood makes of
    the network's outputs.

    Attributes:
        outputs: The outputs of the network under each of `S` draws, `(S, N, ...)`.
        values: The likelihood's hyperparameters of each draw by name, such as the noise's scale.
        likelihood: The likelihood.
    """

    outputs: Tensor
    values: tuple[Mapping[str, Tensor], ...]
    likelihood: Likelihood

    def __repr__(self) -> str:
        return f"MixturePrediction({len(self)} examples, {len(self.outputs)} draws)"

    def __len__(self) -> int:
        return self.outputs.shape[1]

    def parts(self, width: int) -> Sequence[Table | str]:
        """Return the first targets with their mean, interval and uncertainty.

        Targets without moments have only an interval, and whole arrays only a description.
        """
        count, draws = len(self), len(self.outputs)
        about = f"{plural(count, 'example')}, averaged over {plural(draws, 'draw')}"
        if not self.is_of_single_targets:
            return [f"{about}: arrays of shape {tuple(self.components[0].event_shape)}"]
        first = MixturePrediction(self.outputs[:, :_SHOWN], self.values, self.likelihood)
        low, high = first.interval()
        columns = {"2.5 %": low, "97.5 %": high}
        if first.has_moments:
            columns = {"mean": first.mean, **columns}
            columns |= {"noise": first.aleatoric, "of weights": first.epistemic}
        table = compact_table("", *columns)
        for place in product(*map(range, low.shape)):
            name = ",".join(map(str, place))
            add_row(table, [name, *(f"{float(c[place]):.4g}" for c in columns.values())])
        shown = f", of which the first {_SHOWN}" if count > _SHOWN else ""
        return [f"{about}{shown}:", table]

    @classmethod
    def joined(cls, parts: Sequence[MixturePrediction]) -> MixturePrediction:
        """Join the predictions of several sets of examples, one after another.

        All have to be made under the same draws.
        """
        outputs = torch.cat([part.outputs for part in parts], dim=1)
        return cls(outputs, parts[0].values, parts[0].likelihood)

    @cached_property
    def components(self) -> tuple[Any, ...]:
        """The distribution of the targets under each draw, of batch shape `(N, ...)`."""
        pairs = zip(self.outputs, self.values, strict=True)
        return tuple(self.likelihood.of_labels(o, v) for o, v in pairs)

    @property
    def is_of_single_targets(self) -> bool:
        """Whether each target has a distribution of its own, and not whole arrays."""
        return not self.components[0].event_shape

    @cached_property
    def has_moments(self) -> bool:
        """Whether the distribution has a mean and a variance; the variance may be infinite."""
        try:
            moments = [(c.mean, c.variance) for c in self.components]
            return not any(bool(mean.isnan().any()) for mean, _ in moments)
        except (NotImplementedError, AttributeError):
            return False

    @cached_property
    def mean(self) -> Tensor:
        """The mean of each target, `(N, ...)`.

        Raises:
            DataError: The distribution that the likelihood makes has no mean.
        """
        return self._moments("mean").mean(0)

    @property
    def epistemic(self) -> Tensor:
        """The standard deviation over draws of the mean, `(N, ...)`; 0 for a point estimate."""
        return self._moments("mean").std(0, correction=0)

    @property
    def aleatoric(self) -> Tensor:
        """The standard deviation that is left if the weights are known, `(N, ...)`: the noise."""
        return self._moments("variance").mean(0).sqrt()

    @property
    def std(self) -> Tensor:
        """The standard deviation of each target, `sqrt(epistemic^2 + aleatoric^2)`."""
        return (self.epistemic.square() + self.aleatoric.square()).sqrt()

    def log_prob(self, y: Any) -> Tensor:
        """Return the log density of targets: `(N, ...)`, or `(N,)` for a density of arrays."""
        y = self._targets(y)
        return self.likelihood.mixture_pointwise(list(self.outputs), y, self.values)

    def cdf(self, y: Any) -> Tensor:
        """Return the probability of a target of at most `y`, `(N, ...)`.

        Raises:
            DataError: The distribution that the likelihood makes has no distribution function.
        """
        y = self._targets(y)
        try:
            return torch.stack([c.cdf(y) for c in self.components]).mean(0)
        except NotImplementedError as error:
            raise self._missing("distribution function (cdf)") from error

    def quantile(self, q: float) -> Tensor:
        """Return the `q`-quantile of each target, `(N, ...)`.

        It is found by bisection, or from 1000 draws if the distribution has no quantile function.
        """
        q = number(q, "q", above=0, below=1)
        try:
            at = self.outputs.new_tensor(q)
            each = torch.stack([c.icdf(at) for c in self.components])
        except NotImplementedError:
            return self._drawn.quantile(q, dim=0)
        low, high = each.amin(0), each.amax(0)
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            is_below = self.cdf(middle) < q
            low, high = torch.where(is_below, middle, low), torch.where(is_below, high, middle)
        return (low + high) / 2

    def interval(self, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """Return the ends of the central interval of a probability: two tensors `(N, ...)`."""
        level = number(level, "level", above=0, below=1)
        return self.quantile((1 - level) / 2), self.quantile((1 + level) / 2)

    def covers(self, y: Any, level: float = 0.95) -> Tensor:
        """Return the share of targets within the central interval of probability `level`.

        The ends belong to the interval.
        """
        return self.contains(y, level).double().mean()

    def contains(self, y: Any, level: float = 0.95) -> Tensor:
        """Return whether each target is within its central interval: `(N, ...)`.

        The interval has the probability `level`.
        """
        level = number(level, "level", above=0, below=1)
        y = self._targets(y)
        try:  # without looking for quantiles
            below = torch.stack([c.cdf(y) for c in self.components]).mean(0)
        except NotImplementedError:
            low, high = self.interval(level)
            return (low <= y) & (y <= high)
        return (2 * below - 1).abs() <= level

    def sample(self, n: int = 1, *, seed: int = 0) -> Tensor:
        """Draw the targets, `(n, N, ...)`, each under one of the draws of the weights in turn.

        Raises:
            ValueError: `n` is less than 1.
        """
        n = whole_number(n, "n", at_least=1)
        with isolated_randomness():
            torch.manual_seed(seed)
            count = len(self.components)
            rows = [self.components[i % count].sample() for i in range(n)]
        return torch.stack(rows)

    def crps(self, y: Any) -> Tensor:
        """Return the continuous ranked probability score of targets, `(N, ...)`, in float64.

        It is `E|X - y| - E|X - X'| / 2`, in closed form for mixtures of normal distributions
        (Grimit et al. 2006), and otherwise estimated from 1000 draws.
        """
        y = self._targets(y).double()
        if all(isinstance(c, torch.distributions.Normal) for c in self.components):
            return self._normal_crps(y)
        x = self._drawn.double().sort(0).values
        n = len(x)
        rank = torch.arange(1, n + 1, dtype=torch.float64).reshape(-1, *[1] * (x.ndim - 1))
        spread = ((2 * rank - n - 1) * x).sum(0) * 2 / (n * (n - 1))
        return (x - y).abs().mean(0) - spread / 2

    def uncertainties(self) -> dict[str, Tensor]:
        """Return measures of uncertainty by name, by which foreign examples can be detected."""
        return {"std": self.std, "epistemic": self.epistemic}

    def _normal_crps(self, y: Tensor) -> Tensor:
        means = torch.stack([c.mean for c in self.components]).double()
        variances = torch.stack([c.variance for c in self.components]).double()
        count = len(means)
        first = _mean_distance(y - means, variances).mean(0)
        second = torch.zeros_like(first)
        for mean, variance in zip(means, variances, strict=True):
            second += _mean_distance(mean - means, variance + variances).mean(0) / count
        return first - second / 2

    @cached_property
    def _drawn(self) -> Tensor:
        return self.sample(_DRAWS)

    def _moments(self, name: str) -> Tensor:
        if not self.has_moments:
            raise self._missing("mean and variance")
        return torch.stack([getattr(c, name) for c in self.components])

    def _missing(self, what: str) -> DataError:
        kind = type(self.components[0]).__name__
        return DataError(f"{kind}, which likelihood={self.likelihood!r} makes, has no {what}")

    def _targets(self, y: Any) -> Tensor:
        """Return the targets in the dtype of the outputs.

        Raises:
            DataError: `y` holds no targets of these examples.
        """
        y = self.likelihood.checked(y, "y").to(self.outputs)
        first = self.components[0]
        shape = tuple(first.batch_shape + first.event_shape)
        if tuple(y.shape) != shape:
            raise DataError(f"y: targets of shape {tuple(y.shape)} must have shape {shape}")
        return y


def _mean_distance(mean: Tensor, variance: Tensor) -> Tensor:
    """Return `E|X|` of normal `X`."""
    scale = variance.sqrt()
    z = mean / scale
    density = (-z.square() / 2).exp() / math.sqrt(2 * math.pi)
    return mean * (2 * torch.special.ndtr(z) - 1) + 2 * scale * density
