"""The Marchenko-Pastur bulk and its spikes."""

import math

import numpy as np
import pytest
import torch

import bayes_htr as htr
from bayes_htr.analysis import ESD, fit_marchenko_pastur
from bayes_htr.analysis.bulk import _RIGID
from bayes_htr.analysis.esd import esd_of
from bayes_htr.distributions import MarchenkoPastur
from tests.analysis.cases import gaussian, spiked


@pytest.mark.parametrize(("N", "M"), [(200, 200), (300, 100), (640, 40)])
def test_the_bulk_of_normal_entries(N, M):
    fit = fit_marchenko_pastur(esd_of([gaussian(N, M)], "w"))
    assert fit.variance == pytest.approx(0.01, rel=0.05)
    assert fit.sigma == pytest.approx(1, abs=0.03)
    edges = [0.01 * N * (1 + s * math.sqrt(M / N)) ** 2 for s in (-1, 1)]
    assert fit.bulk_max == pytest.approx(edges[1], rel=0.05)
    assert fit.bulk_min == pytest.approx(edges[0], rel=0.05, abs=1e-9)
    assert fit.num_spikes == 0 and fit.random_like


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("scale", [1e-35, 1e-20, 1e18, 1e35])
def test_the_bulk_and_the_verdict_at_any_scale(scale):
    W = gaussian(120, 60, sd=1.0)
    rows = [htr.analyze({"w": W.float() * s}, randomize=True).rows[0] for s in (1.0, scale)]
    assert rows[1]["verdict"] == rows[0]["verdict"] == "like a random matrix (Marchenko-Pastur)"
    for name in ("mp_D", "sigma_mp", "mp_softrank", "alpha", "rand_distance", "entropy"):
        assert rows[1][name] == pytest.approx(rows[0][name], rel=1e-4), name


def test_the_distance_of_the_bulk_by_the_law_in_double_precision():
    esd = esd_of([gaussian(300, 100)], "w")
    fit = fit_marchenko_pastur(esd)
    N = torch.tensor(300.0, dtype=torch.float64)
    ratio, variance = N.new_tensor(1 / 3), N.new_tensor(fit.variance)
    cdf = MarchenkoPastur(ratio, variance, N).cdf(torch.from_numpy(esd.values)).numpy()
    expected = max(np.abs(np.arange(s, 100 + s) / 100 - cdf).max() for s in (0, 1))
    assert pytest.approx(expected, rel=1e-10) == fit.D


def test_false_spikes_and_false_alarms_are_as_rare_as_stated():
    fits = [fit_marchenko_pastur(esd_of([gaussian(150, 75, i)], "w")) for i in range(200)]
    assert sum(f.num_spikes > 0 for f in fits) <= 8
    assert sum(not f.random_like for f in fits) <= 8


@pytest.mark.parametrize(("matrices", "quantile"), [(1, 2.0234), (10, 3.2724)])
def test_a_spike_lies_above_the_tracy_widom_quantile_of_all_matrices(matrices, quantile):
    """Of 99 and 99.9 % in tables of the law for real matrices; centre and scale of Johnstone."""
    N, M = 300, 150
    fit = fit_marchenko_pastur(esd_of([gaussian(N, M, i) for i in range(matrices)], "w"))
    a, b = math.sqrt(N - 1), math.sqrt(M)
    scale = (a + b) * (1 / a + 1 / b) ** (1 / 3)
    assert (fit.threshold / fit.variance - (a + b) ** 2) / scale == pytest.approx(
        quantile, abs=0.03
    )


@pytest.mark.parametrize(("N", "M"), [(60, 60), (200, 50)])
def test_how_rigid_random_spectra_are(N, M):
    """The bound that is asked of them lies just above what they reach."""
    D = [fit_marchenko_pastur(esd_of([gaussian(N, M, i)], "w")).D for i in range(150)]
    assert _RIGID / 2 < np.quantile(D, 0.99) * M / math.log(2 + M) < 1.05 * _RIGID


def test_a_spectrum_less_rigid_than_that_is_not_random_like():
    seen = []
    for power in np.linspace(1.0, 0.7, 16):
        esd = esd_of([gaussian(200, 100)], "w")
        fit = fit_marchenko_pastur(ESD(esd.values**power, esd.N, esd.M))
        rigid = fit.D * 100 / math.log(102)
        if fit.num_spikes == 0:
            seen.append(rigid)
            assert fit.random_like == (rigid <= 1.1)
    assert min(seen) < 1.0 and any(1.15 < rigid < 2 for rigid in seen)


def test_spikes_are_counted_and_hardly_move_the_bulk():
    fit = fit_marchenko_pastur(esd_of([spiked([40.0, 50.0, 60.0, 70.0])], "w"))
    assert fit.num_spikes == 4 and not fit.random_like
    assert fit.variance == pytest.approx(1, rel=0.05)
    assert fit.soft_rank == pytest.approx(fit.bulk_max / float(fit_max([40.0, 50.0, 60.0, 70.0])))


def test_many_spikes_are_left_out_of_the_median():
    strengths = [60.0 + 3 * i for i in range(40)]
    fit = fit_marchenko_pastur(esd_of([spiked(strengths)], "w"))
    assert fit.num_spikes == 40
    plain = ESD(esd_of([spiked(strengths)], "w").values[:-40], 300, 150)
    assert fit.variance == pytest.approx(fit_marchenko_pastur(plain).variance, rel=1e-6)


def fit_max(strengths):
    return torch.linalg.svdvals(spiked(strengths))[0].square()


def test_a_spectrum_of_another_shape_is_not_random_like():
    power = np.sort(1 + np.random.default_rng(0).pareto(1.5, 200))
    assert not fit_marchenko_pastur(ESD(power, 400, 200)).random_like
    flat = np.sort(np.random.default_rng(0).uniform(1, 1.1, 200))
    fit = fit_marchenko_pastur(ESD(flat, 400, 200))
    assert fit.num_spikes == 0 and not fit.random_like


def test_half_zero_has_no_bulk():
    W = gaussian(60, 20) @ gaussian(20, 50, 1)
    assert fit_marchenko_pastur(esd_of([W], "w")) is None


def test_slices_share_a_bulk():
    fit = fit_marchenko_pastur(esd_of([gaussian(64, 32, i) for i in range(9)], "w"))
    assert fit.variance == pytest.approx(0.01, rel=0.05)
    assert fit.random_like


def no_bulks():
    random = np.random.default_rng(0)
    yield "power law", 1 + random.pareto(1.5, 128)
    yield "very heavy power law", 1 + random.pareto(0.5, 128)
    yield "lognormal", random.lognormal(0, 3, 128)
    yield "uniform", random.uniform(0, 1, 128)
    yield "plateau", np.concatenate([random.uniform(1, 1.01, 60), random.uniform(0, 0.1, 68)])


@pytest.mark.parametrize(("kind", "lam"), list(no_bulks()))
def test_spikes_are_undefined_where_there_is_no_bulk(kind, lam, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")  # narrower tables have fewer columns
    report = htr.analyze({"w": torch.diag(torch.from_numpy(lam) ** 0.5)})
    (row,) = report.rows
    assert row["num_spikes"] is None and report.bulks["w"] is None
    names = ("sigma_mp", "mp_softrank", "bulk_min", "bulk_max")
    assert all(math.isnan(row[name]) for name in names)
    fit = fit_marchenko_pastur(ESD(np.sort(lam), 128, 128))
    assert row["mp_D"] == pytest.approx(fit.D, rel=1e-6)
    assert fit.D > 0.14 or fit.num_spikes > 64
    assert "bulk D" in str(report) and f"{row['mp_D']:.3g}" in str(report)


@pytest.mark.parametrize("shape", [(20, 20), (64, 30), (128, 128), (512, 128)])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.25, 0.4])
def test_a_bulk_below_many_spikes_still_fits(shape, share):
    for seed in range(5):
        N, M = shape
        k = int(share * M)
        U, V = (torch.linalg.qr(gaussian(n, n, seed)).Q[:, :k] for n in shape)
        W = gaussian(N, M, 9 + seed) + 4 * math.sqrt(N) * U @ V.T
        fit = fit_marchenko_pastur(esd_of([W], "w"))
        assert fit.fits and fit.num_spikes == pytest.approx(k, abs=2)
