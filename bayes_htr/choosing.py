"""`tune` chooses the strength of priors by a few fits that are scored on held-out data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from bayes_htr._checks import number, shown, whole_number
from bayes_htr._locks import FolderLock
from bayes_htr.distributed import run_on_rank0
from bayes_htr.errors import PriorError
from bayes_htr.fitting import fit
from bayes_htr.inference import Data, Method, RunFolder
from bayes_htr.inference.defaults import method_and_epochs
from bayes_htr.models import BayesianClassifier, BayesianModel
from bayes_htr.posterior import Posterior
from bayes_htr.priors import Prior, Priors
from bayes_htr.tuning import Tuning
from bayes_htr.tuning.held_out import hold_out
from bayes_htr.tuning.optuna_search import new_study, own_study
from bayes_htr.tuning.search import Bracket, Listed, Search
from bayes_htr.tuning.trials import (
    TRIALS,
    TrialSettings,
    start_of,
    try_strengths,
    with_strength,
)

_LOCK = ".tuning.lock"
_FIT = "fit"


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
    criterion: Literal["brier", "nll", "crps"] | None = None,
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

    Every trial is a fit by `htr.fit` from the same weights, with the same seed. The first strength
    is `htr.starting_strength`, and `search` says which ones follow and which one is chosen. The
    same arguments give the same result.

    Args:
        model: The network with its priors, whose strength is multiplied by the chosen one; or a
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
        search: `"bracket"` steps towards lower scores by factors of `sqrt(10)`, and then by half
            such a step, a factor of `10^(1/4)`. It chooses the minimum of a smooth curve through
            the scores; other searches choose the strength of the best trial. `"optuna"` lets
            Optuna's TPE sampler propose strengths, up to a factor of 100 from the start, with
            Optuna's successive halving in place of `prune`. An `optuna.Study` of your own has its
            own sampler, pruner and storage. Both need `pip install "bayes-htr[tune]"`.
        prune: Whether a trial is given up at a third or two thirds of its epochs, if the best one
            was better there by more than three standard errors.
        criterion: The score: `"brier"`, of classes and of yes-or-no labels; `"nll"`, in nats per
            label; or `"crps"`, of real-valued targets. By default it is `"brier"` if predictions
            have a Brier score, and `"nll"` otherwise.
        seeds: The number of fits of each strength, whose scores are averaged.
        seed: The first of their seeds, also that of the split and of the final fit.
        samples: The number of draws of the weights that a prediction averages.
        refit: Whether to return the fit with the chosen strength. Where no data were held out and
            a trial of this call had that strength, it is the trial's own fit, unless it has to be
            written.
        batch_size: As in `htr.fit`.
        device: As in `htr.fit`.
        init: As in `htr.fit`.
        out: A folder for the trials, `tuning.json`, written after each of them, and for the final
            fit, in the subfolder `fit`.
        resume: Go on with the trials in `out`, if there are any. Where more trials lead to another
            strength, the final fit there is replaced.
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
        PriorError, DataError, SpectrumError, ValueError: The same errors as in
            `htr.fit`; or an argument of this function is out of range.
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
    chosen: Search
    if strengths is not None:
        chosen = listed = _listed(strengths, prune)
        first, count = listed.strengths[0], len(listed.strengths)
    else:
        first = start_of(settings) if start is None else number(start, "start", above=0)
        chosen = _search(search, first, seed, prune, resume)
    folder = None if out is None else Path(out)
    with _claimed(folder, resume=resume):
        tried = try_strengths(
            settings, chosen, count, folder=folder, resume=resume, progress=progress
        )
        posterior = None if held_out.is_part or folder is not None else tried.posterior
        if refit and posterior is None:
            final = with_strength(model, tried.strength)
            final_options = options | {"validation": validation, "seed": seed, "progress": progress}
            posterior = _final_fit(final, train, final_options, folder, resume=resume)
    return Tuning(
        trials=tuple(tried.trials),
        strength=tried.strength,
        priors=model.priors.scaled(tried.strength),
        start=first,
        criterion=settings.by,
        num_data=settings.num_data,
        num_validation=settings.num_validation,
        posterior=posterior if refit else None,
    )


def _final_fit(
    model: BayesianModel,
    train: Data,
    options: dict[str, Any],
    folder: Path | None,
    *,
    resume: bool,
) -> Posterior:
    """Fit with the chosen strength, in the subfolder `fit` if there is a folder.

    Args:
        model: The model at the chosen strength.
        train: The training data.
        options: Other arguments of `fit`.
        folder: The folder of the trials, if any. A fit of another strength that its subfolder
            holds is replaced once the new one has ended.
        resume: Whether the folder may hold an earlier fit.
    """
    target = None if folder is None else folder / _FIT
    is_other = resume and _holds_other(target, model.priors)
    out = None if is_other else target
    posterior = fit(model, train, **options, out=out, resume=resume and not is_other)
    if is_other and target is not None:
        run_on_rank0(partial(posterior.save, target, overwrite=True))
    return posterior


def _holds_other(folder: Path | None, priors: Priors) -> bool:
    """Return whether a folder holds the fit of another strength, chosen by fewer trials."""

    def holds_other() -> bool:
        if folder is None or not folder.exists():
            return False
        return bool(RunFolder(folder).config().get("priors") != priors.to_dict())

    return run_on_rank0(holds_other)


def _listed(strengths: Sequence[float], prune: bool) -> Listed:
    """Return the search through given strengths.

    Raises:
        ValueError: No strength is given, one is given twice, or one is not a positive number.
    """
    listed = tuple(number(s, "strengths", above=0) for s in strengths)
    if not listed or len(set(listed)) < len(listed):
        raise ValueError(f"strengths={strengths!r} must be different numbers, at least one")
    return Listed(listed, prune)


def _search(search: Any, first: float, seed: int, prune: bool, resume: bool) -> Search:
    """Return the search that `search` names, or one by the user's own study.

    Raises:
        ImportError: Optuna is not installed.
        ValueError: The name is unknown, the study maximises, or `resume` is set for a study of the
            user.
    """
    if search == "bracket":
        return Bracket(first, prune)
    if search == "optuna":
        return new_study(first, seed, prune)
    if isinstance(search, str):
        raise ValueError(f"search={search!r} must be 'bracket', 'optuna', or an optuna.Study")
    return own_study(search, first, resume)


def _model(model: Any, prior: Prior | Priors | None) -> BayesianModel:
    """Return the given model, or the model of a given network and prior.

    Raises:
        ValueError: `model` is neither a model nor a network, or a prior is given for a model.
        PriorError: A network is given without a prior.
    """
    if isinstance(model, BayesianModel):
        if prior is not None:
            raise ValueError(
                "prior=: the model has its priors already; pass its network, model.net"
            )
        return model
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"model={shown(model)} must be a BayesianClassifier, a BayesianModel, or a network "
            "with prior="
        )
    if not isinstance(prior, Prior | Priors):
        raise PriorError(
            f"prior={shown(prior)} must be the prior of the network, such as "
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
