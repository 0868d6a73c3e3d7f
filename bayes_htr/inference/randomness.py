"""The global random state, and how it is left alone."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch


def isolated_randomness() -> AbstractContextManager[None]:
    """Within it anything may draw from Torch's global generators; they are put back afterwards."""
    return torch.random.fork_rng(devices=list(range(torch.cuda.device_count())))
