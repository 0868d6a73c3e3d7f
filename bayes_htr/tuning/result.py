"""What `htr.tune` returns: the trials, the chosen strength and the final fit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from os import PathLike
from typing import TYPE_CHECKING

from rich.table import Table

from bayes_htr._plotting import BLUE, GREY, RED, legend, new_axes, save, styled, tick
from bayes_htr._printing import Printable, add_row, compact_table
from bayes_htr.posterior import Posterior
from bayes_htr.posterior.scores import Score
from bayes_htr.priors import Priors
from bayes_htr.tuning.search import Trial, best_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_NAMES = {"brier": "Brier score", "nll": "NLL (nats)", "crps": "CRPS"}
_COLUMNS = ("brier", "nll", "crps", "accuracy", "rmse")


@dataclass(frozen=True, repr=False)
class Tuning(Printable):
    """The result of `htr.tune`: the trials, the strength that it chose, and the final fit.

    Attributes:
        trials: All trials in their order.
        strength: The chosen strength. The search by steps takes the minimum of a smooth curve
            through all scores, and other searches that of the best trial.
        priors: The priors, with that strength.
        start: The first strength.
        criterion: The score by which trials were compared, `"brier"` or `"nll"`.
        num_data: The number of examples that trials trained on.
        num_validation: The number of examples that they were scored on.
        posterior: The fit with the chosen strength; `None` with `refit=False`.
    """

    trials: tuple[Trial, ...]
    strength: float
    priors: Priors
    start: float
    criterion: str
    num_data: int
    num_validation: int
    posterior: Posterior | None = field(default=None, repr=False, compare=False)

    @property
    def best(self) -> Trial:
        """The finished trial with the smallest score."""
        return best_of(self.trials)

    def __repr__(self) -> str:
        best = self.best.score
        score = f"best {self.criterion}={best.value:.4f} +- {best.error:.4f}"
        return f"Tuning(strength={self.strength:g}, {score}, {len(self.trials)} trials)"

    def parts(self, width: int) -> Sequence[Table | str]:
        """Return the trials by strength, and what there is to say about them."""
        known = [name for name in _COLUMNS if name in self.best.scores]
        others = [name for name in known if name != self.criterion][:2]
        table = compact_table("strength", "mu", self.criterion, "s.e.", *others)
        for heading in ("epochs", "seconds", "outcome"):
            table.add_column(heading)
        for column in table.columns[:-1]:
            column.justify = "right"
        for trial in sorted(self.trials, key=lambda t: t.strength):
            scores = trial.scores
            cells = [
                f"{trial.strength:.3g}",
                f"{trial.strength / self.num_data:.2g}",
                *_cells(trial.score),
                *(f"{scores[name]:.4f}" if name in scores else "" for name in others),
                str(trial.epochs),
                f"{trial.seconds:.1f}",
                "best" if trial == self.best else trial.outcome,
            ]
            add_row(table, cells)
        return [table, *self._notes()]

    def _notes(self) -> list[str]:
        by_seeds = len(self.best.by_seed) > 1
        over = f"{len(self.best.by_seed)} seeds" if by_seeds else "validation examples"
        notes = [
            f"{self.num_data} training and {self.num_validation} validation examples; s.e. over "
            f"{over}; mu is the strength divided by the number of training examples"
        ]
        best = self.best.strength
        notes.insert(0, f"chosen strength: {self.strength:.3g}")
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

    @styled
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
        axes.axvline(self.strength, color=RED, label="chosen")
        axes.set_xscale("log")
        tick(axes.xaxis)
        axes.set_xlabel("strength")
        axes.set_ylabel(f"validation {_NAMES[self.criterion]}")
        legend(axes, columns=2)
        save(axes, path)
        return axes


def _cells(score: Score) -> tuple[str, str]:
    shown = [f"{v:.4f}" if math.isfinite(v) else "-" for v in (score.value, score.error)]
    return shown[0], shown[1]
