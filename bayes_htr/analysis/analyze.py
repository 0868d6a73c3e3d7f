"""`analyze`: the spectra of any network, a row per matrix.

>>> report = htr.analyze("model.safetensors", bootstrap=200)
>>> print(report)
>>> report.to_csv("spectra.csv")

**Threads.** A matrix of a few hundred columns gains little from a second thread, because the
threads have only microseconds of work between two synchronisations. It can take a hundred times as
long, because the threads of torch and of NumPy's BLAS wait for their next work in a busy loop and
keep each other from the processor. Therefore a small matrix has one thread, and several are
decomposed at a time; large ones follow one by one, with all threads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from importlib import import_module
from itertools import zip_longest
from os import PathLike
from threading import Lock
from typing import Any, Literal, TypeVar

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from bayes_htr._checks import texts, whole_number
from bayes_htr._terminal import AnalysisProgress
from bayes_htr.analysis.matrix import MatrixSpectrum, Options, analyse
from bayes_htr.analysis.report import SpectraReport
from bayes_htr.analysis.resampled import Farms
from bayes_htr.analysis.sources import open_source
from bayes_htr.analysis.weights import Conv, Source, Weight, matches
from bayes_htr.distributed import assign, connected, fail_together, gathered, rank, world_size
from bayes_htr.errors import DataError
from bayes_htr.spectra.layout import Layouts, LayoutsLike, as_layouts, plain_layouts

T = TypeVar("T")

_SMALL_SIDE = 1024  # the shorter side

_SMALL_SIZE = 2**23  # entries: several matrices are in memory at a time

_MOST_WORKERS = 16


def analyze(
    source: nn.Module | Mapping[str, Tensor] | str | PathLike[str],
    *,
    layers: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
    min_size: int = 8,
    conv: Conv = "flatten",
    level: float = 0.95,
    bootstrap: int | Literal["auto"] = "auto",
    compare: bool = True,
    mp_fit: bool = True,
    randomize: bool = False,
    farms: bool | Farms = False,
    seed: int = 0,
    progress: bool | None = None,
    matrices: LayoutsLike | Layouts | None = None,
    share: bool = False,
) -> SpectraReport:
    """Analyse the spectra of a network's weight matrices.

    Every matrix is decomposed in float64 on the CPU. Small ones (up to 1024 eigenvalues and eight
    million entries) are analysed several at a time, in as many threads as torch may use and at
    most 16, each with single-threaded BLAS (the process's number of threads is 1 meanwhile); large
    ones follow one at a time, with all threads. Of a file, no more than these matrices are in
    memory. Tensors of fewer than two dimensions are not matrices; tied ones count once. A matrix
    with entries that are not finite has a row that says so, without numbers.

    Args:
        source: A module, a state dict, a `.pt`, `.pth` or `.safetensors` file, the index of
            sharded safetensors, or a folder. Files are read without running what they hold.
        layers: Names, or patterns as in `fnmatch`, of the weights to analyse; all by default.
        exclude: Names or patterns of weights to leave out.
        min_size: The smallest number of eigenvalues of a matrix that is analysed. The product of
            an adapter's factors counts with its shorter side, whatever its rank is.
        conv: Whether a convolution is one matrix `out x (in kh kw)` (`"flatten"`), or the
            eigenvalues of one matrix `out x in` per position of its kernel, taken together
            (`"slices"`, as in WeightWatcher, with its factor 1/2).
        level: Probability of the intervals of alpha.
        bootstrap: Number of replicates, in each of two rounds, for the p-value and for the interval
            that accounts for the choice of xmin; 0 for neither, and then no verdict that needs the
            p-value. `"auto"` takes 100, and up to 1,600 where the p-value is so close to 0.1 that
            the verdict is open.
        compare: Whether to compare the power law with a lognormal, an exponential, a stretched
            exponential, and a power law with an exponential cut-off.
        mp_fit: Whether to fit the Marchenko-Pastur bulk.
        randomize: Whether to compare with the entries in random order, at the price of another
            decomposition (five for matrices below 100 eigenvalues).
        farms: Whether to fit also the average spectrum of windows of one aspect ratio, which are
            square by default; `Farms(aspect, size)` sets their shape.
        seed: Seed of the bootstrap and the random order. The global random state does not change.
        progress: Whether to show a bar; by default where standard error is a terminal.
        matrices: Which axes of a tensor form its matrices, by patterns on names, as in `Priors`: a
            `MatrixLayout`, or the same as plain data, or `None` for no matrix.
        share: Whether the processes of `torch.distributed` divide the matrices among them. All of
            them have to call, and all return the same report. Networks under `fully_shard` or
            tensor parallelism need it.

    Returns:
        The report: `rows`, `to_pandas()`, `to_csv(path)`, `to_json(path)`, `to_parquet(path)`,
        `compare(other)`; `print` shows a table.

    Raises:
        DataError: There are no weight matrices, or a pattern matches none.
        CheckpointError: A file does not exist or cannot be read.
        SpectrumError: A layout does not fit its tensor, or weights are spread over processes and
            not shared.
        ProcessError: Another process has failed.
        ValueError: An option is outside its range.
    """
    layouts = as_layouts(matrices)
    if not isinstance(farms, bool | Farms):
        raise ValueError(f"farms={farms!r} must be True, False or Farms(aspect, size)")
    windows = (Farms() if farms else None) if isinstance(farms, bool) else farms
    options = Options(conv, level, bootstrap, compare, mp_fit, randomize, windows, seed)
    patterns = {"layers": texts(layers, "layers"), "exclude": texts(exclude, "exclude")}
    network, weights, skipped = select_weights(
        source,
        layers=layers,
        exclude=exclude,
        min_size=min_size,
        conv=conv,
        matrices=layouts,
        spread=share,
    )
    if share and world_size() > 1:
        analysed = _analyse_together(weights, options, progress)
    else:
        analysed = _analyse_all(weights, options, progress)
    settings: dict[str, Any] = {**asdict(options), "min_size": min_size}
    settings |= {option: list(names) for option, names in patterns.items() if names}
    settings |= {"matrices": plain_layouts(layouts)} if layouts else {}
    return SpectraReport(network, {m.name: m for m in analysed}, skipped, settings)


def select_weights(
    source: nn.Module | Mapping[str, Tensor] | str | PathLike[str],
    *,
    layers: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
    min_size: int = 8,
    conv: Conv = "flatten",
    matrices: LayoutsLike | Layouts | None = None,
    spread: bool = False,
) -> tuple[str, list[Weight], dict[str, str]]:
    """Choose the weights that `analyze` analyses, without reading them.

    The arguments are those of `analyze`; `spread` says whether parameters may be `DTensor`s.

    Returns:
        The label of the network, the weights, and the reasons why others are left out, by name.

    Raises:
        DataError: A pattern matches nothing, or no weight is left.
        CheckpointError: A file does not exist or cannot be read.
        SpectrumError: A layout does not fit its tensor.
        ValueError: `min_size` is below 1, or `matrices` is no mapping to layouts.
    """
    include, leave_out = texts(layers, "layers"), texts(exclude, "exclude")
    whole_number(min_size, "min_size", at_least=1)
    network = open_source(source, as_layouts(matrices), spread=spread)
    return network.label, *_select(network, include, leave_out, min_size, conv)


def _select(
    source: Source,
    include: Sequence[str],
    exclude: Sequence[str],
    min_size: int,
    conv: Conv,
) -> tuple[list[Weight], dict[str, str]]:
    for pattern in (*include, *exclude):
        if not any(matches(w.name, [pattern]) for w in source.weights):
            names = ", ".join(w.name for w in source.weights[:20]) or "none"
            raise DataError(f"{pattern!r} matches no weight of {source.label}; there are: {names}")
    selected: list[Weight] = []
    skipped = dict(source.skipped)
    for weight in source.weights:
        size = weight.size(conv)
        if include and not matches(weight.name, include):
            skipped[weight.name] = "no pattern includes it"
        elif matches(weight.name, exclude):
            skipped[weight.name] = "excluded"
        elif size < min_size:
            skipped[weight.name] = f"{size} eigenvalues, fewer than {min_size}"
        else:
            selected.append(weight)
    if not selected:
        reasons = "; ".join(f"{name}: {why}" for name, why in list(skipped.items())[:5])
        raise DataError(
            f"{source.label} holds no weight matrix to analyse "
            f"({reasons or 'no tensor has two dimensions or more'}); change the patterns, lower "
            "min_size, or name another file"
        )
    return selected, skipped


def _analyse_all(
    weights: Sequence[Weight],
    options: Options,
    progress: bool | None,
    places: Sequence[int] | None = None,
) -> list[MatrixSpectrum]:
    """Analyse weights; `places` are their places among all weights, from which seeds follow."""
    work = [_work(weight, options.conv) for weight in weights]
    small = [is_small(w.sides(options.conv), math.prod(w.shape)) for w in weights]
    loading = Lock()
    with AnalysisProgress(progress, sum(work)) as bar:

        def job(number: int) -> MatrixSpectrum:
            weight = weights[number]
            bar.begin(weight.name)
            if small[number]:
                weight = _loaded_once(weight, loading)
            matrix = analyse(weight, number if places is None else places[number], options)
            bar.advance(work[number])
            return matrix

        return run_all(job, work, small)


def _analyse_together(
    weights: Sequence[Weight], options: Options, progress: bool | None
) -> list[MatrixSpectrum]:
    """Analyse a part of the weights in each process, and return in all what `_analyse_all` does.

    A weight that is spread over processes is put together by all of them, kept by the process that
    analyses it, and freed before the next.
    """
    owners = assign([_work(weight, options.conv) for weight in weights], world_size())
    own: list[tuple[int, MatrixSpectrum]] = []
    with fail_together():
        mine = [i for i, w in enumerate(weights) if owners[i] == rank() and not w.spread]
        found = _analyse_all([weights[i] for i in mine], options, progress, mine)
        own += zip(mine, found, strict=True)
    spread = [i for i, weight in enumerate(weights) if weight.spread]
    for turn in _turns(spread, owners):
        kept: dict[int, Weight] = {}
        for i in turn:
            with connected():
                tensor = weights[i].load()
            if owners[i] == rank():
                kept[i] = replace(weights[i], load=partial(_itself, tensor.clone()), spread=False)
        with fail_together():
            own += zip(kept, _analyse_all([*kept.values()], options, False, [*kept]), strict=True)
    analysed = dict(pair for part in gathered(own) for pair in part)
    return [analysed[i] for i in range(len(weights))]


def _turns(numbers: Sequence[int], owners: Sequence[int]) -> list[list[int]]:
    """Divide weights into rounds, in each of which every process has at most one weight."""
    queues: dict[int, list[int]] = {}
    for number in numbers:
        queues.setdefault(owners[number], []).append(number)
    return [[n for n in turn if n is not None] for turn in zip_longest(*queues.values())]


def _itself(tensor: Tensor) -> Tensor:
    return tensor


def _loaded_once(weight: Weight, loading: Lock) -> Weight:
    """Return a weight that copies what it loads, and that only one thread at a time loads.

    A module's parametrization is not made for threads, and a file stays mapped as long as a tensor
    in it is used.
    """

    def load() -> Tensor:
        with loading:
            return weight.load().detach().clone()

    return replace(weight, load=load)


def _work(weight: Weight, conv: Conv) -> float:
    """Estimate the number of floating-point operations that the decomposition takes."""
    M, N = sorted(weight.sides(conv))
    return float(M * M * (N + 4 * M)) * (weight.positions if conv == "slices" else 1)


# Threads


def is_small(sides: tuple[int, int], entries: int) -> bool:
    """Return whether a weight with these sides and number of entries is analysed in one thread."""
    return min(sides) <= _SMALL_SIDE and entries <= _SMALL_SIZE


def run_all(job: Callable[[int], T], work: Sequence[float], small: Sequence[bool]) -> list[T]:
    """Compute `job(0)`, `job(1)`, ...

    Small jobs run at once, the longest first, in as many threads as torch would use (at most 16);
    then the others run in this thread. After an error no other job begins.

    Args:
        job: Called with each index.
        work: The time that each job takes, in any unit.
        small: Whether each job is on small matrices.
    """
    longest_first = sorted((i for i in range(len(work)) if small[i]), key=lambda i: -work[i])
    workers = min(torch.get_num_threads(), len(longest_first), _MOST_WORKERS)
    results: dict[int, T] = {}
    if longest_first:
        with single_threaded():
            if workers == 1:
                results |= {i: job(i) for i in longest_first}
            else:
                results |= _run_in_threads(job, longest_first, workers)
    return [results[i] if small[i] else job(i) for i in range(len(work))]


def _run_in_threads(job: Callable[[int], T], indices: Sequence[int], workers: int) -> dict[int, T]:
    pool = ThreadPoolExecutor(workers, thread_name_prefix="analyze")
    try:
        futures = {i: pool.submit(job, i) for i in indices}
        done, _ = wait(futures.values(), return_when=FIRST_EXCEPTION)
        for future in done:
            future.result()  # raises what the job has raised
        return {i: future.result() for i, future in futures.items()}
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def single_threaded() -> Iterator[None]:
    """Limit each operator of torch and each call of NumPy's and SciPy's BLAS to one thread.

    This holds in the whole process, also for threads that are started meanwhile. Afterwards the
    limits are as before.
    """
    import_module("scipy.stats")  # only libraries that are loaded are limited
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(limits=1, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(before)
