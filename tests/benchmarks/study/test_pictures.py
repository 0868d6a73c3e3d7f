"""Figures of the study of generalisation."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace

from bayes_htr._plotting import WIDEST
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


def test_the_forest_of_many_cells_fits_a_page(story, around):
    """All cells stand beside each other, no label is clipped, and the height is limited."""
    cells = ["mlp-kmnist", "mlp-fashion", "lenet5-cifar10", "lenet5-kmnist"]
    methods = ("weight_decay", "none", "frechet_hill_scale", "svi_normal")
    for cell in cells:
        story.cell(cell)
        for method in methods:
            story.tests(cell, method, around(0.8, seed=len(method)))
    figure = pictures.styled(pictures._forest)(story.outcomes())
    assert len(figure.axes) == len(cells)
    width, height = figure.get_size_inches()
    assert width <= WIDEST and height <= 9
    figure.canvas.draw()
    for label in figure.axes[0].get_yticklabels():
        assert label.get_window_extent().x0 >= 0
    for ax in figure.axes:
        assert ax.get_window_extent().width > 0.1 * figure.bbox.width
    boxes = [ax.title.get_window_extent() for ax in figure.axes]
    assert not any(a.overlaps(b) for a, b in pairwise(boxes))
    pictures.pyplot().close(figure)


def test_alphas_of_ties_do_not_squeeze_the_others():
    """The axis of alpha ends where exponents end to mean something; what is left out is counted."""
    ax = pictures.new_panels(1, 1, 4.0, 3.0)[1][0]
    ax.set_xscale("log")
    points = {"none": [(2.0, 0.9), (2.5, 0.91)], "dropout": [(120.0, 0.9), (2.2, 0.92)]}

    outcomes = SimpleNamespace(study=SimpleNamespace(methods=GENERALISATION))
    pictures._scatter(ax, outcomes, points)
    assert max(x for line in ax.lines for x in line.get_xdata()) < pictures._HIGHEST_ALPHA
    assert [text.get_text() for text in ax.texts] == ["not shown: 1 run with alpha above 8"]
    pictures.pyplot().close("all")
