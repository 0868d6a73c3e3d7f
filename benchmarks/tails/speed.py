"""`python -m benchmarks search` and `analyze`: tail fits and reports beside WeightWatcher's.

Both sides take turns on one machine in one run. This needs the extra `peers`. For `analyze` set
`OMP_NUM_THREADS`, the threads of the linear algebra of both sides.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import os
from collections.abc import Callable
from functools import partial
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch
from scipy.linalg import eigvalsh_tridiagonal
from torch import nn

import bayes_htr as htr
from bayes_htr.experiments import NETWORKS, build_network
from benchmarks.common.results import Results
from benchmarks.common.running import Benchmark, Part, positive
from benchmarks.common.stopwatch import Stopwatch, Tick
from benchmarks.common.tables import TextTable

_MISSING = 'this benchmark needs WeightWatcher: pip install "bayes-htr[peers]"'


# search: the search for xmin

_LAWS: dict[str, Callable[[int, np.random.Generator], np.ndarray]] = {
    "pareto": lambda n, random: random.pareto(1.5, n) + 1,
    "lognormal": lambda n, random: random.lognormal(size=n),
    "gaussian": lambda n, random: wishart_eigenvalues(n, 2 * n, random),
}


def _add_search(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    sizes = [1024, 4096, 8192]
    add("--sizes", nargs="+", type=positive, default=sizes, help="values of a sample")
    add("--seed", type=int, default=0, help="seed of the samples")
    laws = list(_LAWS)
    add("--laws", nargs="+", choices=laws, default=laws, help="laws of the eigenvalues")
    add("--repeats", type=positive, default=9, help="timings, of which the fastest counts")


def _search_parts(args: argparse.Namespace) -> list[Part]:
    """Return a part for each law and size."""
    settings = {"repeats": args.repeats, "seed": args.seed}
    return [
        Part(f"{law}/{n}", "speed", args.repeats, partial(_search, n, law, **settings), settings)
        for n in sorted(args.sizes)
        for law in args.laws
    ]


def _search(n: int, law: str, tick: Tick, *, repeats: int, seed: int) -> dict[str, Any]:
    """The fastest times of both in milliseconds, and the largest difference of their answers."""
    theirs = _weightwatcher_fit()
    values = _LAWS[law](n, np.random.default_rng([seed, n]))
    ours_ms, their_ms = [], []
    htr.fit_powerlaw(values)
    for _ in range(repeats):
        ours, seconds = _timed(htr.fit_powerlaw, values)
        ours_ms.append(1e3 * seconds)
        other, seconds = _timed(theirs, values)
        their_ms.append(1e3 * seconds)
        tick(1)
    # Other work on the machine only adds to a time, so the fastest one counts.
    pairs = [(getattr(ours, name), getattr(other, name)) for name in ("alpha", "xmin", "D")]
    return {
        "ours_ms": min(ours_ms),
        "weightwatcher_ms": min(their_ms),
        "difference": float(max(abs(a / b - 1) for a, b in pairs)),
    }


def _weightwatcher_fit() -> Callable[[np.ndarray], Any]:
    try:
        from weightwatcher.WW_powerlaw import WWFit
    except ImportError as error:
        raise ImportError(_MISSING) from error
    return WWFit


def _timed(fit: Callable[[np.ndarray], Any], values: np.ndarray) -> tuple[Any, float]:
    start = perf_counter()
    found = fit(values)
    return found, perf_counter() - start


def wishart_eigenvalues(n: int, m: int, random: np.random.Generator) -> np.ndarray:
    """Eigenvalues of `W W'` for an `n x m` Gaussian matrix, `(n,)`, without the matrix.

    Householder reflections make W bidiagonal with independent chi variables, for `m >= n`
    (Dumitriu & Edelman 2002, Journal of Mathematical Physics 43(11)).
    """
    diagonal = np.sqrt(random.chisquare(np.arange(m, m - n, -1)))
    below = np.sqrt(random.chisquare(np.arange(n - 1, 0, -1)))
    squares = diagonal**2
    squares[1:] += below**2
    return eigvalsh_tridiagonal(squares, diagonal[:-1] * below)


def search_tables(results: Results) -> list[TextTable]:
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


SEARCH = Benchmark(
    "search",
    "time of the search for xmin against WeightWatcher's (extra: peers)",
    "Speed of the search for xmin",
    _add_search,
    _search_parts,
    search_tables,
    threads=1,
)


# analyze: whole reports of a network

_SHAPE, _CLASSES = (3, 32, 32), 10
_CONVS = ("flatten", "slices")
_WORK: dict[str, dict[str, Any]] = {
    "default": {},
    "same": {"bootstrap": 0, "mp_fit": False, "compare": False},
    "full": {"randomize": True},
}
"""How much is done, with our options for it.

`default` is what either side does by default: ours computes the Marchenko-Pastur bulk and
likelihood ratios, theirs does not. `same` leaves these out on our side too. `full` is our default
with randomised entries, and on their side randomised entries and the Marchenko-Pastur fit.
"""


def _add_analyze(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--nets", nargs="+", choices=NETWORKS, default=["resnet18"], help="the networks")
    work = list(_WORK)
    add("--work", nargs="+", choices=work, default=work, help="how much; full takes minutes")
    add("--repeats", type=positive, default=3, help="timings, of which the median counts")
    add("--seed", type=int, default=0, help="seed of the weights")


def _analyze_parts(args: argparse.Namespace) -> list[Part]:
    """Return a part for each network, view of convolutions, and amount of work."""
    own = {"repeats": args.repeats, "seed": args.seed}
    settings = {**own, "blas_threads": os.environ.get("OMP_NUM_THREADS")}
    return [
        Part(
            f"{net}/{conv}",
            work,
            2 * args.repeats,
            partial(_analyze, net, conv, work, **own),
            settings,
        )
        for net in args.nets
        for conv in _CONVS
        for work in args.work
    ]


def _analyze(
    name: str, conv: Any, work: str, tick: Tick, *, repeats: int, seed: int
) -> dict[str, Any]:
    """Seconds of both, and how their largest eigenvalues and exponents differ."""
    theirs = _weightwatcher()
    net = build_network(name, _SHAPE, _CLASSES, seed=seed)
    watch = Stopwatch(torch.device("cpu"))
    ours_seconds, their_seconds = [], []
    htr.analyze({"w": torch.randn(50, 40, generator=torch.Generator().manual_seed(0))})
    for _ in range(repeats):
        ours = partial(htr.analyze, net, conv=conv, progress=False, **_WORK[work])
        ours_seconds.append(watch(ours))
        tick(1)
        their_seconds.append(watch(partial(theirs, net, work == "full")))
        tick(1)
    return {
        "ours": median(ours_seconds),
        "weightwatcher": median(their_seconds),
        **_differences(net, conv, theirs),
    }


def _weightwatcher() -> Callable[[nn.Module, bool], Any]:
    """WeightWatcher's `analyze`, silent."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            from weightwatcher import WeightWatcher
    except ImportError as error:
        raise ImportError(_MISSING) from error

    def run(net: nn.Module, full: bool) -> Any:
        logger = logging.getLogger("weightwatcher")
        before = logger.level
        logger.setLevel(logging.CRITICAL)
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                return WeightWatcher(model=net).analyze(randomize=full, mp_fit=full)
        finally:
            logger.setLevel(before)

    return run


def _differences(
    net: nn.Module, conv: Any, theirs: Callable[[nn.Module, bool], Any]
) -> dict[str, float | int]:
    """The largest relative difference of `alpha` and `lambda_max` where the matrices are the same.

    By slices all matrices are the same; with flattened convolutions those of linear layers are.
    """
    rows = htr.analyze(net, conv=conv, bootstrap=0, progress=False).rows
    details = {f"{d['longname']}.weight": d for d in theirs(net, False).to_dict("records")}
    same = [
        abs(float(row[name]) / details[row["name"]][name] - 1)
        for row in rows
        for name in ("alpha", "lambda_max")
        if conv == "slices" or row["layer_type"] == "dense"
    ]
    return {"matrices": len(rows), "difference": float(max(same, default=0.0))}


def analysis_tables(results: Results) -> list[TextTable]:
    """Seconds of both and their ratio."""
    rows = []
    for cell in results.cells:
        net, conv = cell.split("/")
        for work in _WORK:
            if r := results.result(cell, work):
                times = [f"{r[k]:.3g}" for k in ("weightwatcher", "ours")]
                ratio = f"{r['weightwatcher'] / r['ours']:.1f}"
                row = [net, conv, work, str(r["matrices"]), *times, ratio]
                rows.append([*row, f"{r['difference']:.1e}"])
    columns = (
        *("network", "convolutions", "work", "matrices", "WeightWatcher s", "ours s", "ratio"),
        "largest relative difference",
    )
    return [TextTable("Reports of a network", columns, rows)]


ANALYZE = Benchmark(
    "analyze",
    "time of whole reports in turns with WeightWatcher's (extra: peers)",
    "Speed of whole reports",
    _add_analyze,
    _analyze_parts,
    analysis_tables,
)
