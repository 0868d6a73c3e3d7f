from __future__ import annotations

import math
import sys
import warnings

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from scipy import stats
from torch import nn

import bayes_htr as htr


def gammas(spectra, fraction=0.5):
    """Each draw's posterior of the tail index, `Gamma(k, S)`."""
    lam = np.sort(spectra["fc.weight"].numpy().astype(float), axis=1)[:, ::-1]
    k = max(1, math.floor(fraction * lam.shape[1]))
    return [stats.gamma(k, scale=1 / np.log(row[:k] / row[k]).sum()) for row in lam]


def test_spectra_of_a_posterior(posterior):
    spectra = posterior.spectra()
    net = posterior.network()
    matrices = {"conv.weight": net.conv.weight.reshape(5, 9), "fc.weight": net.fc.weight}
    assert set(spectra) == set(matrices)
    assert len(spectra) == 2
    for name, W in matrices.items():
        expected = np.linalg.svd(W.detach().numpy().astype(float), compute_uv=False) ** 2
        lam = spectra[name]
        assert lam.shape == (1, min(W.shape))
        assert bool((lam.diff(dim=1) <= 0).all())
        np.testing.assert_allclose(lam[0], expected, rtol=1e-4)
        assert spectra.lambda_max(name).item() == pytest.approx(expected[0], rel=1e-4)
        rank = expected.sum() / expected[0]
        assert spectra.stable_rank(name).item() == pytest.approx(rank, rel=1e-4)
    with pytest.raises(KeyError, match=r"no matrix 'fc9'; there are conv\.weight, fc\.weight"):
        spectra["fc9"]


def test_attention_has_three_matrices():
    net = nn.MultiheadAttention(6, 2)
    spectra = htr.Posterior(net, htr.Priors({})).spectra()
    assert {f"in_proj_weight[{x}]" for x in "qkv"} < set(spectra)
    assert "in_proj_weight[q]" in str(spectra.summary())


def test_draws_are_sorted():
    lam = torch.tensor([[1.0, 3.0, 2.0], [5.0, 4.0, 6.0]])
    spectra = htr.PosteriorSpectra({"a": lam})
    assert spectra["a"].tolist() == [[3.0, 2.0, 1.0], [6.0, 5.0, 4.0]]
    assert spectra.lambda_max("a").tolist() == [3.0, 6.0]


def test_spectra_print_as_their_summary():
    lam = torch.tensor([[1.0, 3.0, 2.0], [5.0, 4.0, 6.0]])
    spectra = htr.PosteriorSpectra({"a": lam, "b": lam})
    assert repr(spectra) == "PosteriorSpectra(2 draws of a, b)"
    assert str(spectra).splitlines()[0] == "2 draws of each spectrum"
    assert str(spectra).endswith(str(spectra.summary()))
    assert "<table" in spectra._repr_html_()
    assert repr(htr.PosteriorSpectra({})) == "PosteriorSpectra(0 draws of no matrix)"


@pytest.mark.parametrize("K", [2, 3, 50])
@pytest.mark.parametrize("level", [0.5, 0.95])
@pytest.mark.parametrize("fraction", [0.2, 0.5, 0.9])
def test_alpha_of_one_draw_is_a_gamma(make_spectra, K, level, fraction):
    spectra = make_spectra(1, K)
    (gamma,) = gammas(spectra, fraction)
    alpha = spectra.alpha("fc.weight", level, fraction=fraction)
    low, high = gamma.interval(level)
    found = (alpha.mean, alpha.sd, alpha.low, alpha.high)
    assert found == pytest.approx((1 + gamma.mean(), gamma.std(), 1 + low, 1 + high), rel=1e-9)
    assert stats.kstest(alpha.draws - 1, gamma.cdf).pvalue > 1e-3


@pytest.mark.parametrize("S", [2, 7, 40])
def test_alpha_of_several_draws_is_their_mixture(make_spectra, S):
    spectra = make_spectra(S, 30)
    components = gammas(spectra)
    alpha = spectra.alpha("fc.weight", 0.9, fraction=0.5)
    generator = np.random.default_rng(0)
    sample = 1 + np.concatenate([g.rvs(400_000 // S, random_state=generator) for g in components])
    assert alpha.mean == pytest.approx(sample.mean(), rel=5e-3)
    assert alpha.sd == pytest.approx(sample.std(), rel=1e-2)
    assert (alpha.low, alpha.high) == pytest.approx(np.quantile(sample, [0.05, 0.95]), rel=1e-2)
    mixture = [np.mean([g.cdf(end - 1) for g in components]) for end in (alpha.low, alpha.high)]
    assert mixture == pytest.approx([0.05, 0.95], abs=1e-8)
    assert stats.ks_2samp(alpha.draws, sample).pvalue > 1e-3
    spread = np.std([g.mean() for g in components])
    assert alpha.sd > spread  # wider than Hill's estimates alone


@pytest.mark.parametrize("S", [1, 7])
def test_alpha_is_of_the_tail_that_the_search_finds(make_spectra, S):
    """The n largest of each draw, n from the typical spectrum; the mean is the fit's own alpha."""
    spectra = make_spectra(S, 60)
    lam = spectra["fc.weight"].numpy()
    n = htr.fit_powerlaw(np.exp(np.log(lam).mean(0))).n_tail
    laws = [stats.gamma(n, scale=1 / np.log(row[:n] / row[n - 1]).sum()) for row in lam]
    alpha = spectra.alpha("fc.weight", 0.9)
    assert alpha.mean == pytest.approx(1 + np.mean([law.mean() for law in laws]), rel=1e-9)
    for end, q in ((alpha.low, 0.05), (alpha.high, 0.95)):
        assert np.mean([law.cdf(end - 1) for law in laws]) == pytest.approx(q, abs=1e-8)
    assert alpha.given == f"the {n} largest of 60 eigenvalues (xmin searched)"
    assert alpha.given in repr(alpha)


def test_one_alpha():
    """Posterior spectra, their summary, a history and `analyze` give one number for one matrix."""
    generator = torch.Generator().manual_seed(3)
    net = nn.Linear(60, 40, bias=False)
    net.weight.data = torch.randn(40, 60, generator=generator) * torch.linspace(3, 0.1, 60) ** 2
    (row,) = htr.analyze(net).rows
    spectra = htr.Posterior(net, htr.Priors({})).spectra()
    alpha = spectra.alpha("weight")
    history = htr.SpectrumHistory()
    history.record(net, 0)
    trace = history.trace("weight", "alpha")
    assert alpha.mean == pytest.approx(row["alpha"], rel=1e-4)
    assert spectra.summary().rows[0].alpha.mean == alpha.mean
    assert trace.values[0] == pytest.approx(row["alpha"], rel=1e-4)
    interval = (row["interval_low"], row["interval_high"])
    assert (alpha.low, alpha.high) == pytest.approx(interval, rel=1e-4)
    assert trace.interval[0] == pytest.approx(interval, rel=1e-4)
    assert alpha.given == f"the {row['num_pl_spikes']} largest of 40 eigenvalues (xmin searched)"


@pytest.mark.parametrize("spread", [0.0, 1e-4, 0.01])
def test_ties_are_named_and_give_no_exponent(spread):
    """Seven leading eigenvalues of 60 that are equal, or nearly so, above a power law."""
    rng = np.random.default_rng(0)
    lam = np.sort(rng.pareto(2.0, 60) + 1)
    lam[-7:] = 1.3 * lam[-8] * (1 - spread * rng.random(7))
    net = nn.Linear(60, 60, bias=False)
    net.weight.data = torch.as_tensor(np.diag(lam**0.5), dtype=torch.float32)
    spectra = htr.Posterior(net, htr.Priors({})).spectra()
    (row,) = htr.analyze(net).rows
    history = htr.SpectrumHistory()
    history.record(net, 0)
    assert math.isnan(row["alpha"])
    assert row["verdict"].startswith("tied: the 7 largest are equal")
    assert spectra.summary().rows[0].alpha is None
    assert "tied: the 7 largest" in str(spectra.summary())
    assert math.isnan(history.trace("weight", "alpha").values[0])
    with pytest.raises(htr.SpectrumError, match="weight has no exponent: tied: the 7 largest"):
        spectra.alpha("weight")


def test_alpha_covers_the_truth():
    """95 % intervals of Pareto tails of known index hold it about 95 % of the time."""
    rng, hits = np.random.default_rng(0), 0
    for _ in range(300):
        lam = torch.as_tensor(rng.pareto(1.5, size=(1, 40)) + 1)
        alpha = htr.PosteriorSpectra({"a": lam}).alpha("a", fraction=0.5)
        hits += alpha.low <= 2.5 <= alpha.high
    assert abs(hits / 300 - 0.95) < 0.045


def test_hill_is_per_draw(make_spectra):
    spectra = make_spectra(5, 30)
    expected = [1 + g.mean() for g in gammas(spectra)]
    assert spectra.hill("fc.weight").tolist() == pytest.approx(expected)
    tail = spectra.hill("fc.weight", exponent="tail")
    torch.testing.assert_close(tail + 1, spectra.hill("fc.weight"))


def test_alpha_is_reproducible_and_scale_free(make_spectra):
    spectra = make_spectra(4, 20)
    other = htr.PosteriorSpectra({"fc.weight": 100 * spectra["fc.weight"]})
    state = np.random.get_state()[1].copy()
    first, again, scaled = (s.alpha("fc.weight") for s in (spectra, spectra, other))
    np.testing.assert_array_equal(first.draws, again.draws)
    np.testing.assert_allclose(first.draws, scaled.draws)
    assert not np.array_equal(first.draws, spectra.alpha("fc.weight", seed=1).draws)
    assert np.array_equal(np.random.get_state()[1], state)


@pytest.mark.parametrize("level", [0.0, 1.0, -1.0, 95])
def test_bad_level(make_spectra, level):
    with pytest.raises(ValueError, match=f"level={level}"):
        make_spectra(1, 9).alpha("fc.weight", level)


@pytest.mark.parametrize("lam", [[1.0], [2.0, 2.0, 2.0], [1.0, 0.0, 0.0]], ids=str)
def test_no_tail(lam):
    spectra = htr.PosteriorSpectra({"odd": torch.tensor([lam])})
    with pytest.raises(htr.SpectrumError, match="odd"):
        spectra.alpha("odd")
    (row,) = spectra.summary().rows
    assert row.alpha is None
    assert isinstance(spectra.plot("odd"), Axes)
    plt.close("all")


@pytest.mark.parametrize("S", [1, 5])
def test_plot(make_spectra, tmp_path, S):
    spectra, path = make_spectra(S, 40), tmp_path / "spectrum.png"
    ax = spectra.plot("fc.weight", path=path)
    assert isinstance(ax, Axes)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert (ax.get_title(), ax.get_xscale(), ax.get_yscale()) == ("fc.weight", "log", "log")
    assert any(f"{spectra.alpha('fc.weight').mean:.2f}" in t.get_text() for t in ax.legend_.texts)
    mine = plt.subplots()[1]
    assert spectra.plot("fc.weight", mine) is mine
    plt.close("all")


# ArviZ


def test_to_arviz(sampled):
    az = pytest.importorskip("arviz")
    spectra = sampled.spectra(12)
    data = spectra.to_arviz()
    is_old = az.__version__.startswith("0.")
    assert type(data).__name__ == ("InferenceData" if is_old else "DataTree")
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
        names = ["fc.weight:lambda_max", "fc.weight:stable_rank"]
        drawn = az.plot_forest(data, var_names=names)
    if is_old:
        assert {t.get_text() for t in drawn[0].get_yticklabels()} == {*names}
    else:
        assert {*names} <= {*drawn.viz["point_estimate"].data_vars}


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
