"""Flags that a device computes and the host reads without waiting for it.

To read a number from an accelerator the host waits until everything before it has been computed,
and the device then waits for the host. So flags travel while training goes on, and are read when
the next ones are sent. On the CPU there is nothing to wait for, and they are read at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

Mark = tuple[str, int]
"""What a flag is about: the name of a matrix, and how often it had been refreshed by then."""


class Flags:
    """The flags of one look on their way to the host.

    Args:
        late: Whether they are read at the next look; by default where they are not on the CPU.
    """

    def __init__(self, late: bool | None = None) -> None:
        self.late = late
        self._raised: list[Mark] = []
        self._marks: list[Mark] = []
        self._copy: Tensor | None = None
        self._arrived: torch.cuda.Event | None = None

    def read(self, flags: Tensor, marks: Sequence[Mark]) -> list[Mark]:
        """Send the flags of this look, and read those that have arrived.

        Args:
            flags: 1-d, true or not 0 where raised.
            marks: What each is about.

        Returns:
            The marks of the raised flags: of this look, or of the one before if they are late.
        """
        late = flags.device.type != "cpu" if self.late is None else self.late
        found = self.waiting() if late else []
        self._send(flags, marks)
        if not late:
            found, self._raised = self.waiting(), []
        return found

    def waiting(self) -> list[Mark]:
        """The marks of the raised flags that were sent and not read yet; waits for them."""
        if self._copy is not None:
            if self._arrived is not None:
                self._arrived.synchronize()
            # NumPy reads memory of the host, and cannot make it wait for a device.
            raised = self._copy.cpu().numpy().tolist()
            self._raised = [mark for mark, flag in zip(self._marks, raised, strict=True) if flag]
            self._copy = self._arrived = None
        return self._raised

    def load(self, waiting: Sequence[Sequence[Any]]) -> None:
        """The inverse of `waiting`."""
        self._copy = self._arrived = None
        self._raised = [(str(name), int(count)) for name, count in waiting]

    def _send(self, flags: Tensor, marks: Sequence[Mark]) -> None:
        self._marks = list(marks)
        if flags.device.type != "cuda":
            self._copy = flags.detach().clone()
            return
        self._copy = torch.empty(flags.shape, dtype=flags.dtype, pin_memory=True)
        self._copy.copy_(flags, non_blocking=True)
        self._arrived = torch.cuda.Event()
        self._arrived.record(torch.cuda.current_stream(flags.device))

    def __getstate__(self) -> dict[str, Any]:
        """An event cannot be copied: a copy has what has arrived."""
        self.waiting()
        return self.__dict__.copy()
