"""The energy of a matrix of which each process has a part, as under `fully_shard`.

Everything that is cached is of this process's part: the gradient, and the reference by which drift
is measured. What depends on the whole matrix is communicated by `engine/shard_sharing.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bayes_htr.distributed import rank, world_size
from bayes_htr.engine.autograd import Summand
from bayes_htr.engine.cache import LeadingTriplets
from bayes_htr.engine.matrix_energy import MatrixEnergy
from bayes_htr.engine.refresh import Refresh
from bayes_htr.errors import PriorError, SpectrumError
from bayes_htr.priors import MatrixPrior, ParameterPrior
from bayes_htr.priors.evaluation import Evaluation, evaluate
from bayes_htr.spectra import (
    Cluster,
    Followed,
    Gradient,
    MatrixView,
    Need,
    Parameter,
    TopPair,
    follow,
    plan,
)
from bayes_htr.spectra.cluster import Projection, project, turned
from bayes_htr.spectra.leading import SMALL
from bayes_htr.spectra.matrices import arrangement_of
from bayes_htr.spectra.shards import (
    GATHERED,
    SUMMED,
    Box,
    Piece,
    Replicated,
    Shards,
    boxes_of,
    is_distributed,
    is_replicated,
    times,
    unsupported,
)


class ShardedMatrixEnergy(MatrixEnergy):
    """The energy of one matrix of a `DTensor`.

    Args:
        prior: The matrix's prior.
        parameter: The parameter that contains the matrix.
        policy: The policy that says when the matrix is refreshed.
        boxes: The part of the parameter that each process has, by rank.

    Attributes:
        shards: The parts of the matrix.
        squared_norm: The squared Frobenius norm of the whole matrix at its last evaluation.
        largest: The largest absolute entry of the whole matrix at its last evaluation.
        wants_factor: Whether its Gram matrix has too few digits, so that a factor is computed.

    Raises:
        SpectrumError: The placements of the parameter are not supported.
        PriorError: The prior is not supported for a matrix that is spread over processes.
    """

    def __init__(
        self, prior: MatrixPrior, parameter: Parameter, policy: Refresh, boxes: Sequence[Box]
    ) -> None:
        tensor = parameter.tensor
        arrangement = arrangement_of(prior.view, tensor.shape)
        self.shards = Shards.of(parameter.name, tensor, boxes, arrangement, prior.shape)
        _check(prior)
        super().__init__(replace(prior, view=self.shards.local), parameter, policy)
        self.squared_norm = self.largest = 0.0
        self.squared_norm_at_refresh = 0.0
        self._is_exact = False
        self.wants_factor = prior.stated.needs.singular_values
        if prior.entries and prior.optimised:  # entries are not kept from one call to the next
            self.caches, self.drift = False, None
        self._bound: Tensor = tensor
        self._placements = _layout_of(tensor)

    @property
    def piece(self) -> Piece:
        """This process's part of the matrix."""
        return self.shards.pieces[rank()]

    @property
    def share(self) -> float:
        """1, or 0 if another process adds the same part to sums over processes."""
        return float(self.piece.is_first)

    @property
    def rows(self) -> Tensor:
        """`(r, K)`: this process's rows of a `SUMMED` matrix, or of its transpose if it is wide."""
        return self.matrix.T if self.shards.wide else self.matrix

    @property
    def is_iterated(self) -> bool:
        """Whether all processes iterate in step for the largest singular value."""
        needs = self._needs
        only_top = needs.top and not (needs.decomposed or needs.log_det)
        return self.shards.kind == SUMMED and only_top and min(self.prior.shape) > SMALL

    @property
    def flops(self) -> float:
        """The number of floating-point operations of an evaluation that its owner alone does."""
        if self.shards.kind == GATHERED:
            return super().flops
        K, needs = min(self.prior.shape), self.prior.stated.needs
        return 0.0 if self.is_iterated else plan(needs, (K, K)).flops

    def parameter_in(self, root: nn.Module) -> Tensor:
        """Return the parameter in the unwrapped network.

        Between a forward and a backward pass, FSDP may have put gathered weights in its place.

        Raises:
            PriorError: The network no longer has the parameter.
        """
        tensor = super().parameter_in(root)
        if is_distributed(tensor):
            self._bound = tensor
        elif tensor.shape == self._bound.shape:
            return self._bound
        return tensor

    def update(self, root: nn.Module, epoch: int | None) -> bool:
        """Do the same as `MatrixEnergy.update`.

        Raises:
            SpectrumError: The parameter is spread over processes in another way than before, or
                these processes no longer work together.
        """
        if world_size() != (count := len(self.shards.pieces)):
            raise SpectrumError(
                f"{self.parameter} is spread over {count} processes, and {world_size()} work "
                "together now; call the energy in all processes, or bind the priors again"
            )
        acts = super().update(root, epoch)
        self.require_layout(self.tensor)
        return acts

    def require_layout(self, tensor: Tensor) -> None:
        """Raise an error unless a tensor is spread over processes as the parameter was.

        Raises:
            SpectrumError: The tensor is spread in another way, or is whole.
        """
        if not is_distributed(tensor):
            raise SpectrumError(
                f"{self.parameter} was a DTensor when its priors were bound, and now a tensor of "
                f"shape {tuple(tensor.shape)} takes its place; give a DTensor with the placements "
                f"{list(self._placements[1])}, or bind the priors again"
            )
        if _layout_of(tensor) != self._placements:
            why = f"its priors were bound with {list(self._placements[1])}; bind them again"
            raise unsupported(self.parameter, tensor, why)

    @contextmanager
    def exactly_at(self, tensor: Tensor) -> Iterator[None]:
        """Use the matrix of another tensor in a block, with a leading triplet as exact as possible.

        Raises:
            SpectrumError: The tensor is not spread over processes as the parameter is.
        """
        self.require_layout(tensor)
        before, self.tensor, self._is_exact = self.tensor, tensor, True
        try:
            yield
        finally:
            self.tensor, self._is_exact = before, False

    @property
    def followed_tol(self) -> float | None:
        """The tolerance of the leading triplet, as in `MatrixView`."""
        return None if self._is_exact else super().followed_tol

    @property
    def spectral_strengths(self) -> tuple[float, ...]:
        """The strengths of the terms on the spectrum; those of the others are 0."""
        pairs = zip(self.prior.terms, self.strengths, strict=True)
        return tuple(s if term.statistic.of_spectrum else 0.0 for term, s in pairs)

    def evaluate_entries(self, hyperparameters: Mapping[str, Tensor]) -> Evaluation | None:
        """Return the energy of this process's entries; `None` if no term on entries acts.

        Raises:
            SpectrumError: A law cannot score them.
        """
        pairs = zip(self.strengths, self.spectral_strengths, strict=True)
        strengths = [s if spectral == 0 else 0.0 for s, spectral in pairs]
        if not any(strengths):
            return None
        view = MatrixView(self.matrix, self.name, Need(), started=True)
        return evaluate(self.prior, view, strengths, hyperparameters)

    def localised(self, evaluation: Evaluation, rest: Tensor | None) -> Evaluation:
        """Return an evaluation of the owner with the gradient of this process's part.

        Args:
            evaluation: The evaluation, whose `rest` is the `S` of the gradient `W S` if the matrix
                is `SUMMED`.
            rest: The gradient of the part, if the matrix is `GATHERED` and there is one.
        """
        if self.shards.kind == GATHERED:
            return evaluation._replace(rest=rest)
        square, top = evaluation.rest, evaluation.top
        if square is not None:
            evaluation = evaluation._replace(rest=times(self.matrix, square, wide=self.shards.wide))
        if top is not None:
            u = top.u
            if len(u) != len(self.rows) or len(u) == 0:
                tiny = torch.finfo(top.sigma.dtype).tiny
                u = self.rows @ top.v / top.sigma.clamp(min=tiny)
            left, right = (top.v, u) if self.shards.wide else (u, top.v)
            evaluation = evaluation._replace(top=TopPair(top.sigma, left, right, top.block))
        return evaluation

    def accept(self, evaluation: Evaluation, hyperparameters: Mapping[str, Tensor]) -> None:
        """Cache an evaluation of the present matrix."""
        super().accept(evaluation, hyperparameters)
        self.squared_norm_at_refresh = self.squared_norm

    @property
    def is_wide(self) -> bool:
        """Whether the rows of the whole matrix are its shorter side."""
        return self.shards.wide if self.shards.kind == SUMMED else super().is_wide

    @property
    def leading(self) -> LeadingTriplets:
        """The leading triplets that follow the matrix."""
        assert self.cache is not None
        assert self.cache.leading is not None
        return self.cache.leading

    def follow_in(self, whole: Tensor) -> Followed:
        """Take one step of the leading triplets of a `GATHERED` matrix.

        This is done in the process that owns the matrix.
        """
        leading = self.leading
        assert leading.cluster is not None
        return follow(whole, leading.cluster, leading.sigma)

    def step_of_all(self) -> StepOfAll:
        """Return one step of the leading triplets of a `SUMMED` matrix."""
        before, wide = self.leading.cluster, self.shards.wide
        assert before is not None
        projection = project(self.matrix, before, wide=wide)
        sigma, products = self.leading.sigma, projection.products

        def followed(common: Sequence[Tensor]) -> Followed:
            assert before is not None
            return turned(Projection(products, *common), before, sigma, wide=wide)

        return StepOfAll([t if self.share else 0 * t for t in projection[1:]], followed)

    def leading_of(self, top: TopPair) -> LeadingTriplets:
        """Return the present matrix's leading triplets; for a `SUMMED` one, this process's part."""
        sigma = float(top.sigma)
        outside = self.squared_norm - sigma**2
        return LeadingTriplets(Cluster.of(top, self.is_wide), sigma, outside, sigma)

    def drift_share(self, hyperparameters: Mapping[str, Tensor]) -> Tensor:
        """Return this process's share of `|W - W_ref|_F^2 / |W_ref|_F^2`: 0-d, float64.

        It is infinite if the hyperparameters have drifted too far.
        """
        assert self.cache is not None
        assert self.drift is not None
        cache, tol = self.cache, self.drift.tol
        share = torch.zeros((), dtype=torch.float64, device=self.tensor.device)
        if cache.reference is not None and self.share:
            drift = cache.squared_drift(self.matrix, tol).double()
            share = drift / share.new_tensor(self.squared_norm_at_refresh)
        if cache.hyperparameters:
            moved = cache.moved(hyperparameters, tol).to(share.device)
            share = torch.where(moved, torch.inf, share)
        return share

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the whole matrix."""
        return self.prior.shape

    def summand_of(
        self,
        evaluation: Evaluation,
        tensor: Tensor,
        gradient: Gradient,
        hyperparameters: Mapping[str, Tensor],
    ) -> Summand:
        """Return the summand of an evaluation, with the gradient in this process's part alone."""
        if self.shards.kind == GATHERED and gradient.left is not None:
            assert gradient.right is not None
            rows, columns = (i.to(gradient.left.device) for i in self.piece[:2])
            left, right = gradient.left[rows], gradient.right[..., columns]
            gradient = Gradient(gradient.rest, left, right)
        return super().summand_of(evaluation, tensor, gradient, hyperparameters)

    def state(self) -> dict[str, Any]:
        """Return the counts and the block, which are the same in all processes, without the cache.

        After they are loaded, by any number of processes, the matrix is refreshed.
        """
        return super().state() | {"held": None}

    def load_state(
        self, state: Mapping[str, Any], device: torch.device, hyperparameters: Mapping[str, Tensor]
    ) -> None:
        """Restore counts and block; a cache, which is of a whole matrix, is left out."""
        super().load_state({**state, "held": None}, device, hyperparameters)


class StepOfAll(NamedTuple):
    """A step of leading triplets, of which some tensors are summed over processes.

    Attributes:
        summed: The tensors of this process.
        followed: Returns the triplets after the step from the sums.
    """

    summed: list[Tensor]
    followed: Callable[[Sequence[Tensor]], Followed]

    @classmethod
    def of(cls, step: Followed) -> StepOfAll:
        """Return a step that one process has taken, and of which the others have zeros."""

        def followed(common: Sequence[Tensor]) -> Followed:
            *cluster, kept, norm = common
            return Followed(Cluster(*cluster), kept, norm)

        return cls([*step.cluster, step.kept, step.squared_norm], followed)


def energies_of(
    resolved: Sequence[ParameterPrior], policy: Refresh, sparse: Collection[int]
) -> list[MatrixEnergy]:
    """Return the energy of each matrix that has a prior.

    Args:
        resolved: The priors of the parameters. If some are spread over processes, all have to call
            this.
        policy: The policy that says when matrices are refreshed.
        sparse: The identities of parameters with sparse gradients.

    Raises:
        SpectrumError: A parameter is spread over processes in a way that is not supported.
        PriorError: A prior is not supported for a matrix that is spread over processes.
    """
    parted = {
        p.name: p.parameter.tensor
        for p in resolved
        if p.matrices
        and is_distributed(p.parameter.tensor)
        and not is_replicated(p.name, p.parameter.tensor)
    }
    boxes = boxes_of(parted) if parted else {}
    energies: list[MatrixEnergy] = []
    for p in resolved:
        tensor = p.parameter.tensor
        for prior in p.matrices:
            if p.name in boxes:
                if id(tensor) in sparse:
                    raise unsupported(p.name, tensor, "gradients of its embedding are sparse")
                energies.append(ShardedMatrixEnergy(prior, p.parameter, policy, boxes[p.name]))
                continue
            if is_distributed(tensor):
                prior = replace(prior, view=Replicated(prior.view))
            energies.append(MatrixEnergy(prior, p.parameter, policy, sparse=id(tensor) in sparse))
    return energies


def is_spread(matrix: MatrixEnergy) -> bool:
    """Return whether this process has only a part of a matrix."""
    return isinstance(matrix, ShardedMatrixEnergy)


def refuse_spread(matrices: Sequence[MatrixEnergy]) -> None:
    """Raise an error if this process has only a part of a matrix.

    Raises:
        PriorError: This process has only a part of a matrix.
    """
    names = ", ".join(m.parameter for m in matrices if is_spread(m))
    if names:
        raise PriorError(
            f"share=False: each process computes for itself, and of {names} it has only a part; "
            "leave share=False out"
        )


def _layout_of(tensor: Tensor) -> tuple[Any, tuple[Any, ...]]:
    return tensor.device_mesh, tuple(tensor.placements)  # type: ignore[attr-defined]


def _check(prior: MatrixPrior) -> None:
    """Raise an error if a prior cannot be computed from sums over processes.

    Raises:
        PriorError: The prior has a threshold or an integrated tail index on entries.
    """
    if not prior.entries:
        return
    what = ""
    if prior.gates:
        what = "acts only above a threshold"
    if any(term.statistic.law.conjugate is not None for term in prior.entries):
        what = "integrates a tail index out"
    if what:
        raise PriorError(
            f"{prior.name} is spread over processes, and {prior.stated!r} {what}, which is not "
            "supported for a law of entries; leave that out, or train with DistributedDataParallel"
        )
