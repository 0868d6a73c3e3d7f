"""When the gradient of an energy is computed anew: refresh policies, and the scheduler behind them.

A refresh policy is a value given to `bind`, `MAP` and `SVI`. It counts calls: a call of the energy
with gradients enabled, or a step of a guide.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, TypeAlias, TypeVar

import torch
from torch import Tensor

from bayes_htr.priors.values import Value, integer, number

Action: TypeAlias = Literal["refresh", "test", "keep"]
"""What a call does: it refreshes every matrix, tests how far matrices have moved, or neither."""


@dataclass(frozen=True, repr=False)
class Refresh(Value, abstract=True):
    """Base of the refresh policies.

    Attributes:
        caches: Whether gradients are cached from one call to the next.
    """

    caches: ClassVar[bool] = True

    def action(self, call: int) -> Action:
        """Say what a call does with matrices that are not due already.

        Args:
            call: The number of the call, from 1.
        """
        return "keep"


@dataclass(frozen=True, repr=False)
class Exact(Refresh):
    """Value and gradient belong to the present weights at every call."""

    caches: ClassVar[bool] = False


@dataclass(frozen=True, repr=False)
class Every(Refresh):
    """Value and gradient are computed at every `n`-th call and cached in between.

    Args:
        n: 1 or more.
    """

    n: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "n", integer(self.n, "Every n", at_least=1))

    def action(self, call: int) -> Action:
        """Refresh at the first call and at every `n`-th one after it."""
        return "keep" if (call - 1) % self.n else "refresh"


@dataclass(frozen=True, repr=False)
class Drift(Refresh):
    """Value and gradient of a matrix are cached until it has moved by more than a tolerance.

    Every `check_every`-th call tests `|W - W_ref|_F <= tol |W_ref|_F`, where `W_ref` is the matrix
    at its last refresh. A matrix that fails the test is refreshed, so that at every check the drift
    is at most `tol`.

    The part of a gradient that acts through the largest eigenvalue turns faster. Its singular
    vectors follow the matrix by block power steps. The faster they turn, the more often they
    follow, and at least at every `4 check_every`-th call. If the energy depends on the largest
    eigenvalue alone, nothing else is tested. `docs/engine.md` says what this bounds and what it
    does not.

    On an accelerator the host reads the result of a check only at the next check, so that it does
    not have to wait.

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

    def action(self, call: int) -> Action:
        """Test the drift at every `check_every`-th call."""
        return "keep" if call % self.check_every else "test"


def has_drifted(W: Tensor, reference: Tensor, squared_norm: Tensor, tol: float) -> Tensor:
    """Return whether `|W - W_ref|_F > tol |W_ref|_F`: 0-d, bool.

    It is true for a matrix that is not finite.

    Args:
        W: The matrix, in the precision of `reference`.
        reference: The matrix at its last refresh.
        squared_norm: `|W_ref|_F^2`, 0-d.
        tol: The tolerance. Below 1e-2, a difference of squares in float32 is not accurate enough,
            and a temporary matrix is computed instead.
    """
    return ~(squared_drift(W, reference, squared_norm, tol) / squared_norm <= tol**2)


def squared_drift(W: Tensor, reference: Tensor, squared_norm: Tensor, tol: float) -> Tensor:
    """Return `|W - W_ref|_F^2`, 0-d, from what `has_drifted` is given."""
    if tol < 1e-2:
        return (W - reference).square().sum()
    w, r = W.reshape(-1), reference.reshape(-1)
    return torch.dot(w, w) - 2 * torch.dot(w, r) + squared_norm


FlagKey = tuple[str, int]
"""The matrix that a flag belongs to, as its name and the number of its refreshes at that time."""


class Refreshable(Protocol):
    """A matrix with a cached gradient, as the scheduler sees it."""

    is_due: bool

    @property
    def key(self) -> FlagKey:
        """The key of a flag about this matrix."""

    @property
    def can_drift(self) -> bool:
        """Whether a drift of the matrix can ask for a refresh."""


R = TypeVar("R", bound=Refreshable)


class DelayedFlags:
    """Flags that a device computes and the host reads without waiting for it.

    To read a number from an accelerator, the host has to wait until everything before it has been
    computed, and then the device waits for the host. Flags are therefore copied while training
    continues, and are read when the next ones are sent. On the CPU they are read at once.

    Args:
        late: Whether flags are read at the next check; by default, unless they are on the CPU.
    """

    def __init__(self, late: bool | None = None) -> None:
        self.late = late
        self._raised: list[FlagKey] = []
        self._keys: list[FlagKey] = []
        self._copy: Tensor | None = None
        self._arrived: torch.cuda.Event | None = None

    def read(self, flags: Tensor, keys: Sequence[FlagKey]) -> list[FlagKey]:
        """Send the flags of this check, and read those that have arrived.

        Args:
            flags: 1-d; a flag is raised if it is true or not 0.
            keys: The key of each flag.

        Returns:
            The keys of the raised flags: of this check, or of the one before if they are late.
        """
        late = flags.device.type != "cpu" if self.late is None else self.late
        if not late:
            self._raised = []
            return [key for key, flag in zip(keys, flags.tolist(), strict=True) if flag]
        arrived = self.waiting()
        self._send(flags, keys)
        return arrived

    def waiting(self) -> list[FlagKey]:
        """Wait for flags that were sent and not read yet, and return the keys of raised flags."""
        if self._copy is not None:
            if self._arrived is not None:
                self._arrived.synchronize()
            # NumPy reads memory of the host, and cannot make it wait for a device.
            raised = self._copy.cpu().numpy().tolist()
            self._raised = [key for key, flag in zip(self._keys, raised, strict=True) if flag]
            self._copy = self._arrived = None
        return self._raised

    def load(self, waiting: Sequence[Sequence[Any]]) -> None:
        """Take over the raised flags that `waiting` returned."""
        self._copy = self._arrived = None
        self._raised = [(str(name), int(count)) for name, count in waiting]

    def _send(self, flags: Tensor, keys: Sequence[FlagKey]) -> None:
        self._keys = list(keys)
        if flags.device.type != "cuda":
            self._copy = flags.detach().clone()
            return
        self._copy = torch.empty(flags.shape, dtype=flags.dtype, pin_memory=True)
        self._copy.copy_(flags, non_blocking=True)
        self._arrived = torch.cuda.Event()
        self._arrived.record(torch.cuda.current_stream(flags.device))

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for copies.

        It has the flags that have arrived, and not the CUDA event.
        """
        self.waiting()
        return self.__dict__.copy()


@dataclass
class RefreshScheduler:
    """A scheduler that tells which cached gradients are due, for the engine and for guides.

    Attributes:
        policy: The policy.
        calls: The number of calls, including the present one.
        action: The action of the policy at this call.
        flags: The flags of matrices that ask for a refresh.
    """

    policy: Refresh
    calls: int = 0
    action: Action = "keep"
    flags: DelayedFlags = field(default_factory=DelayedFlags)

    def begin(self) -> None:
        """Count a call."""
        self.calls += 1
        self.action = self.policy.action(self.calls)

    def due(self, matrices: Sequence[R], drifted: Callable[[list[R]], Tensor]) -> list[R]:
        """Return the matrices that are due at this call.

        Args:
            matrices: All matrices; some may be due already.
            drifted: A function that returns for a list of matrices whether each has drifted too
                far: `(count,)`, bool.
        """
        if self.action == "refresh":
            return list(matrices)
        asking: set[FlagKey] = set()
        if self.action == "test" and (
            tested := [m for m in matrices if not m.is_due and m.can_drift]
        ):
            asking = set(self.flags.read(drifted(tested), [m.key for m in tested]))
        return [m for m in matrices if m.is_due or (asking and m.key in asking)]

    def state(self) -> dict[str, Any]:
        """Return the number of calls and the flags, as plain data."""
        return {"calls": self.calls, "flags": list(self.flags.waiting())}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take over the calls and the flags that `state` returned."""
        self.calls = state["calls"]
        self.flags.load(state["flags"])
