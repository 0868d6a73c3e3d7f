"""Pictures of one number per matrix: alpha with its interval, prior and posterior of lambda_max.

Needs matplotlib: `pip install "bayes-htr[plot]"`.
"""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING

import numpy as np
import scipy

from bayes_htr._plotting import literal, pyplot, tick
from bayes_htr.posterior.laws import prior_lambda_max
from bayes_htr.posterior.spectrum_draws import SpectrumDraws

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_POSTERIOR, _PRIOR = "#1f5fa8", "#9a9a9a"


def plot_alpha(
    spectra: SpectrumDraws,
    ax: Axes | None = None,
    *,
    level: float = 0.95,
    path: str | PathLike[str] | None = None,
) -> Axes:
    """The exponent of each matrix's tail with its credible interval.

    A matrix without an exponent (few eigenvalues, or ties) has its place, and words for a mark.

    Args:
        spectra: The draws.
        ax: Where to draw; a new figure by default.
        level: Of the intervals.
        path: If given, where the figure is saved.

    Raises:
        ImportError: matplotlib is not installed.
    """
    names = list(spectra)
    if ax is None:
        size = (5.2, 1.2 + 0.32 * len(names))
        ax = pyplot().subplots(figsize=size, layout="constrained")[1]
    for row, summary in enumerate(spectra.summary(level).rows):
        alpha = summary.alpha
        if alpha is None:
            ax.annotate(
                summary.problem,
                (0.02, row),
                xycoords=("axes fraction", "data"),
                va="center",
                color=_PRIOR,
                fontsize=8,
            )
        else:
            ax.plot([alpha.low, alpha.high], [row, row], color=_POSTERIOR, lw=1.6)
            ax.plot(alpha.mean, row, "o", color=_POSTERIOR, ms=5)
    ax.set_yticks(range(len(names)), [literal(name) for name in names], fontsize=8)
    ax.set_ylim(len(names) - 0.5, -0.5)  # the first layer on top
    ax.set_xlabel(rf"$\alpha$ of the tail: mean and {100 * level:g} % interval")
    ax.grid(axis="x", alpha=0.3)
    if path is not None:
        ax.figure.savefig(path, dpi=150)  # type: ignore[union-attr]
    return ax


def plot_lambda_max(
    spectra: SpectrumDraws,
    name: str,
    ax: Axes | None = None,
    *,
    path: str | PathLike[str] | None = None,
) -> Axes:
    """The largest eigenvalue of a matrix: its law under the prior, and its posterior.

    Densities of `log lambda_max`, from draws by a Gaussian kernel; the prior is the stated one,
    before any strength, its hyperparameters drawn too. One draw is a line.

    Args:
        spectra: The draws.
        name: The matrix.
        ax: Where to draw; a new figure by default.
        path: If given, where the figure is saved.

    Raises:
        PriorError: The matrix has no prior that can be simulated.
        ImportError: matplotlib is not installed.
    """
    posterior = np.log(spectra.lambda_max(name).double().numpy())
    prior = np.log(prior_lambda_max(spectra.laws.prior(name)).numpy())
    if ax is None:
        ax = pyplot().subplots(figsize=(4.8, 3.4), layout="constrained")[1]
    _draw(ax, np.sort(prior), _PRIOR, "prior")
    _draw(ax, np.sort(posterior), _POSTERIOR, "posterior")
    ax.set_xscale("log")
    tick(ax.xaxis)
    ax.set_ylim(bottom=0)
    ax.set_title(literal(name), fontsize=10)
    ax.set_xlabel(r"largest eigenvalue $\lambda_1$")
    ax.set_ylabel(r"density of $\log\,\lambda_1$")
    ax.legend(fontsize=8, frameon=False)
    if path is not None:
        ax.figure.savefig(path, dpi=150)  # type: ignore[union-attr]
    return ax


def _draw(ax: Axes, logs: np.ndarray, color: str, label: str) -> None:
    if logs[-1] - logs[0] < 1e-12 * max(1.0, abs(logs[0])):
        ax.axvline(np.exp(logs[0]), color=color, lw=1.6, label=label)
        return
    low, high = np.quantile(logs, [0.001, 0.999])  # a heavy tail would squeeze the rest
    kernel = scipy.stats.gaussian_kde(logs)
    room = 3 * float(kernel.covariance[0, 0]) ** 0.5
    x = np.linspace(low - room, high + room, 400)
    y = kernel(x)
    ax.plot(np.exp(x), y, color=color, lw=1.6, label=label)
    ax.fill_between(np.exp(x), y, color=color, alpha=0.25, lw=0)
