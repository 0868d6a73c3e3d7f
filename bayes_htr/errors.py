"""The errors that the library raises on purpose.

Each message names what is wrong, its value, and what to do. All errors derive from a built-in error
that callers may already catch (`ValueError`, `RuntimeError`, `OSError`).
"""

from __future__ import annotations

from typing import Any


class PriorError(ValueError):
    """A law, prior, pattern or schedule that is not valid, or that no parameter matches."""


class SpectrumError(ValueError):
    """A matrix whose spectrum cannot be computed, or does not suit a law.

    For instance entries are not finite, the rank is too low, eigenvalues are tied, or they lie
    outside the support of the law.
    """


class DataError(ValueError):
    """Data that cannot be used: shapes, labels, or values that are not finite."""


class DivergenceError(RuntimeError):
    """Weights or losses became NaN or infinite; the error names the last good checkpoint."""


class ProcessError(RuntimeError):
    """Another process of the same run has failed or can no longer be reached."""


class CheckpointError(RuntimeError):
    """A run folder or checkpoint that cannot be used: truncated, foreign, or from another run."""


class OutputError(OSError):
    """An output folder that cannot be written, is not empty, or is in use by another run.

    Attributes:
        posterior: The posterior, if training ended well and only the result could not be written;
            `error.posterior.save("elsewhere")` keeps it.
    """

    posterior: Any = None
