"""At each call of an energy: which matrices follow, are looked at, and are refreshed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from bayes_htr.distributed import world_size
from bayes_htr.engine.keeper import Job
from bayes_htr.engine.lagged import Flags, Mark
from bayes_htr.engine.refresh import Drift, Refresh
from bayes_htr.engine.scored import Evaluation
from bayes_htr.engine.sharing import Sharing


class Refresher:
    """Keeps the matrices of an energy as fresh as a policy asks.

    Args:
        policy: It.
        share: Whether processes that train together spread the work.

    Attributes:
        calls: How often the energy has been called.
        decompositions: How many evaluations this process has computed, entries alone not counted.
        flags: Of matrices that ask for a refresh.
    """

    def __init__(self, policy: Refresh, *, share: bool) -> None:
        self.policy = policy
        self.calls = 0
        self.decompositions = 0
        self.flags = Flags()
        self._sharing = Sharing() if share else None

    def refresh(self, jobs: Sequence[Job], latents: Mapping[str, Tensor]) -> None:
        """Refresh the matrices that are due at this call.

        Args:
            jobs: The matrices that add to the energy.
            latents: Hyperparameters in unconstrained coordinates, by name.
        """
        if not jobs:
            return
        sharing = self._sharing if world_size() > 1 else None
        if sharing is not None:
            sharing.begin(jobs, self.calls)
        self.calls += 1
        due = self._due(jobs, latents, sharing)

        def evaluate(job: Job) -> Evaluation:
            self.decompositions += not job.is_cheap
            return job.evaluate(latents)

        found: Iterable[Evaluation] = map(evaluate, due)
        if sharing is not None:
            found = sharing.evaluations(due, evaluate, latents)
        for job, evaluation in zip(due, found, strict=True):
            job.accept(evaluation, latents)

    def state(self) -> dict[str, Any]:
        """Calls and flags as plain data."""
        return {"calls": self.calls, "flags": list(self.flags.waiting())}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state`."""
        self.calls = state["calls"]
        self.flags.load(state["flags"])

    def _due(
        self, jobs: Sequence[Job], latents: Mapping[str, Tensor], sharing: Sharing | None
    ) -> list[Job]:
        forced = [job.keeper.must_refresh(job.tensor, job.strengths) for job in jobs]
        kept = [job for job, due in zip(jobs, forced, strict=True) if not due]
        turning = [job for job in kept if job.held.count(self.calls)]
        asking: set[Mark] = set()
        if isinstance(self.policy, Drift):
            _turn(turning, self.policy, sharing)
            looks = self.calls % self.policy.check_every == 0
            looked_at = [j for j in kept if looks and j.held.drifts and not j.held.overdue]
            if looked_at:
                flags = _look(looked_at, latents, self.policy, sharing)
                asking = set(self.flags.read(flags, [job.mark for job in looked_at]))
        return [
            job
            for job, due in zip(jobs, forced, strict=True)
            if due or job.held.overdue or job.mark in asking
        ]


def _turn(jobs: Sequence[Job], policy: Drift, sharing: Sharing | None) -> None:
    """Let clusters follow their matrices."""
    if not jobs:
        return
    if sharing is None:
        steps = [job.held.followed(job.matrix) for job in jobs]
    else:
        steps = sharing.followed(jobs)
    device = jobs[0].matrix.device
    told = [t.to(device) for cluster, kept in steps for t in (cluster.values, kept)]
    numbers = iter(torch.cat(told).tolist())
    for job, step in zip(jobs, steps, strict=True):
        job.held.turn(step.cluster, list(islice(numbers, 2 * len(step.kept))), policy)


def _look(
    jobs: Sequence[Job], latents: Mapping[str, Tensor], policy: Drift, sharing: Sharing | None
) -> Tensor:
    """Which matrices ask for a refresh, as one tensor on the device of the first."""
    device = jobs[0].matrix.device
    flags = [
        job.held.asks(job.matrix, latents, policy.tol)
        if sharing is None or sharing.owns(job)
        else job.matrix.new_zeros((), dtype=torch.bool)
        for job in jobs
    ]
    stacked = torch.stack([flag.to(device, non_blocking=device.type != "cpu") for flag in flags])
    return stacked if sharing is None else sharing.any(stacked)
