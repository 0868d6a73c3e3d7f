"""The numbers behind pictures of a spectrum, as arrays: bins, curves and bands.

The pictures of Matplotlib and those of the HTML page draw the same numbers. Densities are those of
the eigenvalue itself, as shares of all eigenvalues of the matrix, so that histogram, tail and bulk
have one scale.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from bayes_htr._plotting import bin_density
from bayes_htr.analysis.bulk import unit_law
from bayes_htr.analysis.esd import Array
from bayes_htr.analysis.matrix import MatrixSpectrum
from bayes_htr.analysis.verdict import LIGHT, VERY_HEAVY
from bayes_htr.tails.spectrum_tail import FEWEST


class Curve(NamedTuple):
    """A curve with a band around it.

    Attributes:
        x: `(P,)`.
        y: `(P,)`.
        low: `(P,)` lower edge of the band.
        high: `(P,)` upper edge of the band.
    """

    x: Array
    y: Array
    low: Array
    high: Array


def density(spectrum: MatrixSpectrum, edges: Array) -> Array:
    """Return `(B,)` the share of all eigenvalues in each bin, divided by the width of the bin.

    Args:
        spectrum: The matrix.
        edges: `(B+1,)` edges of the bins.
    """
    return bin_density(spectrum.values, edges, spectrum.count)


def num_below(spectrum: MatrixSpectrum, edges: Array) -> int:
    """Return the number of eigenvalues below the first edge, including zeros."""
    return spectrum.count - int((spectrum.values >= edges[0]).sum())


def has_law(spectrum: MatrixSpectrum) -> bool:
    """Return whether a matrix has a power law to draw: one that is fitted to enough eigenvalues."""
    return spectrum.fit is not None and spectrum.fit.n >= FEWEST


def tail_density(spectrum: MatrixSpectrum, points: int = 25) -> Curve | None:
    """Return the density of the fitted power law, scaled to the tail's share of the eigenvalues.

    The band holds the laws from the same xmin with alpha in its interval. A matrix without a tail,
    or with too few eigenvalues to tell, has none.
    """
    fit = spectrum.fit
    if fit is None or not has_law(spectrum):
        return None
    t = np.linspace(0, math.log(float(fit.values[-1]) / fit.xmin), points)
    share = fit.n_tail / spectrum.count

    def law(rate: Array | float) -> Array:
        return np.asarray(share * rate / fit.xmin * np.exp(-(rate + 1) * t))

    low, high = (end - 1 for end in fit.shown_interval)
    with np.errstate(divide="ignore"):
        highest = np.clip(1 / t, low, high)  # where the density is largest in alpha
    return Curve(
        fit.xmin * np.exp(t), law(fit.alpha - 1), np.minimum(law(low), law(high)), law(highest)
    )


def tail_survival(spectrum: MatrixSpectrum, points: int = 25) -> Curve | None:
    """Return the share of eigenvalues at least as large as a value under the fitted power law.

    The curve has a band, which belongs to the interval of alpha. It is `None` without a power law.
    """
    fit = spectrum.fit
    if fit is None or not has_law(spectrum):
        return None
    t = np.linspace(0, math.log(float(fit.values[-1]) / fit.xmin), points)
    share = fit.n_tail / spectrum.count
    low, high = fit.shown_interval
    curves = (share * np.exp(-(alpha - 1) * t) for alpha in (fit.alpha, high, low))
    return Curve(fit.xmin * np.exp(t), *curves)


def bulk_density(spectrum: MatrixSpectrum, least: float, points: int = 80) -> tuple[Array, Array]:
    """Return the Marchenko-Pastur density from `least` on, scaled to the share of the bulk.

    Returns:
        `(P,)` points and `(P,)` densities; both empty without a bulk.
    """
    bulk = spectrum.bulk
    if bulk is None or not bulk.bulk_max > least:
        return np.empty(0), np.empty(0)
    low = math.log(max(bulk.bulk_min, least))
    # Dense at the edges, where the density falls steeply; the edges themselves have none.
    turns = np.cos(np.linspace(math.pi, 0, points + 2)[1:-1])
    x = np.exp(low + (math.log(bulk.bulk_max) - low) * (1 + turns) / 2)
    N, M = spectrum.row["N"], spectrum.row["M"]
    mean = N * bulk.variance
    share = (1 - bulk.num_spikes / spectrum.count) / mean
    return x, share * unit_law(M / N).log_prob(torch.from_numpy(x / mean)).exp().numpy()


def survival(spectrum: MatrixSpectrum, points: int = 240) -> tuple[Array, Array]:
    """Return `(P,)` eigenvalues and `(P,)` shares of all that are at least as large.

    The points are densest at the largest eigenvalues.
    """
    n = len(spectrum.values)
    ranks = thinned(n, points) + 1
    return spectrum.values[n - ranks], ranks / spectrum.count


def thinned(count: int, points: int) -> NDArray[np.int64]:
    """Return at most `points` indices from 0 to `count - 1`.

    They are equally far apart in their logarithms.
    """
    if not count:
        return np.empty(0, np.int64)
    return np.unique(np.geomspace(1, count, min(points, count)).round().astype(np.int64)) - 1


def alpha_limits(spectra: Iterable[MatrixSpectrum]) -> tuple[float, float]:
    """Return the limits of a logarithmic axis of alpha.

    All estimates and the bounds of heavy tails are in view, and intervals up to three times the
    largest estimate.
    """
    spectra = list(spectra)
    alphas = [s.alpha for s in spectra if math.isfinite(s.alpha)]
    ends = [end for s in spectra for end in s.interval if math.isfinite(end)]
    most = max([LIGHT, *alphas])
    high = min(max([most, *ends]), 3 * most)
    low = max(min([VERY_HEAVY, *alphas, *ends]), 1.0)
    return low / 1.08, high * 1.15
