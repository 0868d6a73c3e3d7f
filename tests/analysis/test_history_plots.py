"""Traces of spectra over steps, each against its own definition, and pictures."""

from __future__ import annotations

import math

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import bayes_htr as htr
from bayes_htr.analysis.history_plots import trace
from tests.analysis.history_cases import diverged, fit_with, make_network

LAM = torch.stack(
    [
        torch.rand(40, generator=torch.Generator().manual_seed(seed))
        .pow(-0.6)
        .sort()
        .values.flip(0)
        for seed in range(4)
    ]
)
STEPS = [0, 1, 5, 9]


def test_alpha_is_that_of_the_fit_and_has_its_interval():
    alpha = trace(LAM, "alpha", STEPS, level=0.9)
    fits = [htr.fit_powerlaw(row, level=0.9) for row in LAM]
    np.testing.assert_allclose(alpha.values, [f.alpha for f in fits], rtol=1e-9)
    np.testing.assert_allclose(alpha.interval, [f.interval for f in fits], rtol=1e-9)
    assert alpha.steps.tolist() == STEPS


def test_a_spectrum_without_an_exponent_has_none():
    alpha = trace(torch.ones(1, 3), "alpha", [0])
    assert math.isnan(alpha.values[0]) and np.isnan(alpha.interval).all()


def test_other_quantities():
    largest, rank = (trace(LAM, name, STEPS) for name in ("lambda_max", "stable_rank"))
    np.testing.assert_allclose(largest.values, LAM.max(1).values)
    np.testing.assert_allclose(rank.values, LAM.sum(1) / LAM.max(1).values, rtol=1e-6)
    assert largest.interval is None and rank.interval is None
    assert math.isnan(trace(torch.zeros(1, 9), "stable_rank", [0]).values[0])


def test_bad_arguments():
    with pytest.raises(ValueError, match="quantity='rank'"):
        trace(LAM, "rank", STEPS)
    with pytest.raises(ValueError, match="level=2"):
        trace(LAM, "alpha", STEPS, level=2)


# Pictures


matplotlib.use("Agg")


@pytest.mark.long
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
    assert figure.get_suptitle().startswith(r"\$x_{\$")
    history.plot_traces(path=tmp_path / "b.png")
    history.animate(tmp_path / "c.gif")
    assert (tmp_path / "c.gif").stat().st_size > 1000
    plt.close("all")


@pytest.mark.filterwarnings("ignore:at step")
def test_pictures_of_a_run_that_diverges(tmp_path):
    history = diverged(start=1e30, steps=12)
    history.plot("0.weight", panels=4)
    history.plot_traces()
    history.animate(tmp_path / "a.gif", ["0.weight"], frames_per_second=50)
    everything = htr.SpectrumHistory()
    net = make_network()
    net[0].weight.data *= torch.nan
    everything.record(net, 0)
    everything.plot("0.weight")
    with pytest.raises(htr.SpectrumError, match="some eigenvalues are not finite"):
        everything.at(0).alpha("0.weight")
    plt.close("all")
