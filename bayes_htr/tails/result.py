"""`PowerlawFit`: a power law fitted to the tail of a sample, and what it says."""

from __future__ import annotations

from dataclasses import dataclass, field
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np

from bayes_htr._plotting import save
from bayes_htr.tails.alternatives import Comparison, compare
from bayes_htr.tails.bootstrap import is_at_most
from bayes_htr.tails.plots import plot_fit
from bayes_htr.tails.search import Array, Rule

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, repr=False, eq=False)
class PowerlawFit:
    """A power law fitted to the largest values of a sample.

    Attributes:
        alpha: Exponent of the density.
        xmin: The lower end of the tail.
        D: Kolmogorov-Smirnov distance of the tail from its law.
        sigma: Standard error of alpha by its Fisher information; `(alpha - 1) / sqrt(n_tail)`
            without an upper end.
        n: Number of values used.
        n_tail: The number of them that are at least xmin.
        xmax: The law's upper end, or `None`.
        level: Probability of the intervals.
        interval: Credible interval of alpha that takes xmin as known, and is therefore too short
            where xmin was searched.
        searched_interval: Credible interval of alpha that accounts for the choice of xmin; `None`
            without a bootstrap, or where xmin was given.
        p_value: Probability of so large a D if the tail is a power law, over both rounds of the
            bootstrap; `None` without a bootstrap.
        clauset_p_value: The p-value of Clauset, Shalizi and Newman, over the first round alone,
            which takes the fitted xmin as the true one.
        searched: Whether xmin was searched.
        zeros: The number of zeros that were left out.
        above: The number of values above xmax that were left out.
        rule: The rule by which the tail was fitted and judged.
        values: `(n,)` values used, ascending.
        xmin_frequencies: How often the bootstrap chose each of the values as xmin; `None` where
            there is no `searched_interval`.
        bootstrap: Replicates in each round.
        discrete: Whether the law is that of whole numbers.
    """

    alpha: float
    xmin: float
    D: float
    sigma: float
    n: int
    n_tail: int
    xmax: float | None
    level: float
    interval: tuple[float, float]
    searched_interval: tuple[float, float] | None = None
    p_value: float | None = None
    clauset_p_value: float | None = None
    searched: bool = True
    zeros: int = 0
    above: int = 0
    rule: Rule = field(default_factory=Rule)
    values: Array = field(default_factory=lambda: np.empty(0))
    xmin_frequencies: dict[float, float] | None = None
    bootstrap: int = 0
    discrete: bool = False

    @property
    def tail(self) -> Array:
        """`(n_tail,)` the values of the tail, ascending."""
        return self.values[len(self.values) - self.n_tail :]

    @property
    def shown_interval(self) -> tuple[float, float]:
        """The interval that tables and pictures show: `searched_interval` if there is one."""
        return self.searched_interval or self.interval

    @property
    def replicates(self) -> int:
        """The number of replicates behind the p-value: of both rounds, if xmin was searched."""
        return self.bootstrap * (2 if self.searched else 1)

    def rejected(self, bound: float = 0.1) -> bool | None:
        """Return whether the power law is rejected, because its p-value is at most a bound.

        Args:
            bound: The bound, by default that of Clauset, Shalizi and Newman.

        Returns:
            `None` without a bootstrap, and where the p-value lies so close to the bound that more
            replicates may decide otherwise.
        """
        if self.p_value is None:
            return None
        if not self.replicates:
            return self.p_value <= bound
        return is_at_most(self.p_value, self.replicates, bound)

    def compare(self, name: str) -> Comparison:
        """Compare the power law with another law of the same tail by their likelihoods.

        Args:
            name: `"lognormal"`, `"exponential"`, `"stretched_exponential"`
                (`P(X >= x)` proportional to `e^(-(Lambda x)^beta)`) or `"truncated_power_law"`
                (`x^-alpha e^(-Lambda x)`, as powerlaw and WeightWatcher call it).

        Raises:
            SpectrumError: All values of the tail are equal, and lie above xmin.
            ValueError: The name is unknown, or the fit has an upper end or is one of whole numbers.
        """
        if self.discrete:
            raise ValueError(
                "discrete=True: the alternatives are laws of real numbers, so that the ratio would "
                "not compare like with like; there is no comparison for whole numbers"
            )
        if self.xmax is not None:
            raise ValueError(
                f"xmax={self.xmax:.6g}: the alternatives have no upper end, so that the ratio "
                "would not compare like with like; fit without xmax"
            )
        return compare(np.log(self.tail / self.xmin), self.xmin, name)

    def to_dict(self) -> dict[str, Any]:
        """Return the fit as plain data, without the values and the frequencies of xmin."""
        left_out = ("rule", "values", "xmin_frequencies")
        data = {name: value for name, value in vars(self).items() if name not in left_out}
        lists = {name: list(value) for name, value in data.items() if isinstance(value, tuple)}
        return data | lists | vars(self.rule)

    def plot(self, ax: Axes | None = None, *, path: str | PathLike[str] | None = None) -> Axes:
        """Draw the share of values at least as large, with the fitted law and its interval.

        Args:
            ax: The axes to draw on; those of a new figure by default.
            path: If given, the file in which the figure is saved.

        Raises:
            ImportError: matplotlib is not installed.
        """
        law = (self.alpha, self.shown_interval, self.xmin, self.xmax)
        ax = plot_fit(self.values, self.n_tail, *law, ax, discrete=self.discrete)
        save(ax, path)
        return ax

    def __repr__(self) -> str:
        low, high = self.shown_interval
        about = f"{100 * self.level:g} %: {low:.3g} to {high:.3g}"
        if self.searched and self.searched_interval is None:
            about += " with xmin taken as known"
        end = "" if self.xmax is None else f", xmax={self.xmax:.4g}"
        p = "" if self.p_value is None else f", p_value={self.p_value:.3g}"
        return (
            f"PowerlawFit(alpha={self.alpha:.4g} ({about}), xmin={self.xmin:.4g}{end}, "
            f"D={self.D:.3g}, n_tail={self.n_tail} of {self.n}{p}{', discrete' * self.discrete})"
        )
