"""The picture of `python -m benchmarks posterior`: relative differences to the tuned MAP.

Needs matplotlib: `pip install "bayes-htr[plot]"`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bayes_htr._plotting import pyplot
from benchmarks.common.pictures import save
from benchmarks.common.results import Results
from benchmarks.study.posterior.methods import METHODS
from benchmarks.study.posterior.tables import (
    KINDS,
    baseline_of,
    data_sets,
    methods_of,
    relative_difference,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SCORES = {"nll": "NLL", "ece": "ECE", "brier": "Brier score"}
_STYLES = {"plain": ("#1f5fa8", "o", 0.14), "scaled": ("#c8401e", "s", -0.14)}


def draw_posterior(results: Results) -> list[Path]:
    """Write `posterior.png`: a row for each data set, a panel for each score.

    Raises:
        ImportError: matplotlib is not installed.
    """
    shown = [d for d in data_sets(results) if len(methods_of(results, d)) > 1]
    shown = [d for d in shown if baseline_of(results, d) is not None]
    if not shown:
        return []
    plt = pyplot()
    height = 1.2 + 0.3 * max(len(methods_of(results, d)) for d in shown)
    figure, axes = plt.subplots(
        len(shown),
        len(SCORES),
        figsize=(11.5, height * len(shown)),
        squeeze=False,
        sharey="row",
        layout="constrained",
    )
    for row, data in zip(axes, shown, strict=True):
        for ax, score in zip(row, SCORES, strict=True):
            _draw(ax, results, data, score)
        row[0].set_ylabel(data)
    handles = [
        plt.Line2D([], [], color=color, marker=marker, ls="", label=KINDS[kind])
        for kind, (color, marker, _) in _STYLES.items()
    ]
    figure.legend(
        handles=handles, loc="outside upper center", ncols=len(KINDS), frameon=False, fontsize=9
    )
    return [save(figure, results.folder / "posterior.png")]


def _draw(ax: Axes, results: Results, data: str, score: str) -> None:
    """Differences of one score in per cent, the mean and its 95 % interval over seeds."""
    baseline = baseline_of(results, data)
    assert baseline is not None
    methods = [m for m in methods_of(results, data) if m != baseline][::-1]
    for kind, (color, marker, shift) in _STYLES.items():
        for place, method in enumerate(methods):
            d = relative_difference(results, data, method, baseline, kind, score)
            if d["mean"] is None:
                continue
            low, high = (d["mean"] if d[end] is None else d[end] for end in ("low", "high"))
            assert low is not None and high is not None
            ax.plot([100 * low, 100 * high], [place + shift] * 2, color=color, lw=1.2)
            ax.plot([100 * d["mean"]], [place + shift], marker, color=color, ms=4.5)
    ax.axvline(0, color="#999999", lw=1)
    ax.set_yticks(range(len(methods)), [METHODS[m].label for m in methods], fontsize=8)
    ax.set_xlabel(f"{SCORES[score]} against {METHODS[baseline].label}, %", fontsize=8)
    ax.tick_params(axis="x", labelsize=8)
    ax.grid(axis="x", color="#e6e6e6")
    ax.set_axisbelow(True)
