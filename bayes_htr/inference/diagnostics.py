"""Whether chains have converged, and how many independent draws they are worth.

Source: Vehtari, Gelman, Simpson, Carpenter & Bürkner (2021), *Bayesian Analysis* 16(2).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

FEWEST = 4
"""Draws per chain without which there is nothing to compute."""


def split_rhat(draws: Tensor) -> float:
    """Rank-normalised split R-hat: the larger of that of location and that of scale.

    Args:
        draws: `(chains, draws)`, at least four draws.

    Returns:
        Near 1 for chains that agree. NaN where all values are one; infinite where each half of a
        chain stays at a value of its own.
    """
    halves = _halves(draws)
    folded = (halves - _median(halves)).abs()
    return max(_rhat(_normal_scores(halves)), _rhat(_normal_scores(folded)), key=_nan_first)


def bulk_ess(draws: Tensor) -> float:
    """Bulk effective sample size: of the mean of the rank-normalised values.

    Args:
        draws: `(chains, draws)`, at least four draws.

    Returns:
        At most `S log10 S` for `S` draws in all; `S` where all values are one.
    """
    halves = _halves(draws)
    if bool((halves == halves[0, 0]).all()):
        return float(halves.numel())
    return _ess(_normal_scores(halves))


def _halves(draws: Tensor) -> Tensor:
    """Each chain as two, in float64; the middle one of an odd number of draws goes."""
    if draws.ndim != 2 or draws.shape[1] < FEWEST:
        raise ValueError(
            f"draws of shape {tuple(draws.shape)} must be (chains, draws) with at least {FEWEST} "
            "draws"
        )
    half = draws.shape[1] // 2
    return torch.cat([draws[:, :half], draws[:, -half:]]).detach().cpu().double()


def _median(x: Tensor) -> Tensor:
    return x.flatten().quantile(0.5)


def _normal_scores(x: Tensor) -> Tensor:
    """Normal quantiles of the ranks (Blom's), ties at their average rank."""
    _, inverse, counts = x.flatten().unique(return_inverse=True, return_counts=True)
    ranks = counts.cumsum(0) - (counts.double() - 1) / 2
    return torch.special.ndtri((ranks[inverse] - 0.375) / (x.numel() + 0.25)).reshape(x.shape)


def _rhat(x: Tensor) -> float:
    n = x.shape[1]
    within = x.var(1).mean()
    between = n * x.mean(1).var()
    return float(((between / within + n - 1) / n).sqrt())


def _ess(x: Tensor) -> float:
    """Geyer's initial monotone sequence on the autocorrelation of all chains together."""
    chains, n = x.shape
    covariance = _autocovariance(x).mean(0)
    within = covariance[0] * n / (n - 1)
    total = covariance[0] + (x.mean(1).var() if chains > 1 else 0.0)
    rho = 1 - (within - covariance) / total
    rho[0] = 1.0
    pairs = rho[: n - n % 2].reshape(-1, 2).sum(1)
    # As arviz: the last pair is not looked at, and the even half of the first that ends it counts.
    last = max(1, (n - 1) // 2)
    negative = (pairs[:last] < 0).nonzero()
    end = int(negative[0]) if len(negative) else last - 1
    kept = pairs[:end].cummin(0).values if end else pairs[:0]
    tau = float(-1 + 2 * kept.sum() + rho[2 * end].clamp(min=0))
    return chains * n / max(tau, 1 / math.log10(chains * n))


def _autocovariance(x: Tensor) -> Tensor:
    n = x.shape[1]
    spectrum = torch.fft.rfft(x - x.mean(1, keepdim=True), n=2 * n)
    return torch.fft.irfft(spectrum.abs().square(), n=2 * n)[:, :n] / n


def _nan_first(value: float) -> float:
    return math.inf if math.isnan(value) else value
