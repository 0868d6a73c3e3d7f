"""Figures of the studies.

They need matplotlib: `pip install "bayes-htr[plot]"`. Families of methods differ by their colours,
and by their markers for readers who cannot tell the colours apart.
"""

from __future__ import annotations

import textwrap
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from bayes_htr._plotting import (
    AMBER,
    BLUE,
    GREY,
    INK,
    PURPLE,
    RED,
    SKY,
    TEAL,
    WIDEST,
    legend,
    new_panels,
    pyplot,
    styled,
    tick,
)
from benchmarks.common.pictures import (
    METHOD_LINES,
    METHOD_MARKS,
    grid,
    log_axis,
    method_legend,
    save,
)
from benchmarks.study import mixture_tables, posterior_tables
from benchmarks.study.generalisation_tables import (
    FORMS,
    STRENGTHS,
    Points,
    alpha_and_accuracy,
    by_strength,
)
from benchmarks.study.outcomes import Outcomes

COLOURS = {
    "reference": INK,
    "conventional": RED,
    "heavy-tailed": BLUE,
    "control": TEAL,
}
MARKS = {"reference": "X", "conventional": "s", "heavy-tailed": "o", "control": "^"}
_LINES = (INK, RED, AMBER, BLUE, SKY, PURPLE)
_STYLES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)))
_CURVES: dict[str, tuple[str, str]] = {
    **{method: METHOD_LINES[method] for method in ("none", "weight_decay", "spectral_norm")},
    "conventional": (PURPLE, "-"),
    "heavy-tailed": (BLUE, "-"),
}
"""Of methods by name, and of the entrant of each family."""
_BASE = "weight_decay"
_HIGHEST_ALPHA = 8.0
"""The largest alpha of a figure. Larger ones are those of matrices with ties or without a tail."""
_TALLEST = 9.0
"""The largest height of a forest plot in inches."""


@styled
def draw_generalisation(outcomes: Outcomes, folder: Path) -> list[Path]:
    """Write `forest`, `alpha`, `curves` and `strength` as PNG, each if there is what it shows.

    Raises:
        ImportError: matplotlib is not installed.
    """
    drawn = {
        "forest": _forest(outcomes),
        "alpha": _alphas(outcomes),
        "curves": _curves(outcomes),
        "strength": _strengths(outcomes),
    }
    return [save(figure, folder / f"{name}.png") for name, figure in drawn.items() if figure]


def _panels(count: int, height: float) -> tuple[Any, list[Any]]:
    """Return a figure with so many axes, at most two beside each other."""
    columns = min(2, count)
    rows = -(-count // columns)
    figure, axes = new_panels(rows, columns, WIDEST * columns / 2, height * rows + 0.5)
    for ax in axes[count:]:
        ax.remove()
    for ax in axes[:count]:
        grid(ax)
    return figure, axes[:count]


def _forest(outcomes: Outcomes) -> Any:
    """Test accuracy minus that of weight decay for every method, with 95 % intervals."""
    cells = {c: found for c in outcomes.cells if (found := _minus_base(outcomes, c))}
    if not cells:
        return None
    methods = [m for m in outcomes.study.methods if any(m in found for found in cells.values())]
    height = min(_TALLEST, 1.4 + 0.23 * len(methods))
    figure, axes = new_panels(1, len(cells), WIDEST, height, sharey=True)
    for ax, (cell, found) in zip(axes, cells.items(), strict=True):
        _draw_forest(ax, outcomes, cell, [(methods.index(m), m, d) for m, d in found.items()])
    axes[0].set_yticks(range(len(methods)), [outcomes.label(m) for m in methods])
    for name, method in zip(axes[0].get_yticklabels(), methods, strict=True):
        name.set_color(COLOURS[outcomes.study.methods[method].family])
        if any(method in outcomes.entrants(cell).values() for cell in cells):
            name.set_fontweight("bold")
    axes[0].set_ylim(len(methods) - 0.4, -0.6)
    figure.supxlabel(
        f"test accuracy minus that of {outcomes.label(_BASE)} in percentage points, "
        "with 95 % intervals over seeds"
    )
    _legend(figure, cells, outcomes, {"marker": "o", "ms": 10, "mfc": "none", "label": "entrant"})
    return figure


def _draw_forest(ax: Any, outcomes: Outcomes, cell: str, rows: list[tuple[int, str, Any]]) -> None:
    """Draw the differences of one cell: the place, the method and the difference of each row."""
    entrants = outcomes.entrants(cell).values()
    ax.axvline(0, color=GREY, lw=1)
    for place, method, d in rows:
        family = outcomes.study.methods[method].family
        colour = COLOURS[family]
        ax.plot([100 * d.low, 100 * d.high], [place, place], color=colour)
        ax.plot([100 * d.mean], [place], MARKS[family], color=colour, ms=5)
        if method in entrants:
            ax.plot([100 * d.mean], [place], "o", color=colour, ms=11, mfc="none", mew=1.3)
    _show_most(ax, {place: d for place, _, d in rows})
    pairs = max(d.pairs for _, _, d in rows)
    ax.set_title("\n".join([*cell.split("-", 1), f"{pairs} seeds"]), fontsize=9)
    ax.locator_params(axis="x", nbins=4)
    grid(ax)


def _minus_base(outcomes: Outcomes, cell: str) -> dict[str, Any]:
    found = {m: outcomes.compared(cell, m, _BASE, "accuracy") for m in outcomes.methods(cell)}
    return {m: d for m, d in found.items() if d is not None and m != _BASE}


def _show_most(ax: Any, found: dict[int, Any]) -> None:
    """Let one method that is far off, or very uncertain, not squeeze all others together.

    The axis ends three times as far as three quarters of the intervals, and at least at 1 point.
    """
    reach = np.array([100 * max(abs(d.low), abs(d.high)) for d in found.values()])
    limit = max(1.0, 3 * float(np.quantile(reach, 0.75)))
    low = max(-limit, min([*(100 * d.low for d in found.values()), 0.0]))
    high = min(limit, max([*(100 * d.high for d in found.values()), 0.0]))
    margin = 0.05 * (high - low) or 1.0
    ax.set_xlim(low - margin, high + margin)
    for place, d in found.items():
        if not low - margin <= 100 * d.mean <= high + margin:
            left = d.mean < 0
            text = f"◂ {100 * d.mean:+.1f}" if left else f"{100 * d.mean:+.1f} ▸"
            ax.annotate(
                text,
                (0.005 if left else 0.995, place),
                xycoords=("axes fraction", "data"),
                ha="left" if left else "right",
                va="center",
                fontsize=8,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
            )


def _alphas(outcomes: Outcomes) -> Any:
    """Mean alpha of the matrices against test accuracy, a point for each run."""
    cells = {
        cell: points
        for cell in outcomes.cells
        if (points := {m: p for m, p in alpha_and_accuracy(outcomes, cell).items() if p})
    }
    if not cells:
        return None
    figure, axes = _panels(len(cells), 3.1)
    for ax, (cell, points) in zip(axes, cells.items(), strict=True):
        ax.set_xscale("log")
        _scatter(ax, outcomes, points)
        ax.set_title(cell, pad=16)  # leaves room for what is not shown
        tick(ax.xaxis)
        ax.set_xlabel("alpha, mean over matrices")
        ax.set_ylabel("test accuracy, %")
    _legend(figure, cells, outcomes, {"marker": "", "label": "small: runs, large: their means"})
    return figure


def _scatter(ax: Any, outcomes: Outcomes, points: dict[str, Points]) -> None:
    bottom = _bottom([100 * y for own in points.values() for _, y in own])
    worse = larger = 0
    for method, own in points.items():
        x, y = np.array(own).T * [[1], [100]]
        seen = (y >= bottom) & (x <= _HIGHEST_ALPHA)
        worse += int((y < bottom).sum())
        larger += int(((y >= bottom) & (x > _HIGHEST_ALPHA)).sum())
        family = outcomes.study.methods[method].family
        shown = {"marker": MARKS[family], "color": COLOURS[family], "ls": ""}
        ax.plot(x[seen], y[seen], alpha=0.3, ms=3, mew=0, **shown)
        if y.mean() >= bottom and x.mean() <= _HIGHEST_ALPHA:
            ax.plot(x.mean(), y.mean(), ms=8, mec="white", mew=0.8, zorder=3, **shown)
    lost = {f"below {bottom:.0f} %": worse, f"with alpha above {_HIGHEST_ALPHA:g}": larger}
    words = [f"{n} run{'s' if n > 1 else ''} {where}" for where, n in lost.items() if n]
    if words:
        text = "not shown: " + ", ".join(words)
        ax.annotate(text, (1, 1), xycoords="axes fraction", ha="right", va="bottom", fontsize=9)


def _bottom(values: list[float]) -> float:
    """Where to cut off what is much worse than the rest."""
    low, middle = np.quantile(values, (0.1, 0.5))
    return float(middle - 4 * (middle - low) - 1)


def _curves(outcomes: Outcomes) -> Any:
    """NLL of validation images after each epoch, mean over seeds, of a few methods."""
    cells = {c: found for c in outcomes.cells if (found := _mean_curves(outcomes, c))}
    if not cells:
        return None
    figure, axes = _panels(len(cells), 4.0)
    for ax, (cell, found) in zip(axes, cells.items(), strict=True):
        entrants = outcomes.entrants(cell).values()
        for method, nll in found.items():
            label = outcomes.label(method) + (" (entrant)" if method in entrants else "")
            colour, style = _CURVES.get(method) or _CURVES[outcomes.study.methods[method].family]
            ax.plot(range(1, len(nll) + 1), nll, color=colour, ls=style, lw=1.8, label=label)
        _fine_log_axis(ax)
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.set_title(cell)
        ax.set_xlabel("epoch")
        ax.set_ylabel("NLL of validation images")
        legend(ax)
    return figure


def _mean_curves(outcomes: Outcomes, cell: str) -> dict[str, list[float]]:
    means = {}
    for method in outcomes.shown(cell):
        curves = [r["curve"] for r in outcomes.results(cell, method).values()]
        values = [[row["val_nll"] for row in epoch] for epoch in zip(*curves, strict=True)]
        # A mean of what is left of seeds would be another curve.
        if curves:
            means[method] = [
                float("nan") if any(v is None for v in epoch) else fmean(epoch) for epoch in values
            ]
    return means


def _strengths(outcomes: Outcomes) -> Any:
    """Accuracy of validation images by strength, of penalties and their variants."""
    found = {
        (cell, name): forms
        for cell in outcomes.cells_with_base
        for name in STRENGTHS
        if (forms := by_strength(outcomes, cell, name))
    }
    if not found:
        return None
    labels = sorted({label for forms in found.values() for label in forms}, key=_place_of_form)
    figure, axes = _panels(len(found), 2.6)
    for ax, ((cell, name), forms) in zip(axes, found.items(), strict=True):
        plain = outcomes.validated(cell, "none", "accuracy", {})
        if plain is not None:
            ax.axhline(100 * plain, color=GREY, lw=1.2, label="without penalty")
        for label, points in forms.items():
            place = labels.index(label) % len(_LINES)
            x, y = zip(*sorted(points.items()), strict=True)
            style = {"color": _LINES[place], "marker": "osD^v*"[place], "ls": _STYLES[place]}
            ax.plot(x, 100 * np.array(y), lw=1.6, ms=5, label=label, **style)
        accuracies = [plain or 0.0, *(y for points in forms.values() for y in points.values())]
        # What collapses leaves the picture: the rest would be one line.
        ax.set_ylim(bottom=max(ax.get_ylim()[0], 100 * max(accuracies) - 12))
        ax.set_xscale("log")
        ax.set_xticks(STRENGTHS[name], [f"{mu:g}" for mu in STRENGTHS[name]])
        ax.minorticks_off()
        ax.set_title(f"{cell}: {outcomes.label(name)}")
        ax.set_xlabel("strength mu")
        ax.set_ylabel("validation accuracy, %")
    handles = {
        label: handle
        for ax in axes
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        *(handles.values(), handles.keys()),
        loc="outside upper center",
        ncols=3,
    )
    return figure


def _place_of_form(label: str) -> tuple[int, str]:
    """Return the plain penalty first, and thresholds in their order last."""
    return list(FORMS.values()).index(label.partition(",")[0]), label


def _fine_log_axis(ax: Any) -> None:
    from matplotlib.ticker import LogLocator

    log_axis(ax)
    low, high = ax.get_ylim()
    if high <= 5 * low:
        ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0)))


def _legend(figure: Any, cells: Any, outcomes: Outcomes, more: dict[str, Any]) -> None:
    """Families that are there, beside what a further mark stands for."""
    there = {outcomes.study.methods[m].family for c in cells for m in outcomes.methods(c)}
    line = pyplot().Line2D
    handles = [
        line([], [], color=colour, marker=MARKS[family], ls="", label=family)
        for family, colour in COLOURS.items()
        if family in there
    ]
    handles.append(line([], [], color=INK, ls="", **more))
    columns = len(handles) if figure.get_figwidth() == WIDEST else 1
    figure.legend(handles=handles, loc="outside upper center", ncols=columns)


_MIXTURE_SCORES = {"brier": "Brier score", "nll": "NLL", "accuracy": "error rate"}


@styled
def draw_mixtures(outcomes: Outcomes, folder: Path) -> list[Path]:
    """Write `mixtures.png`: scores of one, two, ... members against their processor time.

    There is a row for each cell and a panel for each score; lower is better in all of them.

    Raises:
        ImportError: matplotlib is not installed.
    """
    cells = outcomes.cells
    if not cells:
        return []
    columns = len(_MIXTURE_SCORES)
    figure, axes = new_panels(len(cells), columns, WIDEST, 2.1 * len(cells) + 0.6)
    for number, ax in enumerate(axes):
        cell, score = cells[number // columns], list(_MIXTURE_SCORES)[number % columns]
        for method in outcomes.methods(cell):
            colour, style = METHOD_LINES[method]
            shown = mixture_tables.mixtures(outcomes, cell, method)
            means = [fmean(mixture.scores(score).values()) for mixture in shown]
            values = [1 - value for value in means] if score == "accuracy" else means
            seconds = [mixture.seconds for mixture in shown]
            mark = METHOD_MARKS.get(method, "o")
            ax.plot(seconds, values, color=colour, ls=style, marker=mark, ms=3)
        ax.set_xlim(left=0)
        grid(ax)
        if number % columns == 0:
            ax.set_ylabel(cell)
        if number < columns:
            ax.set_title(_MIXTURE_SCORES[score])
        if number >= len(axes) - columns:
            ax.set_xlabel("processor time of training (s)")
    methods = list(dict.fromkeys(m for cell in cells for m in outcomes.methods(cell)))
    method_legend(figure, {method: outcomes.label(method) for method in methods})
    return [save(figure, folder / "mixtures.png")]


_POSTERIOR_SCORES = {"nll": "NLL", "ece": "ECE", "brier": "Brier score"}
_KINDS = {"test": (BLUE, "o", 0.14), "scaled": (RED, "s", -0.14)}
"""Colour, marker and shift of scores before and after temperature scaling."""


@styled
def draw_posterior(outcomes: Outcomes, folder: Path) -> list[Path]:
    """Write `posterior.png`: relative differences to the tuned MAP fit that validation prefers.

    There is a row for each cell and a panel for each score.

    Raises:
        ImportError: matplotlib is not installed.
    """
    cells = {c: base for c in outcomes.cells if (base := posterior_tables.baseline_of(outcomes, c))}
    cells = {c: base for c, base in cells.items() if len(outcomes.methods(c)) > 1}
    if not cells:
        return []
    plt = pyplot()
    height = 1.2 + 0.34 * max(len(outcomes.methods(cell)) for cell in cells)
    columns = len(_POSTERIOR_SCORES)
    figure, axes = new_panels(len(cells), columns, WIDEST, height * len(cells), sharey="row")
    rows = [axes[i : i + columns] for i in range(0, len(axes), columns)]
    for row, (cell, baseline) in zip(rows, cells.items(), strict=True):
        for ax, score in zip(row, _POSTERIOR_SCORES, strict=True):
            _draw_differences(ax, outcomes, cell, baseline, score)
        row[0].set_ylabel(cell)
    handles = [
        plt.Line2D([], [], color=color, marker=marker, ls="", label=posterior_tables.KINDS[kind])
        for kind, (color, marker, _) in _KINDS.items()
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(_KINDS))
    return [save(figure, folder / "posterior.png")]


def _draw_differences(ax: Any, outcomes: Outcomes, cell: str, baseline: str, score: str) -> None:
    """Differences of one score in per cent, the mean and its 95 % interval over seeds."""
    methods = [m for m in outcomes.methods(cell) if m != baseline][::-1]
    for kind, (color, marker, shift) in _KINDS.items():
        for place, method in enumerate(methods):
            d = posterior_tables.difference_to(outcomes, cell, method, baseline, kind, score)
            if d is not None:
                ax.plot([100 * d.low, 100 * d.high], [place + shift] * 2, color=color, lw=1.2)
                ax.plot([100 * d.mean], [place + shift], marker, color=color, ms=4.5)
    ax.axvline(0, color=GREY, lw=1)
    ax.set_yticks(range(len(methods)), [textwrap.fill(outcomes.label(m), 30) for m in methods])
    ax.set_xlabel(f"{_POSTERIOR_SCORES[score]} against\n{outcomes.label(baseline)}, %")
    grid(ax, "x")
