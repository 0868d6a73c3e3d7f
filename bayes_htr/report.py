"""The tables, the last line and the pictures of a run of `bayes-htr fit`.

Everything is read from the run folder, so that a finished run can be shown again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import scipy
import torch
from rich import box
from rich.console import Console, Group
from rich.table import Table

from bayes_htr._files import atomic_write
from bayes_htr._plotting import DPI, literal, pyplot
from bayes_htr._terminal import visible
from bayes_htr.analysis.sources import natural
from bayes_htr.errors import CheckpointError
from bayes_htr.inference import RunFolder
from bayes_htr.inference.run_folder import METRICS, PICTURES, RESULTS, SPECTRA, SPECTRA_BEFORE
from bayes_htr.posterior import PosteriorSpectra
from bayes_htr.posterior.plots import plot_spectra
from bayes_htr.posterior.spectra import plotted_spectrum
from bayes_htr.posterior.summary import alpha_note
from bayes_htr.posterior.training_plots import plot_history

PLAIN = "none"
"""The label of a run without a prior."""

_SCORES = ("accuracy", "nll", "ece", "brier")
_P_VALUE = 0.05
_LEVEL = 0.95


@dataclass(frozen=True)
class RunReport:
    """A finished run of `bayes-htr fit`.

    Attributes:
        folder: The run folder.
        seeds: The seeds of the split, the initial weights and the order of the data, for each of
            which every method was fitted.
        by_seed: The test scores of each method by label, one dict per seed. The fitted posterior
            comes first.
        spectra: The spectra of the posterior with the first seed.
        beside: The label and the spectra with which `spectra` are compared: those of the run
            without a prior, or, if there is no such run, those before training.
        history: The metrics by epoch of all runs with the first seed.
    """

    folder: RunFolder
    seeds: list[int]
    by_seed: dict[str, list[dict[str, float]]]
    spectra: PosteriorSpectra
    beside: tuple[str, PosteriorSpectra]
    history: dict[str, list[dict[str, float]]]

    @classmethod
    def read(cls, path: str | PathLike[str]) -> RunReport:
        """Read a run folder.

        Raises:
            CheckpointError: The folder holds no finished run of `bayes-htr fit`.
        """
        folder = RunFolder(path)
        folder.config()
        try:
            results = folder.json(RESULTS)
        except FileNotFoundError as error:
            raise CheckpointError(
                f"{folder.path} has no {RESULTS}: the run has not finished; resume it"
            ) from error
        try:
            by_seed = _by_seed(results)
            runs = {label: str(results["runs"][label]) for label in by_seed}
            seeds = [int(seed) for seed in results.get("seeds", [0])]
            inside = folder.path.resolve()
            if not by_seed or any(len(rows) != len(seeds) for rows in by_seed.values()):
                raise ValueError("no scores, or not one for each seed")
            if not all((inside / run).resolve().is_relative_to(inside) for run in runs.values()):
                raise ValueError("runs outside of the folder")
        except Exception as error:  # foreign data may raise anything
            raise CheckpointError(
                f"{folder.path / RESULTS} cannot be read as the results of a run: {error!r}"
            ) from error
        if PLAIN in runs and next(iter(runs)) != PLAIN:
            beside = ("plain training", _spectra(RunFolder(folder.path / runs[PLAIN]), SPECTRA))
        else:
            beside = ("before training", _spectra(folder, SPECTRA_BEFORE))
        return cls(
            folder,
            seeds,
            {visible(label): rows for label, rows in by_seed.items()},
            _spectra(folder, SPECTRA),
            beside,
            {visible(label): _history(RunFolder(folder.path / run)) for label, run in runs.items()},
        )

    @property
    def label(self) -> str:
        """The label of the fitted posterior."""
        return next(iter(self.by_seed))

    @property
    def scores(self) -> dict[str, dict[str, float]]:
        """The means of the test scores over the seeds, by label."""
        return {
            label: {name: _values(rows, name).mean().item() for name in _SCORES}
            for label, rows in self.by_seed.items()
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the run as plain data: its folder, seeds, and test scores by label."""
        return {
            "folder": str(self.folder.path),
            "seeds": self.seeds,
            "scores": self.scores,
            "scores_by_seed": self.by_seed,
        }

    def score_table(self) -> Table:
        """Return a table of test scores with a row for each method.

        With several seeds it shows means with standard errors, and marks scores whose paired
        difference from plain training is significant.
        """
        if len(self.seeds) == 1:
            table = _table("Test data")
        else:
            table = _table(f"Test data: mean ± standard error over {len(self.seeds)} seeds")
            if PLAIN in self.by_seed and len(self.by_seed) > 1:
                table.caption = f"* differs from {PLAIN!r} (paired t test, p < {_P_VALUE:g})"
        plain = self.by_seed.get(PLAIN)
        for label, rows in self.by_seed.items():
            cells = []
            for name in _SCORES:
                values = _values(rows, name)
                marked = plain is not None and _is_significant(values, _values(plain, name))
                cells.append(_mean_and_error(values) + "*" * marked)
            table.add_row(label, *cells)
        return table

    def difference_table(self) -> Table:
        """Return a table of paired differences over the seeds, with intervals and significance."""
        table = _table(
            f"Paired differences: mean and {100 * _LEVEL:g} % interval; * where p < {_P_VALUE:g}"
        )
        for label, other in self._pairs():
            cells = [
                _difference(_values(self.by_seed[label], name), _values(self.by_seed[other], name))
                for name in _SCORES
            ]
            table.add_row(f"{label}\nminus {other}", *cells)
        return table

    def comparison(self) -> str:
        """Return a sentence that compares the posterior's NLL with the others.

        It is empty if there are no others.
        """
        nll = {label: scores["nll"] for label, scores in self.scores.items()}
        parts = [
            f"{abs(1 - nll[self.label] / value):.0%} "
            f"{'below' if nll[self.label] < value else 'above'} that of {label!r}"
            for label, value in nll.items()
            if label != self.label and value > 0
        ]
        return f"nll of {self.label!r}: {', '.join(parts)}" if parts else ""

    def _pairs(self) -> Iterator[tuple[str, str]]:
        """Yield the pairs that are compared.

        The posterior is compared with each other method, and other methods with plain training.
        """
        others = [label for label in self.by_seed if label != self.label]
        yield from ((self.label, other) for other in reversed(others))
        if PLAIN in others:
            yield from ((other, PLAIN) for other in others if other != PLAIN)

    def spectra_table(self) -> Group:
        """Return a table of alpha, lambda_max and stable rank, beside those of `beside`."""
        label, others = self.beside
        title = "Spectra" if len(self.seeds) == 1 else f"Spectra with seed {self.seeds[0]}"
        table = Table("matrix", "", label, self.label, title=title)
        shown = []
        for name in self.spectra:
            rows = [others.row(name) if name in others else None, self.spectra.row(name)]
            shown += [row for row in rows if row is not None]
            cells = [("-",) * 3 if row is None else row.cells() for row in rows]
            for number, what in enumerate(("alpha", "lambda_max", "stable rank")):
                table.add_row(
                    name if not number else "",
                    what,
                    *(part[number] for part in cells),
                    end_section=number == 2,
                )
        return Group(table, alpha_note(shown, _LEVEL))

    def last_line(self) -> str:
        """Return the line `test_accuracy=... test_nll=...`.

        It has the scores of the fitted posterior.
        """
        first = self.scores[self.label]
        return " ".join(f"test_{name}={value:.4f}" for name, value in first.items())

    def tables(self) -> Group:
        """Return all tables, with the note on exponents below them."""
        parts: list[Any] = [self.score_table()]
        if len(self.seeds) > 1 and len(self.by_seed) > 1:
            parts += ["", self.difference_table(), self.comparison(), ""]
        return Group(*parts, self.spectra_table())

    def show(self, console: Console) -> None:
        """Print the tables, the path of the run folder, and the last line."""
        console.print(self.tables(), markup=False, highlight=False)
        where = visible(f"run folder: {self.folder.path}")
        console.print(where, markup=False, highlight=False, soft_wrap=True)
        console.print(self.last_line(), markup=False, highlight=False, soft_wrap=True)

    def draw(self) -> list[Path]:
        """Write the pictures into the run folder.

        Returns:
            The paths of the pictures.

        Raises:
            ImportError: matplotlib is not installed.
            OutputError: The pictures cannot be written there.
        """
        plt = pyplot()
        figures = (
            plot_spectra(
                [
                    [
                        plotted_spectrum(spectra, name, literal(label))
                        for label, spectra in ((self.label, self.spectra), self.beside)
                    ]
                    for name in self.spectra
                ]
            ),
            plot_history({literal(label): rows for label, rows in self.history.items()}),
        )
        paths = [self.folder.path / name for name in PICTURES]
        try:
            for path, figure in zip(paths, figures, strict=True):
                atomic_write(path, partial(figure.savefig, dpi=DPI, format="png"))
        finally:
            for figure in figures:
                plt.close(figure)
        return paths


def _spectra(folder: RunFolder, name: str) -> PosteriorSpectra:
    """Return the spectra in a file in their natural order, with names that are safe to print.

    The file has them in alphabetical order, in which layer 10 comes before layer 2.

    Raises:
        CheckpointError: The file cannot be read, or holds no spectra.
    """
    tensors = folder.tensors(name)
    for matrix, lam in tensors.items():
        is_spectrum = lam.ndim == 2 and lam.numel() > 0 and lam.dtype.is_floating_point
        if not (is_spectrum and bool((torch.isfinite(lam) & (lam >= 0)).all())):
            raise CheckpointError(
                f"{folder.path / name} cannot be shown: {matrix!r} is of shape {tuple(lam.shape)} "
                f"and {lam.dtype}, and no draws of finite eigenvalues that are at least 0"
            )
    ordered = sorted(tensors, key=natural)
    return PosteriorSpectra({visible(matrix): tensors[matrix] for matrix in ordered})


def _history(folder: RunFolder) -> list[dict[str, float]]:
    """Return the metrics of a run.

    Raises:
        CheckpointError: The metrics cannot be read, or a row of an epoch lacks those that are
            drawn.
    """
    history = folder.metrics()
    rows = [row for row in history if "epoch" in row]  # NUTS has no epochs
    drawn = ["train_nll", "train_accuracy"]
    if rows and "val_nll" in rows[0]:
        drawn += ["val_nll", "val_accuracy"]
    for row in rows:
        if missing := [name for name in drawn if name not in row]:
            raise CheckpointError(
                f"{folder.path / METRICS} cannot be shown: epoch {row['epoch']:g} lacks "
                f"{', '.join(missing)}"
            )
    return history


def _by_seed(results: Any) -> dict[str, list[dict[str, float]]]:
    """Return the scores by label and seed.

    Runs of earlier versions have one seed, and the scores of this seed alone.
    """
    by_seed = results.get("by_seed")
    if by_seed is None:
        by_seed = {label: [row] for label, row in results["scores"].items()}
    return {
        str(label): [{name: float(row[name]) for name in _SCORES} for row in rows]
        for label, rows in by_seed.items()
    }


def _values(rows: list[dict[str, float]], name: str) -> np.ndarray:
    return np.array([row[name] for row in rows])


def _mean_and_error(values: np.ndarray) -> str:
    if len(values) == 1:
        return f"{values[0]:.4f}"
    return f"{values.mean():.3f}±{scipy.stats.sem(values):.3f}"


def _difference(values: np.ndarray, others: np.ndarray) -> str:
    """Return the mean paired difference with its interval, and a mark of significance.

    The interval is by Student's t.
    """
    difference = values - others
    if np.ptp(difference) == 0:
        return f"{difference.mean():+.3f}"
    half = scipy.stats.sem(difference) * scipy.stats.t.isf((1 - _LEVEL) / 2, len(difference) - 1)
    mark = "*" if _is_significant(values, others) else ""
    return f"{difference.mean():+.3f}±{half:.3f}{mark}"


def _is_significant(values: np.ndarray, others: np.ndarray) -> bool:
    """Return whether the paired difference of two methods is significant by Student's t test."""
    if len(values) == 1 or np.ptp(values - others) == 0:
        return False
    return bool(scipy.stats.ttest_rel(values, others).pvalue < _P_VALUE)


def _table(title: str) -> Table:
    """Return an empty table of scores that fits into 80 columns."""
    return Table(
        "",
        *_SCORES,
        title=title,
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        show_edge=False,
        pad_edge=False,
    )
