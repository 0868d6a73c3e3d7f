"""What `fit_powerlaw` returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np

from bayes_htr.tails.alternatives import Comparison, compare
from bayes_htr.tails.rules import Array, Rule

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, repr=False, eq=False)
class PowerlawFit:
    """A power law fitted to the largest values of a sample.

    Attributes:
        alpha: Exponent of the density.
        xmin: Where the tail begins.
        D: Kolmogorov-Smirnov distance of the tail from its law.
        sigma: Standard error of alpha by its Fisher information; `(alpha - 1) / sqrt(n_tail)`
            without an upper end.
        n: How many values were used.
        n_tail: How many of them are at least xmin.
        xmax: The law's upper end, or `None`.
        level: Probability of the intervals.
        interval: Credible interval of alpha with xmin taken as known. Where it was searched,
            this is too short.
        searched_interval: The credible interval that takes the choice of xmin into account; `None`
            without bootstrap, or where xmin was given.
        p_value: Probability of a D as large if there is a power-law tail, over both rounds of the
            bootstrap; `None` without it.
        clauset_p_value: That of Clauset, Shalizi and Newman: over the first round alone, in which
            the fitted xmin is taken for the true one.
        searched: Whether xmin was searched.
        zeros: How many zeros were left out.
        above: How many values above xmax were left out.
        rule: How the tail was fitted and judged.
        values: `(n,)` the values, ascending.
        xmin_frequencies: How often the bootstrap begins a tail at which of the values; `None` where
            there is no `searched_interval`.
        bootstrap: Replicates of each round.
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

    @property
    def tail(self) -> Array:
        """`(n_tail,)` the values of the tail, ascending."""
        return self.values[len(self.values) - self.n_tail :]

    def compare(self, name: str) -> Comparison:
        """The likelihood ratio of the power law to another law of the same tail.

        Args:
            name: `"lognormal"`, `"exponential"` or `"truncated_power_law"` (`x^-alpha
                e^(-Lambda x)`, as powerlaw and WeightWatcher call it).

        Raises:
            SpectrumError: A tail whose values are all equal (and above xmin).
            ValueError: Another name, or a fit with an upper end.
        """
        if self.xmax is not None:
            raise ValueError(
                f"xmax={self.xmax:.6g}: the alternatives have no upper end, so that the ratio "
                "would not compare like with like; fit without xmax"
            )
        return compare(np.log(self.tail / self.xmin), self.xmin, name)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the values and the frequencies of xmin, as plain data."""
        return {
            "alpha": self.alpha,
            "xmin": self.xmin,
            "xmax": self.xmax,
            "D": self.D,
            "sigma": self.sigma,
            "n": self.n,
            "n_tail": self.n_tail,
            "level": self.level,
            "interval": list(self.interval),
            "searched_interval": None
            if self.searched_interval is None
            else list(self.searched_interval),
            "p_value": self.p_value,
            "clauset_p_value": self.clauset_p_value,
            "searched": self.searched,
            "zeros": self.zeros,
            "above": self.above,
            **vars(self.rule),
            "bootstrap": self.bootstrap,
        }

    def plot(self, ax: Axes | None = None, *, path: str | PathLike[str] | None = None) -> Axes:
        """The share of values at least as large, with the law and its interval: `plots.plot_fit`.

        Args:
            ax: Where to draw; a new figure by default.
            path: If given, where the figure is saved.

        Raises:
            ImportError: matplotlib is not installed.
        """
        from bayes_htr.tails.plots import plot_fit

        return plot_fit(
            self.values,
            self.n_tail,
            self.alpha,
            self.searched_interval or self.interval,
            self.xmin,
            self.xmax,
            ax,
            path=path,
        )

    def __repr__(self) -> str:
        low, high = self.searched_interval or self.interval
        about = f"{100 * self.level:g} %: {low:.3g} to {high:.3g}"
        if self.searched and self.searched_interval is None:
            about += " with xmin taken as known"
        end = "" if self.xmax is None else f", xmax={self.xmax:.4g}"
        p = "" if self.p_value is None else f", p_value={self.p_value:.3g}"
        return (
            f"PowerlawFit(alpha={self.alpha:.4g} ({about}), xmin={self.xmin:.4g}{end}, "
            f"D={self.D:.3g}, n_tail={self.n_tail} of {self.n}{p})"
        )
