"""One matrix through training: when it is refreshed, and what is held of it in between."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from torch import Tensor

from bayes_htr.engine.held import Held, cluster_width
from bayes_htr.engine.lagged import Mark
from bayes_htr.engine.latents import Latent
from bayes_htr.engine.refresh import Drift, Every, Exact, Refresh
from bayes_htr.engine.scored import Evaluation, Scored, evaluate
from bayes_htr.engine.summands import Summand, summand_of
from bayes_htr.spectra import Cluster, Gradient, MatrixView, plan, working

_FOLLOWED_TOL = 1e-3
"""Of a top pair that is going to be held: `u'Wv` is within about its square of `sigma_1`."""


class Keeper:
    """A matrix under its prior, with what is held of it.

    Args:
        scored: The matrix and its prior.
        policy: When it is refreshed.
        laws: The hyperpriors by name.

    Attributes:
        held: What is held; `None` before the first refresh.
        started: Whether it has been scored in training.
        block: Where the iteration for its largest singular value starts.
        refreshes: How often it has been refreshed.
    """

    def __init__(self, scored: Scored, policy: Refresh, laws: Mapping[str, Latent]) -> None:
        self.scored = scored
        self.policy = policy
        self.laws = laws
        self.held: Held | None = None
        self.started = False
        self.block: Tensor | None = None
        self.refreshes = 0
        self._strengths: tuple[tuple[float, int | None], tuple[float, ...]] | None = None
        self._present: tuple[Tensor, Gradient, Present] | None = None

    @property
    def holds(self) -> bool:
        """Whether anything is held: entries alone cost less to score than to hold."""
        scored = self.scored
        return not (isinstance(self.policy, Exact) or scored.is_cheap or scored.holds_entries)

    def strengths(self, strength: float, epoch: int | None) -> tuple[float, ...]:
        """The strength of each term at an epoch, where that of all priors is `strength`."""
        if self._strengths is None or self._strengths[0] != (strength, epoch):
            self._strengths = (strength, epoch), self.scored.strengths(strength, epoch)
        return self._strengths[1]

    def must_refresh(self, tensor: Tensor, strengths: tuple[float, ...]) -> bool:
        """Whether a refresh is due whatever the matrix has become."""
        held = self.held
        if held is None or not self.holds:
            return True
        if held.strengths != strengths or not held.fits(tensor):
            return True
        return isinstance(self.policy, Every) and held.age + 1 >= self.policy.n

    def evaluate(
        self,
        W: Tensor,
        strengths: tuple[float, ...],
        latents: Mapping[str, Tensor],
        *,
        tensor: Tensor | None = None,
    ) -> Evaluation:
        """The energy of the matrix `W`: of the present one of the parameter `tensor`, to be held.

        Without `tensor` it is evaluated for itself.
        """
        W = working(W.detach())
        followed = tensor is not None and self.holds and isinstance(self.policy, Drift)
        cluster = None if tensor is None else self._followed(tensor, strengths)
        view = MatrixView(
            W,
            self.scored.name,
            self.scored.needs(strengths),
            self.block,
            started=self.started,
            tol=_FOLLOWED_TOL if followed else None,
            top=None if cluster is None else cluster.top(),
        )
        return evaluate(self.scored, view, strengths, latents, self.laws)

    def _followed(self, tensor: Tensor, strengths: tuple[float, ...]) -> Cluster | None:
        """The cluster, if it is all that is held and has been followed to the present matrix.

        Where a refresh is due whatever the matrix has become, nothing is followed at this call.
        """
        held = self.held
        if held is None or held.rest is not None or self.must_refresh(tensor, strengths):
            return None
        return held.cluster if held.overdue and held.since_follow == 0 else None

    def accept(
        self,
        evaluation: Evaluation,
        tensor: Tensor,
        W: Tensor,
        strengths: tuple[float, ...],
        latents: Mapping[str, Tensor],
    ) -> None:
        """Hold an evaluation of the present matrix `W` of the parameter `tensor`."""
        own = {n: latents[n] for n in self.scored.latent_names}
        drifts = self.holds and isinstance(self.policy, Drift)
        before = self.held if self.held is not None and self.held.fits(tensor) else None
        keep = self._followed(tensor, strengths) is not None
        W = working(W.detach())
        self.held = Held.of(
            evaluation, tensor, W, strengths, own, drifts=drifts, before=before, keep=keep
        )
        self.block = evaluation.block
        self.started = True
        self.refreshes += 1

    def present(self, tensor: Tensor, latents: Mapping[str, Tensor]) -> Present:
        """The summand of the parameter `tensor`, and its penalty.

        Value and gradient with respect to hyperparameters belong to their present values, given
        the spectrum at the last refresh.
        """
        held, scored = self.held, self.scored
        assert held is not None
        gradient = held.gradient(cluster_width(self.policy))
        if held.latents:
            value, penalty, slopes = held.value, held.penalty, held.latent_gradients
            if held.age > 0:
                needs, (m, n) = scored.needs(held.strengths), scored.view(tensor.detach()).shape
                view = MatrixView.of_parts(value, (m, n), scored.name, needs, held.parts)
                now = evaluate(scored, view, held.strengths, latents, self.laws)
                value, penalty, slopes = now.value, now.penalty, now.latent_gradients
            return Present(summand_of(scored, tensor, latents, value, gradient, slopes), penalty)
        last = self._present
        if last is None or last[0] is not tensor or last[1] is not gradient:
            summand = summand_of(scored, tensor, {}, held.value, gradient, {})
            self._present = last = tensor, gradient, Present(summand, held.penalty)
        return last[2]

    def state(self) -> dict[str, Any]:
        """It as plain data and tensors."""
        return {
            "policy": repr(self.policy),
            "held": None if self.held is None or not self.holds else self.held.state(),
            "started": self.started,
            "block": self.block,
            "refreshes": self.refreshes,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state`; what was held under another policy is left out."""
        held = state["held"] if state["policy"] == repr(self.policy) else None
        self.held = None if held is None else Held.from_state(held)
        self.started = state["started"]
        self.block = None if state["block"] is None else state["block"].clone()
        self.refreshes = state["refreshes"]

    def __getstate__(self) -> dict[str, Any]:
        """Without what is only known from the last call, so that a copy has no part in it."""
        return self.__dict__ | {"_strengths": None, "_present": None}


class Present(NamedTuple):
    """What a matrix adds to the energy: a summand, and its penalty before strength, as a number."""

    summand: Summand
    penalty: float


@dataclass(eq=False)
class Job:
    """A matrix at one call of an energy.

    Attributes:
        keeper: Of the matrix.
        strengths: Of its prior's terms.
        tensor: The parameter now.
    """

    keeper: Keeper
    strengths: tuple[float, ...]
    tensor: Tensor

    @cached_property
    def matrix(self) -> Tensor:
        """The matrix now."""
        return self.keeper.scored.view(self.tensor.detach())

    @property
    def name(self) -> str:
        """The matrix's name."""
        return self.keeper.scored.name

    @property
    def is_cheap(self) -> bool:
        """Whether only entries are scored."""
        return self.keeper.scored.is_cheap

    @property
    def flops(self) -> float:
        """What an evaluation costs."""
        return plan(
            self.keeper.scored.prior.needs, (self.matrix.shape[0], self.matrix.shape[1])
        ).flops

    @property
    def held(self) -> Held:
        """What is held of it, where something is."""
        assert self.keeper.held is not None
        return self.keeper.held

    @property
    def mark(self) -> Mark:
        """Its name, and how often it has been refreshed."""
        return self.name, self.keeper.refreshes

    def evaluate(self, latents: Mapping[str, Tensor]) -> Evaluation:
        """Its energy, to be held."""
        return self.keeper.evaluate(self.matrix, self.strengths, latents, tensor=self.tensor)

    def accept(self, evaluation: Evaluation, latents: Mapping[str, Tensor]) -> None:
        """Hold an evaluation."""
        self.keeper.accept(evaluation, self.tensor, self.matrix, self.strengths, latents)
