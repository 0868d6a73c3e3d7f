"""What a run of the command line shows: two tables, one line, and pictures.

Everything comes from the run folder, so that a finished run can be shown again.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from rich.console import Console
from rich.table import Table
from torch import Tensor

from bayes_htr.drawing import pyplot
from bayes_htr.errors import CheckpointError, SpectrumError
from bayes_htr.inference import RunFolder
from bayes_htr.inference.run_folder import SPECTRA, write_aside
from bayes_htr.posterior import PosteriorSpectra
from bayes_htr.posterior.plots import TIES, plot_history, plot_spectra

RESULTS = "results.json"
SPECTRA_BEFORE = "spectra_before.safetensors"
_SCORES = ("accuracy", "nll", "ece", "brier")
PICTURES = ("spectra.png", "training.png")


@dataclass(frozen=True)
class RunReport:
    """A finished run.

    Attributes:
        folder: Where it is.
        scores: Test scores of the fitted posterior and of what it is compared with, by label;
            the posterior comes first.
        before: Spectra before training.
        after: Spectra of the posterior.
        history: Metrics by epoch of the same runs.
    """

    folder: RunFolder
    scores: dict[str, dict[str, float]]
    before: PosteriorSpectra
    after: PosteriorSpectra
    history: dict[str, list[dict[str, float]]]

    @classmethod
    def read(cls, path: str | PathLike[str]) -> RunReport:
        """Read a run folder.

        Raises:
            CheckpointError: It holds no finished run of `bayes-htr fit`.
        """
        folder = RunFolder(path)
        folder.config()
        file = folder.path / RESULTS
        try:
            results = json.loads(file.read_text(encoding="utf-8"))
            scores = {
                str(label): {name: float(row[name]) for name in _SCORES}
                for label, row in results["scores"].items()
            }
            runs = {str(label): str(results["runs"][label]) for label in scores}
            inside = folder.path.resolve()
            if not scores or not all(
                (inside / run).resolve().is_relative_to(inside) for run in runs.values()
            ):
                raise ValueError("no scores, or runs outside of the folder")
        except FileNotFoundError as error:
            raise CheckpointError(
                f"{folder.path} has no {RESULTS}: the run has not finished; resume it"
            ) from error
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{file} cannot be read: {error}") from error
        return cls(
            folder,
            scores,
            PosteriorSpectra(folder.tensors(SPECTRA_BEFORE)),
            PosteriorSpectra(folder.tensors(SPECTRA)),
            {label: RunFolder(folder.path / run).metrics() for label, run in runs.items()},
        )

    def score_table(self) -> Table:
        """Test scores, a row for each of the compared runs."""
        table = Table("", *_SCORES, title="Test data")
        for label, s in self.scores.items():
            cells = (f"{s[name]:.4f}" for name in _SCORES)
            table.add_row(label.replace("[", r"\["), *cells)
        return table

    def spectra_table(self) -> Table:
        """Hill's alpha, lambda_max and stable rank of each matrix, before and after training."""
        columns = ("matrix", "K", "Hill alpha", "lambda_max", "stable rank")
        table = Table(*columns, title="Spectra, before -> after")
        for name in self.after:
            cells = [
                f"{_statistic(self.before, name, s)} -> {_statistic(self.after, name, s)}"
                for s in ("hill", "lambda_max", "stable_rank")
            ]
            table.add_row(name.replace("[", r"\["), str(self.after[name].shape[1]), *cells)
        return table

    def last_line(self) -> str:
        """The fitted posterior's test scores: `test_accuracy=... test_nll=...`."""
        first = next(iter(self.scores.values()))
        return " ".join(f"test_{name}={value:.4f}" for name, value in first.items())

    def show(self, console: Console) -> None:
        """Print the tables, where the files are, and the last line."""
        console.print(self.score_table())
        console.print(self.spectra_table())
        where = f"run folder: {self.folder.path}"
        console.print(where, markup=False, highlight=False, soft_wrap=True)
        console.print(self.last_line(), markup=False, highlight=False, soft_wrap=True)

    def draw(self) -> list[Path]:
        """Write the pictures into the run folder.

        Returns:
            Their paths.

        Raises:
            ImportError: matplotlib is not installed.
        """
        plt = pyplot()
        figures = (plot_spectra(self.after, before=self.before), plot_history(self.history))
        paths = [self.folder.path / name for name in PICTURES]
        for path, figure in zip(paths, figures, strict=True):
            write_aside(path, lambda aside, f=figure: f.savefig(aside, dpi=130, format="png"))  # type: ignore[misc]
            plt.close(figure)
        return paths


def _statistic(spectra: PosteriorSpectra, name: str, statistic: str) -> str:
    try:
        values: Tensor = getattr(spectra, statistic)(name)
    except SpectrumError:  # one eigenvalue, or ties: no exponent
        return "-"
    mean = values.double().mean().item()
    return "ties" if statistic == "hill" and mean > TIES else f"{mean:.3g}"
