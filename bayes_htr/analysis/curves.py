"""The numbers behind pictures of a spectrum, as arrays: bins, curves, bands, thinned.

Matplotlib's pictures and the HTML page draw the same numbers. Densities are those of the eigenvalue
itself, shares of all eigenvalues of the matrix, so that histogram, tail and bulk lie on one scale.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from bayes_htr.analysis.esd import ESD, Array
from bayes_htr.analysis.marchenko_pastur import MarchenkoPasturFit, unit_law
from bayes_htr.analysis.measured import MeasuredSpectra
from bayes_htr.tails import PowerlawFit

_DECADES = 6
_FEWEST_BINS, _MOST_BINS = 16, 60


@dataclass(frozen=True)
class Histogram:
    """A density in bins of equal width on a logarithmic axis.

    Attributes:
        edges: `(B+1,)`.
        density: `(B,)` share of all eigenvalues in the bin, over its width.
        left_out: Eigenvalues below the first edge: zero, or more than six decades below the
            largest.
    """

    edges: Array
    density: Array
    left_out: int


@dataclass(frozen=True)
class Curve:
    """A curve with a band around it.

    Attributes:
        x: `(P,)`.
        y: `(P,)`.
        low: `(P,)` lower edge of the band.
        high: `(P,)` upper edge.
    """

    x: Array
    y: Array
    low: Array
    high: Array


@dataclass(frozen=True)
class MatrixSpectrum:
    """What is drawn of one matrix.

    Attributes:
        name: The parameter.
        row: Its row of the report.
        values: `(n,)` eigenvalues above rounding, ascending.
        count: All eigenvalues, K.
        fit: Of the tail, if there is one.
        bulk: The random bulk, if it was fitted.
    """

    name: str
    row: dict[str, Any]
    values: Array
    count: int
    fit: PowerlawFit | None
    bulk: MarchenkoPasturFit | None


def matrix_spectrum(report: MeasuredSpectra, name: str) -> MatrixSpectrum:
    """What is drawn of a matrix of a report.

    Raises:
        ValueError: The report has no such matrix.
    """
    if name not in report.spectra:
        known = ", ".join(list(report.spectra)[:8])
        raise ValueError(f"no matrix {name!r} in this report; there are {known}, ...")
    row = next(row for row in report.rows if row["name"] == name)
    values, fit = report.spectra[name], report.fits[name]
    if fit is None:
        shown = values[values > ESD(values, row["N"], row["M"], row["rf"]).floor]
    else:
        shown = fit.values
    return MatrixSpectrum(name, row, shown, len(values), fit, report.bulks[name])


def histogram(spectrum: MatrixSpectrum, edges: Array | None = None) -> Histogram | None:
    """The ESD in bins as the Freedman-Diaconis rule on logarithms has them, 16 to 60.

    Args:
        spectrum: The matrix.
        edges: Those of another histogram, to compare with it.

    Returns:
        `None` of a spectrum of one value.
    """
    values = spectrum.values
    if edges is None:
        edges = log_edges(values)
    if edges is None:
        return None
    counts = np.histogram(values, edges)[0]
    return Histogram(
        edges,
        counts / (spectrum.count * np.diff(edges)),
        spectrum.count - int((values >= edges[0]).sum()),
    )


def log_edges(values: Array) -> Array | None:
    """Edges of bins for these values; `None` where they are all one."""
    if not len(values) or not values[0] < values[-1]:
        return None
    logs = np.log(values[values >= values[-1] * 10.0**-_DECADES])
    span = float(logs[-1] - logs[0])
    if not span > 1e-9:
        return None
    spread = float(np.subtract(*np.quantile(logs, [0.75, 0.25])))
    bins = span / (2 * spread / len(logs) ** (1 / 3)) if spread > 0 else _FEWEST_BINS
    count = int(np.clip(math.ceil(bins), _FEWEST_BINS, _MOST_BINS))
    edges = np.exp(np.linspace(logs[0], logs[-1], count + 1))
    edges[0], edges[-1] = np.exp(logs[0]) * (1 - 1e-12), values[-1]  # the ends belong to the bins
    return edges


def interval_of(fit: PowerlawFit) -> tuple[float, float]:
    """The interval of alpha that is shown: over xmin where there is one."""
    return fit.searched_interval or fit.interval


def tail_density(spectrum: MatrixSpectrum, points: int = 25) -> Curve | None:
    """The density of the fitted power law, scaled to the tail's share of the eigenvalues.

    The band holds the laws from the same xmin with alpha in its interval.
    """
    fit = spectrum.fit
    if fit is None:
        return None
    t = np.linspace(0, math.log(float(fit.values[-1]) / fit.xmin), points)
    share = fit.n_tail / spectrum.count

    def density(rate: Array | float) -> Array:
        return np.asarray(share * rate / fit.xmin * np.exp(-(rate + 1) * t))

    low, high = (end - 1 for end in interval_of(fit))
    with np.errstate(divide="ignore"):
        highest = np.clip(1 / t, low, high)  # where the density is largest in alpha
    ends = density(low), density(high)
    return Curve(fit.xmin * np.exp(t), density(fit.alpha - 1), np.minimum(*ends), density(highest))


def tail_survival(spectrum: MatrixSpectrum, points: int = 25) -> Curve | None:
    """The share of eigenvalues at least as large by the fitted power law, with its band."""
    fit = spectrum.fit
    if fit is None:
        return None
    t = np.linspace(0, math.log(float(fit.values[-1]) / fit.xmin), points)
    share = fit.n_tail / spectrum.count
    low, high = (end - 1 for end in interval_of(fit))
    return Curve(
        fit.xmin * np.exp(t),
        share * np.exp(-(fit.alpha - 1) * t),
        share * np.exp(-high * t),
        share * np.exp(-low * t),
    )


def bulk_density(spectrum: MatrixSpectrum, least: float, points: int = 80) -> tuple[Array, Array]:
    """The Marchenko-Pastur density from `least` on, scaled to the share of the bulk.

    Returns:
        `(P,)` points and densities; none without a bulk.
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
    """`(P,)` eigenvalues and the share of all that are at least as large, largest ones densest."""
    n = len(spectrum.values)
    ranks = thin(n, points) + 1
    return spectrum.values[n - ranks], ranks / spectrum.count


def thin(count: int, points: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Indices from 0 to `count - 1`, first ones densest: equally far apart in logarithms."""
    if not count:
        return np.empty(0, np.int64)
    return np.unique(np.geomspace(1, count, min(points, count)).round().astype(np.int64)) - 1
