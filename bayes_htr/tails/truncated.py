"""The power law with a hard upper end: density proportional to `x^-alpha` on `[xmin, xmax]`.

No value lies above xmax, and below it the log-log plot is straight. What powerlaw and WeightWatcher
call `truncated_power_law`, `x^-alpha e^(-Lambda x)`, is another law, which bends down on the
log-log plot; it is one of the alternatives in `alternatives`.

In `t = log(x / xmin)`, with `L = log(xmax / xmin)`, the law is exponential with rate
`a = alpha - 1`, cut off at L, and it is proper for every real `a`. The maximum-likelihood estimate
of xmax is the largest value, and that of `a` solves `mean(t) / L = g(a L)` with
`g(y) = 1/y - 1/(e^y - 1)`.

References:
    Aban, Meerschaert & Panorska (2006), Journal of the American Statistical Association 101(473).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_NEWTON_STEPS = 60


def truncated_rate(mean: Any, span: Any) -> Array:
    """The maximum-likelihood estimate of `alpha - 1`.

    Args:
        mean: The mean of `log(x / xmin)`, between 0 and `span`.
        span: `log(xmax / xmin)`, of a shape that broadcasts with `mean`.

    Returns:
        Estimates of the broadcast shape: negative where the density grows up to xmax, infinite
        where all values lie at one of the two ends.
    """
    mean, span = np.broadcast_arrays(np.asarray(mean, float), np.asarray(span, float))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = mean / span
    mirrored = ratio > 0.5  # g(-y) = 1 - g(y)
    r = np.where(mirrored, 1 - ratio, ratio)
    inside = r > 0
    r = np.where(inside, r, 0.25)
    y = 1 / r - 2  # g(y) >= 1 / (y + 2) and g is convex: Newton's steps rise to the root
    for _ in range(_NEWTON_STEPS):
        step = (_g(y) - r) / _g_slope(y)
        y = y + step
        if np.all(np.abs(step) <= 1e-15 * (1 + np.abs(y))):
            break
    y = np.where(inside, y, np.inf)
    rate: Array = np.where(mirrored, -y, y) / np.where(span > 0, span, 1.0)
    return rate


def truncated_cdf(rate: Any, t: Any, span: Any) -> Array:
    """`P(log(X / xmin) <= t)` for `0 <= t <= span`; at rate 0 this is `t / span`."""
    rate, t, span = np.broadcast_arrays(*(np.asarray(v, float) for v in (rate, t, span)))
    flat = np.abs(rate * span) < 1e-12
    falling = np.where(flat | (rate < 0), 1.0, rate)
    rising = np.where(rate < 0, -rate, 1.0)
    down = np.expm1(-falling * t) / np.expm1(-falling * span)
    up = np.exp(-rising * (span - t)) * np.expm1(-rising * t) / np.expm1(-rising * span)
    return np.where(flat, t / np.where(flat, span, 1.0), np.where(rate < 0, up, down))


def truncated_quantile(rate: Any, q: Any, span: Any) -> Array:
    """The inverse of `truncated_cdf` in `t`."""
    rate, q, span = np.broadcast_arrays(*(np.asarray(v, float) for v in (rate, q, span)))
    flat = np.abs(rate * span) < 1e-12
    a = np.where(flat, 1.0, np.abs(rate))
    tail = -np.expm1(-a * span)
    with np.errstate(divide="ignore"):  # the far end of a long span
        falling = np.minimum(-np.log1p(-q * tail) / a, span)
        rising = np.maximum(span + np.log1p(-(1 - q) * tail) / a, 0)
    return np.where(flat, q * span, np.where(rate < 0, rising, falling))


def log_normaliser(rate: Any, span: Any) -> Array:
    """`log int_0^span e^(-rate t) dt`."""
    y = np.asarray(rate * span, float)
    a = np.abs(y)
    small = a < 1e-8
    a = np.where(small, 1.0, a)
    grown = np.where(small, 0.0, np.log(-np.expm1(-a)) - np.log(a))
    return np.log(span) + grown + np.where(y < 0, a, 0.0) * ~small


def fisher_information(rate: Any, span: Any) -> Array:
    """The information of one value about its rate, which is the variance of `log(X / xmin)`."""
    return np.asarray(span**2 * _g_slope(np.abs(np.asarray(rate * span, float))))


def _g(y: Array) -> Array:
    """`1/y - 1/(e^y - 1)` for `y >= 0`, the mean of the law on [0, 1]."""
    small = y < 1e-2
    v = np.where(small, 1.0, y)
    series = 1 / 2 - y / 12 + y**3 / 720 - y**5 / 30240
    return np.where(small, series, 1 / v + np.exp(-v) / np.expm1(-v))


def _g_slope(y: Array) -> Array:
    """The negative derivative of `_g`, which is the variance of the law on [0, 1]."""
    small = y < 0.1
    v = np.where(small, 1.0, y)
    series = 1 / 12 - y**2 / 240 + y**4 / 6048 - y**6 / 172800
    direct = 1 / v**2 - np.exp(-v) / np.expm1(-v) ** 2
    return np.where(small, series, direct)
