"""The errors that the library raises on purpose.

Each names the bad thing, its value, and what to do. All of them derive from a
builtin that callers may already catch (`ValueError`, `RuntimeError`, `OSError`).
"""

from __future__ import annotations


class PriorError(ValueError):
    """A law, prior, pattern or schedule that is not valid, or that no parameter matches."""


class SpectrumError(ValueError):
    """A matrix whose spectrum a law cannot score: not finite, rank-deficient, tied, or outside."""


class DataError(ValueError):
    """Data that cannot be used: shapes, labels, or values that are not finite."""


class DivergenceError(RuntimeError):
    """Training left the finite numbers; carries where, and the last good checkpoint if any."""


class ProcessError(RuntimeError):
    """Another process of the same run has failed, or cannot be reached any more."""


class CheckpointError(RuntimeError):
    """A run folder or checkpoint that cannot be used: truncated, foreign, or of another run."""


class OutputError(OSError):
    """An output folder that cannot be written, or that already holds something."""
