"""The search for a strength: what is tried, which trials are pruned, and what is chosen.

`run_search` is the loop. A `Search` proposes strengths one by one from the trials so far; `Bracket`
is the one that needs no other library. Nothing here trains: a trial is a callable of its strength.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from bayes_htr._files import write_output
from bayes_htr.errors import CheckpointError, DivergenceError
from bayes_htr.inference.run_folder import TUNING
from bayes_htr.posterior.scores import Score

Outcome = Literal["finished", "pruned", "failed"]

STEP = math.sqrt(10)
"""The factor between neighbouring strengths of a search by steps."""
_FORMAT = 1
_MARGIN = 3.0
_NOISE = 1 / 8
"""The noise of a score, as a share of how much scores vary with the strength."""
_NLL_SHARE = 0.2
"""The weight of the NLL beside the Brier score, where a curve is drawn through both."""
_WORST = 10.0
"""The bound, in standard errors above the best score, at which scores are cut off for a curve."""


@dataclass(frozen=True)
class Trial:
    """A strength that was tried.

    Attributes:
        strength: The strength.
        outcome: `"finished"`; `"pruned"`, given up because another trial was clearly better at the
            same epoch; or `"failed"`, because weights or a spectrum stopped being finite.
        score: The score on the validation data, averaged over seeds, and its standard error: over
            seeds if there are several, otherwise over examples. For a pruned trial it is the score
            when the trial was given up; for a failed one it is infinite.
        scores: All mean scores of the posterior on the validation data by name; empty unless it
            finished.
        by_seed: The score with each seed that finished.
        curve: The score by epoch where it was measured during training, with the first seed.
        epochs: The number of epochs trained, with all seeds together.
        seconds: The elapsed time.
        message: The reason why the trial failed, in words; empty if it did not fail.
    """

    strength: float
    outcome: Outcome
    score: Score
    scores: Mapping[str, float] = field(default_factory=dict)
    by_seed: tuple[float, ...] = ()
    curve: Mapping[int, Score] = field(default_factory=dict)
    epochs: int = 0
    seconds: float = 0.0
    message: str = ""

    @property
    def order(self) -> tuple[bool, float]:
        """The key by which trials are compared: finished ones come first, then smaller scores."""
        return self.outcome != "finished", self.score.value

    def to_dict(self) -> dict[str, Any]:
        """Return the trial as plain data, where a score that is not finite is `None`."""
        plain = asdict(self)
        plain["score"] = _plain(self.score)
        plain["curve"] = {str(epoch): _plain(score) for epoch, score in self.curve.items()}
        return plain

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Trial:
        """Return the trial from which `to_dict` made these data.

        Raises:
            KeyError, TypeError, ValueError: The data are not those of a trial.
        """
        if data["outcome"] not in ("finished", "pruned", "failed"):
            raise ValueError(f"outcome={data['outcome']!r}")
        return cls(
            strength=float(data["strength"]),
            outcome=data["outcome"],
            score=_score(data["score"]),
            scores={str(name): float(value) for name, value in data["scores"].items()},
            by_seed=tuple(float(value) for value in data["by_seed"]),
            curve={int(epoch): _score(score) for epoch, score in data["curve"].items()},
            epochs=int(data["epochs"]),
            seconds=float(data["seconds"]),
            message=str(data["message"]),
        )


class Search(Protocol):
    """A way to propose strengths, to give up trials, and to choose in the end."""

    def propose(self, trials: Sequence[Trial]) -> float | None:
        """Return the next strength, or `None` if there is nothing left to try."""
        ...

    def gives_up(self, trials: Sequence[Trial], epoch: int, score: Score) -> bool:
        """Return whether a trial with this score after this epoch (from 1) need not go on."""
        ...

    def tell(self, trial: Trial) -> None:
        """Take note of a trial that has ended."""
        ...

    def choose(self, trials: Sequence[Trial]) -> float:
        """Return the strength to train with, given all trials."""
        ...


@dataclass(frozen=True)
class Listed:
    """A search that tries given strengths one after the other.

    Args:
        strengths: The strengths.
        prune: Whether trials are given up that are clearly worse than another at the same epoch.
    """

    strengths: tuple[float, ...]
    prune: bool = True

    def propose(self, trials: Sequence[Trial]) -> float | None:
        """Return the next strength of the list."""
        return self.strengths[len(trials)] if len(trials) < len(self.strengths) else None

    def gives_up(self, trials: Sequence[Trial], epoch: int, score: Score) -> bool:
        """Compare the trial with the best one so far, as in a race."""
        return self.prune and is_behind(trials, epoch, score)

    def tell(self, trial: Trial) -> None:
        """Do nothing: the list is what it is."""

    def choose(self, trials: Sequence[Trial]) -> float:
        """Return the strength of the best trial."""
        return best_of(trials).strength


@dataclass(frozen=True)
class Bracket:
    """A compass search along the logarithm of the strength (Kolda, Lewis & Torczon 2003).

    It tries the start, and steps of a factor `sqrt(10)` from the best strength so far to both
    sides. Once both neighbours of the best one have been tried, it tries half a step to the better
    side, then to the other one. A score is a noisy function of the strength, which finer steps
    would not resolve. A step goes to the stronger side first. If all trials failed, their strengths
    are taken for too large, and the next one is smaller by a factor of ten.

    Args:
        start: The first strength.
        prune: Whether trials are given up that are clearly worse than another at the same epoch.
    """

    start: float
    prune: bool = True

    def propose(self, trials: Sequence[Trial]) -> float | None:
        """Return the untried neighbour of the best strength."""
        if not trials:
            return self.start
        tried = {self._half_steps(t.strength): t for t in trials}
        best = min(tried, key=lambda place: tried[place].order)
        if tried[best].outcome == "failed":
            return self._at(min(tried) - 4)
        for half_steps in (2, 1):
            sides = [best + half_steps, best - half_steps]
            untried = [place for place in sides if place not in tried]
            if len(untried) == 2 and half_steps == 1:
                outer = {p: tried[best + 2 * (p - best)].order for p in untried}
                return self._at(min(untried, key=outer.__getitem__))
            if untried:
                return self._at(untried[0])
        return None

    def gives_up(self, trials: Sequence[Trial], epoch: int, score: Score) -> bool:
        """Compare the trial with the best one so far, as in a race."""
        return self.prune and is_behind(trials, epoch, score)

    def tell(self, trial: Trial) -> None:
        """Do nothing: the next proposal looks at all trials."""

    def choose(self, trials: Sequence[Trial]) -> float:
        """Return the minimum of a smooth curve through the scores."""
        return smoothed_minimum(trials)

    def _half_steps(self, strength: float) -> int:
        return round(2 * math.log(strength / self.start) / math.log(STEP))

    def _at(self, half_steps: int) -> float:
        return float(f"{self.start * STEP ** (half_steps / 2):.3g}") if half_steps else self.start


def best_of(trials: Sequence[Trial]) -> Trial:
    """Return the finished trial with the smallest score."""
    return min(trials, key=lambda trial: trial.order)


def smoothed_minimum(trials: Sequence[Trial]) -> float:
    """Return the strength at which a smooth curve through the scores of trials is smallest.

    A score has the noise of its validation data and of its fit, so that the smallest of several is
    often that of a lucky fit. The curve is the mean of a Gaussian process (Rasmussen & Williams
    2006, equation 2.25) over the natural logarithm of the strength, with the kernel `exp(-d^2 / 2)`
    and noise of a standard deviation of 1/8. Its minimum lies between the strengths that were
    tried. A pruned trial counts with the difference from the best trial at the epoch when it was
    given up; scores far above the best one are cut off.

    Brier scores of strengths that are too small are often as good as any, while their NLL is worse,
    since they are too sure of wrong classes. Where predictions have both, the NLL counts too: the
    curve goes through the score plus one fifth of the NLL, the latter scaled so that both are equal
    for the best trial.

    Args:
        trials: The trials, of which one finished at least. If fewer than three can be compared, the
            result is the strength of the best one.
    """
    best = best_of(trials)
    scores = {t.strength: _with_nll(t, best) for t in trials if t.outcome == "finished"}
    for trial in trials:
        epoch = max(trial.curve, default=0)
        if trial.outcome == "pruned" and epoch in best.curve:
            behind = trial.score.value - best.curve[epoch].value
            scores[trial.strength] = _with_nll(best, best) + behind
    scores = {strength: score for strength, score in scores.items() if math.isfinite(score)}
    if len(scores) < 3:
        return best.strength
    places, values = np.log(list(scores)), np.array(list(scores.values()))
    if best.score.error > 0:
        values = np.minimum(values, _with_nll(best, best) + _WORST * best.score.error)
    level = values.mean()
    matrix = _kernel(places, places) + _NOISE**2 * np.eye(len(places))
    grid = np.linspace(places.min(), places.max(), 201)
    curve = level + _kernel(grid, places) @ np.linalg.solve(matrix, values - level)
    return float(f"{math.exp(grid[curve.argmin()]):.3g}")


def _with_nll(trial: Trial, best: Trial) -> float:
    """Return the score of a finished trial plus a share of its NLL, if labels are classes.

    Args:
        trial: The trial.
        best: The best trial. For it the NLL, once scaled, equals the score.
    """
    if not {"brier", "nll"} <= best.scores.keys() or best.scores["nll"] <= 0:
        return trial.score.value
    scaled = trial.scores["nll"] * best.score.value / best.scores["nll"]
    return trial.score.value + _NLL_SHARE * scaled


def _kernel(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.exp(-((a[:, None] - b) ** 2) / 2))


def is_behind(trials: Sequence[Trial], epoch: int, score: Score) -> bool:
    """Return whether the best trial was better at an epoch by more than three standard errors.

    This is the test of a race (Maron & Moore 1994) with a single rival. The standard errors are
    those of two samples, although the examples are the same, so that it gives up late.
    """
    finished = [t for t in trials if t.outcome == "finished" and epoch in t.curve]
    if not finished:
        return False
    rival = min(finished, key=lambda t: t.order).curve[epoch]
    if not math.isfinite(score.value):
        return True
    return score.value - rival.value > _MARGIN * math.hypot(score.error, rival.error)


class Journal:
    """The trials of a search, kept in a file from trial to trial.

    Args:
        folder: The folder of the file; `None` keeps trials in memory alone.
        settings: A description of all that the trials depend on, as plain data.
        resume: Whether to go on with the trials of the file, if there is one.

    Attributes:
        trials: The trials so far.

    Raises:
        CheckpointError: The file cannot be read, or holds the trials of another search.
    """

    def __init__(
        self, folder: Path | None, settings: Mapping[str, Any], *, resume: bool = False
    ) -> None:
        self.path = None if folder is None else folder / TUNING
        self.settings = json.loads(json.dumps(settings))
        self.trials: list[Trial] = []
        if resume and self.path is not None and self.path.exists():
            self.trials = self._read(self.path)

    def add(self, trial: Trial) -> None:
        """Add a trial, and write it to the file if there is one.

        Raises:
            OutputError: The file cannot be written.
        """
        self.trials.append(trial)
        if self.path is None:
            return
        content = {
            "format": _FORMAT,
            "settings": self.settings,
            "trials": [t.to_dict() for t in self.trials],
        }
        text = json.dumps(content, indent=1, allow_nan=False)
        write_output(
            self.path, lambda file: file.write_text(text, encoding="utf-8"), make_folder=True
        )

    def _read(self, path: Path) -> list[Trial]:
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["format"] != _FORMAT:
                raise ValueError(f"format={content['format']!r}")
            found, trials = content["settings"], [Trial.from_dict(t) for t in content["trials"]]
            differing = [
                name
                for name in sorted({*found, *self.settings})
                if found.get(name) != self.settings.get(name)
            ]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"{path} does not hold the trials of htr.tune ({type(error).__name__}: {error}); "
                "start anew in another folder"
            ) from error
        if differing:
            name = differing[0]
            raise CheckpointError(
                f"{path} holds trials with {name}={found.get(name)!r}, and this call has "
                f"{name}={self.settings.get(name)!r}; give the same settings, or another folder"
            )
        return trials


def run_search(
    search: Search,
    attempt: Callable[[float, Callable[[int, Score], bool]], Trial],
    journal: Journal,
    count: int,
    *,
    on_trial: Callable[[Trial], None] = lambda trial: None,
) -> list[Trial]:
    """Try strengths until there are `count` trials, or nothing is left to try.

    Args:
        search: The search that proposes strengths. First it proposes and is told the trials of the
            journal again, so that it goes on as if it had not been interrupted.
        attempt: The function that tries a strength. It calls its second argument with an epoch and
            the score at this epoch, and gives up if the result is `True`.
        journal: The journal that keeps the trials.
        count: The largest number of trials.
        on_trial: Called with each new trial.

    Returns:
        The trials in their order.

    Raises:
        CheckpointError: The journal's trials are not those that the search proposes.
        DivergenceError: All trials failed.
    """
    kept, told = list(journal.trials[:count]), list[Trial]()
    while len(told) < count:
        strength = search.propose(told)
        if strength is None:
            break
        if len(told) < len(kept):
            trial = kept[len(told)]
            if not math.isclose(trial.strength, strength, rel_tol=1e-9):
                raise CheckpointError(
                    f"trial {len(told) + 1} in {journal.path} has the strength {trial.strength:g}, "
                    f"and this search would try {strength:g}; start anew in another folder"
                )
            for epoch, score in trial.curve.items():
                search.gives_up(told, epoch, score)
        else:
            earlier = list(told)

            def gives_up(epoch: int, score: Score, earlier: list[Trial] = earlier) -> bool:
                return search.gives_up(earlier, epoch, score)

            trial = attempt(strength, gives_up)
            journal.add(trial)
            on_trial(trial)
        search.tell(trial)
        told.append(trial)
    if all(trial.outcome != "finished" for trial in told):
        tried = "; ".join(f"{t.strength:g}: {t.message or t.outcome}" for t in told)
        raise DivergenceError(
            f"no strength gave a finite network ({tried}). Lower the learning rate, or name a "
            "smaller start="
        )
    return told


def merged(fits: Sequence[Trial]) -> Trial:
    """Return one trial for the fits of one strength with several seeds.

    A seed that failed or was pruned decides the outcome of the whole.
    """
    first, last = fits[0], fits[-1]
    values = tuple(fit.score.value for fit in fits if fit.outcome == "finished")
    whole = replace(
        last,
        curve=first.curve,
        by_seed=values,
        epochs=sum(fit.epochs for fit in fits),
        seconds=sum(fit.seconds for fit in fits),
    )
    if last.outcome != "finished":
        return whole
    score = first.score
    if len(values) > 1:
        score = Score(fmean(values), stdev(values) / math.sqrt(len(values)))
    means = {name: fmean(fit.scores[name] for fit in fits) for name in first.scores}
    return replace(whole, score=score, scores=means)


def failed(strength: float, error: Exception, **rest: Any) -> Trial:
    """Return the trial that an error ended."""
    return Trial(strength, "failed", Score(math.inf, math.nan), message=str(error), **rest)


def _plain(score: Score) -> list[float | None]:
    return [v if math.isfinite(v) else None for v in (score.value, score.error)]


def _score(data: Any) -> Score:
    value, error = data
    return Score(
        math.inf if value is None else float(value), math.nan if error is None else float(error)
    )
