"""Pictures of spectra over the steps of training."""

from __future__ import annotations

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import bayes_htr as htr
from tests.analysis.history_cases import fit_with

matplotlib.use("Agg")


def test_pictures(tmp_path):
    history = htr.SpectrumHistory()
    fit_with(history)
    figure = history.plot("0.weight", panels=3, path=tmp_path / "a.png")
    titles = [ax.get_title() for ax in figure.axes]
    assert titles == ["step 0 (epoch 0)", "step 6 (epoch 1)", "step 24 (epoch 4)"]
    figure = history.plot_traces(path=tmp_path / "b.png")
    line = figure.axes[0].lines[1]
    np.testing.assert_allclose(line.get_ydata(), history["2.weight"][:, 0])
    ax = history.plot_trace("alpha", "0.weight", against="epoch")
    np.testing.assert_allclose(ax.lines[0].get_xdata(), history.epochs)
    history.animate(tmp_path / "c.gif")
    with Image.open(tmp_path / "c.gif") as gif:
        durations = 0
        for frame in range(gif.n_frames):
            gif.seek(frame)
            durations += gif.info["duration"]
    assert durations == (len(history.steps) + 10) * 200  # the last is held
    plt.close("all")
    with pytest.raises(ValueError, match="nothing is recorded"):
        htr.SpectrumHistory().plot_trace("alpha")


def test_pictures_of_zeros_and_of_any_name(tmp_path):
    net = nn.Module()
    net.register_parameter("$x_{$", nn.Parameter(torch.zeros(9, 9)))
    history = htr.SpectrumHistory()
    history.record(net, 0)
    history.record(net, 1)
    figure = history.plot("$x_{$", path=tmp_path / "a.png")
    assert figure.get_suptitle() == r"\$x_{\$"
    history.plot_traces(path=tmp_path / "b.png")
    history.animate(tmp_path / "c.gif")
    assert (tmp_path / "c.gif").stat().st_size > 1000
    plt.close("all")
