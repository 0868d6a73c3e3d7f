"""Figures of a study of generalisation.

They need matplotlib: `pip install "bayes-htr[plot]"`.
"""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from bayes_htr.benchmarks.generalisation.claims import alpha_and_accuracy
from bayes_htr.benchmarks.generalisation.methods import METHODS
from bayes_htr.benchmarks.generalisation.outcomes import OPPONENTS, Outcomes
from bayes_htr.benchmarks.pictures import save
from bayes_htr.drawing import pyplot

COLOURS = {
    "reference": "#444444",
    "conventional": "#c8401e",
    "heavy-tailed": "#1f5fa8",
    "control": "#7a8a2e",
}


def draw_study(outcomes: Outcomes, folder: Path) -> list[Path]:
    """Write `forest.png`, `alpha.png` and `curves.png`, of the cells that have what they show.

    Raises:
        ImportError: matplotlib is not installed.
    """
    cells = [c for c in outcomes.cells if len(outcomes.results(c, "none")) > 1]
    if not cells:
        return []
    return [
        save(_forest(outcomes, cells), folder / "forest.png"),
        save(_alphas(outcomes, cells), folder / "alpha.png"),
        save(_curves(outcomes, cells), folder / "curves.png"),
    ]


def _panels(count: int, height: float, **options: Any) -> tuple[Any, list[Any]]:
    columns = min(2, count)
    rows = -(-count // columns)
    figure, axes = pyplot().subplots(
        rows, columns, figsize=(5.8 * columns, height * rows), squeeze=False, **options
    )
    axes = list(axes.flat)
    for ax in axes[count:]:
        ax.remove()
    for ax in axes[:count]:
        ax.tick_params(labelsize=8)
        ax.grid(color="#e6e6e6")
        ax.set_axisbelow(True)
    return figure, axes[:count]


def _forest(outcomes: Outcomes, cells: list[str]) -> Any:
    """Test accuracy less that of weight decay for every method, with 95 % intervals."""
    most = max(len(outcomes.methods(c)) for c in cells)
    figure, axes = _panels(len(cells), 0.9 + 0.22 * most, layout="constrained")
    for ax, cell in zip(axes, cells, strict=True):
        base = "weight_decay"
        methods = [m for m in outcomes.methods(cell) if m != base][::-1]
        entrants = outcomes.entrants(cell).values()
        for place, method in enumerate(methods):
            d = outcomes.compared(cell, method, base, "accuracy")
            if d is None:
                continue
            colour = COLOURS[METHODS[method].family]
            ax.plot([100 * d.low, 100 * d.high], [place, place], color=colour, lw=1.4)
            mark = "D" if method in entrants else "o"
            ax.plot([100 * d.mean], [place], mark, color=colour, ms=6 if mark == "D" else 4)
        ax.axvline(0, color="#999999", lw=1)
        ax.set_yticks(range(len(methods)), [METHODS[m].label for m in methods], fontsize=7)
        ax.set_title(cell, fontsize=9)
        ax.set_xlabel("test accuracy less weight decay's, points", fontsize=8)
    _legend(figure, ("D", "entrant"))
    return figure


def _alphas(outcomes: Outcomes, cells: list[str]) -> Any:
    """Mean alpha of the matrices against test accuracy, a point for each run."""
    figure, axes = _panels(len(cells), 3.6, layout="constrained")
    for ax, cell in zip(axes, cells, strict=True):
        for method, points in alpha_and_accuracy(outcomes, cell).items():
            if points:
                x, y = np.array(points).T
                colour = COLOURS[METHODS[method].family]
                ax.plot(x, 100 * y, ".", color=colour, alpha=0.35, ms=4)
                ax.plot(x.mean(), 100 * y.mean(), "o", color=colour, ms=5, mec="white", mew=0.6)
        ax.set_title(cell, fontsize=9)
        ax.set_xlabel("alpha, mean over matrices (lower: heavier tail)", fontsize=8)
        ax.set_ylabel("test accuracy, %", fontsize=8)
    _legend(figure, ("o", "mean of a method (dots: runs)"))
    return figure


def _curves(outcomes: Outcomes, cells: list[str]) -> Any:
    """NLL of validation images after each epoch, mean over seeds, of a few methods."""
    figure, axes = _panels(len(cells), 3.4, layout="constrained")
    for ax, cell in zip(axes, cells, strict=True):
        shown = dict.fromkeys(["none", *OPPONENTS[1:], *outcomes.entrants(cell).values()])
        styles = iter(("-", "--", ":", "-.", (0, (1, 3))))
        for method in shown:
            curves = [r["curve"] for r in outcomes.results(cell, method).values()]
            if not curves:
                continue
            nll = [fmean(row["val_nll"] for row in epoch) for epoch in zip(*curves, strict=True)]
            colour = COLOURS[METHODS[method].family]
            label = METHODS[method].label
            ax.plot(range(1, len(nll) + 1), nll, color=colour, ls=next(styles), label=label)
        ax.set_yscale("log")
        ax.set_title(cell, fontsize=9)
        ax.set_xlabel("epoch", fontsize=8)
        ax.set_ylabel("NLL of validation images", fontsize=8)
        ax.legend(fontsize=7, frameon=False)
    return figure


def _legend(figure: Any, mark: tuple[str, str]) -> None:
    line = pyplot().Line2D
    handles = [line([], [], color=c, marker="o", ls="", label=f) for f, c in COLOURS.items()]
    handles.append(line([], [], color="#444444", marker=mark[0], ls="", label=mark[1], mfc="none"))
    figure.legend(
        handles=handles, loc="outside upper center", ncols=len(handles), frameon=False, fontsize=8
    )
