"""The evaluation of matrices that are spread over processes, by all of them together.

A matrix has an owner, which decomposes its Gram matrix, or puts the whole matrix together if
nothing smaller will do. Owners work in rounds, one matrix each at a time, so that none of them
holds the Gram matrices of a whole network: the parts are sent to the owners, the owners decompose,
and their results are sent back. `docs/distributed.md` says how much is sent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from bayes_htr.distributed import (
    all_sum,
    connected,
    gathered,
    meeting_device,
    rank,
    sent_to,
)
from bayes_htr.engine.sharded_energy import ShardedMatrixEnergy
from bayes_htr.errors import SpectrumError
from bayes_htr.priors.evaluation import Evaluation, evaluate
from bayes_htr.spectra import MatrixView, TopPair
from bayes_htr.spectra.gram_view import GramView
from bayes_htr.spectra.leading import FactorNeededError, top_pair_of_rows
from bayes_htr.spectra.matrices import check_finite
from bayes_htr.spectra.shards import SUMMED, factor_of, gram_of, squared_norm_of

Values = Mapping[str, Tensor]
Exchange = Callable[[Sequence[Any], Values, Callable[[Any], Evaluation]], list[Evaluation]]
"""Lets the owner of each matrix evaluate it, and returns the evaluations in all processes."""


class _Entries(NamedTuple):
    """The terms on a matrix's entries: sums over processes, and the gradient of this part."""

    value: float
    penalty: float
    slopes: dict[str, float]
    rest: Tensor | None


def evaluations_of_entries(
    matrices: Sequence[ShardedMatrixEnergy], coordinates: Values
) -> list[Evaluation]:
    """Return the evaluations of matrices whose priors are on entries alone.

    They take one sum of a few numbers over the processes.

    Raises:
        SpectrumError: A law cannot score the entries in some process.
    """
    if not matrices:
        return []
    failure: Exception | None = None
    own: list[Evaluation | None] = []
    numbers: list[float] = []
    for m in matrices:
        found, told = None, [math.nan] * _count_of_entries(m)
        try:
            found = m.evaluate_entries(coordinates)
            told = [0.0] * len(told) if found is None else _numbers(m, found)
        except SpectrumError as error:
            failure = failure or error
        own.append(found)
        numbers += [number if m.share else 0.0 * number for number in told]
    common = iter(all_sum(_float64(numbers, matrices[0])).tolist())
    evaluations = []
    for m, found in zip(matrices, own, strict=True):
        value, penalty, slopes = _sums(m, common)
        if not math.isfinite(value):
            raise failure or SpectrumError(
                f"{m.name}: the energy of {m.prior.stated!r} is not finite in the part of another "
                "process, whose error says why"
            )
        rest = None if found is None else found.rest
        evaluations.append(
            _with_entries(m, None, _Entries(value, penalty, slopes, rest), coordinates)
        )
    return evaluations


def evaluations_of_spectra(
    matrices: Sequence[ShardedMatrixEnergy],
    coordinates: Values,
    owners: Mapping[str, int],
    exchange: Exchange,
) -> list[Evaluation]:
    """Return the evaluations of matrices whose spectra have laws.

    Args:
        matrices: The matrices, in the same order in all processes.
        coordinates: The unconstrained coordinates of the hyperparameters, by name.
        owners: The owner of each matrix by name.
        exchange: Lets owners evaluate, and sends what they have found.

    Raises:
        SpectrumError: A matrix is not finite, or a law cannot score it.
        ProcessError: Another error has occurred in some process.
    """
    entries = _prepare(matrices, coordinates)
    found: dict[str, Evaluation] = {}
    pending = list(matrices)
    while pending:
        turn = {owners[m.name]: m for m in reversed(pending)}
        now = [m for m in pending if turn[owners[m.name]] is m]
        try:
            results = _round(now, coordinates, owners, exchange)
        except FactorNeededError as error:  # in all processes
            for m in now:
                m.wants_factor |= m.name == str(error)
            continue
        found |= {m.name: e for m, e in zip(now, results, strict=True)}
        pending = [m for m in pending if m.name not in found]
    return [_with_entries(m, found[m.name], entries[m.name], coordinates) for m in matrices]


def gathered_matrix(m: ShardedMatrixEnergy, owner: int) -> Tensor | None:
    """Return the whole matrix in the process that owns it, `None` in the others."""
    parts = [(r, p) for r, p in enumerate(m.shards.pieces) if p.is_first and p.numel]
    W = m.matrix
    arrived = sent_to(owner, W, {r: (len(p.rows), len(p.columns)) for r, p in parts})
    if arrived is None:
        return None
    whole = W.new_zeros(m.prior.shape)
    for r, piece in parts:
        rows, columns = piece.rows.to(W.device), piece.columns.to(W.device)
        whole[rows[:, None], columns] = arrived[r]
    return whole


def _prepare(
    matrices: Sequence[ShardedMatrixEnergy], coordinates: Values
) -> dict[str, _Entries | None]:
    """Tell all processes the norms of matrices, and return the terms on their entries.

    All processes also learn whether the matrices are finite.

    Raises:
        SpectrumError: A matrix is not finite, or a law cannot score its entries.
    """
    failure: tuple[int, str] | None = None
    told: list[tuple[float, float, list[float]]] = []
    rests: dict[str, Tensor | None] = {}
    for number, m in enumerate(matrices):
        W = m.matrix
        norm, largest, numbers = 0.0, 0.0, [0.0] * _count_of_entries(m)
        try:
            check_finite(W, m.name)
            entries = m.evaluate_entries(coordinates)
            rests[m.name] = None if entries is None else entries.rest
            if m.share and W.numel():
                norm = squared_norm_of(W)
                largest = float(torch.stack(torch.aminmax(W)).abs().max())
                numbers = numbers if entries is None else _numbers(m, entries)
        except SpectrumError as error:
            failure = failure or (number, str(error))
        told.append((norm, largest, numbers))
    reports = gathered((failure, told))
    failures = [report[0] for report in reports if report[0] is not None]
    if failures:
        raise SpectrumError(min(failures)[1])
    result: dict[str, _Entries | None] = {}
    for number, m in enumerate(matrices):
        norms, sizes, numbers_of = zip(*(report[1][number] for report in reports), strict=True)
        m.squared_norm, m.largest = math.fsum(norms), max(sizes)
        sums = iter([math.fsum(column) for column in zip(*numbers_of, strict=True)])
        result[m.name] = None
        if m.prior.entries:
            result[m.name] = _Entries(*_sums(m, sums), rests[m.name])
    return result


def _round(
    matrices: Sequence[ShardedMatrixEnergy],
    coordinates: Values,
    owners: Mapping[str, int],
    exchange: Exchange,
) -> list[Evaluation]:
    """Return the evaluations of matrices that have different owners.

    Their gradients are those of the parts that this process has.
    """
    views: dict[str, MatrixView] = {}
    tops: dict[str, TopPair] = {}
    for m in matrices:
        view, top = _sent(m, owners[m.name])
        if view is not None:
            views[m.name] = view
        if top is not None:
            tops[m.name] = top
        del view  # so that its Gram matrix is free as soon as it has been evaluated
    rests: dict[str, Tensor] = {}

    def compute(m: ShardedMatrixEnergy) -> Evaluation:
        evaluation = evaluate(m.prior, views.pop(m.name), m.spectral_strengths, coordinates)
        m.decompositions += 1
        if m.shards.kind == SUMMED or evaluation.rest is None:
            return evaluation
        rests[m.name] = evaluation.rest
        return evaluation._replace(rest=evaluation.rest.new_zeros(0))

    results = []
    for m, evaluation in zip(matrices, exchange(matrices, coordinates, compute), strict=True):
        rest = None
        if m.shards.kind != SUMMED and evaluation.rest is not None:
            rest = _scattered(m, rests.pop(m.name, None), owners[m.name])
        if m.name in tops and evaluation.top is not None:
            evaluation = evaluation._replace(top=tops[m.name])
        results.append(m.localised(evaluation, rest))
    return results


def _sent(m: ShardedMatrixEnergy, owner: int) -> tuple[MatrixView | None, TopPair | None]:
    """Return the view that the owner of a matrix evaluates, and the leading triplet.

    The view is `None` in other processes. The triplet is `None` unless all processes have computed
    it.
    """
    own = owner == rank()
    if m.shards.kind != SUMMED:
        W = gathered_matrix(m, owner)
        if W is None:
            return None, None
        return MatrixView(W, m.name, m.needs, m.start, started=m.started, tol=m.followed_tol), None
    given: dict[str, Any] = {"started": m.started}
    rows, top = m.rows, None
    if m.wants_factor:
        factor = factor_of(rows) if m.share else rows.new_zeros(0, rows.shape[1]).double()
        heights = {r: min(_height(m, r), rows.shape[1]) for r, p in _first(m)}
        parts = sent_to(owner, factor, {r: (h, rows.shape[1]) for r, h in heights.items()})
        if parts is not None:
            given["factor"] = torch.cat(list(parts.values()))
    elif m.is_iterated:
        try:
            top = top_pair_of_rows(
                rows * m.share if not m.share else rows,
                m.start,
                m.largest,
                all_sum,
                tol=m.followed_tol,
            )
        except FactorNeededError:
            raise FactorNeededError(m.name) from None
        given["top"] = top
        if not m.share:
            top = top._replace(u=rows.new_zeros(0))
    else:
        gram = gram_of(rows) if m.share else rows.new_zeros(rows.shape[1], rows.shape[1]).double()
        gram = gram.to(meeting_device(gram.device))
        with connected():
            dist.reduce(gram, owner)
        given["gram"] = gram.to(rows.device)
    if not own:
        return None, top
    return GramView(rows, m.prior.shape, m.name, m.needs, m.squared_norm, **given), top


def _scattered(m: ShardedMatrixEnergy, rest: Tensor | None, owner: int) -> Tensor:
    """Return this process's part of a gradient that the owner has."""
    own, W = m.piece, m.matrix
    operations, kept = [], []
    result = W.new_zeros(W.shape)
    with connected():
        if rest is not None:
            for r, piece in enumerate(m.shards.pieces):
                rows, columns = piece.rows.to(W.device), piece.columns.to(W.device)
                part = rest[rows[:, None], columns].to(W.dtype)
                if r == owner:
                    result = part
                elif piece.numel:
                    kept.append(part.to(meeting_device(W.device)).contiguous())
                    operations.append(dist.P2POp(dist.isend, kept[-1], r))
        elif own.numel:
            result = result.to(meeting_device(W.device))
            operations.append(dist.P2POp(dist.irecv, result, owner))
        if operations:
            for request in dist.batch_isend_irecv(operations):
                request.wait()
    return result.to(W.device)


def _first(m: ShardedMatrixEnergy) -> list[tuple[int, Any]]:
    return [(r, p) for r, p in enumerate(m.shards.pieces) if p.is_first and p.numel]


def _height(m: ShardedMatrixEnergy, r: int) -> int:
    """Return the number of rows that a process has, or of columns if the matrix is wide."""
    piece = m.shards.pieces[r]
    return len(piece.columns) if m.shards.wide else len(piece.rows)


def _count_of_entries(m: ShardedMatrixEnergy) -> int:
    """Return how many numbers `_numbers` returns for the terms on the entries of a matrix."""
    if not m.prior.entries:
        return 0
    slopes = sum(len(term.optimised) for term in m.prior.entries)
    return slopes + (1 if len(m.prior.terms) == 1 else 2)


def _numbers(m: ShardedMatrixEnergy, found: Evaluation) -> list[float]:
    """Return the penalty, the value and the slopes of hyperparameters.

    The value is left out if it follows from the penalty.
    """
    numbers = [found.penalty]
    if len(m.prior.terms) > 1:
        numbers.append(float(found.value))
    names = [h.name for term in m.prior.entries for h in term.optimised.values()]
    return numbers + [float(found.hyper_slopes.get(name, 0.0)) for name in names]


def _sums(m: ShardedMatrixEnergy, numbers: Any) -> tuple[float, float, dict[str, float]]:
    """Return the value, the penalty and the slopes from sums of `_numbers`."""
    penalty = next(numbers)
    value = m.strengths[0] * penalty if len(m.prior.terms) == 1 else next(numbers)
    names = [h.name for term in m.prior.entries for h in term.optimised.values()]
    return value, penalty, {name: next(numbers) for name in names}


def _with_entries(
    m: ShardedMatrixEnergy,
    spectral: Evaluation | None,
    entries: _Entries | None,
    coordinates: Values,
) -> Evaluation:
    """Return the evaluation of all terms of a matrix."""
    if entries is None:
        assert spectral is not None
        return spectral
    like = m.matrix
    value = like.new_tensor(entries.value)
    slopes = {n: coordinates[n].new_tensor(slope) for n, slope in entries.slopes.items()}
    if spectral is None:
        return Evaluation(value, entries.penalty, entries.rest, None, slopes, {})
    for name, slope in spectral.hyper_slopes.items():
        slopes[name] = slope + slopes[name] if name in slopes else slope
    rest = spectral.rest
    if entries.rest is not None:
        rest = entries.rest if rest is None else rest.add_(entries.rest)
    return spectral._replace(
        value=spectral.value + value,
        penalty=spectral.penalty + entries.penalty,
        rest=rest,
        hyper_slopes=slopes,
    )


def _float64(numbers: Sequence[float], m: ShardedMatrixEnergy) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64, device=m.tensor.device)
