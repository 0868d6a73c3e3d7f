"""Draws of the spectra of a network's matrices, with their pictures and exports."""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING, Any

from bayes_htr.posterior.spectrum_draws import SpectrumDraws

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class PosteriorSpectra(SpectrumDraws):
    """Draws of every matrix's spectrum: `spectra["fc1.weight"]` is `(S, K)`, descending.

    Args:
        draws: `(S, K)` eigenvalues for each matrix by name.
        laws: What the priors say of the matrices.
        hyperparameters: `(S,)` draws by name that go with those of the spectra.

    Attributes:
        laws: As given, or none.
        hyperparameters: As given, or none.
    """

    def plot(
        self, name: str, ax: Axes | None = None, *, path: str | PathLike[str] | None = None
    ) -> Axes:
        """The matrix's ESD on log-log axes, its tail and its law: `plots.plot_spectrum`."""
        from bayes_htr.posterior.plots import plot_spectrum

        return plot_spectrum(self, name, ax, path=path)

    def plot_alpha(
        self,
        ax: Axes | None = None,
        *,
        level: float = 0.95,
        path: str | PathLike[str] | None = None,
    ) -> Axes:
        """Alpha of every matrix with its interval: `layer_plots.plot_alpha`."""
        from bayes_htr.posterior.layer_plots import plot_alpha

        return plot_alpha(self, ax, level=level, path=path)

    def plot_lambda_max(
        self, name: str, ax: Axes | None = None, *, path: str | PathLike[str] | None = None
    ) -> Axes:
        """Prior and posterior of a largest eigenvalue: `layer_plots.plot_lambda_max`."""
        from bayes_htr.posterior.layer_plots import plot_lambda_max

        return plot_lambda_max(self, name, ax, path=path)

    def to_arviz(self, *, repeats: int = 1, fraction: float | None = None, seed: int = 0) -> Any:
        """The draws as an `arviz.InferenceData`: `export.to_inference_data`."""
        from bayes_htr.posterior.export import to_inference_data

        return to_inference_data(self, repeats=repeats, fraction=fraction, seed=seed)
