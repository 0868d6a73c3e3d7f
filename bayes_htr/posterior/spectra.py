"""Draws of the spectra of a network's matrices, with their figures and exports."""

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
        laws: The laws that the priors state for the matrices.
        hyperparameters: `(S,)` draws by name that belong to those of the spectra.

    Attributes:
        laws: As given, or none.
        hyperparameters: As given, or none.
    """

    def plot(
        self, name: str, ax: Axes | None = None, *, path: str | PathLike[str] | None = None
    ) -> Axes:
        """The spectrum of a matrix on logarithmic axes with its tail; see `plots.plot_spectrum`."""
        from bayes_htr.posterior.plots import plot_spectrum

        return plot_spectrum(self, name, ax, path=path)

    def plot_alpha(
        self,
        ax: Axes | None = None,
        *,
        level: float = 0.95,
        path: str | PathLike[str] | None = None,
    ) -> Axes:
        """Alpha of every matrix with its interval; see `layer_plots.plot_alpha`."""
        from bayes_htr.posterior.layer_plots import plot_alpha

        return plot_alpha(self, ax, level=level, path=path)

    def plot_lambda_max(
        self, name: str, ax: Axes | None = None, *, path: str | PathLike[str] | None = None
    ) -> Axes:
        """Prior and posterior of a largest eigenvalue; see `layer_plots.plot_lambda_max`."""
        from bayes_htr.posterior.layer_plots import plot_lambda_max

        return plot_lambda_max(self, name, ax, path=path)

    def to_arviz(self, *, repeats: int = 1, fraction: float | None = None, seed: int = 0) -> Any:
        """The draws as an `arviz.InferenceData`; see `export.to_inference_data`."""
        from bayes_htr.posterior.export import to_inference_data

        return to_inference_data(self, repeats=repeats, fraction=fraction, seed=seed)
