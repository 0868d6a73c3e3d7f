"""The picture of `python -m benchmarks guides`: the time of a step over that of plain training.

Needs matplotlib: `pip install "bayes-htr[plot]"`.
"""

from __future__ import annotations

from pathlib import Path

from bayes_htr._plotting import pyplot
from benchmarks.common.pictures import save
from benchmarks.common.results import Results
from benchmarks.cost.guide_runs import PLAIN, TIMED
from benchmarks.cost.guides import CELL


def draw_guides(results: Results) -> list[Path]:
    """Write `guides.png`: medians of the ratios, with their ranges over rounds.

    Raises:
        ImportError: matplotlib is not installed.
    """
    times = results.result(CELL, "time") or {}
    names = [name for name in TIMED if name in times and name != PLAIN][::-1]
    if not names:
        return []
    plt = pyplot()
    figure, ax = plt.subplots(figsize=(7.5, 0.9 + 0.36 * len(names)), layout="constrained")
    for place, name in enumerate(names):
        ratio = times[name]["to_plain"]
        color = "#c8401e" if name.startswith("pyro") else "#1f5fa8"
        ax.barh(place, ratio["median"], height=0.6, color=color)
        ax.plot([ratio["min"], ratio["max"]], [place, place], color="#222222", lw=1)
        ax.annotate(
            f"{ratio['median']:.1f}",
            (ratio["max"], place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    ax.set_yticks(range(len(names)), [TIMED[name].label for name in names], fontsize=8)
    ax.axvline(1, color="#999999", lw=1)
    ax.set_xlabel("time of a step / plain training by SGD (line: range over rounds)", fontsize=8)
    ax.tick_params(axis="x", labelsize=8)
    ax.margins(x=0.08)
    ax.grid(axis="x", color="#e6e6e6")
    ax.set_axisbelow(True)
    return [save(figure, results.folder / "guides.png")]
