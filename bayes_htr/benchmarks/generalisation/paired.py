"""Paired comparisons of methods over seeds: intervals, an exact test, and Holm's correction."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_RESAMPLES = 10_000
_EXACT = 14
"""Up to so many pairs all signs are taken; beyond it `_RESAMPLES` of them."""


class Difference(NamedTuple):
    """The mean of paired differences.

    Attributes:
        mean: Of first less second.
        low: Lower end of the 95 % interval.
        high: Upper end.
        p: Of the two-sided sign-flip test that the mean is zero.
        pairs: How many.
    """

    mean: float
    low: float
    high: float
    p: float
    pairs: int


def difference(first: Sequence[float], second: Sequence[float], *, seed: int = 0) -> Difference:
    """First less second, with a bootstrap interval over pairs and the sign-flip test.

    The interval takes percentiles of means of resampled pairs, widened by `sqrt(n / (n - 1))` about
    the mean: with ten pairs the plain bootstrap's is too narrow by that. The test (Fisher's, 1935)
    compares the mean with those under all changes of signs.

    Args:
        first: A value for each pair.
        second: The other value.
        seed: Of the resampling.

    Raises:
        ValueError: Fewer than two pairs.
    """
    d = np.asarray(first, float) - np.asarray(second, float)
    n = len(d)
    if n < 2:
        raise ValueError(f"{n} pairs; a comparison needs two")
    rng = np.random.default_rng(seed)
    means = d[rng.integers(0, n, (_RESAMPLES, n))].mean(1)
    return _with_interval(d, means, np.sqrt(n / (n - 1)), rng)


def difference_over_images(
    first: Sequence[np.ndarray], second: Sequence[np.ndarray], *, seed: int = 0
) -> Difference:
    """The same for shares of images classified right, with seeds and images both resampled.

    The interval is of the difference on other test images too, and not on these alone.

    Args:
        first: For each pair `(images,)` truth values.
        second: The other method's.
        seed: Of the resampling.
    """
    d = np.stack(first).astype(float) - np.stack(second)
    n, images = d.shape
    rng = np.random.default_rng(seed)
    # Means over seeds for each image, resampled in both ways.
    rows = rng.multinomial(n, np.full(n, 1 / n), _RESAMPLES) / n
    means = np.empty(_RESAMPLES)
    for start in range(0, _RESAMPLES, 500):
        stop = min(start + 500, _RESAMPLES)
        columns = rng.multinomial(images, np.full(images, 1 / images), stop - start) / images
        means[start:stop] = np.einsum("rn,ni,ri->r", rows[start:stop], d, columns, optimize=True)
    return _with_interval(d.mean(1), means, 1.0, rng)


def _with_interval(
    d: np.ndarray, means: np.ndarray, widening: float, rng: np.random.Generator
) -> Difference:
    mean = float(d.mean())
    low, high = (float(mean + widening * (q - mean)) for q in np.percentile(means, (2.5, 97.5)))
    return Difference(mean, low, high, _sign_flip(d, rng), len(d))


def _sign_flip(d: np.ndarray, rng: np.random.Generator) -> float:
    n = len(d)
    if n <= _EXACT:
        signs = np.array(list(itertools.product((1.0, -1.0), repeat=n)))
    else:
        signs = np.vstack([np.ones(n), rng.choice((1.0, -1.0), (_RESAMPLES, n))])
    flipped = np.abs(signs @ d)
    return float((flipped >= abs(d.sum()) * (1 - 1e-12)).mean())


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's (1979) adjusted p-values, in the order given."""
    order = np.argsort(ps)
    adjusted = np.empty(len(ps))
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[index]))
        adjusted[index] = largest
    return adjusted.tolist()
