"""When the gradient of an energy is computed anew.

A refresh policy is a value given to `bind` and `MAP`. Calls are counted: one call of the energy
with gradients enabled is one step.
"""

from __future__ import annotations

from dataclasses import dataclass

from bayes_htr.priors.values import Value, integer, number


@dataclass(frozen=True, repr=False)
class Refresh(Value, abstract=True):
    """Base of the refresh policies."""


@dataclass(frozen=True, repr=False)
class Exact(Refresh):
    """Value and gradient belong to the present weights at every call."""


@dataclass(frozen=True, repr=False)
class Every(Refresh):
    """Value and gradient are computed at every `n`-th call and held in between.

    Args:
        n: 1 or more.
    """

    n: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "n", integer(self.n, "Every n", at_least=1))


@dataclass(frozen=True, repr=False)
class Drift(Refresh):
    """Value and gradient of a matrix are held until it has moved by more than a tolerance.

    At every `check_every`-th call `|W - W_ref|_F <= tol |W_ref|_F` is looked at, where `W_ref` is
    the matrix at its last refresh, and where it does not hold the matrix is refreshed: so at every
    check the drift is at most `tol`. The part of a gradient that acts through the largest
    eigenvalue turns faster; its singular vectors are followed by block power steps, as often as
    they turn, at least at every `4 check_every`-th call. Of a matrix of which no more is needed
    nothing else is looked at. What this bounds and what it does not is
    in `docs/engine.md`.
    On accelerators the host reads what a check has found at the next one, so as not to wait.

    Args:
        tol: The relative drift allowed, positive.
        check_every: Calls from one check to the next, 1 or more.
    """

    tol: float = 0.1
    check_every: int = 4

    def __post_init__(self) -> None:
        object.__setattr__(self, "tol", number(self.tol, "Drift tol", above=0))
        object.__setattr__(
            self, "check_every", integer(self.check_every, "Drift check_every", at_least=1)
        )
