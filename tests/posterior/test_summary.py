from __future__ import annotations

import numpy as np
import pytest
import torch

import bayes_htr as htr
from bayes_htr.posterior.summary import interval_of


def test_interval_of_draws():
    draws = torch.linspace(0, 1, 101)
    interval = interval_of(draws, 0.9)
    assert (interval.low, interval.high) == pytest.approx((0.05, 0.95))
    assert (interval.mean, interval.median) == pytest.approx((0.5, 0.5))
    assert interval.sd == pytest.approx(draws.numpy().std())
    assert repr(interval) == "Interval(0.5 +- 0.29, [0.05, 0.95])"


def test_summary(make_spectra):
    spectra = make_spectra(9, 20, other=torch.rand(9, 4))
    summary = spectra.summary(level=0.8)
    row = summary.rows[0]
    assert [r.matrix for r in summary.rows] == ["fc.weight", "other"]
    assert (row.K, summary.level) == (20, 0.8)
    alpha = spectra.alpha("fc.weight", 0.8)
    assert (row.alpha.mean, row.alpha.low, row.alpha.high) == (alpha.mean, alpha.low, alpha.high)
    values = spectra.lambda_max("fc.weight").numpy()
    assert row.lambda_max.mean == pytest.approx(values.mean())
    assert row.lambda_max.low == pytest.approx(np.quantile(values, 0.1))
    text = str(summary)
    assert summary.rows[1].problem == "too few eigenvalues to tell (4)"
    for shown in ("fc.weight", "other", f"{alpha.mean:.3g}", f"{alpha.low:.3g}", "80 %", "(4)"):
        assert shown in text
    assert f"{alpha.mean:.4g}" in repr(alpha)


def test_the_median_of_alpha_lies_within_where_the_mean_does_not():
    """One eigenvalue in the tail: the mean over draws of the spectrum has no limit."""
    torch.manual_seed(0)
    lam = torch.stack([torch.tensor([1.0, 1.0 - 10.0**-k, 0.1]) for k in range(1, 6)])
    spectra = htr.PosteriorSpectra(
        {"head": torch.cat([lam, torch.tensor([[3.0, 1.0, 0.1]] * 200)])}
    )
    alpha = spectra.alpha("head", fraction=0.5)
    assert not alpha.low < alpha.mean < alpha.high
    assert alpha.low < alpha.median < alpha.high
    assert "too few eigenvalues to tell (3)" in str(spectra.summary())


def test_long_names_are_shown_whole():
    names = [f"encoder.layers.0.self_attn.in_proj_weight[{part}]" for part in "qkv"]
    text = str(htr.PosteriorSpectra({n: torch.rand(3, 9) for n in names}).summary())
    assert all(name in text for name in names)
