"""Draws of the spectra of a network's matrices, and what they say of tails."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy import optimize, stats
from torch import Tensor

from bayes_htr.errors import SpectrumError
from bayes_htr.posterior.checks import SpectrumCheck, check_spectrum
from bayes_htr.posterior.laws import StatedLaws, law_of
from bayes_htr.priors import Prior
from bayes_htr.spectra import hill, tail_count

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ALPHA_DRAWS = 4000


@dataclass(frozen=True)
class Interval:
    """A posterior quantity: its mean, standard deviation, credible interval, and draws.

    The mean of `alpha` over draws of a spectrum of a few eigenvalues can be infinite, and then
    that of a finite number of draws says little; `median` always lies within the interval.
    """

    mean: float
    sd: float
    low: float
    high: float
    draws: np.ndarray

    @property
    def median(self) -> float:
        """The median of the draws."""
        return float(np.median(self.draws))

    def __repr__(self) -> str:
        return f"Interval({self.mean:.4g} +- {self.sd:.2g}, [{self.low:.4g}, {self.high:.4g}])"


class PosteriorSpectra(Mapping[str, Tensor]):
    """Draws of every matrix's spectrum: `spectra["fc1.weight"]` is `(S, K)`, descending.

    Args:
        draws: `(S, K)` eigenvalues for each matrix by name.
        laws: What the priors say of the matrices.
        hyperparameters: `(S,)` draws by name that go with those of the spectra.

    Attributes:
        laws: As given, or none.
        hyperparameters: As given, or none.
    """

    def __init__(
        self,
        draws: Mapping[str, Tensor],
        *,
        laws: StatedLaws | None = None,
        hyperparameters: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.laws = laws or StatedLaws()
        self.hyperparameters = dict(hyperparameters or {})
        self._draws = {
            name: lam.detach().cpu().sort(dim=1, descending=True).values
            for name, lam in draws.items()
        }

    def __getitem__(self, name: str) -> Tensor:
        try:
            return self._draws[name]
        except KeyError:
            raise KeyError(f"no matrix {name!r}; there are {', '.join(self._draws)}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._draws)

    def __len__(self) -> int:
        return len(self._draws)

    def alpha(
        self, name: str, level: float = 0.95, *, fraction: float = 0.5, seed: int = 0
    ) -> Interval:
        """The exponent of the density of the upper tail, with its credible interval.

        Given a spectrum, the tail index `alpha - 1` of a power law that starts at
        `lambda_{k+1}`, `k = max(1, floor(fraction K))`, is `Gamma(k, S)` under Jeffreys' prior,
        with `S = sum_{i<=k} ln(lambda_i / lambda_{k+1})`. The posterior mixes these over the draws.
        Hill's estimate of each draw is another thing: `hill`.

        Args:
            name: The matrix.
            level: Of the interval, equal-tailed.
            fraction: The part of the spectrum that is the tail.
            seed: Of the returned draws.

        Raises:
            SpectrumError: A spectrum of one value, a tail that starts at 0, or ties.
        """
        if not 0 < level < 1:
            raise ValueError(f"level={level} must lie between 0 and 1")
        gamma = self.tail_index_law(name, fraction)
        mean = gamma.mean()
        sd = float(np.sqrt(np.mean(gamma.var() + mean**2) - np.mean(mean) ** 2))
        low, high = (_mixture_quantile(gamma, q) for q in ((1 - level) / 2, (1 + level) / 2))
        generator = np.random.default_rng(seed)
        each = -(-_ALPHA_DRAWS // len(mean))
        draws = gamma.rvs(size=(each, len(mean)), random_state=generator).T.reshape(-1)
        return Interval(1 + float(np.mean(mean)), sd, 1 + low, 1 + high, 1 + draws)

    def tail_index_law(self, name: str, fraction: float = 0.5) -> Any:
        """The `S` Gamma laws of the tail index given each draw, frozen, of `scipy.stats`.

        Raises:
            SpectrumError: As `alpha`.
        """
        estimate = self.hill(name, fraction=fraction, exponent="tail").numpy()
        k = tail_count(self[name].shape[1], fraction)
        return stats.gamma(a=k, scale=estimate / k)  # rate S = k / Hill's tail index

    def hill(self, name: str, *, fraction: float = 0.5, exponent: str = "density") -> Tensor:
        """Hill's estimate for each draw: `(S,)`."""
        lam = self[name].double()
        return hill(lam, fraction, exponent=exponent, name=name)  # type: ignore[arg-type]

    def lambda_max(self, name: str) -> Tensor:
        """The largest eigenvalue of each draw: `(S,)`."""
        return self[name][:, 0]

    def stable_rank(self, name: str) -> Tensor:
        """`sum lambda / lambda_1` of each draw: `(S,)`; nan for a zero matrix."""
        lam = self[name]
        return lam.sum(1) / lam[:, 0]

    def summary(self, level: float = 0.95) -> SpectraSummary:
        """A row for each matrix: alpha, largest eigenvalue and stable rank with intervals."""
        return SpectraSummary(tuple(self._row(name, level) for name in self), level)

    def check(
        self, name: str, prior: Prior | None = None, *, level: float = 0.95, seed: int = 0
    ) -> SpectrumCheck:
        """Does a spectrum look like a draw from a law? See `Posterior.check`."""
        K = self[name].shape[1]
        law = self.laws.law(name) if prior is None else law_of(prior, name, (K, K))
        return check_spectrum(law, self[name], self.hyperparameters, level=level, seed=seed)

    def plot(
        self, name: str, ax: Axes | None = None, *, path: str | PathLike[str] | None = None
    ) -> Axes:
        """The matrix's ESD on log-log axes, its tail and its law: `plots.plot_spectrum`."""
        from bayes_htr.posterior.plots import plot_spectrum

        return plot_spectrum(self, name, ax, path=path)

    def plot_alpha(
        self,
        ax: Axes | None = None,
        *,
        level: float = 0.95,
        path: str | PathLike[str] | None = None,
    ) -> Axes:
        """Alpha of every matrix with its interval: `layer_plots.plot_alpha`."""
        from bayes_htr.posterior.layer_plots import plot_alpha

        return plot_alpha(self, ax, level=level, path=path)

    def plot_lambda_max(
        self, name: str, ax: Axes | None = None, *, path: str | PathLike[str] | None = None
    ) -> Axes:
        """Prior and posterior of a largest eigenvalue: `layer_plots.plot_lambda_max`."""
        from bayes_htr.posterior.layer_plots import plot_lambda_max

        return plot_lambda_max(self, name, ax, path=path)

    def to_arviz(self, *, repeats: int = 1, fraction: float = 0.5, seed: int = 0) -> Any:
        """The draws as an `arviz.InferenceData`: `export.to_inference_data`."""
        from bayes_htr.posterior.export import to_inference_data

        return to_inference_data(self, repeats=repeats, fraction=fraction, seed=seed)

    def _row(self, name: str, level: float) -> SummaryRow:
        try:
            alpha: Interval | None = self.alpha(name, level)
        except SpectrumError:  # one eigenvalue, or ties: there is no tail to speak of
            alpha = None
        return SummaryRow(
            matrix=name,
            K=self[name].shape[1],
            alpha=alpha,
            lambda_max=_interval(self.lambda_max(name), level),
            stable_rank=_interval(self.stable_rank(name), level),
        )


@dataclass(frozen=True)
class SummaryRow:
    """One matrix: `alpha` is `None` where its spectrum has no tail to fit."""

    matrix: str
    K: int
    alpha: Interval | None
    lambda_max: Interval
    stable_rank: Interval


@dataclass(frozen=True)
class SpectraSummary:
    """The rows of `PosteriorSpectra.summary`; `print` shows them as a table."""

    rows: tuple[SummaryRow, ...]
    level: float

    def __str__(self) -> str:
        table = Table("matrix", "K", "alpha", "lambda_max", "stable rank")
        for row in self.rows:
            cells = (row.alpha, row.lambda_max, row.stable_rank)
            table.add_row(row.matrix.replace("[", r"\["), str(row.K), *map(_shown, cells))
        longest = max((len(row.matrix) for row in self.rows), default=0)
        console = Console(width=100 + longest, color_system=None)
        with console.capture() as capture:
            console.print(table)
            console.print(f"median [{100 * self.level:g} % credible interval]", markup=False)
        return capture.get().rstrip()


def _shown(interval: Interval | None) -> str:
    if interval is None:
        return "-"
    if interval.low == interval.high:
        return f"{interval.median:.4g}"
    return rf"{interval.median:.4g} \[{interval.low:.4g}, {interval.high:.4g}]"


def _interval(draws: Tensor, level: float) -> Interval:
    values = draws.double().numpy()
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(values.mean()), float(values.std()), float(low), float(high), values)


def _mixture_quantile(components: stats.rv_frozen, q: float) -> float:
    """The `q` quantile of the equal mixture of distributions."""
    quantiles = components.ppf(q)
    low, high = float(np.min(quantiles)), float(np.max(quantiles))
    if low == high:
        return low
    return float(optimize.brentq(lambda x: np.mean(components.cdf(x)) - q, low, high))
