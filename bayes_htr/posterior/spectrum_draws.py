"""Numerical draws of the spectra of a network's matrices, and the exponents of their tails."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy
from rich.console import Console
from rich.table import Table
from torch import Tensor

from bayes_htr.errors import SpectrumError
from bayes_htr.posterior.checks import SpectrumCheck, check_spectrum
from bayes_htr.posterior.laws import StatedLaws, law_of
from bayes_htr.priors import Prior
from bayes_htr.spectra import hill, tail_count
from bayes_htr.tails import SpectrumTail, fit_tail

_ALPHA_DRAWS = 4000


@dataclass(frozen=True)
class Interval:
    """A posterior quantity: its mean, standard deviation, credible interval, and draws.

    If a tail has only a few eigenvalues, the mean of `alpha` over draws of the spectrum can be
    infinite, and the mean of finitely many draws is then not informative. The `median` always lies
    within the interval.

    Attributes:
        mean: The posterior mean.
        sd: The posterior standard deviation.
        low: Lower end of the credible interval.
        high: Upper end.
        draws: Draws of the quantity.
        given: What the interval conditions on, in words; empty if nothing.
    """

    mean: float
    sd: float
    low: float
    high: float
    draws: np.ndarray
    given: str = ""

    @property
    def median(self) -> float:
        """The median of the draws."""
        return float(np.median(self.draws))

    def __repr__(self) -> str:
        given = f" given {self.given}" if self.given else ""
        ends = f"[{self.low:.4g}, {self.high:.4g}]"
        return f"Interval({self.mean:.4g} +- {self.sd:.2g}, {ends}{given})"


@dataclass(frozen=True)
class TailLaws:
    """The posterior of the tail index `alpha - 1` given each draw of a spectrum.

    Attributes:
        gamma: The `S` Gamma distributions, frozen, from `scipy.stats`.
        given: The tail on which they condition, in words.
    """

    gamma: Any
    given: str


class SpectrumDraws(Mapping[str, Tensor]):
    """The numerical part of `PosteriorSpectra`, which adds figures and exports."""

    def __init__(
        self,
        draws: Mapping[str, Tensor],
        *,
        laws: StatedLaws | None = None,
        hyperparameters: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.laws = laws or StatedLaws()
        self.hyperparameters = dict(hyperparameters or {})
        self._tails: dict[str, SpectrumTail] = {}
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
        self,
        name: str,
        level: float = 0.95,
        *,
        fraction: float | None = None,
        seed: int = 0,
    ) -> Interval:
        """The exponent of the density of the tail, with its credible interval.

        Let the tail of a spectrum contain its n largest eigenvalues, and let xmin be the smallest
        of them. Under Jeffreys' prior, the tail index `alpha - 1` of a power law that starts at
        xmin is `Gamma(n, S)`, with `S = sum_{i<=n} ln(lambda_i / xmin)`. The posterior is the
        mixture of these distributions over the draws. By default, n comes from the search for xmin
        of Clauset, Shalizi and Newman (`tail`), as in `htr.analyze`, so for a single spectrum the
        mean is the `alpha` of its report. The interval conditions on n. Hill's estimate of each
        draw is a different quantity, `hill`.

        Args:
            name: The matrix.
            level: Probability of the equal-tailed interval.
            fraction: If given, the tail is this fraction of the spectrum instead, and starts at the
                next eigenvalue: `n = max(1, floor(fraction K))`, `xmin = lambda_{n+1}`.
            seed: Seed of the returned draws.

        Raises:
            SpectrumError: A spectrum without an exponent: too few eigenvalues, ties of the largest,
                or no tail. Pass `fraction` to choose the tail yourself.
            ValueError: `level` or `fraction` out of range.
        """
        if not 0 < level < 1:
            raise ValueError(f"level={level} must lie between 0 and 1")
        laws = self.tail_index_laws(name, fraction)
        gamma = laws.gamma
        mean = gamma.mean()
        sd = float(np.sqrt(np.mean(gamma.var() + mean**2) - np.mean(mean) ** 2))
        low, high = (_mixture_quantile(gamma, q) for q in ((1 - level) / 2, (1 + level) / 2))
        generator = np.random.default_rng(seed)
        each = -(-_ALPHA_DRAWS // len(mean))
        draws = gamma.rvs(size=(each, len(mean)), random_state=generator).T.reshape(-1)
        return Interval(
            1 + float(np.mean(mean)), sd, 1 + low, 1 + high, 1 + draws, given=laws.given
        )

    def tail(self, name: str) -> SpectrumTail:
        """The power law of the typical spectrum of the matrix, and whether it has an exponent.

        The typical spectrum consists of the geometric means over the draws at each rank. For a
        point estimate it is the spectrum itself.
        """
        if name not in self._tails:
            self._tails[name] = self._fitted_tail(name)
        return self._tails[name]

    def _fitted_tail(self, name: str) -> SpectrumTail:
        zero = self.lambda_max(name) == 0
        if bool(zero.any()) and not bool(zero.all()):
            return SpectrumTail(None, f"no tail: {int(zero.sum())} of {len(zero)} draws are zero")
        return fit_tail(self.typical(name))

    def typical(self, name: str) -> np.ndarray:
        """`(K,)` geometric means over the draws, by rank, descending."""
        lam = self[name].double().numpy()
        if len(lam) == 1:
            return lam[0]
        with np.errstate(divide="ignore"):  # an eigenvalue that is zero in a draw is zero here
            return np.exp(np.log(lam).mean(axis=0))

    def tail_index_laws(self, name: str, fraction: float | None = None) -> TailLaws:
        """The posterior of the tail index given each draw, and the tail on which it conditions.

        Raises:
            SpectrumError: As `alpha`.
        """
        lam = self[name].double().numpy()
        K = lam.shape[1]
        if fraction is not None:
            estimate = self.hill(name, fraction=fraction, exponent="tail").numpy()
            n = tail_count(K, fraction)
            given = f"the {n} largest of {K} eigenvalues (the upper {100 * fraction:g} %)"
        else:
            n = self.tail(name).readable(name).n_tail
            with np.errstate(divide="ignore", invalid="ignore"):
                estimate = 1 / np.mean(np.log(lam[:, :n] / lam[:, n - 1 : n]), axis=1)
            given = f"the {n} largest of {K} eigenvalues (xmin searched)"
            if not np.all(np.isfinite(estimate)):
                raise SpectrumError(
                    f"{name} has no exponent: in a draw the {n} largest eigenvalues are all equal, "
                    "or some of them zero; name another tail by fraction="
                )
        return TailLaws(
            scipy.stats.gamma(a=n, scale=estimate / n), given
        )  # rate S = n / Hill's index

    def hill(self, name: str, *, fraction: float = 0.5, exponent: str = "density") -> Tensor:
        """Hill's estimate for each draw: `(S,)`."""
        lam = self[name].double()
        return hill(lam, fraction, exponent=exponent, name=name)  # type: ignore[arg-type]

    def lambda_max(self, name: str) -> Tensor:
        """The largest eigenvalue of each draw: `(S,)`."""
        return self[name][:, 0]

    def stable_rank(self, name: str) -> Tensor:
        """`sum lambda / lambda_1` of each draw: `(S,)`; NaN for a zero matrix."""
        lam = self[name]
        return lam.sum(1) / lam[:, 0]

    def summary(self, level: float = 0.95) -> SpectraSummary:
        """A row for each matrix: alpha, largest eigenvalue and stable rank with intervals."""
        return SpectraSummary(tuple(self.row(name, level) for name in self), level)

    def check(
        self, name: str, prior: Prior | None = None, *, level: float = 0.95, seed: int = 0
    ) -> SpectrumCheck:
        """Does a spectrum look like a sample from a law? See `Posterior.check`."""
        K = self[name].shape[1]
        law = self.laws.law(name) if prior is None else law_of(prior, name, (K, K))
        return check_spectrum(law, self[name], self.hyperparameters, level=level, seed=seed)

    def row(self, name: str, level: float = 0.95) -> SummaryRow:
        """The summary of one matrix."""
        tail = self.tail(name)
        alpha, problem, doubt = None, tail.problem, ""
        if not problem:
            try:
                alpha, doubt = self.alpha(name, level), tail.doubt
            except SpectrumError:
                problem = "no tail in some of the draws"
        return SummaryRow(
            matrix=name,
            K=self[name].shape[1],
            n_tail=None if alpha is None or tail.fit is None else tail.fit.n_tail,
            alpha=alpha,
            problem=problem,
            doubt=doubt,
            lambda_max=_interval(self.lambda_max(name), level),
            stable_rank=_interval(self.stable_rank(name), level),
        )


@dataclass(frozen=True)
class SummaryRow:
    """The summary of one matrix.

    Attributes:
        matrix: The name of the matrix.
        K: Its number of eigenvalues.
        n_tail: Number of eigenvalues in the tail to which alpha belongs.
        alpha: The exponent of the tail; `None` if there is no exponent.
        problem: Why there is no exponent; empty if there is one.
        doubt: Another law that fits the tail better, in words; empty if there is none.
        lambda_max: The largest eigenvalue.
        stable_rank: `sum lambda / lambda_max`.
    """

    matrix: str
    K: int
    n_tail: int | None
    alpha: Interval | None
    problem: str
    doubt: str
    lambda_max: Interval
    stable_rank: Interval

    def cells(self) -> tuple[str, str, str]:
        """Alpha, largest eigenvalue and stable rank as text, with intervals if there are any."""
        mark = " ?" if self.doubt else ""
        alpha = self.problem if self.alpha is None else shown_interval(self.alpha) + mark
        return alpha, shown_interval(self.lambda_max), shown_interval(self.stable_rank)


@dataclass(frozen=True)
class SpectraSummary:
    """The rows of `PosteriorSpectra.summary`, which print as a table."""

    rows: tuple[SummaryRow, ...]
    level: float

    def __str__(self) -> str:
        table = Table("matrix", "K", "in tail", "alpha", "lambda_max", "stable rank")
        for row in self.rows:
            in_tail = "-" if row.n_tail is None else str(row.n_tail)
            cells = (row.matrix, str(row.K), in_tail, *row.cells())
            table.add_row(*(cell.replace("[", r"\[") for cell in cells))
        longest = max((len(row.matrix) for row in self.rows), default=0)
        console = Console(width=130 + longest, color_system=None)
        with console.capture() as capture:
            console.print(table)
            console.print(alpha_note(self.rows, self.level), markup=False, soft_wrap=True)
        return capture.get().rstrip()


def alpha_note(rows: Iterable[SummaryRow], level: float) -> str:
    """The note below every table of exponents: the estimator, and the meaning of its interval.

    If an exponent has a question mark, the note explains the mark as well.
    """
    note = (
        "alpha: exponent of the power law in the tail, whose start was searched; mean "
        f"[{100 * level:g} % credible interval given that tail]"
    )
    if doubts := sorted({row.doubt for row in rows if row.doubt}):
        note += (
            f"\n?: {' or '.join(doubts)} fits this tail better; read alpha as a summary of how "
            "slowly it falls"
        )
    return note


def shown_interval(interval: Interval) -> str:
    """The mean and, if the interval has a positive width, the interval."""
    if interval.low == interval.high:
        return f"{interval.mean:.3g}"
    return f"{interval.mean:.3g} [{interval.low:.3g}, {interval.high:.3g}]"


def _interval(draws: Tensor, level: float) -> Interval:
    values = draws.double().numpy()
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(values.mean()), float(values.std()), float(low), float(high), values)


def _mixture_quantile(components: scipy.stats.rv_frozen, q: float) -> float:
    """The `q` quantile of the mixture of distributions with equal weights."""
    quantiles = components.ppf(q)
    low, high = float(np.min(quantiles)), float(np.max(quantiles))
    if low == high:
        return low
    return float(scipy.optimize.brentq(lambda x: np.mean(components.cdf(x)) - q, low, high))
