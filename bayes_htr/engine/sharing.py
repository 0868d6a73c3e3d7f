"""The spectral work of a call, and its division among the processes that train together.

Each matrix is owned by one process. Only this process decomposes it and follows its leading
vectors, and it sends the result to the others. Afterwards all processes have the same numbers, bit
for bit, so that they make the same decisions. `docs/distributed.md` says what is communicated when.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from bayes_htr.distributed import (
    all_sum,
    assign,
    connected,
    gathered,
    meeting_device,
    rank,
    world_size,
)
from bayes_htr.engine.matrix_energy import MatrixEnergy
from bayes_htr.engine.refresh import RefreshScheduler
from bayes_htr.engine.shard_sharing import (
    evaluations_of_entries,
    evaluations_of_spectra,
    gathered_matrix,
)
from bayes_htr.engine.sharded_energy import ShardedMatrixEnergy, StepOfAll, is_spread
from bayes_htr.errors import PriorError, ProcessError, SpectrumError
from bayes_htr.priors.evaluation import Evaluation
from bayes_htr.spectra import Cluster, Followed, TopPair
from bayes_htr.spectra.leading import FactorNeededError
from bayes_htr.spectra.shards import SUMMED

_ERRORS: dict[str, type[Exception]] = {
    e.__name__: e for e in (PriorError, SpectrumError, FactorNeededError)
}
"""Errors that say what is wrong with a matrix, which all processes raise as they are."""


class Sharing:
    """The assignment of matrices to the processes that own them, and the exchange of results.

    All processes have to call every method together.
    """

    def __init__(self) -> None:
        self._names: list[str] | None = None
        self._is_checked = False
        self._owners: dict[str, int] = {}

    def begin(self, matrices: Sequence[MatrixEnergy], calls: int) -> None:
        """Assign the matrices of a call, unless they are the same as at the last call.

        Args:
            matrices: The matrices, in the same order in every process.
            calls: The number of calls of the energy.

        Raises:
            ValueError: At the first call, the matrices are not the same in all processes.
        """
        if not self._is_checked:
            _check_same(matrices, calls)
            self._is_checked = True
        self.assign_owners(matrices)

    def assign_owners(self, matrices: Sequence[MatrixEnergy]) -> None:
        """Assign matrices to processes, unless they are the same as last time."""
        names = [matrix.name for matrix in matrices]
        if self._names == names:
            return
        self._names = names
        divided = [m for m in matrices if not m.is_cheap]
        fixed = {
            number: m.shards.holder
            for number, m in enumerate(divided)
            if isinstance(m, ShardedMatrixEnergy) and m.shards.holder is not None
        }
        owners = assign([m.flops for m in divided], world_size(), fixed)
        self._owners = {m.name: owner for m, owner in zip(divided, owners, strict=True)}

    def owns(self, matrix: MatrixEnergy) -> bool:
        """Return whether this process evaluates a matrix and follows its singular vectors."""
        return self._owners[matrix.name] == rank()

    def followed(self, matrices: Sequence[MatrixEnergy]) -> list[Followed]:
        """Return the clusters after one step, communicated as one sum.

        Each is computed by its matrix's owner, and then all but one of the summands are zero, so
        that the sum is exact. If processes have the rows of a matrix, each adds its part.
        """
        own = [self._step(m) for m in matrices]
        flat = torch.cat([t.reshape(-1) for step in own for t in step.summed])
        common = all_sum(flat)
        values = iter(common.split([t.numel() for step in own for t in step.summed]))
        return [
            step.followed([next(values).to(t).view(t.shape).clone() for t in step.summed])
            for step in own
        ]

    def _step(self, m: MatrixEnergy) -> StepOfAll:
        if isinstance(m, ShardedMatrixEnergy):
            if m.shards.kind == SUMMED:
                return m.step_of_all()
            W = gathered_matrix(m, self._owners[m.name])
            return StepOfAll.of(_nothing(m) if W is None else m.follow_in(W))
        return StepOfAll.of(m.follow() if self.owns(m) else _nothing(m))

    def any(self, flags: Tensor) -> Tensor:
        """Return whether some process has raised each flag, as uint8."""
        common = flags.to(meeting_device(flags.device), torch.uint8)
        with connected():
            dist.all_reduce(common, op=dist.ReduceOp.MAX)
        return common

    def drifted(
        self, matrices: Sequence[MatrixEnergy], coordinates: Mapping[str, Tensor]
    ) -> Tensor:
        """Return whether each matrix has drifted too far: `(count,)`.

        The processes sum one number for each matrix.
        """
        device = matrices[0].tensor.device
        shares = []
        for m in matrices:
            assert m.drift is not None
            if isinstance(m, ShardedMatrixEnergy):
                share = m.drift_share(coordinates) / m.drift.tol**2
            else:
                flag = m.drifted(coordinates) if self.owns(m) else _no_flag(m)
                share = torch.where(flag, torch.inf, 0.0)
            shares.append(share.to(device, torch.float64))
        return ~(all_sum(torch.stack(shares)) <= 1)

    def evaluations(
        self, matrices: Sequence[MatrixEnergy], coordinates: Mapping[str, Tensor]
    ) -> list[Evaluation]:
        """Return the evaluations of matrices, in the order of the matrices.

        Args:
            matrices: The matrices.
            coordinates: The unconstrained coordinates of the hyperparameters, by name.

        Raises:
            PriorError, SpectrumError: A process has raised this error about a matrix.
            ProcessError: Another error has occurred in another process.
        """
        spread = [m for m in matrices if isinstance(m, ShardedMatrixEnergy)]
        entries = [m for m in spread if m.is_cheap]
        spectra = [m for m in spread if not m.is_cheap]
        whole = [m for m in matrices if not isinstance(m, ShardedMatrixEnergy)]
        found = [
            *self._exchanged(whole, coordinates, lambda m: m.evaluate(coordinates)),
            *evaluations_of_entries(entries, coordinates),
        ]
        if spectra:
            found += evaluations_of_spectra(spectra, coordinates, self._owners, self._exchanged)
        names = [m.name for m in (*whole, *entries, *spectra)]
        by_name = dict(zip(names, found, strict=True))
        return [by_name[m.name] for m in matrices]

    def evaluations_at(
        self, given: Iterable[tuple[MatrixEnergy, Tensor]], coordinates: Mapping[str, Tensor]
    ) -> dict[str, Evaluation]:
        """Return the exact evaluations of those matrices that are spread over processes, by name.

        Args:
            given: Matrices with values of their parameters. Caches are neither used nor changed.
            coordinates: The unconstrained coordinates of the hyperparameters, by name.

        Raises:
            SpectrumError: A matrix is not finite, a law cannot score it, or a given tensor is not
                spread over processes as the parameter is.
        """
        spread = [(m, tensor) for m, tensor in given if isinstance(m, ShardedMatrixEnergy)]
        if not spread:
            return {}
        matrices = [m for m, _ in spread]
        with ExitStack() as stack:
            for m, tensor in spread:
                stack.enter_context(m.exactly_at(tensor))
            self.assign_owners(matrices)
            evaluations = self.evaluations(matrices, coordinates)
        return {m.name: e for m, e in zip(matrices, evaluations, strict=True)}

    def _exchanged(
        self,
        matrices: Sequence[Any],
        coordinates: Mapping[str, Tensor],
        evaluate: Callable[[Any], Evaluation],
    ) -> list[Evaluation]:
        """Return evaluations, each computed by the matrix's owner, or by all if it is cheap."""
        own: dict[int, Evaluation] = {}
        failure: tuple[int, Exception] | None = None
        for number, matrix in enumerate(matrices):
            if matrix.is_cheap or self.owns(matrix):
                try:
                    own[number] = evaluate(matrix)
                except Exception as error:  # the others are told before it is raised
                    failure = number, error
                    break
        if all(m.is_cheap for m in matrices):
            if failure is not None:
                raise failure[1]
            return list(own.values())
        sent = {n: _tensors(e, matrices[n]) for n, e in own.items() if not matrices[n].is_cheap}
        outlines = self._outlines(own, sent, failure)
        for owner in range(world_size()):
            theirs = {n: o for n, o in outlines.items() if self._owners[matrices[n].name] == owner}
            if theirs:
                tensors = sent.values() if owner == rank() else None
                device = matrices[min(theirs)].tensor.device
                received = _broadcast(theirs, tensors, owner, device)
                for n, named in received.items():
                    own[n] = _evaluation(theirs[n].penalty, named, matrices[n], coordinates)
        return [own[n] for n in range(len(matrices))]

    def _outlines(
        self,
        own: Mapping[int, Evaluation],
        sent: Mapping[int, Mapping[str, Tensor]],
        failure: tuple[int, Exception] | None,
    ) -> dict[int, _Outline]:
        """Return outlines of what processes send, by matrix, or raise the error of one of them."""
        outlines = {n: _Outline.of(own[n].penalty, tensors) for n, tensors in sent.items()}
        told = None
        if failure is not None:
            told = failure[0], rank(), type(failure[1]).__name__, str(failure[1])
        reports = gathered((told, outlines))
        failures = [report[0] for report in reports if report[0] is not None]
        if failures:
            first, number, kind, text = min(failures)
            if failure is not None and failure[0] == first:
                raise failure[1]
            if kind in _ERRORS:
                raise _ERRORS[kind](text)
            raise ProcessError(f"process {number} of {world_size()} failed: {kind}: {text}")
        return {n: outline for report in reports for n, outline in report[1].items()}


def refresh_due(
    matrices: Sequence[MatrixEnergy],
    scheduler: RefreshScheduler,
    coordinates: Mapping[str, Tensor],
    sharing: Sharing | None,
) -> None:
    """Count a call, and refresh those matrices that are due at it.

    Args:
        matrices: All matrices that act.
        scheduler: Tells which are due.
        coordinates: The unconstrained coordinates of the hyperparameters, by name.
        sharing: How processes divide the work; `None` if each does its own.

    Raises:
        SpectrumError: A matrix is not finite, or a law cannot score it.
    """
    sharing = sharing if world_size() > 1 else None
    if sharing is not None:
        sharing.begin(matrices, scheduler.calls)
    scheduler.begin()
    turning = [
        m
        for m in matrices
        if not m.is_stale and m.cache is not None and m.cache.advance(scheduler.calls)
    ]
    if turning and turning[0].drift is not None:
        follow_all(turning, sharing)
    drifted = partial(which_drifted, coordinates=coordinates, sharing=sharing)
    due = scheduler.due(matrices, drifted)
    for matrix in due:
        if matrix.cache is not None:
            matrix.cache.release()
    if sharing is not None:
        evaluations = sharing.evaluations(due, coordinates)
    else:
        evaluations = [matrix.evaluate(coordinates) for matrix in due]
    for matrix, evaluation in zip(due, evaluations, strict=True):
        matrix.accept(evaluation, coordinates)


def follow_all(matrices: Sequence[MatrixEnergy], sharing: Sharing | None) -> None:
    """Let the leading singular triplets of matrices follow their matrices."""
    steps = [m.follow() for m in matrices] if sharing is None else sharing.followed(matrices)
    device = matrices[0].tensor.device
    told = [
        t.to(device)
        for step in steps
        for t in (step.cluster.values, step.kept, step.squared_norm.reshape(1))
    ]
    numbers = iter(torch.cat(told).tolist())
    for matrix, step in zip(matrices, steps, strict=True):
        matrix.turn(step.cluster, list(islice(numbers, 2 * len(step.kept) + 1)))


def which_drifted(
    matrices: Sequence[MatrixEnergy], coordinates: Mapping[str, Tensor], sharing: Sharing | None
) -> Tensor:
    """Return whether each matrix has drifted too far, as a tensor on the first one's device."""
    if sharing is not None and any(map(is_spread, matrices)):
        return sharing.drifted(matrices, coordinates)
    device = matrices[0].tensor.device
    flags = [
        m.drifted(coordinates) if sharing is None or sharing.owns(m) else _no_flag(m)
        for m in matrices
    ]
    stacked = torch.stack([flag.to(device, non_blocking=device.type != "cpu") for flag in flags])
    return stacked if sharing is None else sharing.any(stacked)


def _no_flag(matrix: MatrixEnergy) -> Tensor:
    return torch.zeros((), dtype=torch.bool, device=matrix.tensor.device)


def _nothing(matrix: MatrixEnergy) -> Followed:
    """Return a step of a cluster in which all numbers are 0, so that it adds nothing in a sum."""
    assert matrix.cache is not None
    assert matrix.cache.leading is not None
    assert matrix.cache.leading.cluster is not None
    cluster = Cluster(*(torch.zeros_like(t) for t in matrix.cache.leading.cluster))
    return Followed(cluster, cluster.values, cluster.values.new_zeros(()))


class _Outline(NamedTuple):
    """The one number of an evaluation that is not a tensor, and a description of its tensors."""

    penalty: float
    tensors: list[tuple[str, torch.Size, torch.dtype]]

    @classmethod
    def of(cls, penalty: float, tensors: Mapping[str, Tensor]) -> _Outline:
        return cls(penalty, [(name, t.shape, t.dtype) for name, t in tensors.items()])


def _tensors(evaluation: Evaluation, matrix: MatrixEnergy) -> dict[str, Tensor]:
    """Return the tensors of an evaluation by name."""
    named: dict[str, Tensor | None] = {"value": evaluation.value, "rest": evaluation.rest}
    if evaluation.top is not None:
        named |= {"slope": evaluation.slope, **evaluation.top._asdict()}
    else:
        named["block"] = evaluation.block
    named |= {f"latent {n}": slope for n, slope in evaluation.hyper_slopes.items()}
    if matrix.prior.optimised:
        named |= {f"part {n}": part for n, part in evaluation.parts.items()}
    return {name: t.detach() for name, t in named.items() if t is not None}


def _evaluation(
    penalty: float,
    named: Mapping[str, Tensor],
    matrix: MatrixEnergy,
    coordinates: Mapping[str, Tensor],
) -> Evaluation:
    """Return the inverse of `_tensors`."""

    def under(kind: str) -> dict[str, Tensor]:
        return {n.removeprefix(kind): t for n, t in named.items() if n.startswith(kind)}

    own = {n: t.to(matrix.tensor.device) for n, t in named.items()}
    top = None
    if "slope" in own:
        top = TopPair(own["sigma"], own["u"], own["v"], own["block"])
    return Evaluation(
        own["value"],
        penalty,
        own.get("rest"),
        own.get("slope"),
        {n: slope.to(coordinates[n].device) for n, slope in under("latent ").items()},
        {n: part.to(matrix.tensor.device) for n, part in under("part ").items()},
        top,
        own.get("block"),
    )


def _broadcast(
    outlines: Mapping[int, _Outline],
    tensors: Iterable[Mapping[str, Tensor]] | None,
    owner: int,
    device: torch.device,
) -> dict[int, dict[str, Tensor]]:
    """Send the tensors of one process to all processes, as one piece of bytes.

    Args:
        outlines: The descriptions of the tensors that are sent, by matrix.
        tensors: The tensors in the process that sends them, `None` in the others.
        owner: The process that sends.
        device: The device of the tensors.

    Returns:
        The tensors by matrix and name, in every process.
    """
    device = meeting_device(device)
    sizes = [
        shape.numel() * dtype.itemsize for o in outlines.values() for _, shape, dtype in o.tensors
    ]
    if tensors is None:
        flat = torch.empty(sum(sizes), dtype=torch.uint8, device=device)
    else:
        pieces = [t.contiguous().reshape(-1) for named in tensors for t in named.values()]
        flat = torch.cat([t.view(torch.uint8).to(device) for t in pieces])
    with connected():
        dist.broadcast(flat, src=owner)
    pieces = list(flat.split(sizes))[::-1]
    return {
        n: {name: pieces.pop().clone().view(dtype).view(shape) for name, shape, dtype in o.tensors}
        for n, o in outlines.items()
    }


def _check_same(matrices: Sequence[MatrixEnergy], calls: int) -> None:
    """Raise an error unless the matrices are the same in all processes, judged by a few entries."""

    def report(matrix: MatrixEnergy) -> Any:
        entries = matrix.matrix.reshape(-1)
        few = entries[:: max(1, len(entries) // 4)].tolist()
        return {"shape": matrix.prior.shape, "strengths": matrix.strengths, "entries": few}

    def like(name: str, number: int) -> int:
        """Return the process whose entries of a matrix must be the same as those of `number`.

        It has a replica of these entries, or the whole matrix.
        """
        return by_name[name].shards.replica_of(number) if name in by_name else 0

    by_name = {m.name: m for m in matrices if isinstance(m, ShardedMatrixEnergy)}
    reports = gathered((calls, {m.name: report(m) for m in matrices}))
    first = reports[0]
    for number, (own_calls, own) in enumerate(reports[1:], start=1):
        different = None
        if own_calls != first[0] or own.keys() != first[1].keys():
            different = f"calls or matrices: {own_calls}, {[*own]} and {first[0]}, {[*first[1]]}"
        for name in own if different is None else ():
            for key, value in own[name].items():
                expected = reports[like(name, number) if key == "entries" else 0][1][name][key]
                if repr(value) != repr(expected):  # so that NaN is like itself
                    different = f"{name}, {key}: {value} and {expected}"
        if different is not None:
            raise ValueError(
                f"the energy differs between process {number} and process 0 in {different}; give "
                "all the same weights and call it in all, or pass share=False to bind"
            )
