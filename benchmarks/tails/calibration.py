"""`python -m benchmarks tails`: do the intervals and p-values of tail fits keep their promises?

`htr.fit_powerlaw` fits samples that are drawn from laws with a known tail. The benchmark counts how
often an interval contains the true alpha, and how often a p-value is small.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

import bayes_htr as htr
from benchmarks.common.results import Results
from benchmarks.common.running import Benchmark, Part, from_options, positive
from benchmarks.common.stopwatch import Tick
from benchmarks.common.tables import TextTable

_SMALL_P = 0.1
_REFUSALS = ("small_p", "small_clauset_p", "nested", "vuong")

Sample = NDArray[np.float64]
Draw = Callable[[int, float, np.random.Generator], Sample]

_BULK_TAIL = 0.4


def pure(n: int, alpha: float, random: np.random.Generator) -> Sample:
    """Return values of a power law from 1 on, and nothing else."""
    return np.exp(random.standard_exponential(n) / (alpha - 1))


def bulk(n: int, alpha: float, random: np.random.Generator) -> Sample:
    """Return a hump on [0, 1], Beta(3/2, 3/2), and a power law from 1 on with 40 % of the values.

    This resembles a random bulk beside a tail: the density rises by a step at 1.
    """
    body = random.beta(1.5, 1.5, n)
    return np.where(random.random(n) < _BULK_TAIL, pure(n, alpha, random), body)


def smooth(n: int, alpha: float, random: np.random.Generator) -> Sample:
    """Return `e^-(alpha (x - 1))` below 1 and `x^-alpha` from 1 on, without a kink where they meet.

    This is the hard case of Clauset, Shalizi and Newman (2009), section 3.3.2: at alpha 2.5 the
    tail has 13 % of the values, and the body just below it is close to a power law.
    """
    tail, body = 1 / (alpha - 1), math.expm1(alpha) / alpha
    below = -np.log1p(-random.random(n) * -math.expm1(-alpha)) / alpha
    in_tail = random.random(n) < tail / (tail + body)
    return np.where(in_tail, pure(n, alpha, random), below)


def lognormal(n: int, alpha: float, random: np.random.Generator) -> Sample:
    """Return values of the standard lognormal law, which is no power law, whatever alpha is."""
    return np.exp(random.standard_normal(n))


LAWS: dict[str, Draw] = {"pure": pure, "bulk": bulk, "smooth": smooth}
"""The laws with a power law from 1 on, by name."""


def _add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    sizes = [50, 200, 1000]
    add("--sizes", nargs="+", type=positive, default=sizes, help="values of a sample")
    add("--seed", type=int, default=0, help="seed of the samples")
    add(
        "--laws",
        nargs="+",
        choices=LAWS,
        default=list(LAWS),
        help="laws that are sampled, for searched xmin",
    )
    add("--samples", type=positive, default=2000, help="samples of each law and size")
    add("--bootstrap", type=positive, default=199, help="replicates of each sample")
    add("--alpha", type=float, default=2.5, help="the true exponent")
    add("--level", type=float, default=0.95, help="nominal level of the intervals")


def _parts(args: argparse.Namespace) -> list[Part]:
    """Return a part for each law, size and way to find xmin."""
    if not 1 < args.alpha < math.inf:
        raise ValueError(f"--alpha {args.alpha}: give an exponent above 1")
    measure = from_options(Calibration, args)
    kinds: list[tuple[str, str, Callable[..., dict[str, Any]], Draw]] = [
        ("pure", "known", measure.known, pure),
        *((law, "searched", measure.searched, LAWS[law]) for law in args.laws),
        ("lognormal", "power", measure.power, lognormal),
    ]
    return [
        Part(f"{law}/{n}", kind, measure.samples, partial(method, n, draw), vars(measure))
        for n in sorted(args.sizes)
        for law, kind, method, draw in kinds
    ]


@dataclass(frozen=True)
class Calibration:
    """How tail fits of samples are measured.

    Attributes:
        samples: The number of samples of each law and size.
        bootstrap: Bootstrap replicates of each sample.
        alpha: The true exponent.
        level: The nominal level of the intervals.
        seed: The seed of the samples.
    """

    samples: int
    bootstrap: int
    alpha: float
    level: float
    seed: int

    def known(self, n: int, draw: Draw, tick: Tick) -> dict[str, Any]:
        """Coverage and p-values with xmin given."""
        fits = self._fits(n, draw, tick, xmin=1.0)
        p = np.array([fit.p_value for fit in fits])
        return {
            "plain": self._coverage([fit.interval for fit in fits]),
            "small_p": float(np.mean(p <= _SMALL_P)),
            "uniform_p": uniformity(p, self.bootstrap),
            "alpha": _spread([fit.alpha for fit in fits]),
        }

    def searched(self, n: int, draw: Draw, tick: Tick) -> dict[str, Any]:
        """Coverage and p-values with xmin searched."""
        fits = self._fits(n, draw, tick)
        p = np.array([fit.p_value for fit in fits])
        first = np.array([fit.clauset_p_value for fit in fits])
        averaged = [fit.searched_interval for fit in fits if fit.searched_interval is not None]
        return {
            "plain": self._coverage([fit.interval for fit in fits]),
            "averaged": self._coverage(averaged),
            "small_p": float(np.mean(p <= _SMALL_P)),
            "small_clauset_p": float(np.mean(first <= _SMALL_P)),
            "alpha": _spread([fit.alpha for fit in fits]),
            "n_tail": _spread([fit.n_tail for fit in fits]),
            "refused": self._refused(fits),
        }

    def power(self, n: int, draw: Draw, tick: Tick) -> dict[str, Any]:
        """Return how often a power law is refused by its p-value, and for a lognormal law."""
        fits = self._fits(n, draw, tick)
        n_tail = _spread([fit.n_tail for fit in fits])
        return {"refused": self._refused(fits), "n_tail": n_tail}

    def _refused(self, fits: Sequence[htr.PowerlawFit]) -> dict[str, float]:
        """Return how often a power law is refused, and a lognormal law favoured."""
        found = [fit.compare("lognormal") for fit in fits]
        return {
            "small_p": _share(fit.p_value for fit in fits),
            "small_clauset_p": _share(fit.clauset_p_value for fit in fits),
            "nested": float(np.mean([(c.nested_p or 0) <= _SMALL_P for c in found])),
            "vuong": float(np.mean([c.ratio < 0 and c.vuong_p <= _SMALL_P for c in found])),
        }

    def _fits(self, n: int, draw: Draw, tick: Tick, **given: float) -> list[htr.PowerlawFit]:
        fits = []
        for number in range(self.samples):
            sample = draw(n, self.alpha, np.random.default_rng([self.seed, n, number]))
            options: dict[str, Any] = {**given, "level": self.level, "seed": number}
            fit = htr.fit_powerlaw(sample, bootstrap=self.bootstrap, **options)
            fits.append(fit)
            tick(1)
        return fits

    def _coverage(self, intervals: Sequence[tuple[float, float]]) -> dict[str, float]:
        low, high = np.array(intervals).T
        return {
            "covers": float(np.mean((low <= self.alpha) & (self.alpha <= high))),
            "above": float(np.mean(low > self.alpha)),
            "below": float(np.mean(high < self.alpha)),
            "width": float(np.median(high - low)),
        }


def uniformity(p: np.ndarray, bootstrap: int) -> float:
    """The p-value of a Kolmogorov-Smirnov test that bootstrap p-values are uniform on their steps.

    The p-values are multiples of `1 / (B + 1)`. At these values the test is conservative.

    Args:
        p: `(S,)` p-values.
        bootstrap: The number of replicates `B`.
    """
    steps = np.arange(1, bootstrap + 2) / (bootstrap + 1)
    shares = np.searchsorted(np.sort(p), steps + 1e-12) / len(p)
    return float(stats.kstwo.sf(np.abs(shares - steps).max(), len(p)))


def _share(p_values: Iterable[float | None]) -> float:
    """Return the share of p-values that are small."""
    return float(np.mean([p is not None and p <= _SMALL_P for p in p_values]))


def _spread(values: Sequence[float]) -> dict[str, float]:
    array = np.asarray(values, float)
    return {"median": float(np.median(array)), "mean": float(array.mean())}


def calibration_tables(results: Results) -> list[TextTable]:
    """Known xmin, searched xmin, and how often a power law is refused; shares in per cent."""
    return [_known_table(results), _searched_table(results), _power_table(results)]


def _known_table(results: Results) -> TextTable:
    rows = [
        [
            str(n),
            law,
            _percent(r["plain"]["covers"]),
            f"{r['plain']['width']:.2f}",
            _percent(r["small_p"]),
            f"{r['uniform_p']:.2f}",
            f"{r['alpha']['mean']:.3f}",
        ]
        for n, law, r in _rows(results, "known")
    ]
    columns = ("n", "law", "covers %", "width", "p <= 0.1, %", "p uniform (KS)", "mean alpha")
    return TextTable("xmin known", columns, rows)


def _searched_table(results: Results) -> TextTable:
    rows = [
        [
            str(n),
            law,
            _percent(r["plain"]["covers"]),
            f"{r['plain']['width']:.2f}",
            _percent(r["averaged"]["covers"]),
            f"{r['averaged']['width']:.2f}",
            f"{_percent(r['averaged']['above'])}, {_percent(r['averaged']['below'])}",
            _percent(r["small_p"]),
            _percent(r["small_clauset_p"]),
            f"{r['alpha']['median']:.3f}",
            f"{r['n_tail']['median']:.0f}",
        ]
        for n, law, r in _rows(results, "searched")
    ]
    columns = (
        *("n", "law", "plain covers %", "width", "searched covers %", "width"),
        *("lies above, below %", "p <= 0.1, %", "Clauset's, %", "median alpha", "median tail"),
    )
    return TextTable("xmin searched", columns, rows)


def _power_table(results: Results) -> TextTable:
    rows = [
        [
            str(n),
            law,
            *(_percent(r["refused"][name]) for name in _REFUSALS),
            f"{r['n_tail']['median']:.0f}",
        ]
        for n, law, r in sorted(
            [*_rows(results, "power"), *_rows(results, "searched")], key=lambda row: row[0]
        )
    ]
    columns = (
        *("n", "law", "p <= 0.1, %", "Clauset's, %", "lognormal by its ratio's law, %"),
        *("lognormal by Vuong, %", "median tail"),
    )
    return TextTable("A power law is refused at the 10 % level", columns, rows)


def _rows(results: Results, part: str) -> list[tuple[int, str, dict[str, Any]]]:
    found = []
    for cell in results.cells:
        law, n = cell.split("/")
        result = results.result(cell, part)
        if result is not None:
            found.append((int(n), law, result))
    return sorted(found, key=lambda row: row[0])


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{100 * share:.1f}"


TAILS = Benchmark(
    "tails",
    "coverage of the intervals of tail fits, and their p-values, on simulated samples",
    "Calibration of tail fits",
    _add_options,
    _parts,
    calibration_tables,
    threads=1,
)
