"""Figures of the study of generalisation."""

from __future__ import annotations

from benchmarks.study import pictures
from benchmarks.study.methods import GENERALISATION

CELL = "mlp-kmnist"


def test_the_forest(story, around):
    """Methods by family from the top, entrants in bold, what is far off by its number."""
    story.cell(CELL, conventional="dropout", heavy_tailed="lomax")
    for method, middle in {
        **dict.fromkeys(("ensemble", "weight_decay", "none", "spectral_norm", "dropout"), 0.8),
        "frechet": 0.3,
        "lomax": 0.81,
    }.items():
        story.tests(CELL, method, around(middle, seed=len(method)))
    figure = pictures._forest(story.outcomes())
    labels = figure.axes[0].get_yticklabels()
    shown = ["none", "spectral_norm", "dropout", "lomax", "frechet", "ensemble"]
    assert [label.get_text() for label in labels] == [GENERALISATION[m].label for m in shown]
    assert [label.get_fontweight() == "bold" for label in labels] == [
        m in ("dropout", "lomax") for m in shown
    ]
    low, high = figure.axes[0].get_xlim()
    assert -10 < low < 0 < high < 10
    assert any(text.get_text().startswith("◂ -5") for text in figure.axes[0].texts)
    pictures.pyplot().close(figure)
