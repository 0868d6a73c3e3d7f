from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
import scipy
import torch

import bayes_htr as htr
from bayes_htr._plotting import WIDEST
from bayes_htr.posterior.plots import plot_history, plot_spectra
from bayes_htr.posterior.spectra import plotted_spectrum


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def labels(ax):
    return [text.get_text().replace("\n", " ") for text in ax.legend_.texts]


def test_spectrum_has_a_band_and_the_law(sampled, tmp_path):
    spectra = sampled.spectra(12)
    ax = spectra.plot("conv.weight", path=tmp_path / "a.png")
    assert "too few eigenvalues to tell (5)" in labels(ax)
    assert "prior: ESD(Lomax(tail_index=Gamma(9.0, 3.0)))" in labels(ax)
    (line,) = [line for line in ax.lines if str(line.get_label()).startswith("prior")]
    x, y = (np.asarray(v) for v in line.get_data())
    t = spectra.hyperparameters["conv.weight:ESD.tail_index"].double().numpy()[:, None]
    np.testing.assert_allclose(y, (t * (1 + x) ** (-t - 1)).mean(0), rtol=1e-6)
    (mean,), (band,) = ax.patches, ax.collections
    lam = spectra["conv.weight"].double().numpy()
    heights, edges, _ = mean.get_data()
    widths = np.diff(edges)
    each = np.stack([np.histogram(row, edges)[0] / 5 / widths for row in lam])
    np.testing.assert_allclose(heights, each.mean(0))
    low, high = np.quantile(each, [0.025, 0.975], axis=0)
    corners = band.get_paths()[0].vertices
    middles = np.clip(np.sqrt(edges[:-1] * edges[1:]), lam.min(), lam.max())
    for x, top, bottom, bar in zip(middles, high, low, heights, strict=True):
        there = corners[np.isclose(corners[:, 0], x), 1]
        assert len(there) == 0 if top == 0 else there.max() == pytest.approx(top)
        if top > 0:
            assert min(bar, bottom) <= there.min() <= max(bar, bottom)


def test_the_band_ends_with_the_eigenvalues(make_spectra):
    spectra = make_spectra(30, 60)
    ax = spectra.plot("fc.weight")
    lam = spectra["fc.weight"].numpy()
    corners = ax.collections[0].get_paths()[0].vertices
    assert lam.min() <= corners[:, 0].min() and corners[:, 0].max() <= lam.max()
    below = corners[:, 1] < ax.get_ylim()[0]
    assert not below.any()  # no band goes down to the end of the axis


def test_the_law_of_the_largest_eigenvalue_is_no_density_of_all(sampled):
    ax = sampled.spectra(12).plot("fc.weight")
    words = [text for text in labels(ax) if "prior" in text]
    assert len(words) == 1 and words[0].startswith(r"prior of $\lambda_1$, 95 %: MaxEigenvalue(")
    assert words[0].endswith("MaxEigenvalue(Frechet(2.0))")
    (bar,) = [line for line in ax.lines if "prior" in str(line.get_label())]
    x, y = bar.get_data()
    quantiles = scipy.stats.invweibull(2.0).ppf([0.025, 0.975])
    np.testing.assert_allclose(x, quantiles, rtol=0.02)
    assert y[0] == y[1] > max(ax.patches[0].get_data().values)


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
    share = (heights * np.diff(edges))[above].sum()
    assert share == pytest.approx(row.n_tail / 400, abs=0.03)
    assert np.trapezoid(y * x, np.log(x)) == pytest.approx(share, rel=0.06)
    middle = np.sqrt(edges[:-1] * edges[1:])
    seen = above & (heights * 400 * np.diff(edges) > 8)
    ratio = np.exp(np.interp(np.log(middle), np.log(x), np.log(y)))[seen] / heights[seen]
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


def test_many_matrices_are_limited_and_the_others_named(make_spectra):
    more = {f"layer{i}.weight": torch.rand(3, 30) ** -0.5 for i in range(20)}
    spectra = make_spectra(3, 30, **more)
    figure = plot_spectra([[plotted_spectrum(spectra, name)] for name in spectra])
    titles = [ax.get_title() for ax in figure.get_axes() if ax.get_title()]
    names = list(spectra)
    assert titles == [names[i] for i in (0, 4, 8, 12, 16, 20)]
    assert figure.get_figwidth() <= WIDEST
    text = figure.get_supxlabel()
    assert names[1] in text and names[0] not in text and "and 3 more" in text
    figure.canvas.draw()
    for ax in figure.get_axes():
        if ax.get_legend() is not None:
            box = ax.get_legend().get_window_extent()
            assert not box.overlaps(ax.get_window_extent())
            assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1
            assert not box.overlaps(figure._supxlabel.get_window_extent())
    few = plot_spectra([[plotted_spectrum(spectra, name)] for name in names[:3]])
    assert few.get_supxlabel() == ""
    one = plot_spectra([[plotted_spectrum(spectra, name)] for name in names], most=1)
    assert [ax.get_title() for ax in one.get_axes()] == names[:1]


@pytest.mark.parametrize("K", [2, 3])
def test_two_or_three_eigenvalues_have_no_power_law(make_spectra, K):
    spectra = make_spectra(4, 20, tiny=torch.rand(4, K) ** -0.5)
    ax = spectra.plot("tiny")
    assert not ax.lines
    assert labels(ax) == [f"too few eigenvalues to tell ({K})"]


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


def test_no_law_is_drawn_where_there_is_none(make_spectra):
    assert not any("prior" in text for text in labels(make_spectra(3, 20).plot("fc.weight")))


def test_long_names_of_alpha_are_within_the_figure(make_spectra):
    names = {f"encoder.layer.{i}.attention.output.dense.weight": torch.rand(3, 30) for i in "12"}
    ax = make_spectra(3, 30, **names).plot_alpha()
    ax.figure.canvas.draw()
    for text in ax.get_yticklabels():
        assert text.get_window_extent().x0 >= 0
    assert ax.get_window_extent().width > 0.4 * ax.figure.bbox.width


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
