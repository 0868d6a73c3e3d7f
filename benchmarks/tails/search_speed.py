"""`python -m benchmarks search`: the search for xmin against WeightWatcher's.

Both are timed on one machine in one run. Needs the extra `peers`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np
from scipy.linalg import eigvalsh_tridiagonal

from bayes_htr.tails import fit_powerlaw
from benchmarks.common.parts import Part
from benchmarks.common.results import Results
from benchmarks.common.stopwatch import Tick
from benchmarks.common.tables import TextTable

_LAWS: dict[str, Callable[[int, np.random.Generator], np.ndarray]] = {
    "pareto": lambda n, random: random.pareto(1.5, n) + 1,
    "lognormal": lambda n, random: random.lognormal(size=n),
    "gaussian": lambda n, random: wishart_eigenvalues(n, 2 * n, random),
}
LAWS = tuple(_LAWS)


@dataclass(frozen=True)
class SearchSpeed:
    """The whole benchmark.

    Attributes:
        sizes: Numbers of eigenvalues.
        laws: Names in `LAWS`.
        repeats: Timings, of which the fastest counts: other work on the machine only adds.
        seed: Of the values.
    """

    sizes: Sequence[int]
    laws: Sequence[str]
    repeats: int
    seed: int

    def parts(self) -> list[Part]:
        """A part for each law and size."""
        settings = {"repeats": self.repeats, "seed": self.seed}
        return [
            Part(f"{law}/{n}", "speed", self.repeats, partial(self.measure, n, law), settings)
            for n in sorted(self.sizes)
            for law in self.laws
        ]

    def measure(self, n: int, law: str, tick: Tick) -> dict[str, Any]:
        """Milliseconds of both, taken in turns, and how their answers differ."""
        theirs = weightwatcher_fit()
        values = _LAWS[law](n, np.random.default_rng([self.seed, n]))
        times: dict[str, list[float]] = {"ours_ms": [], "weightwatcher_ms": []}
        fit_powerlaw(values)
        for _ in range(self.repeats):
            ours, seconds = _timed(fit_powerlaw, values)
            times["ours_ms"].append(1e3 * seconds)
            other, seconds = _timed(theirs, values)
            times["weightwatcher_ms"].append(1e3 * seconds)
            tick(1)
        found: dict[str, Any] = {k: min(v) for k, v in times.items()}
        pairs = [(getattr(ours, name), getattr(other, name)) for name in ("alpha", "xmin", "D")]
        return {**found, "difference": float(max(abs(a / b - 1) for a, b in pairs))}


def weightwatcher_fit() -> Callable[[np.ndarray], Any]:
    """WeightWatcher's own search.

    Raises:
        ImportError: It is not installed.
    """
    try:
        from weightwatcher.WW_powerlaw import WWFit
    except ImportError as error:
        raise ImportError(
            'this benchmark needs WeightWatcher: pip install "bayes-htr[peers]"'
        ) from error
    return WWFit


def speed_tables(results: Results) -> list[TextTable]:
    """Milliseconds of both and their ratio."""
    rows = []
    for cell in results.cells:
        law, n = cell.split("/")
        if r := results.result(cell, "speed"):
            ratio = r["weightwatcher_ms"] / r["ours_ms"]
            times = [f"{r[k]:.3g}" for k in ("weightwatcher_ms", "ours_ms")]
            rows.append([n, law, *times, f"{ratio:.0f}", f"{r['difference']:.1e}"])
    columns = ("n", "law", "WeightWatcher ms", "ours ms", "ratio", "largest relative difference")
    return [TextTable("The search for xmin", columns, rows)]


def _timed(fit: Callable[[np.ndarray], Any], values: np.ndarray) -> tuple[Any, float]:
    start = perf_counter()
    found = fit(values)
    return found, perf_counter() - start


def wishart_eigenvalues(n: int, m: int, random: np.random.Generator) -> np.ndarray:
    """Eigenvalues of `W W'` for an n x m Gaussian matrix, without the matrix.

    Householder reflections make W bidiagonal with independent chi variables, for `m >= n`
    (Dumitriu & Edelman 2002, Journal of Mathematical Physics 43(11)).
    """
    diagonal = np.sqrt(random.chisquare(np.arange(m, m - n, -1)))
    below = np.sqrt(random.chisquare(np.arange(n - 1, 0, -1)))
    squares = diagonal**2
    squares[1:] += below**2
    return eigvalsh_tridiagonal(squares, diagonal[:-1] * below)
