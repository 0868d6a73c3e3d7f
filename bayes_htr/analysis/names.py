"""Names of weights: made plain, and matched with patterns. Strangers' files hold any."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from bayes_htr.spectra.matrices import without_wrappers


def plain_names(names: Iterable[str]) -> dict[str, str]:
    """Each name without what `DataParallel` and `torch.compile` put before and into it.

    Names that would then be one stay as they are.
    """
    plain = {name: without_wrappers(name) for name in names}
    count = Counter(plain.values())
    return {name: short if count[short] == 1 else name for name, short in plain.items()}


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether a name is one of the patterns, as `proj[q]`, or matches one, as of `fnmatch`."""
    return any(name == pattern or fnmatchcase(name, pattern) for pattern in patterns)
