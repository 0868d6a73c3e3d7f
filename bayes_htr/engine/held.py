"""The energy and gradient of a matrix that are held from one refresh to the next."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from bayes_htr.engine.refresh import Drift
from bayes_htr.engine.scored import Evaluation
from bayes_htr.spectra import (
    Followed,
    Gradient,
    TopGradient,
    TopPair,
    follow,
    working,
    working_dtype,
)

SIGMA_SHARE = 0.25
"""A refresh is due when the largest singular value has changed by this share of the tolerance."""

TURN_SHARE = 1e-2
"""The pair is followed more often while `1 - u'Wv / sigma` is above this share of it."""

FOLLOW_CHECKS = 4
"""The pair is followed at least at every so many checks."""


@dataclass
class Held:
    """What is held of one matrix.

    Attributes:
        value: The energy at the refresh, 0-d.
        penalty: The same before strength, as a number.
        strengths: Of the prior's terms, that it was computed at.
        rest: The gradient but for what acts through the largest eigenvalue.
        slope: Of the latter: `slope * outer(u, v)`.
        pair: The largest singular value with `u` and `v`, followed between refreshes.
        sigma: The largest singular value at the refresh.
        reference: The matrix at the refresh, if its drift is looked at.
        parts: The parts of its spectrum at the refresh that hyperparameters are scored with.
        latents: The unconstrained hyperparameters at the refresh.
        latent_gradients: With respect to them.
        age: Calls since the refresh.
        since_follow: Calls since the pair was last followed.
        interval: Calls until it is followed again.
        overdue: Whether the pair has turned or grown so much that a refresh is due.
    """

    value: Tensor
    penalty: float
    strengths: tuple[float, ...]
    rest: Tensor | None
    slope: Tensor | None
    pair: TopPair | None
    sigma: float
    reference: Tensor | None
    parts: dict[str, Tensor]
    latents: dict[str, Tensor]
    latent_gradients: dict[str, Tensor]
    age: int = 0
    since_follow: int = 0
    interval: int = 1
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
    ) -> Held:
        """Hold an evaluation at `W`.

        Args:
            evaluation: It.
            W: The matrix.
            strengths: Of the prior's terms.
            latents: The hyperparameters that the matrix is scored with, unconstrained, by name.
            drifts: Whether the drift from `W` will be looked at.
        """
        rest, top = evaluation.gradient
        return cls(
            evaluation.value,
            evaluation.penalty,
            strengths,
            rest,
            None if top is None else top.slope,
            None if top is None else evaluation.top,
            0.0 if evaluation.top is None else float(evaluation.top.sigma),
            W.detach().clone() if drifts and rest is not None else None,
            evaluation.parts if latents else {},
            {name: u.detach().clone() for name, u in latents.items()},
            evaluation.latent_gradients,
        )

    @property
    def gradient(self) -> Gradient:
        """The gradient in use."""
        if self.pair is None or self.slope is None:
            return Gradient(self.rest, None)
        return Gradient(self.rest, TopGradient(self.slope, self.pair.u, self.pair.v))

    def fits(self, W: Tensor, strengths: tuple[float, ...]) -> bool:
        """Whether it was computed for such a matrix and these strengths."""
        return (
            self.strengths == strengths
            and self.value.device == W.device
            and self.value.dtype == working_dtype(W.dtype)
            and (self.rest is None or self.rest.shape == W.shape)
            and (self.pair is None or (len(self.pair.u), len(self.pair.v)) == W.shape)
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
            Whether the pair has to follow the matrix at this call.
        """
        self.age += 1
        self.since_follow += 1
        return self.pair is not None and self.since_follow >= self.interval

    def followed(self, W: Tensor) -> Followed:
        """The pair one step on; NaN where the matrix is not finite, as the refresh will say."""
        assert self.pair is not None
        try:
            return follow(working(W), self.pair)
        except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
            nothing = TopPair(*(torch.full_like(t, torch.nan) for t in self.pair))
            return Followed(nothing, nothing.sigma)

    def turn(self, pair: TopPair, sigma: float, kept: float, policy: Drift) -> None:
        """Take a pair that has followed the matrix.

        Args:
            pair: It.
            sigma: Its singular value; NaN if the matrix is not finite: there is no pair then.
            kept: `u'Wv` of the pair before.
            policy: Says how soon it has to follow again.
        """
        self.pair = pair if math.isfinite(sigma) else None
        self.since_follow = 0
        bound = TURN_SHARE * policy.tol * sigma
        if sigma - kept < bound / 8:
            self.interval = min(2 * self.interval, FOLLOW_CHECKS * policy.check_every)
        elif not sigma - kept < bound:
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
        return state | {"pair": None if self.pair is None else tuple(self.pair)}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Held:
        """The inverse of `state`, with tensors of its own."""
        pair = state["pair"]
        held = cls(**{**state, "pair": None if pair is None else TopPair(*pair)})
        held.map(torch.clone)
        return held


def _mapped(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, TopPair):
        return TopPair(*(function(t) for t in value))
    if isinstance(value, dict):
        return {k: _mapped(v, function) for k, v in value.items()}
    return value
