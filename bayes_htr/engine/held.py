"""The energy and gradient of a matrix that are held from one refresh to the next."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from bayes_htr.engine.refresh import Drift, Refresh
from bayes_htr.engine.scored import Evaluation
from bayes_htr.spectra import (
    Cluster,
    Factors,
    Followed,
    Gradient,
    follow,
    shares,
    working,
    working_dtype,
)

TURN_SHARE = 1e-2
"""The cluster is followed more often while it turns by more than this share of it at a time ..."""

MIXED_TURN_SHARE = 4e-2
"""... and by this one beside other parts of a gradient, which are only held to the tolerance."""

WIDTH_SHARE = 5e-3
"""The width of the cluster is this share of it."""

NEGLIGIBLE = 1e-5
"""The weight of a pair of the cluster that is left out."""

LOST = 0.5
"""A cluster that turns by more than this share of the largest singular value at a time belongs to
another matrix, which it is too far away from to be followed to."""

FOLLOW_CHECKS = 4
"""The cluster is followed at least at every so many checks."""


def cluster_width(policy: Refresh) -> float:
    """The width of the weights of a cluster, as in `shares`; without drift there is one pair."""
    return WIDTH_SHARE * policy.tol if isinstance(policy, Drift) else 0.0


@dataclass
class Held:
    """What is held of one matrix.

    Attributes:
        value: The energy at the refresh, 0-d.
        penalty: The same before strength, as a number.
        strengths: Of the prior's terms, that it was computed at.
        shape: Of the parameter.
        rest: The gradient but for what acts through the largest eigenvalue.
        slope: In the latter.
        cluster: The leading singular triplets, followed between refreshes.
        sigma: The largest singular value at the refresh.
        sigma_now: The same when the cluster was last followed.
        reference: The matrix at the refresh, if its drift is looked at.
        parts: The parts of its spectrum at the refresh that hyperparameters are scored with.
        latents: The unconstrained hyperparameters at the refresh.
        latent_gradients: With respect to them.
        age: Calls since the refresh.
        since_follow: Calls since the cluster was last followed.
        interval: Calls until it is followed again.
        weights: Of its triplets in the gradient.
        overdue: Whether the largest singular value has changed so much that a refresh is due.
    """

    value: Tensor
    penalty: float
    strengths: tuple[float, ...]
    shape: tuple[int, ...]
    rest: Tensor | None
    slope: Tensor | None
    cluster: Cluster | None
    sigma: float
    sigma_now: float
    reference: Tensor | None
    parts: dict[str, Tensor]
    latents: dict[str, Tensor]
    latent_gradients: dict[str, Tensor]
    age: int = 0
    since_follow: int = 0
    interval: int = 1
    weights: list[float] = field(default_factory=lambda: [1.0])
    overdue: bool = False
    _gradient: Gradient | None = field(default=None, repr=False)
    _norm: Tensor | None = field(default=None, repr=False)

    @classmethod
    def of(
        cls,
        evaluation: Evaluation,
        tensor: Tensor,
        W: Tensor,
        strengths: tuple[float, ...],
        latents: Mapping[str, Tensor],
        *,
        drifts: bool,
        before: Held | None,
        keep: bool,
    ) -> Held:
        """Hold an evaluation at `W`.

        Args:
            evaluation: It.
            tensor: The parameter.
            W: The matrix in it.
            strengths: Of the prior's terms.
            latents: The hyperparameters that the matrix is scored with, unconstrained, by name.
            drifts: Whether the drift from `W` will be looked at.
            before: What was held before, if of such a parameter: how often its cluster has to
                follow stays.
            keep: Whether that cluster has been followed to `W`, and is kept.
        """
        rest, top = evaluation.rest, evaluation.top
        sigma = 0.0 if top is None else float(top.sigma)
        held = cls(
            evaluation.value,
            evaluation.penalty,
            strengths,
            tuple(tensor.shape),
            rest,
            evaluation.slope,
            None if top is None else Cluster.of(top),
            sigma,
            sigma,
            W.detach().clone() if drifts and rest is not None else None,
            evaluation.parts if latents else {},
            {name: u.detach().clone() for name, u in latents.items()},
            evaluation.latent_gradients,
        )
        if before is not None:
            held.interval = before.interval
            if keep:
                held.cluster, held.weights = before.cluster, before.weights
        return held

    def gradient(self, width: float) -> Gradient:
        """The gradient in use, from a cluster whose weights have this width."""
        if self._gradient is None:
            top = None
            if self.cluster is not None and self.slope is not None:
                used = [i for i, w in enumerate(reversed(self.weights), 1) if w > NEGLIGIBLE]
                left, right = self.cluster.mean(width, max(used))
                top = Factors(self.slope * left, right)
            self._gradient = Gradient(self.rest, top)
        return self._gradient

    def fits(self, tensor: Tensor) -> bool:
        """Whether it was computed for such a parameter."""
        return (
            self.shape == tensor.shape
            and self.value.device == tensor.device
            and self.value.dtype == working_dtype(tensor.dtype)
        )

    @property
    def drifts(self) -> bool:
        """Whether anything but the largest singular value can ask for a refresh."""
        return self.reference is not None or bool(self.latents)

    def squared_drift(self, W: Tensor, tol: float) -> Tensor | None:
        """`|W - W_ref|^2 / |W_ref|^2`, 0-d, without temporary matrices; `None` without reference.

        A tolerance below 1e-2 asks for more digits than a difference of squares has in float32.
        """
        if self.reference is None:
            return None
        if tol < 1e-2:
            difference = W - self.reference
            return difference.square().sum() / self.reference.square().sum()
        w, r = W.reshape(-1), self.reference.reshape(-1)
        if self._norm is None:
            self._norm = torch.dot(r, r)
        return (torch.dot(w, w) - 2 * torch.dot(w, r)) / self._norm + 1

    def latents_drift(self, latents: Mapping[str, Tensor]) -> Tensor | None:
        """How far a hyperparameter has moved since the refresh, the furthest of them, 0-d."""
        if not self.latents:
            return None
        return torch.stack([(latents[n].detach() - u).abs() for n, u in self.latents.items()]).max()

    def asks(self, W: Tensor, latents: Mapping[str, Tensor], tol: float) -> Tensor:
        """Whether matrix or hyperparameters have moved by more than a tolerance: 0-d, bool."""
        found = W.new_zeros((), dtype=torch.bool)
        drift, moved = self.squared_drift(working(W), tol), self.latents_drift(latents)
        if drift is not None:
            found = ~(drift <= tol**2)
        if moved is not None:
            found = found | ~(moved <= tol).to(found.device, non_blocking=True)
        return found

    def count(self, calls: int) -> bool:
        """Count a call without a refresh, of so many in all.

        Returns:
            Whether the cluster has to follow the matrix at this call. Intervals are powers of 2, or
            the longest of all, so that matrices follow at the same calls.
        """
        self.age += 1
        self.since_follow += 1
        return self.cluster is not None and calls % self.interval == 0

    def followed(self, W: Tensor) -> Followed:
        """The cluster one step on."""
        assert self.cluster is not None
        return follow(working(W), self.cluster, self.sigma_now)

    def turn(self, cluster: Cluster, numbers: Sequence[float], policy: Drift) -> None:
        """Take a cluster that has followed the matrix.

        Args:
            cluster: It.
            numbers: Its values and what was kept, as in `Followed`; not finite if the matrix is
                not. There is no cluster then, nor if it is another matrix.
            policy: Says how soon it has to follow again.
        """
        self._gradient = None
        self.since_follow = 0
        if not all(math.isfinite(number) for number in numbers):
            self.cluster, self.overdue = None, True
            return
        self.cluster = cluster
        count = len(numbers) // 2
        values, kept = numbers[:count], numbers[count:]
        before, self.weights = self.weights, shares(values, cluster_width(policy))
        self.sigma_now = sigma = max(values)
        mean, behind = (
            math.fsum(w * v for w, v in zip(reversed(weights), reversed(found), strict=False))
            for weights, found in ((self.weights, values), (before, kept))
        )
        # From a zero matrix on it can turn anywhere.
        turned = abs(mean - behind) / sigma if sigma > 0 else LOST
        bound = (TURN_SHARE if self.rest is None else MIXED_TURN_SHARE) * policy.tol
        if turned < bound / 8:
            self.interval = min(2 * self.interval, FOLLOW_CHECKS * policy.check_every)
        elif turned >= bound:  # it turns by the square of what the matrix moves
            halvings = math.ceil(math.log2(max(turned / bound, 1.1)) / 2)
            self.interval = max(1, self.interval >> halvings)
        self.overdue |= not abs(sigma - self.sigma) <= policy.tol * self.sigma
        if turned > LOST:
            self.cluster, self.overdue = None, True

    def map(self, function: Callable[[Tensor], Tensor]) -> None:
        """Replace every tensor in it by `function` of it."""
        self._gradient = self._norm = None
        for f in fields(self):
            setattr(self, f.name, _mapped(getattr(self, f.name), function))

    def state(self) -> dict[str, Any]:
        """It as plain data and tensors."""
        state = {f.name: getattr(self, f.name) for f in fields(self) if f.name[0] != "_"}
        return state | {"cluster": None if self.cluster is None else tuple(self.cluster)}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Held:
        """The inverse of `state`, with tensors of its own."""
        cluster = state["cluster"]
        held = cls(**{**state, "cluster": None if cluster is None else Cluster(*cluster)})
        held.map(torch.clone)
        return held


def _mapped(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Cluster):
        return Cluster(*(function(t) for t in value))
    if isinstance(value, dict):
        return {k: _mapped(v, function) for k, v in value.items()}
    return value
