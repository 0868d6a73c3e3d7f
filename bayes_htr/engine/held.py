"""The energy and gradient of a matrix that are held from one refresh to the next."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from bayes_htr.engine.refresh import Drift
from bayes_htr.engine.scored import Evaluation
from bayes_htr.spectra import (
    Cluster,
    Followed,
    Gradient,
    TopGradient,
    follow,
    working,
    working_dtype,
)

SIGMA_SHARE = 0.5
"""A refresh is due when the largest singular value has changed by this share of the tolerance."""

TURN_SHARE = 1e-2
"""The cluster is followed more often while it turns by more than this share of it at a time."""

WIDTH_SHARE = 5e-3
"""The width of the cluster is this share of it."""

NEGLIGIBLE = 1e-5
"""The weight of a pair of the cluster that is left out."""

FOLLOW_CHECKS = 4
"""The cluster is followed at least at every so many checks."""


@dataclass
class Held:
    """What is held of one matrix.

    Attributes:
        value: The energy at the refresh, 0-d.
        penalty: The same before strength, as a number.
        strengths: Of the prior's terms, that it was computed at.
        rest: The gradient but for what acts through the largest eigenvalue.
        slope: Of the latter: `slope * cluster.left @ cluster.right`.
        cluster: The leading singular triplets, followed between refreshes.
        sigma: The largest singular value at the refresh.
        reference: The matrix at the refresh, if its drift is looked at.
        parts: The parts of its spectrum at the refresh that hyperparameters are scored with.
        latents: The unconstrained hyperparameters at the refresh.
        latent_gradients: With respect to them.
        age: Calls since the refresh.
        since_follow: Calls since the cluster was last followed.
        interval: Calls until it is followed again.
        sharing: How many of its leading pairs share the gradient.
        overdue: Whether the largest singular value has changed so much that a refresh is due.
    """

    value: Tensor
    penalty: float
    strengths: tuple[float, ...]
    rest: Tensor | None
    slope: Tensor | None
    cluster: Cluster | None
    sigma: float
    reference: Tensor | None
    parts: dict[str, Tensor]
    latents: dict[str, Tensor]
    latent_gradients: dict[str, Tensor]
    age: int = 0
    since_follow: int = 0
    interval: int = 1
    sharing: int = 1
    overdue: bool = False

    @classmethod
    def of(
        cls,
        evaluation: Evaluation,
        W: Tensor,
        strengths: tuple[float, ...],
        latents: Mapping[str, Tensor],
        *,
        drifts: bool,
        before: Held | None,
    ) -> Held:
        """Hold an evaluation at `W`.

        Args:
            evaluation: It.
            W: The matrix.
            strengths: Of the prior's terms.
            latents: The hyperparameters that the matrix is scored with, unconstrained, by name.
            drifts: Whether the drift from `W` will be looked at.
            before: What was held before, if its cluster has been followed to `W`: it is kept.
        """
        rest, top = evaluation.gradient
        held = cls(
            evaluation.value,
            evaluation.penalty,
            strengths,
            rest,
            None if top is None else top.slope,
            None if evaluation.top is None else Cluster.of(evaluation.top),
            0.0 if evaluation.top is None else float(evaluation.top.sigma),
            W.detach().clone() if drifts and rest is not None else None,
            evaluation.parts if latents else {},
            {name: u.detach().clone() for name, u in latents.items()},
            evaluation.latent_gradients,
        )
        if before is not None:
            held.cluster, held.interval = before.cluster, before.interval
            held.sharing = before.sharing
        return held

    @property
    def gradient(self) -> Gradient:
        """The gradient in use."""
        if self.cluster is None or self.slope is None:
            return Gradient(self.rest, None)
        left, right = self.cluster.left[:, -self.sharing :], self.cluster.right[-self.sharing :]
        return Gradient(self.rest, TopGradient(self.slope, left, right))

    def fits(self, W: Tensor, strengths: tuple[float, ...]) -> bool:
        """Whether it was computed for such a matrix and these strengths."""
        return (
            self.strengths == strengths
            and self.value.device == W.device
            and self.value.dtype == working_dtype(W.dtype)
            and (self.rest is None or self.rest.shape == W.shape)
            and (self.cluster is None or self.cluster.shape == W.shape)
        )

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
        norm = torch.dot(r, r)
        return (torch.dot(w, w) - 2 * torch.dot(w, r) + norm) / norm

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

    def count(self) -> bool:
        """Count a call without a refresh.

        Returns:
            Whether the cluster has to follow the matrix at this call.
        """
        self.age += 1
        self.since_follow += 1
        return self.cluster is not None and self.since_follow >= self.interval

    def followed(self, W: Tensor, policy: Drift) -> Followed:
        """The cluster one step on; NaN where the matrix is not finite, as the refresh will say."""
        assert self.cluster is not None
        try:
            return follow(working(W), self.cluster, WIDTH_SHARE * policy.tol)
        except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
            return self.step_of(torch.nan, W)

    def step_of(self, number: float, W: Tensor) -> Followed:
        """What looks like the cluster one step on, and holds one number throughout."""
        assert self.cluster is not None
        block = self.cluster.block
        b, (m, n) = block.shape[1], W.shape
        shapes = ((), (m, b), (b, n), block.shape, (b, b), (b, max(m, n)), (b,), ())
        *cluster, turned = (block.new_full(shape, number) for shape in shapes)
        return Followed(Cluster(*cluster), turned)

    def turn(self, cluster: Cluster, numbers: Sequence[float], policy: Drift) -> None:
        """Take a cluster that has followed the matrix.

        Args:
            cluster: It.
            numbers: How far it has turned, as in `Followed`, its `sigma` (NaN if the matrix is not
                finite: there is no cluster then) and its weights.
            policy: Says how soon it has to follow again.
        """
        turned, sigma, *weights = numbers
        used = [i for i, weight in enumerate(reversed(weights), start=1) if weight > NEGLIGIBLE]
        self.sharing = max(used, default=1)
        self.cluster = cluster if math.isfinite(sigma) else None
        self.since_follow = 0
        bound = TURN_SHARE * policy.tol
        if abs(turned) < bound / 8:
            self.interval = min(2 * self.interval, FOLLOW_CHECKS * policy.check_every)
        elif not abs(turned) < bound:
            self.interval = max(1, self.interval // 2)
        share = SIGMA_SHARE if self.rest is None else 1.0
        self.overdue |= not abs(sigma - self.sigma) <= share * policy.tol * self.sigma

    def map(self, function: Callable[[Tensor], Tensor]) -> None:
        """Replace every tensor in it by `function` of it."""
        for f in fields(self):
            setattr(self, f.name, _mapped(getattr(self, f.name), function))

    def state(self) -> dict[str, Any]:
        """It as plain data and tensors."""
        state = {f.name: getattr(self, f.name) for f in fields(self)}
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
