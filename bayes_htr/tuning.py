"""`tune` chooses the strength of priors by a few fits that are scored on held-out data."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from bayes_htr._checks import number, whole_number
from bayes_htr._locks import FolderLock
from bayes_htr._plotting import BLUE, GREY, RED, new_axes, save, tick
from bayes_htr.distributed import run_on_rank0
from bayes_htr.errors import PriorError
from bayes_htr.fitting import fit
from bayes_htr.inference import Data, Method, RunFolder
from bayes_htr.inference.defaults import method_and_epochs
from bayes_htr.models import BayesianClassifier, BayesianModel
from bayes_htr.optuna_search import new_study, own_study
from bayes_htr.posterior import Posterior
from bayes_htr.priors import Prior, Priors
from bayes_htr.strength_search import Bracket, Listed, Score, Search, Trial
from bayes_htr.strength_trials import (
    TRIALS,
    TrialSettings,
    best_of,
    hold_out,
    start_of,
    try_strengths,
    with_strength,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LOCK = ".tuning.lock"
_FIT = "fit"


@dataclass(frozen=True)
class Tuning:
    """What `htr.tune` returns: the trials, the strength that it chose, and the final fit.

    Attributes:
        trials: All trials in their order.
        priors: The priors, with the chosen strength.
        start: The first strength.
        criterion: The score by which trials were compared, `"brier"` or `"nll"`.
        num_data: The number of examples that trials trained on.
        num_validation: The number of examples that they were scored on.
        posterior: The fit with the chosen strength; `None` with `refit=False`.
    """

    trials: tuple[Trial, ...]
    priors: Priors
    start: float
    criterion: str
    num_data: int
    num_validation: int
    posterior: Posterior | None = field(default=None, repr=False, compare=False)

    @property
    def best(self) -> Trial:
        """The finished trial with the smallest score."""
        return best_of(list(self.trials))

    @property
    def strength(self) -> float:
        """The chosen strength: that of `best`."""
        return self.best.strength

    def __repr__(self) -> str:
        best = self.best
        score = f"{self.criterion}={best.score.value:.4f} +- {best.score.error:.4f}"
        return f"Tuning(strength={self.strength:g}, {score}, {len(self.trials)} trials)"

    def table(self) -> Table:
        """The trials, by strength, as a `rich` table of at most 80 columns."""
        table = Table(box=None, pad_edge=False)
        for name in ("strength", "mu", self.criterion, "s.e.", *self._others, "epochs", "s"):
            table.add_column(name, justify="right")
        table.add_column("outcome", no_wrap=True)
        for trial in sorted(self.trials, key=lambda t: t.strength):
            others = [
                f"{trial.scores[name]:.4f}" if name in trial.scores else "" for name in self._others
            ]
            table.add_row(
                f"{trial.strength:.3g}",
                f"{trial.strength / self.num_data:.2g}",
                *_cells(trial.score),
                *others,
                str(trial.epochs),
                f"{trial.seconds:.1f}",
                "chosen" if trial == self.best else trial.outcome,
            )
        return table

    def __str__(self) -> str:
        return _printed(self.table(), *self._notes())

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"

    @property
    def _others(self) -> tuple[str, ...]:
        return tuple(name for name in ("brier", "nll", "accuracy") if name != self.criterion)

    def _notes(self) -> list[str]:
        by_seeds = len(self.best.by_seed) > 1
        over = f"{len(self.best.by_seed)} seeds" if by_seeds else "validation examples"
        notes = [
            f"{self.num_data} training and {self.num_validation} validation examples; s.e. over "
            f"{over}; mu is the strength divided by the number of training examples"
        ]
        best = self.strength
        strengths = [t.strength for t in self.trials]
        if len(strengths) > 1 and best in (min(strengths), max(strengths)):
            side = "smallest" if best == min(strengths) else "largest"
            notes.append(f"the best strength is the {side} one tried; more trials may find better")
        notes += [
            f"strength {t.strength:.3g} failed: {t.message}"
            for t in self.trials
            if t.outcome == "failed"
        ]
        return notes

    def plot(self, ax: Axes | None = None, *, path: str | PathLike[str] | None = None) -> Axes:
        """Plot the score against the strength.

        Finished trials have bars of one standard error and are joined by a line. A pruned trial is
        a hollow marker at the score when it was given up, and a failed one a cross on the upper
        edge.

        Args:
            ax: The axes to draw on; by default those of a new figure.
            path: Where to save the figure, if anywhere.

        Raises:
            ImportError: matplotlib is not installed.
        """
        axes = new_axes(6.0, 3.8) if ax is None else ax
        by_outcome: dict[str, list[Trial]] = {"finished": [], "pruned": [], "failed": []}
        for trial in sorted(self.trials, key=lambda t: t.strength):
            by_outcome[trial.outcome].append(trial)
        done = by_outcome["finished"]
        axes.errorbar(
            [t.strength for t in done],
            [t.score.value for t in done],
            [t.score.error if math.isfinite(t.score.error) else 0.0 for t in done],
            fmt="o-",
            color=BLUE,
            capsize=3,
            label="finished, with standard error",
        )
        if pruned := by_outcome["pruned"]:
            axes.plot(
                [t.strength for t in pruned],
                [t.score.value for t in pruned],
                "o",
                color=GREY,
                markerfacecolor="none",
                label="pruned, score at that epoch",
            )
        if lost := by_outcome["failed"]:
            axes.plot(
                [t.strength for t in lost],
                [0.97] * len(lost),
                "x",
                color=RED,
                transform=axes.get_xaxis_transform(),
                label="failed",
            )
        axes.axvline(self.start, color=GREY, linestyle=":", label="start")
        best = self.best
        axes.plot([best.strength], [best.score.value], "o", color=RED, label="chosen", zorder=3)
        axes.set_xscale("log")
        tick(axes.xaxis)
        axes.set_xlabel("strength")
        name = {"brier": "Brier score", "nll": "NLL (nats)"}[self.criterion]
        axes.set_ylabel(f"validation {name}")
        axes.legend(fontsize="small", frameon=False)
        save(axes, path)
        return axes


def tune(
    model: BayesianModel | nn.Module,
    train: Data,
    *,
    prior: Prior | Priors | None = None,
    validation: Data | None = None,
    validation_fraction: float = 0.1,
    method: Method | None = None,
    epochs: int | None = None,
    trials: int = TRIALS,
    strengths: Sequence[float] | None = None,
    start: float | None = None,
    search: Any = "bracket",
    prune: bool = True,
    criterion: Literal["brier", "nll"] = "brier",
    seeds: int = 1,
    seed: int = 0,
    samples: int = 32,
    refit: bool = True,
    batch_size: int = 128,
    device: str | torch.device | None = None,
    init: Posterior | None = None,
    out: str | PathLike[str] | None = None,
    resume: bool = False,
    progress: bool | None = None,
    threads: int | None = None,
    num_data: int | None = None,
) -> Tuning:
    """Choose the strength of priors by a few fits, each scored on held-out data.

    Every trial is a fit by `htr.fit` from the same weights, with the same seed. The strength with
    the lowest score is chosen. The first one is `htr.starting_strength`, and `search` says which
    ones follow. The same arguments give the same result.

    Args:
        model: The network with its priors, whose strength is multiplied by what is chosen; or a
            network, with `prior=`.
        train: The training data, as `htr.fit` takes them.
        prior: The prior of every weight matrix of a network, or priors by pattern.
        validation: The data to score on. Without them a random part of `(X, y)` is held out, and
            the final fit is on all of `(X, y)`.
        validation_fraction: The share of `(X, y)` that is held out where there is no `validation`.
        method: As in `htr.fit`.
        epochs: The number of epochs of each fit.
        trials: The largest number of strengths that are tried.
        strengths: The strengths to try, in this order, in place of a search.
        start: The first strength, in place of `htr.starting_strength`.
        search: `"bracket"` steps by factors of `sqrt(10)`, and of its root between two of them,
            towards lower scores. `"optuna"` lets Optuna's TPE sampler choose, up to a factor of 100
            from the start, with its successive halving in place of `prune`. A `optuna.Study` of
            your own has its own sampler, pruner and storage. Both need
            `pip install "bayes-htr[tune]"`.
        prune: Whether a trial is given up at a third or two thirds of its epochs, if the best one
            was better there by more than three standard errors.
        criterion: The score: `"brier"`, or `"nll"` in nats per example.
        seeds: The number of fits of each strength, whose scores are averaged.
        seed: The first of their seeds, also that of the split and of the final fit.
        samples: The number of draws of the weights that a prediction averages.
        refit: Whether to return the fit with the chosen strength. Where no data were held out, it
            is that of the trial itself, unless it has to be written or an earlier call trained it.
        batch_size: As in `htr.fit`.
        device: As in `htr.fit`.
        init: As in `htr.fit`.
        out: A folder for the trials, `tuning.json`, written after each of them, and for the final
            fit, in the subfolder `fit`.
        resume: Go on with the trials in `out`, if there are any.
        progress: Whether to show one progress bar for all trials; by default on a terminal.
        threads: As in `htr.fit`.
        num_data: As in `htr.fit`.

    Returns:
        The trials, the strength, and the final fit. `print` shows a table; `plot` draws it.

    Raises:
        DivergenceError: No strength gave finite weights.
        CheckpointError: `out` holds trials of other settings, or a file that cannot be read.
        OutputError: `out` cannot be written, holds something, or is in use.
        ImportError: Optuna is not installed.
        PriorError, DataError, SpectrumError, ValueError: As `htr.fit`; or an argument of this
            function that is out of range.
    """
    model = _model(model, prior)
    method, epochs = method_and_epochs(model, method, epochs)
    count = whole_number(trials, "trials", at_least=1, below=10_000)
    repeats = whole_number(seeds, "seeds", at_least=1, below=10_000)
    seed = whole_number(seed, "seed", below=2**63 - 10_000)
    samples = whole_number(samples, "samples", at_least=1)
    if resume and out is None:
        raise ValueError("resume=True needs out=, the folder of the trials")
    options: dict[str, Any] = {"method": method, "epochs": epochs, "device": device}
    options |= {"batch_size": batch_size, "threads": threads, "init": init, "num_data": num_data}
    held_out = hold_out(model, train, validation, fraction=validation_fraction, seed=seed)
    settings = TrialSettings(
        fit, model, held_out, options, tuple(range(seed, seed + repeats)), criterion, samples
    )
    if strengths is not None:
        listed = tuple(number(s, "strengths", above=0) for s in strengths)
        if not listed or len(set(listed)) < len(listed):
            raise ValueError(f"strengths={strengths!r} must be different numbers, at least one")
        first, count = listed[0], len(listed)
        chosen: Search = Listed(listed, prune)
    else:
        first = start_of(settings) if start is None else number(start, "start", above=0)
        chosen = _search(search, first, seed, prune, resume)
    folder = None if out is None else Path(out)
    with _claimed(folder, resume=resume):
        tried = try_strengths(
            settings, chosen, count, folder=folder, resume=resume, progress=progress
        )
        best = best_of(tried.trials)
        posterior = None
        if refit:
            posterior = None if held_out.is_part or folder is not None else tried.posterior
            if posterior is None:
                posterior = fit(
                    with_strength(model, best.strength),
                    train,
                    **options,
                    validation=validation,
                    seed=seed,
                    out=None if folder is None else folder / _FIT,
                    resume=resume,
                    progress=progress,
                )
    return Tuning(
        trials=tuple(tried.trials),
        priors=model.priors.scaled(best.strength),
        start=first,
        criterion=criterion,
        num_data=settings.num_data,
        num_validation=len(held_out.validation[1]),
        posterior=posterior,
    )


def _search(search: Any, first: float, seed: int, prune: bool, resume: bool) -> Search:
    """The search that is meant.

    Raises:
        ImportError: Optuna is not installed.
        ValueError: Another name, a study that maximises, or one of the user's own to be resumed.
    """
    if search == "bracket":
        return Bracket(first, prune)
    if search == "optuna":
        return new_study(first, seed, prune)
    if isinstance(search, str):
        raise ValueError(f"search={search!r} must be 'bracket', 'optuna', or an optuna.Study")
    return own_study(search, first, resume)


def _model(model: Any, prior: Prior | Priors | None) -> BayesianModel:
    """The model that is meant.

    Raises:
        ValueError: No network, or a model with a second prior.
        PriorError: A network without a prior.
    """
    if isinstance(model, BayesianModel):
        if prior is not None:
            raise ValueError(
                "prior=: the model has its priors already; pass its network, model.net"
            )
        return model
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"model={model!r} must be a BayesianClassifier, BayesianModel, or network with prior="
        )
    if not isinstance(prior, Prior | Priors):
        raise PriorError(
            f"prior={prior!r} must be the prior of the network, such as "
            "htr.ESD(htr.Lomax(2.0)), or htr.Priors(...)"
        )
    return BayesianClassifier(model, prior if isinstance(prior, Priors) else Priors(prior))


@contextmanager
def _claimed(folder: Path | None, *, resume: bool) -> Iterator[None]:
    """Keep other calls from a folder, if there is one.

    Raises:
        OutputError: The folder is in use, cannot be written, or holds something.
    """
    locks: list[FolderLock] = []

    def claim() -> None:
        if folder is None:
            return
        if not resume:
            RunFolder(folder).check_unused()
        locks.append(FolderLock(folder, _LOCK))

    try:
        run_on_rank0(claim)
        yield
    finally:
        for lock in locks:
            lock.release()


def _cells(score: Score) -> tuple[str, str]:
    shown = [f"{v:.4f}" if math.isfinite(v) else "-" for v in (score.value, score.error)]
    return shown[0], shown[1]


def _printed(table: Table, *notes: str) -> str:
    console = Console(width=80, color_system=None)
    with console.capture() as capture:
        console.print(table)
        for note in notes:
            console.print(note, markup=False, highlight=False)
    return "\n".join(line.rstrip() for line in capture.get().rstrip().splitlines())
