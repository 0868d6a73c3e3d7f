"""What a launcher such as `torchrun` tells the processes that it starts."""

from __future__ import annotations

import os


def launched() -> tuple[int, int]:
    """The rank and the number of processes that a launcher such as `torchrun` announces."""
    if "RANK" not in os.environ:
        return 0, 1
    return int(os.environ["RANK"]), int(os.environ.get("WORLD_SIZE", "1"))
