"""The energy of one matrix during training: when it is computed, and what is cached."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bayes_htr.engine.autograd import Derivative, SparseView, Summand, itself
from bayes_htr.engine.cache import (
    WIDTH_SHARE,
    CachedGradient,
    LeadingTriplets,
)
from bayes_htr.engine.refresh import Drift, FlagKey, Refresh
from bayes_htr.errors import PriorError
from bayes_htr.priors import MatrixPrior
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
    working,
)
from bayes_htr.spectra.modules import require_whole
from bayes_htr.spectra.names import plain_name

_FOLLOWED_TOL = 1e-3
"""The tolerance of leading singular vectors that will follow their matrix: the error of `u'Wv` as
an estimate of `sigma_1` is about the square of this tolerance."""

_SAME_TOL = 1e-3
"""If the largest singular value exceeds that of the triplets by more than this relative amount, it
belongs to a direction that the triplets have missed."""

_NO_EPOCH = object()


class MatrixEnergy:
    """The energy of one matrix.

    Args:
        prior: The matrix's prior.
        parameter: The parameter that contains the matrix.
        policy: The policy that says when the matrix is refreshed.
        sparse: Whether gradients of the parameter are sparse.

    Attributes:
        name: The matrix's name.
        parameter: The parameter's name.
        tensor: The parameter itself at the last `update`.
        strengths: The strengths of the prior's terms at the last `update`.
        is_stale: Whether a refresh is due no matter how far the matrix has moved.
        is_due: Whether a refresh is due, as far as the call has determined so far.
        cache: The cached gradient; `None` before the first refresh.
        started: Whether the energy has been computed before.
        block: The leading vectors that the last search for the largest singular value has found.
        refreshes: The number of refreshes.
        decompositions: The number of refreshes for which this process has evaluated the spectrum.
        is_cheap: Whether the prior is only on entries, so that nothing is worth caching.
        caches: Whether the gradient is cached from one call to the next.
        drift: The policy, if it tests how far the matrix has moved and the gradient is cached.
    """

    tensor: Tensor
    strengths: tuple[float, ...]

    def __init__(
        self, prior: MatrixPrior, parameter: Parameter, policy: Refresh, *, sparse: bool = False
    ) -> None:
        self.prior = prior
        self.name = prior.name
        self.parameter = parameter.name
        self.policy = policy
        self.cache: CachedGradient | None = None
        self.is_stale = self.is_due = True
        self.started = False
        self.block: Tensor | None = None
        self.refreshes = self.decompositions = 0
        self.is_cheap = not prior.spectral
        needs_entries = any(term.optimised for term in prior.entries)
        self.caches = policy.caches and not (self.is_cheap or needs_entries)
        self.drift = policy if isinstance(policy, Drift) and self.caches else None
        self._computed = parameter.computed
        self._kind = type(parameter.tensor)
        self._view = SparseView(prior.view) if sparse else prior.view
        self._path = parameter.path
        self._modules, _, self._attribute = parameter.path.rpartition(".")
        self._needs = Need()
        self._epoch: object = _NO_EPOCH
        self._summand: tuple[Tensor, Gradient, Summand] | None = None

    def update(self, root: nn.Module, epoch: int | None) -> bool:
        """Look up the present parameter in a network, and the strengths at an epoch.

        Returns:
            Whether the matrix adds to the energy. A frozen parameter without hyperparameters adds
            a constant, which is left out.

        Raises:
            PriorError: The network no longer has the parameter, or the prior has a schedule and
                the epoch is `None`.
            SpectrumError: The parameter is now spread over processes.
        """
        if self._epoch is _NO_EPOCH or epoch != self._epoch:
            self.strengths = self.prior.strengths(epoch)
            self._needs, self._epoch = self.prior.needs(self.strengths), epoch
        before, tensor = self.__dict__.get("tensor"), self.parameter_in(root)
        self.tensor = tensor
        if type(tensor) is not self._kind:
            require_whole(self.parameter, tensor)
        is_replaced = before is not None and before is not tensor and not self.is_computed
        cache = self.cache
        self.is_stale = (
            cache is None
            or is_replaced
            or not self.caches
            or cache.strengths != self.strengths
            or not cache.fits(tensor)
        )
        self.is_due = self.is_stale or (cache is not None and cache.overdue)
        acts = any(self.strengths)
        return acts and (tensor.requires_grad or bool(self.prior.optimised))

    def parameter_in(self, root: nn.Module) -> Tensor:
        """Return the parameter in the unwrapped network, looked up faster than by `get_parameter`.

        A weight that the network computes is in the graph of its parameters.

        Raises:
            PriorError: The network no longer has the parameter.
        """
        try:
            if self._computed is not None:
                return self._computed.of(root)
            for module in self._modules.split(".") if self._modules else ():
                root = root._modules[module]  # type: ignore[assignment]
            tensor = root._parameters[self._attribute]
        except (KeyError, AttributeError):
            tensor = None
        if tensor is None:
            raise PriorError(
                f"the network has no parameter {self._path!r} any more; bind its priors again"
            )
        return tensor

    @property
    def is_computed(self) -> bool:
        """Whether the network computes the weight from its parameters."""
        return self._computed is not None

    def is_among(self, names: Collection[str]) -> bool:
        """Return whether the parameter has one of the names.

        A weight that the network computes counts if one of its own parameters does.
        """
        if self._computed is None:
            return self.parameter in names
        return any(plain_name(path) in names for path in self._computed.part_paths)

    def tensor_among(self, tensors: Mapping[str, Tensor], root: nn.Module) -> Tensor:
        """Return the parameter, or the weight that the network computes, at given values.

        Args:
            tensors: Tensors by the names of parameters. Parameters that are not among them have
                their present values.
            root: The unwrapped network.
        """
        if self._computed is None:
            return tensors.get(self.parameter, self.tensor)
        return self._computed.at(root, tensors)

    @property
    def needs(self) -> Need:
        """The parts of the spectrum needed by the terms that act at the epoch."""
        return self._needs

    @property
    def followed_tol(self) -> float | None:
        """The tolerance of the leading triplet, as in `MatrixView`."""
        return None if self.drift is None else _FOLLOWED_TOL

    @property
    def matrix(self) -> Tensor:
        """The matrix now, in float32 or better, without gradient."""
        return working(self.prior.view(self.tensor.detach()))

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the matrix now: a parameter may have been replaced by one of another."""
        m, n = self.matrix.shape
        return m, n

    @property
    def is_wide(self) -> bool:
        """Whether the rows of the matrix are its shorter side."""
        m, n = self.shape
        return m < n

    @property
    def start(self) -> Tensor | None:
        """The block of vectors from which the search for the largest singular value starts.

        These are the leading triplets, if they follow the matrix.
        """
        leading = None if self.cache is None or self.is_stale else self.cache.leading
        if leading is None or leading.cluster is None:
            return self.block
        return leading.cluster.block(wide=self.is_wide)

    @property
    def key(self) -> FlagKey:
        """The key of a flag about this matrix."""
        return self.name, self.refreshes

    def follow(self) -> Followed:
        """Take one step from the last leading singular triplets to those of the present matrix."""
        assert self.cache is not None
        leading = self.cache.leading
        assert leading is not None
        assert leading.cluster is not None
        return follow(self.matrix, leading.cluster, leading.sigma)

    def drifted(self, hyperparameters: Mapping[str, Tensor]) -> Tensor:
        """Return whether the matrix or its hyperparameters have drifted too far: 0-d, bool."""
        assert self.cache is not None
        assert self.drift is not None
        return self.cache.drifted(self.matrix, hyperparameters, self.drift.tol)

    def turn(self, step: Cluster, numbers: Sequence[float]) -> None:
        """Accept leading triplets that have followed the matrix (`LeadingTriplets.accept`)."""
        assert self.cache is not None
        assert self.drift is not None
        self.cache.turn(step, numbers, self.drift)
        self.is_due |= self.cache.overdue

    @property
    def can_drift(self) -> bool:
        """Whether a drift of the matrix or of hyperparameters can ask for a refresh."""
        cache = self.cache
        return cache is not None and (cache.reference is not None or bool(cache.hyperparameters))

    @property
    def flops(self) -> float:
        """The number of floating-point operations of one evaluation."""
        return plan(self.prior.stated.needs, self.prior.shape).flops

    def evaluate(
        self, hyperparameters: Mapping[str, Tensor], tensor: Tensor | None = None
    ) -> Evaluation:
        """Return the energy of the present matrix, or at another value of the parameter.

        The evaluation of the present matrix is meant to be cached.

        Args:
            hyperparameters: The unconstrained coordinates, by name.
            tensor: The other value. Its leading singular vectors will not follow any matrix, and
                are computed to full accuracy.

        Raises:
            SpectrumError: The matrix is not finite, or a law cannot score it.
        """
        view = MatrixView(
            self.matrix if tensor is None else working(self.prior.view(tensor.detach())),
            self.name,
            self._needs,
            self.start,
            started=self.started,
            tol=self.followed_tol if tensor is None else None,
            rank=self.prior.factors,
        )
        evaluation = evaluate(self.prior, view, self.strengths, hyperparameters)
        self.decompositions += tensor is None and not self.is_cheap
        return evaluation

    def accept(self, evaluation: Evaluation, hyperparameters: Mapping[str, Tensor]) -> None:
        """Cache an evaluation of the present matrix."""
        before = self.cache if self.cache is not None and self.cache.fits(self.tensor) else None
        top, reference, leading = evaluation.top, None, None
        W = None if self.drift is None else self.matrix  # nothing else compares matrices
        if top is not None:
            leading = self.leading_of(top)
            sigma = leading.sigma
            if before is not None and before.leading is not None:
                leading.interval = before.leading.interval
                if self._has_followed and sigma <= before.leading.sigma * (1 + _SAME_TOL):
                    leading.cluster = before.leading.cluster
                    leading.weights = before.leading.weights
                    leading.outside = before.leading.outside
        if W is not None and evaluation.rest is not None:
            reference = W.clone()
        parts = evaluation.parts if self.prior.optimised else {}
        if "entries" in parts:  # the memory is that of the parameter, which moves on
            parts = {**parts, "entries": parts["entries"].clone()}
        self.cache = CachedGradient(
            evaluation._replace(parts=parts, top=None, block=None),
            self.strengths,
            tuple(self.tensor.shape),
            reference,
            {n: hyperparameters[n].detach().clone() for n in self.prior.optimised},
            leading,
        )
        self.block = evaluation.block
        self.is_stale = self.is_due = False
        self.started = True
        self.refreshes += 1

    def leading_of(self, top: TopPair) -> LeadingTriplets:
        """Return the leading triplets of the present matrix, from which they follow it."""
        sigma, outside = float(top.sigma), 0.0
        if self.drift is not None:  # nothing else compares matrices
            W = self.matrix.reshape(-1)
            outside = float(torch.dot(W, W)) - sigma**2
        return LeadingTriplets(Cluster.of(top), sigma, outside, sigma)

    def summand(self, hyperparameters: Mapping[str, Tensor]) -> Summand:
        """Return the summand of the matrix in the energy.

        The value and the derivatives with respect to hyperparameters are those at the present
        values of the hyperparameters, given the spectrum at the last refresh.
        """
        cache = self.cache
        assert cache is not None
        known = self._summand
        if known is not None and known[0] is self.tensor and known[1] is cache.known_gradient:
            return known[2]
        gradient = cache.gradient(0.0 if self.drift is None else WIDTH_SHARE * self.drift.tol)
        if not self.prior.optimised:
            summand = self.summand_of(cache.evaluation, self.tensor, gradient, {})
            self._summand = self.tensor, gradient, summand
            return summand
        evaluation = cache.evaluation
        if cache.age > 0:
            like, parts = evaluation.value, evaluation.parts
            shape, needs, rank = self.shape, self._needs, self.prior.factors
            view = MatrixView.of_parts(like, shape, self.name, needs, parts, rank)
            evaluation = evaluate(self.prior, view, self.strengths, hyperparameters)
        return self.summand_of(evaluation, self.tensor, gradient, hyperparameters)

    def summand_of(
        self,
        evaluation: Evaluation,
        tensor: Tensor,
        gradient: Gradient,
        hyperparameters: Mapping[str, Tensor],
    ) -> Summand:
        """Return the summand of an evaluation, given its gradient in the parameter `tensor`."""
        derivatives = [
            Derivative(hyperparameters[name], itself, Gradient(slope))
            for name, slope in evaluation.hyper_slopes.items()
        ]
        if gradient.rest is not None or gradient.left is not None:
            derivatives.append(Derivative(tensor, self._view, gradient))
        return Summand(self.parameter, evaluation.value, evaluation.penalty, derivatives)

    def state(self) -> dict[str, Any]:
        """Return the cache and the counts, as plain data and tensors."""
        return {
            "policy": repr(self.policy),
            "held": None if self.cache is None or not self.caches else self.cache.state(),
            "started": self.started,
            "block": self.block,
            "refreshes": self.refreshes,
        }

    def load_state(
        self, state: Mapping[str, Any], device: torch.device, hyperparameters: Mapping[str, Tensor]
    ) -> None:
        """Restore what `state` returned, but not the cache of another refresh policy.

        Args:
            state: The result of `state`.
            device: The device of the parameter.
            hyperparameters: The unconstrained coordinates by name, on their present devices.
        """
        cached = state["held"] if state["policy"] == repr(self.policy) else None
        self.cache = None
        if cached is not None:
            self.cache = CachedGradient.from_state(cached, device, hyperparameters)
            if self.prior.optimised and self.prior.entries and "entries" not in cached["parts"]:
                self.cache.overdue = True  # a state of an earlier version
        self.started = state["started"]
        block = state["block"]
        self.block = None if block is None else block.to(device, copy=True)
        self.refreshes = state["refreshes"]

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for copies, without the tensors that the last call has left."""
        state = self.__dict__ | {"_summand": None}
        state.pop("tensor", None)
        return state

    @property
    def _has_followed(self) -> bool:
        """Whether leading triplets have followed the matrix to its present value.

        If a refresh is due no matter how far the matrix has moved, nothing follows at this call.
        """
        cache = self.cache
        return (
            cache is not None
            and cache.leading is not None
            and cache.leading.cluster is not None
            and not self.is_stale
            and cache.leading.age == 0
        )
