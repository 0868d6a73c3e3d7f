"""A search for a strength by Optuna, an optional library: `pip install "bayes-htr[tune]"`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from bayes_htr.posterior.scores import Score
from bayes_htr.tuning.search import Trial, best_of

_REACH = 100.0
"""The largest factor between the start and a strength that Optuna proposes."""


class OptunaSearch:
    """A search by the ask-and-tell interface of Optuna.

    Args:
        study: The study, which minimises. Its sampler proposes strengths, and its pruner decides
            which trials are given up.
        low: The smallest strength.
        high: The largest strength.
        first: The first strength, if the study has no trials yet.
    """

    def __init__(self, study: Any, low: float, high: float, first: float) -> None:
        self.study, self.low, self.high = study, low, high
        if not study.trials:
            study.enqueue_trial({"strength": first})
        self._asked: Any = None

    def propose(self, trials: Sequence[Trial]) -> float | None:
        """Ask the study for a strength."""
        self._asked = self.study.ask()
        return float(self._asked.suggest_float("strength", self.low, self.high, log=True))

    def gives_up(self, trials: Sequence[Trial], epoch: int, score: Score) -> bool:
        """Report the score to the study, and ask its pruner."""
        if not math.isfinite(score.value):
            return True
        self._asked.report(score.value, epoch)
        return bool(self._asked.should_prune())

    def choose(self, trials: Sequence[Trial]) -> float:
        """Return the strength of the best trial."""
        return best_of(trials).strength

    def tell(self, trial: Trial) -> None:
        """Tell the study how the trial ended."""
        from optuna.trial import TrialState

        states = {"pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
        value = trial.score.value if trial.outcome == "finished" else None
        self.study.tell(self._asked, value, state=states.get(trial.outcome))


def new_study(first: float, seed: int, prune: bool) -> OptunaSearch:
    """Return a search by Optuna's TPE sampler, with its successive halving if trials are pruned.

    Args:
        first: The first strength.
        seed: The seed of the sampler.
        prune: Whether trials are pruned.

    Raises:
        ImportError: Optuna is not installed.
    """
    optuna = _optuna()
    halving = optuna.pruners.SuccessiveHalvingPruner()
    study = optuna.create_study(
        sampler=optuna.samplers.TPESampler(seed=seed % 2**32, n_startup_trials=4),
        pruner=halving if prune else optuna.pruners.NopPruner(),
        study_name="bayes_htr",
    )
    return OptunaSearch(study, first / _REACH, first * _REACH, first)


def own_study(study: Any, first: float, resume: bool) -> OptunaSearch:
    """Return a search by a study that the user has made.

    Args:
        study: The `optuna.Study`.
        first: The first strength, if the study has no trials yet.
        resume: Whether to go on with the trials of an earlier call.

    Raises:
        ImportError: Optuna is not installed.
        ValueError: `study` is no study of Optuna, it maximises, or it would be resumed from a file.
    """
    optuna = _optuna()
    if not isinstance(study, optuna.Study):
        raise ValueError(f"search={study!r} must be 'bracket', 'optuna', or an optuna.Study")
    if study.direction != optuna.study.StudyDirection.MINIMIZE:
        raise ValueError("search: the study maximises; make one with direction='minimize'")
    if resume:
        raise ValueError(
            "resume=True: a study of your own keeps its trials in its storage; call tune with it "
            "again and without resume"
        )
    return OptunaSearch(study, first / _REACH, first * _REACH, first)


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise ImportError('search="optuna" needs Optuna: pip install "bayes-htr[tune]"') from error
    return optuna
