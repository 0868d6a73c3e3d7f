"""Pictures of posterior spectra, and their export to ArviZ."""

from __future__ import annotations

import sys
import warnings

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


# ArviZ


def test_to_arviz(sampled):
    az = pytest.importorskip("arviz")
    spectra = sampled.spectra(12)
    data = spectra.to_arviz()
    group = data.posterior
    assert dict(group.sizes)["chain"] == 1
    assert dict(group.sizes)["draw"] == 12
    assert group["fc.weight:eigenvalues"].dims == ("chain", "draw", "fc.weight:rank")
    assert group["fc.weight:rank"].values.tolist() == [1, 2, 3]
    np.testing.assert_allclose(group["fc.weight:eigenvalues"][0], spectra["fc.weight"])
    summary = az.summary(data, round_to="none")
    for name in ("fc.weight", "conv.weight"):
        for quantity in ("lambda_max", "stable_rank"):
            values = getattr(spectra, quantity)(name).double()
            row = summary.loc[f"{name}:{quantity}"]
            assert row["mean"] == pytest.approx(values.mean().item(), rel=1e-5)
            assert row["sd"] == pytest.approx(values.std().item(), rel=1e-5)
    logs = spectra.lambda_max("fc.weight").log().double().mean().item()
    assert summary.loc["fc.weight:log_lambda_max", "mean"] == pytest.approx(logs, rel=1e-4)
    tail = sampled.hyperparameters()["conv.weight:ESD.tail_index"]
    assert summary.loc["conv.weight:ESD.tail_index", "mean"] == pytest.approx(tail, rel=1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        axes = az.plot_forest(data, var_names=["fc.weight:lambda_max", "fc.weight:stable_rank"])
    shown = [t.get_text() for t in axes[0].get_yticklabels()]
    assert set(shown) == {"fc.weight:lambda_max", "fc.weight:stable_rank"}


def test_alpha_in_arviz_is_the_posterior(make_spectra):
    pytest.importorskip("arviz")
    spectra = make_spectra(3, 40, ties=torch.ones(3, 4))
    group = spectra.to_arviz(repeats=4000).posterior
    assert "ties:alpha" not in group
    alpha = spectra.alpha("fc.weight")
    found = group["fc.weight:alpha"].values
    assert found.shape == (1, 12_000)
    assert found.mean() == pytest.approx(alpha.mean, rel=0.02)
    assert found.std() == pytest.approx(alpha.sd, rel=0.05)
    steeper = spectra["fc.weight"] ** torch.tensor([[1.0], [0.5], [0.25]])
    other = htr.PosteriorSpectra({"a": steeper})
    drawn = other.to_arviz(repeats=4000, fraction=0.5).posterior["a:alpha"].values
    each = drawn.reshape(3, 4000).mean(1)  # the draws of one spectrum stand together
    np.testing.assert_allclose(each, other.hill("a"), rtol=0.03)
    with pytest.raises(ValueError, match="repeats=0"):
        spectra.to_arviz(repeats=0)


def test_without_arviz(make_spectra, monkeypatch):
    monkeypatch.setitem(sys.modules, "arviz", None)
    with pytest.raises(ImportError, match=r"bayes-htr\[arviz\]"):
        make_spectra(2, 5).to_arviz()
