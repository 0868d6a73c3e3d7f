"""The trials of a search for a strength: fits that are scored on data they have not seen."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from bayes_htr._terminal import ProgressBar
from bayes_htr._torch import evaluation_mode, isolated_randomness
from bayes_htr.distributed import run_on_rank0, world_size
from bayes_htr.engine.pull import starting_strength
from bayes_htr.errors import DivergenceError, PriorError, SpectrumError
from bayes_htr.inference import MAP, Batches, EpochEvent, RunFolder
from bayes_htr.models import BayesianModel
from bayes_htr.models.inputs import num_examples
from bayes_htr.models.likelihood_forms import to_config
from bayes_htr.posterior import Posterior, Scores
from bayes_htr.posterior.prediction import batches_for
from bayes_htr.posterior.scores import Score
from bayes_htr.tuning.held_out import HeldOut
from bayes_htr.tuning.search import (
    STEP,
    Bracket,
    Journal,
    Search,
    Trial,
    best_of,
    failed,
    merged,
    run_search,
)

TRIALS = 5
"""The largest number of trials where none is given: with the final fit there are six."""
_MOST_RAISES = 10
CRITERIA = ("brier", "nll", "crps")
"""The scores by which a strength can be chosen. Smaller ones are better, and all are proper."""


class Tried(NamedTuple):
    """The result of a search.

    Attributes:
        trials: All trials in their order.
        strength: The strength to train with.
        posterior: The posterior with that strength and the first seed, if this call has trained it.
    """

    trials: list[Trial]
    strength: float
    posterior: Posterior | None


@dataclass(frozen=True)
class TrialSettings:
    """The settings that all trials of a search share.

    Args:
        fit: `htr.fit`.
        model: The model, whose priors a strength multiplies.
        held_out: The data.
        fit_options: Other arguments of `fit`; `method` and `epochs` are among them.
        seeds: The seeds of each strength's fits.
        criterion: One of `CRITERIA`; by default `"brier"` for classes and yes-or-no labels, and
            `"nll"` for other labels.
        samples: The number of draws of the weights that a prediction averages.

    Raises:
        ValueError: There is no such criterion.
    """

    fit: Callable[..., Posterior]
    model: BayesianModel
    held_out: HeldOut
    fit_options: Mapping[str, Any]
    seeds: tuple[int, ...] = (0,)
    criterion: str | None = None
    samples: int = 32
    by: str = field(init=False)
    """The criterion, the default one where none is given."""

    def __post_init__(self) -> None:
        default = "brier" if self.model.likelihood.has_classes else "nll"
        by = default if self.criterion is None else self.criterion
        if by not in CRITERIA:
            raise ValueError(f"criterion={by!r} must be one of {', '.join(CRITERIA)}")
        object.__setattr__(self, "by", by)

    @property
    def epochs(self) -> int:
        """The number of epochs of a fit."""
        return int(self.fit_options["epochs"])

    @property
    def num_data(self) -> int:
        """The number of examples that trials train on."""
        return self._train_batches().num_data

    @property
    def num_validation(self) -> int:
        """The number of examples that trials are scored on."""
        batches = self._validation_batches()
        return batches.num_data or sum(num_examples(x) for x, _ in batches)

    def describe(self) -> dict[str, Any]:
        """Describe as plain data what trials depend on, to recognise them in a resumed search."""
        train = self._train_batches()
        return {
            "method": self.fit_options["method"].describe(),
            "priors": self.model.priors.to_dict(),
            "epochs": self.epochs,
            "num_data": train.num_data,
            "train": train.fingerprint,
            "validation": self._validation_batches().fingerprint,
            "seeds": list(self.seeds),
            "criterion": self.by,
            "samples": self.samples,
            **to_config(self.model.likelihood),
        }

    def _train_batches(self) -> Batches:
        return Batches(
            self.held_out.train,
            batch_size=int(self.fit_options["batch_size"]),
            name="train",
            likelihood=self.model.likelihood,
            num_data=self.fit_options.get("num_data"),
        )

    def _validation_batches(self) -> Batches:
        data, likelihood = self.held_out.validation, self.model.likelihood
        return batches_for(self.model.net, data, "validation", likelihood)

    @property
    def looks(self) -> set[int]:
        """The epochs after which a trial is compared with the best one: a third and two thirds.

        There are none if the likelihood has hyperparameters, such as noise that is learnt, since
        callbacks see the network alone.
        """
        if self.model.likelihood.hyperparameters:
            return set()
        thirds = {math.ceil(self.epochs / 3), math.ceil(2 * self.epochs / 3)}
        return thirds - {self.epochs}

    def reason_against(self, strength: float) -> PriorError | None:
        """Return the error if a prior is not a density at this strength; `None` if all are."""
        if isinstance(self.fit_options["method"], MAP):
            return None
        try:
            with_strength(self.model, strength).densities()
        except PriorError as error:
            return error
        return None

    def evaluate(self, posterior: Posterior) -> Scores:
        """Return all scores of a posterior on the validation data."""
        return posterior.evaluate(self.held_out.validation, samples=self.samples)

    def evaluate_network(self, net: nn.Module) -> Scores:
        """Return all scores of a network as it is, in evaluation mode."""
        with evaluation_mode(net), isolated_randomness():
            point = Posterior(net, self.model.priors, likelihood=self.model.likelihood)
            return self.evaluate(point)

    def score_in(self, scores: Scores) -> Score:
        """Return the criterion among all scores, with its standard error.

        Raises:
            ValueError: The likelihood's predictions have no such score.
        """
        if self.by not in scores:
            raise ValueError(
                f"criterion={self.by!r}: predictions under likelihood={self.model.likelihood!r} "
                f"have {', '.join(c for c in CRITERIA if c in scores)}"
            )
        return Score(scores[self.by], scores.standard_errors.get(self.by, math.nan))


def try_strengths(
    settings: TrialSettings,
    search: Search,
    count: int,
    *,
    folder: Path | None = None,
    resume: bool = False,
    progress: bool | None = None,
) -> Tried:
    """Fit with several strengths, and score each on the validation data.

    Args:
        settings: The settings that all trials share.
        search: The search that proposes strengths.
        count: The largest number of trials.
        folder: Where the trials are kept, if anywhere.
        resume: Whether to go on with the trials that are there.
        progress: Whether to show one bar for all fits; `None` shows it on a terminal.

    Raises:
        CheckpointError: The folder holds the trials of another search.
        OutputError: The folder cannot be written.
        DivergenceError: All trials failed.
        PriorError: The priors do not suit the network, or are no density at the first strength.
    """
    described = settings.describe()
    journal = run_on_rank0(lambda: Journal(folder, described, resume=resume))
    kept: dict[float, Posterior] = {}
    number_of = len(journal.trials)
    fits = len(settings.seeds) * count
    with _TuningBar(progress, fits, max(1, settings.epochs), done=number_of) as bar:

        def attempt(strength: float, gives_up: Callable[[int, Score], bool]) -> Trial:
            if reason := settings.reason_against(strength):
                if not journal.trials:
                    raise reason  # the priors themselves are wrong, or their strength is
                bar.complete(len(settings.seeds))
                return failed(strength, reason)
            found: list[Trial] = []
            for seed in settings.seeds:
                bar.begin(f"strength {strength:.3g}", len(journal.trials) + 1, count)
                trial, posterior = _fitted(settings, strength, seed, gives_up, bar)
                found.append(trial)
                if trial.outcome != "finished":
                    break
                if seed == settings.seeds[0] and posterior is not None:
                    kept[strength] = posterior
            bar.complete(len(settings.seeds))
            return merged(found)

        def forget(trial: Trial) -> None:
            best = best_of(journal.trials)
            for strength in [s for s in kept if s != best.strength]:
                del kept[strength]
            bar.show(f"best {settings.by} {best.score.value:.4f} at {best.strength:.3g}")

        trials = run_search(search, attempt, journal, count, on_trial=forget)
    strength = search.choose(trials)
    return Tried(trials, strength, kept.get(strength))


def _fitted(
    settings: TrialSettings,
    strength: float,
    seed: int,
    gives_up: Callable[[int, Score], bool],
    bar: _TuningBar,
) -> tuple[Trial, Posterior | None]:
    """Fit once; the scores of the first seed's fit are compared during training."""
    epochs, is_first = settings.epochs, seed == settings.seeds[0]
    looks = settings.looks if is_first else set()
    curve: dict[int, Score] = {}
    state = {"epochs": 0, "pruned": False}

    def on_epoch(event: EpochEvent) -> bool:
        state["epochs"] = event.epoch
        bar.advance()
        if event.epoch not in looks:
            return False
        curve[event.epoch] = settings.score_in(settings.evaluate_network(event.network))
        state["pruned"] = gives_up(event.epoch, curve[event.epoch])
        return bool(state["pruned"])

    started = time.perf_counter()
    model = with_strength(settings.model, strength)
    try:
        posterior = settings.fit(
            model,
            settings.held_out.train,
            **settings.fit_options,
            validation=settings.held_out.validation,
            seed=seed,
            callbacks=[on_epoch],
            progress=False,
        )
        scores = run_on_rank0(lambda: settings.evaluate(posterior))
        score = settings.score_in(scores)
        if not math.isfinite(score.value):
            raise DivergenceError(f"the {settings.by} of the validation data is not finite")
    except (DivergenceError, SpectrumError) as error:
        if world_size() > 1:
            raise  # the other processes have no such error, and would go on
        seconds = time.perf_counter() - started
        done = int(state["epochs"])
        return failed(strength, error, epochs=done, seconds=seconds, curve=curve), None
    curve, state = run_on_rank0(lambda: (curve, state))
    trial = Trial(
        strength,
        "finished",
        score,
        dict(scores),
        epochs=len(posterior.history),
        seconds=time.perf_counter() - started,
        curve=curve,
    )
    if not state["pruned"]:
        curve[epochs] = score
        several = is_first and len(settings.seeds) > 1
        state["pruned"] = several and gives_up(epochs, score)
    if state["pruned"]:
        return replace(trial, outcome="pruned", score=curve[max(curve)], scores={}), None
    return trial, posterior


def auto_strength(
    settings: TrialSettings,
    *,
    out: str | PathLike[str] | None = None,
    resume: bool = False,
    progress: bool | None = None,
) -> float:
    """Return the strength that `htr.fit(..., strength="auto")` takes, by at most five trials.

    Args:
        settings: The settings that all trials share.
        out: The run folder, in which the trials are kept too.
        resume: Whether to go on with the trials that are there.
        progress: Whether bars are shown, as in `try_strengths`.

    Raises:
        OutputError: The folder already holds something.
        CheckpointError, DivergenceError, PriorError: The same errors as in `try_strengths` and
            `starting_strength`.
    """
    folder = None if out is None else Path(out)
    if folder is not None and not resume:
        run_on_rank0(RunFolder(folder).check_unused)
    search = Bracket(start_of(settings))
    return try_strengths(
        settings, search, TRIALS, folder=folder, resume=resume, progress=progress
    ).strength


def start_of(settings: TrialSettings) -> float:
    """Return `starting_strength` of the weights that fits start from.

    A heavy-tailed law to a small power has no finite integral, and then there is no posterior. From
    such a start the strength is raised by factors of `sqrt(10)` until there is one.
    """
    init = settings.fit_options.get("init")
    net = settings.model.net if init is None else init.network()
    start = starting_strength(
        settings.model.priors,
        net,
        num_data=settings.num_data,
        posterior=not isinstance(settings.fit_options["method"], MAP),
    )
    raised = (float(f"{start * STEP**power:.3g}") for power in range(1, _MOST_RAISES))
    return next((s for s in (start, *raised) if settings.reason_against(s) is None), start)


def with_strength(model: BayesianModel, strength: float) -> BayesianModel:
    """Return the model with the strengths of all its priors multiplied by a number."""
    return BayesianModel(model.net, model.priors.scaled(strength), likelihood=model.likelihood)


class _TuningBar(ProgressBar):
    """One bar for all fits of a search, over epochs.

    Args:
        show: Whether it is shown; `None` shows it if standard error is a terminal.
        fits: The number of fits.
        epochs: The number of epochs of a fit.
        done: The number of trials that are there already.
    """

    def __init__(self, show: bool | None, fits: int, epochs: int, *, done: int) -> None:
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[best]}"),
            TimeRemainingColumn(),
        )
        super().__init__(columns, show, description="tuning", total=fits * epochs, best="")
        self._epochs = epochs
        self._done = done

    def begin(self, what: str, number: int, count: int) -> None:
        """Show what the next fit is."""
        text = f"trial {number} of {count}: {what}"
        self._progress.update(self._task, description=text)

    def show(self, best: str) -> None:
        """Show the best score so far."""
        self._progress.update(self._task, best=best)

    def complete(self, fits: int) -> None:
        """Move to the end of a trial, which may have ended early."""
        self._done += 1
        self._progress.update(self._task, completed=self._done * fits * self._epochs)
