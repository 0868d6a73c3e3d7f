"""The refreshes of one call of an energy, and exact evaluations that leave caches alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack

from torch import Tensor

from bayes_htr.distributed import world_size
from bayes_htr.engine.autograd import Summand
from bayes_htr.engine.matrix_energy import MatrixEnergy
from bayes_htr.engine.refresh import RefreshScheduler
from bayes_htr.engine.sharded_energy import ShardedMatrixEnergy
from bayes_htr.engine.sharing import Sharing, follow_all, which_drifted


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

    def drifted(tested: list[MatrixEnergy]) -> Tensor:
        return which_drifted(tested, coordinates, sharing)

    due = scheduler.due(matrices, drifted)
    for matrix in due:
        if isinstance(matrix, ShardedMatrixEnergy) and matrix.cache is not None:
            matrix.cache.release()
    if sharing is not None:
        evaluations = sharing.evaluations(due, coordinates)
    else:
        evaluations = [matrix.evaluate(coordinates) for matrix in due]
    for matrix, evaluation in zip(due, evaluations, strict=True):
        matrix.accept(evaluation, coordinates)


def summands_at(
    given: Sequence[tuple[MatrixEnergy, Tensor]],
    coordinates: Mapping[str, Tensor],
    sharing: Sharing | None,
) -> list[Summand]:
    """The exact summands of matrices at given values of their parameters; caches stay as they are.

    Only matrices that are spread over processes need any communication.

    Raises:
        SpectrumError: A matrix is not finite, a law cannot score it, or a given tensor is not
            spread over processes as the parameter is.
    """
    spread = [(m, tensor) for m, tensor in given if isinstance(m, ShardedMatrixEnergy)]
    evaluations = {}
    if spread:
        assert sharing is not None
        matrices = [m for m, _ in spread]
        with ExitStack() as stack:
            for m, tensor in spread:
                stack.enter_context(m.exactly_at(tensor))
            sharing.assign_owners(matrices)
            found = sharing.evaluations(matrices, coordinates)
        evaluations = {m.name: e for m, e in zip(matrices, found, strict=True)}
    summands = []
    for matrix, tensor in given:
        if matrix.name in evaluations:
            evaluation = evaluations[matrix.name]
            gradient = evaluation.gradient
            summands.append(matrix.summand_of(evaluation, tensor, gradient, coordinates))
        else:
            summands.append(matrix.summand_at(tensor, coordinates))
    return summands
