from __future__ import annotations

import matplotlib.pyplot as plt
import pytest

import bayes_htr as htr
from bayes_htr.posterior.training_plots import plot_history


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def labels(ax):
    return [text.get_text().replace("\n", " ") for text in ax.legend_.texts]


def test_dashes_are_explained_only_where_there_are_some():
    row = {"epoch": 1.0, "train_nll": 1.0, "train_accuracy": 0.5}
    plain = {"a": [row, row | {"epoch": 2.0, "train_nll": 0.5}]}
    validated = {"b": [row | {"val_nll": 1.0, "val_accuracy": 0.5} for row in plain["a"]]}
    for history, dashed in ((plain, False), (plain | validated, True)):
        figure = plot_history(history)
        lines = figure.axes[0].lines
        assert any(line.get_linestyle() == "--" for line in lines) is dashed
        (words,) = figure.legends
        assert ("dashed" in words.get_title().get_text()) is dashed
        assert [text.get_text() for text in words.get_texts()] == list(history)
        figure.canvas.draw()
        box = words.get_window_extent()
        assert not any(box.overlaps(ax.get_window_extent()) for ax in figure.axes)


def test_trace(posterior, tmp_path):
    ax = posterior.plot_trace(["train_nll", "loss"], path=tmp_path / "a.png")
    assert labels(ax) == ["train_nll", "loss"]
    assert list(ax.lines[0].get_ydata()) == [row["train_nll"] for row in posterior.history]
    assert list(ax.lines[0].get_xdata()) == [1, 2, 3]
    assert posterior.plot_trace("energy").get_ylabel() == "energy"
    with pytest.raises(ValueError, match=r"no 'elbo' in the history; it has epoch, loss"):
        posterior.plot_trace("elbo")
    with pytest.raises(ValueError, match="it has nothing"):
        htr.Posterior(posterior.network(), posterior.priors).plot_trace("loss")
