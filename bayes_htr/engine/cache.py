"""The energy of one matrix and its gradient, cached between two refreshes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from bayes_htr.engine.refresh import Drift, has_drifted, squared_drift
from bayes_htr.priors.evaluation import Evaluation
from bayes_htr.spectra import Cluster, Gradient, shares, working_dtype

TURN_SHARE = 4e-2
"""A cluster that turns by more than this share of the tolerance at a time follows more often."""

WIDTH_SHARE = 5e-3
"""The width of a cluster's weights as a share of the tolerance."""

NEGLIGIBLE = 1e-5
"""A triplet with a smaller weight is left out of the gradient."""

LOST = 0.5
"""If a cluster turns by more than this share of the largest singular value at a time, the matrix
has become another one, which the cluster cannot follow."""

FOLLOW_CHECKS = 4
"""A cluster follows its matrix after at most this many checks."""

NORM_SHARE = 0.25
"""A matrix is refreshed if its squared norm outside the cluster grows at a time by this share of
the squared largest singular value, because a direction there can have become the leading one."""

VERIFY_CHECKS = 32
"""A matrix whose cluster follows it is refreshed after at most this many checks."""


@dataclass
class LeadingTriplets:
    """The leading singular triplets of a matrix, which follow it between refreshes.

    Attributes:
        cluster: The triplets; `None` once they have lost the matrix.
        sigma_at_refresh: The largest singular value at the last refresh.
        outside: The squared Frobenius norm of the matrix without the triplets when they last
            followed it. After a refresh only the leading triplet is known, and left out.
        sigma: The largest singular value at that time.
        weights: The weights of the triplets in the gradient.
        interval: The number of calls after which the triplets follow again.
        age: The number of calls since they last followed.
    """

    cluster: Cluster | None
    sigma_at_refresh: float
    outside: float
    sigma: float
    weights: list[float] = field(default_factory=lambda: [1.0])
    interval: int = 1
    age: int = 0

    def accept(self, step: Cluster, numbers: Sequence[float], policy: Drift) -> bool:
        """Accept triplets that have followed the matrix.

        Args:
            step: The triplets.
            numbers: The numbers `values`, `kept` and `squared_norm`, as in `Followed`. If the
                matrix is not finite, neither are these numbers, and the triplets are lost. They
                are also lost if the matrix has become another one.
            policy: The policy, which says how soon the triplets follow again.

        Returns:
            Whether a refresh is due.
        """
        self.age = 0
        if not all(math.isfinite(number) for number in numbers):
            self.cluster = None
            return True
        self.cluster = step
        count = len(numbers) // 2
        values, kept, squared_norm = numbers[:count], numbers[count:-1], numbers[-1]
        before, self.weights = self.weights, shares(values, WIDTH_SHARE * policy.tol)
        self.sigma = sigma = max(values)
        # From a zero matrix on they can turn anywhere.
        turned = LOST
        if sigma > 0:
            turned = abs(_mean(self.weights, values) - _mean(before, kept)) / sigma
        bound = TURN_SHARE * policy.tol
        if turned < bound / 8:
            self.interval = min(2 * self.interval, FOLLOW_CHECKS * policy.check_every)
        elif turned >= bound:  # they turn by the square of what the matrix moves
            halvings = math.ceil(math.log2(max(turned / bound, 1.1)) / 2)
            self.interval = max(1, self.interval >> halvings)
        if turned > LOST:
            self.cluster = None
            return True
        grown = squared_norm - _squares(values[-len(before) :]) - self.outside
        self.outside = squared_norm - _squares(values)
        return (
            not abs(sigma - self.sigma_at_refresh) <= policy.tol * self.sigma_at_refresh
            or not grown <= NORM_SHARE * sigma**2
        )


def _mean(weights: Sequence[float], values: Sequence[float]) -> float:
    pairs = zip(reversed(weights), reversed(values), strict=False)
    return math.fsum(w * v for w, v in pairs)


def _squares(values: Sequence[float]) -> float:
    return math.fsum(value * value for value in values)


@dataclass
class CachedGradient:
    """Energy and gradient of one matrix at its last refresh.

    Attributes:
        evaluation: The energy with its derivatives.
        strengths: The strengths of the prior's terms at the refresh.
        shape: The shape of the parameter.
        reference: The matrix at the refresh, if its drift is tested.
        hyperparameters: The unconstrained coordinates at the refresh, by name.
        leading: The leading singular triplets, if the energy depends on the largest singular value.
        age: The number of calls since the refresh.
        overdue: Whether the largest singular value has changed so much that a refresh is due.
        known_gradient: The gradient that `gradient` has computed, unless it has changed since.
    """

    evaluation: Evaluation
    strengths: tuple[float, ...]
    shape: tuple[int, ...]
    reference: Tensor | None
    hyperparameters: dict[str, Tensor]
    leading: LeadingTriplets | None
    age: int = 0
    overdue: bool = False
    known_gradient: Gradient | None = field(default=None, repr=False)
    _squared_norm: Tensor | None = field(default=None, repr=False)
    _like: tuple[torch.Size, torch.dtype, torch.device] | None = field(default=None, repr=False)

    def release(self) -> None:
        """Free the gradient and the reference, which a refresh is about to replace."""
        self.known_gradient = self.reference = self._squared_norm = None
        self.evaluation = self.evaluation._replace(rest=None)
        self.overdue = True  # also if the refresh fails

    def fits(self, tensor: Tensor) -> bool:
        """Return whether the cache belongs to a parameter of this shape, precision and device."""
        like = (tensor.shape, tensor.dtype, tensor.device)
        if like == self._like:
            return True
        value = self.evaluation.value
        if (self.shape, value.dtype, value.device) != (
            tuple(tensor.shape),
            working_dtype(tensor.dtype),
            tensor.device,
        ):
            return False
        self._like = like
        return True

    def advance(self, calls: int) -> bool:
        """Count a call without a refresh.

        Args:
            calls: The number of calls in all.

        Returns:
            Whether the triplets have to follow the matrix at this call. An interval is a power of
            2, or the longest interval, so that many matrices follow at the same calls.
        """
        self.age += 1
        leading = self.leading
        if leading is None:
            return False
        leading.age += 1
        return leading.cluster is not None and calls % leading.interval == 0

    def turn(self, step: Cluster, numbers: Sequence[float], policy: Drift) -> None:
        """Accept triplets that have followed the matrix (`LeadingTriplets.accept`)."""
        assert self.leading is not None
        self.known_gradient = None
        self.overdue |= self.leading.accept(step, numbers, policy)
        self.overdue |= self.age >= VERIFY_CHECKS * policy.check_every

    def drifted(self, W: Tensor, hyperparameters: Mapping[str, Tensor], tol: float) -> Tensor:
        """Return whether the matrix or a hyperparameter has moved by more than a tolerance.

        The result is 0-d, bool.
        """
        flag = W.new_zeros((), dtype=torch.bool)
        if self.reference is not None:
            flag = has_drifted(W, self.reference, self._norm_of_reference(), tol)
        if self.hyperparameters:
            flag = flag | self.moved(hyperparameters, tol).to(flag.device, non_blocking=True)
        return flag

    def moved(self, hyperparameters: Mapping[str, Tensor], tol: float) -> Tensor:
        """Return whether a hyperparameter has moved by more than `tol`: 0-d, bool.

        There has to be at least one hyperparameter.
        """
        moved = [(hyperparameters[n].detach() - u).abs() for n, u in self.hyperparameters.items()]
        return ~(torch.stack(moved).max() <= tol)

    def squared_drift(self, W: Tensor, tol: float) -> Tensor:
        """Return `|W - W_ref|_F^2`, 0-d, where `tol` has the meaning that it has in `has_drifted`.

        There has to be a reference.
        """
        assert self.reference is not None
        return squared_drift(W, self.reference, self._norm_of_reference(), tol)

    def _norm_of_reference(self) -> Tensor:
        if self._squared_norm is None:
            assert self.reference is not None
            r = self.reference.reshape(-1)
            self._squared_norm = torch.dot(r, r)
        return self._squared_norm

    def gradient(self, width: float) -> Gradient:
        """Return the gradient with respect to the matrix.

        The weights of the leading triplets have this `width`.
        """
        if self.known_gradient is None:
            rest, slope = self.evaluation.rest, self.evaluation.slope
            self.known_gradient = Gradient(rest)
            leading = self.leading
            if leading is not None and leading.cluster is not None and slope is not None:
                used = [i for i, w in enumerate(reversed(leading.weights), 1) if w > NEGLIGIBLE]
                left, right = leading.cluster.mean(width, max(used))
                self.known_gradient = Gradient(rest, slope * left, right)
        return self.known_gradient

    def map(self, function: Callable[[Tensor], Tensor]) -> None:
        """Replace every tensor of the cache by `function(tensor)`."""
        self.known_gradient = self._squared_norm = self._like = None
        self.evaluation = Evaluation(*(_mapped(value, function) for value in self.evaluation))
        self.reference = _mapped(self.reference, function)
        self.hyperparameters = _mapped(self.hyperparameters, function)
        if self.leading is not None:
            self.leading.cluster = _mapped(self.leading.cluster, function)

    def state(self) -> dict[str, Any]:
        """Return the cache as plain data and tensors."""
        leading = self.leading or LeadingTriplets(None, 0.0, 0.0, 0.0)
        return {
            "value": self.evaluation.value,
            "penalty": self.evaluation.penalty,
            "rest": self.evaluation.rest,
            "slope": self.evaluation.slope,
            "latent_gradients": self.evaluation.hyper_slopes,
            "parts": self.evaluation.parts,
            "strengths": self.strengths,
            "shape": self.shape,
            "reference": self.reference,
            "latents": self.hyperparameters,
            "cluster": None if leading.cluster is None else tuple(leading.cluster),
            "sigma": leading.sigma_at_refresh,
            "sigma_now": leading.sigma,
            "weights": leading.weights,
            "interval": leading.interval,
            "since_follow": leading.age,
            "outside": leading.outside,
            "age": self.age,
            "overdue": self.overdue,
        }

    @classmethod
    def from_state(
        cls, state: Mapping[str, Any], device: torch.device, hyperparameters: Mapping[str, Tensor]
    ) -> CachedGradient:
        """Make a cache from what `state` returned, with tensors of its own.

        Args:
            state: The result of `state`.
            device: The device of the matrix.
            hyperparameters: The present coordinates by name, whose devices the cached ones get.
        """
        cluster, leading = state["cluster"], None
        if state["slope"] is not None:
            leading = LeadingTriplets(
                None if cluster is None else Cluster(*cluster),
                state["sigma"],
                state.get("outside", math.nan),  # states of earlier versions have none
                state["sigma_now"],
                list(state["weights"]),
                state["interval"],
                state["since_follow"],
            )
        cache = cls(
            Evaluation(
                state["value"],
                state["penalty"],
                state["rest"],
                state["slope"],
                state["latent_gradients"],
                state["parts"],
            ),
            tuple(state["strengths"]),
            tuple(state["shape"]),
            state["reference"],
            state["latents"],
            leading,
            state["age"],
            state["overdue"],
        )
        cache.map(lambda tensor: tensor.to(device, copy=True))
        for by_name in (cache.hyperparameters, cache.evaluation.hyper_slopes):
            for name, value in by_name.items():
                by_name[name] = value.to(hyperparameters[name].device)
        return cache


def _mapped(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Cluster):
        return Cluster(*(function(t) for t in value))
    if isinstance(value, dict):
        return {k: _mapped(v, function) for k, v in value.items()}
    return value
