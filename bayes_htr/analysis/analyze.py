"""`analyze`: the spectra of any network, a row per matrix.

>>> report = htr.analyze("model.safetensors", bootstrap=200)
>>> print(report)
>>> report.to_csv("spectra.csv")
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from os import PathLike
from threading import Lock
from typing import Any

from torch import Tensor, nn

from bayes_htr._terminal import AnalysisProgress
from bayes_htr.analysis.farms import Farms
from bayes_htr.analysis.parallel import is_small, run_all
from bayes_htr.analysis.report_table import SpectraReport
from bayes_htr.analysis.rows import Analysed, Options, analyse
from bayes_htr.analysis.selection import select
from bayes_htr.analysis.sources import open_source
from bayes_htr.analysis.weights import Conv, Weight


def analyze(
    source: nn.Module | Mapping[str, Tensor] | str | PathLike[str],
    *,
    layers: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
    min_size: int = 8,
    conv: Conv = "flatten",
    level: float = 0.95,
    bootstrap: int = 0,
    compare: bool = True,
    mp_fit: bool = True,
    randomize: bool = False,
    farms: bool | Farms = False,
    seed: int = 0,
    progress: bool | None = None,
) -> SpectraReport:
    """Analyse the spectra of a network's weight matrices.

    Every matrix is decomposed in float64 on the CPU. Small ones (up to 1024 eigenvalues and eight
    million entries) are analysed several at a time, in as many threads as torch may use and at
    most 16, each by single-threaded BLAS (the process's number of threads is 1 meanwhile); large
    ones one at a time, with all threads. Of a file, no more than these are in memory. Tensors of
    fewer than two dimensions are no matrices; tied ones count once.

    Args:
        source: A module, a state dict, a `.pt`, `.pth` or `.safetensors` file, the index of a
            sharded one, or a folder. Files are read without running what they hold.
        layers: Names, or patterns as `fnmatch`, of the weights to analyse; all by default.
        exclude: Patterns of those to leave out.
        min_size: The fewest eigenvalues of a matrix that is analysed.
        conv: A convolution is one matrix `out x (in kh kw)` (`"flatten"`), or the eigenvalues of
            one `out x in` for each position of its kernel together (`"slices"`, as WeightWatcher,
            with its factor 1/2).
        level: Probability of the intervals of alpha.
        bootstrap: Replicates for the p-value and for the interval that takes the choice of xmin
            into account; 0 for neither.
        compare: Whether to compare the power law with a lognormal, an exponential and a power law
            with a cut-off.
        mp_fit: Whether to fit the Marchenko-Pastur bulk.
        randomize: Whether to compare with the entries in random order, at the price of another
            decomposition (five of matrices below 100 eigenvalues).
        farms: Whether to fit also the average spectrum of windows of one aspect ratio, square by
            default, or `Farms(aspect, size)`.
        seed: Of bootstrap and random order. The global random state stays as it is.
        progress: Whether to show a bar; by default where standard error is a terminal.

    Returns:
        The report: `rows`, `to_pandas()`, `to_csv(path)`, `to_json(path)`, `to_parquet(path)`,
        `compare(other)`; `print` shows a table.

    Raises:
        DataError: No weight matrices there, or a pattern that matches none.
        CheckpointError: A file that is not there or cannot be read.
        SpectrumError: A matrix with entries that are not finite.
        ValueError: An option outside its range.
    """
    windows = (Farms() if farms else None) if isinstance(farms, bool) else farms
    options = Options(conv, level, bootstrap, compare, mp_fit, randomize, windows, seed)
    patterns = {"layers": _patterns(layers), "exclude": _patterns(exclude)}
    opened = open_source(source)
    weights, skipped = select(
        opened,
        include=patterns["layers"],
        exclude=patterns["exclude"],
        min_size=min_size,
        conv=conv,
    )
    found = _analyse_all(weights, options, progress)
    settings: dict[str, Any] = {**asdict(options), "min_size": min_size}
    settings |= {option: list(given) for option, given in patterns.items() if given}
    return SpectraReport(
        [a.row for a in found.values()],
        opened.label,
        {name: a.eigenvalues for name, a in found.items()},
        {name: a.fit for name, a in found.items()},
        {name: a.bulk for name, a in found.items()},
        skipped,
        settings,
    )


def _analyse_all(
    weights: Sequence[Weight], options: Options, progress: bool | None
) -> dict[str, Analysed]:
    work = [_work(weight, options.conv) for weight in weights]
    small = [is_small(w.sides(options.conv), math.prod(w.shape)) for w in weights]
    loading = Lock()
    with AnalysisProgress(progress, sum(work)) as bar:

        def job(number: int) -> Analysed:
            weight = weights[number]
            bar.begin(weight.name)
            if small[number]:
                weight = replace(weight, load=partial(_copy, weight, loading))
            found = analyse(weight, number, options)
            bar.advance(work[number])
            return found

        found = run_all(job, work, small)
    return {weight.name: a for weight, a in zip(weights, found, strict=True)}


def _copy(weight: Weight, loading: Lock) -> Tensor:
    """Loaded one at a time, since a module's parametrization is not made for threads.

    Copied, since a file stays mapped as long as a tensor in it is used: once, not in each thread.
    """
    with loading:
        return weight.load().detach().clone()


def _work(weight: Weight, conv: Conv) -> float:
    """In floating-point operations, about."""
    M, N = sorted(weight.sides(conv))
    return float(M * M * (N + 4 * M)) * (weight.positions if conv == "slices" else 1)


def _patterns(patterns: str | Sequence[str]) -> tuple[str, ...]:
    return (patterns,) if isinstance(patterns, str) else tuple(patterns)
