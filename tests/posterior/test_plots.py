from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

import bayes_htr as htr
from bayes_htr.posterior.plots import plot_spectra
from bayes_htr.posterior.spectra import plotted_spectrum


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def labels(ax):
    return [text.get_text() for text in ax.legend_.texts]


def test_spectrum_has_a_band_and_the_law(sampled, tmp_path):
    spectra = sampled.spectra(12)
    ax = spectra.plot("conv.weight", path=tmp_path / "a.png")
    assert "too few eigenvalues to tell (5)" in labels(ax)
    assert "prior: ESD(Lomax(tail_index=Gamma(9.0, 3.0)))" in labels(ax)
    (line,) = [line for line in ax.lines if str(line.get_label()).startswith("prior")]
    x, y = (np.asarray(v) for v in line.get_data())
    t = spectra.hyperparameters["conv.weight:ESD.tail_index"].double().numpy()[:, None]
    np.testing.assert_allclose(y, x * (t * (1 + x) ** (-t - 1)).mean(0), rtol=1e-6)
    mean, band = ax.patches
    lam = spectra["conv.weight"].double().numpy()
    heights, edges, _ = mean.get_data()
    widths = np.diff(np.log(edges))
    each = np.stack([np.histogram(row, edges)[0] / 5 / widths for row in lam])
    np.testing.assert_allclose(heights, each.mean(0))
    np.testing.assert_allclose(band.get_data()[0], np.quantile(each, 0.975, 0))


@pytest.mark.parametrize("S", [1, 30])
def test_the_line_lies_on_the_bars_that_it_is_fitted_to(S):
    """The share of eigenvalues under the line is that of the bars, from where the tail begins."""
    rng = np.random.default_rng(1)
    body, tail = rng.uniform(0.1, 1.0, size=(S, 200)), 1 + rng.pareto(1.5, size=(S, 200))
    spectra = htr.PosteriorSpectra({"w": torch.as_tensor(np.concatenate([body, tail], 1))})
    ax = spectra.plot("w")
    row = spectra.row("w")
    bars = ax.patches[0]
    heights, edges, _ = bars.get_data()
    (line,) = ax.lines
    x, y = (np.asarray(v) for v in line.get_data())
    start = spectra.typical("w")[row.n_tail - 1]
    assert x[0] == pytest.approx(start)
    assert np.isclose(edges, start, rtol=1e-9).any()
    above = edges[:-1] >= start * (1 - 1e-9)
    share = (heights * np.diff(np.log(edges)))[above].sum()
    assert share == pytest.approx(row.n_tail / 400, abs=0.03)
    assert np.trapezoid(y, np.log(x)) == pytest.approx(share, rel=0.06)
    middle = np.sqrt(edges[:-1] * edges[1:])
    seen = above & (heights * 400 * np.diff(np.log(edges)) > 8)
    ratio = np.interp(np.log(middle), np.log(x), y)[seen] / heights[seen]
    assert np.abs(np.log(ratio)).max() < 0.5


def test_spectra_beside_others(make_spectra, tmp_path):
    """A legend entry for each with its exponent; panels that say where there is none."""
    few, tied = torch.rand(3, 10), torch.ones(3, 30)
    lam = {"few": few, "tied": tied, "flat$": torch.rand(3, 40)}
    one, other = make_spectra(3, 40, **lam), make_spectra(1, 40, seed=1, **lam)
    both = {"posterior": one, "plain training": other}
    figure = plot_spectra(
        [[plotted_spectrum(s, n, label) for label, s in both.items()] for n in one]
    )
    panels = {ax.get_title(): ax for ax in figure.get_axes() if ax.get_title()}
    assert list(panels) == ["fc.weight", "few", "tied", r"flat\$"]
    words = labels(panels["fc.weight"])
    for text, (label, spectra) in zip(
        words, (("posterior", one), ("plain training", other)), strict=True
    ):
        alpha = spectra.alpha("fc.weight")
        assert text.startswith(f"{label}: ")
        assert f"{alpha.mean:.2f} [{alpha.low:.2f}, {alpha.high:.2f}]" in text
    (text,) = panels["few"].texts
    assert "10 eigenvalues" in text.get_text()
    assert not panels["few"].lines and not panels["few"].patches
    assert "posterior: tied: the 30 largest are equal" in labels(panels["tied"])
    figure.savefig(tmp_path / "a.png")


def test_no_law_is_drawn_where_there_is_none(make_spectra):
    assert not any("prior" in text for text in labels(make_spectra(3, 20).plot("fc.weight")))


def test_alpha_of_each_layer(make_spectra, tmp_path):
    spectra = make_spectra(4, 20, other=torch.tensor([[2.0, 2.0]]), third=torch.rand(4, 30) ** -0.5)
    ax = spectra.plot_alpha(level=0.8, path=tmp_path / "a.png")
    assert [t.get_text() for t in ax.get_yticklabels()] == ["fc.weight", "other", "third"]
    assert [t.get_text() for t in ax.texts] == ["tied: the 2 largest are equal"]
    bars = [line for line in ax.lines if len(line.get_xdata()) == 2]
    for bar, name in zip(bars, ("fc.weight", "third"), strict=True):
        alpha = spectra.alpha(name, 0.8)
        assert list(bar.get_xdata()) == [alpha.low, alpha.high]
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_prior_and_posterior_of_the_largest_eigenvalue(sampled, posterior, tmp_path):
    spectra = sampled.spectra(12)
    ax = spectra.plot_lambda_max("fc.weight", path=tmp_path / "a.png")
    assert labels(ax) == ["prior", "posterior"]
    for line in ax.lines:  # both are densities of the logarithm
        x, y = (np.asarray(v) for v in line.get_data())
        assert np.trapezoid(y, np.log(x)) == pytest.approx(1.0, abs=0.02)
    prior, after = (np.asarray(line.get_xdata())[np.argmax(line.get_ydata())] for line in ax.lines)
    assert prior == pytest.approx(1.0, rel=0.15)  # the mode of log of Frechet(2, 1) is 0
    logs = spectra.lambda_max("fc.weight").log()
    assert float(logs.min()) < np.log(after) < float(logs.max())
    one = posterior.spectra()
    line = one.plot_lambda_max("fc.weight").lines[-1]
    np.testing.assert_allclose(line.get_xdata(), one.lambda_max("fc.weight").item(), rtol=1e-5)
    with pytest.raises(htr.PriorError, match="no prior is known"):
        htr.PosteriorSpectra({"a": torch.rand(3, 2)}).plot_lambda_max("a")


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
