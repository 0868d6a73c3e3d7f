"""Curves are densities and laws, and hold their shares."""

import numpy as np
import pytest
import torch

import bayes_htr as htr
from bayes_htr._plotting import log_bins
from bayes_htr.analysis import curves
from tests.analysis.cases import mixed_state


@pytest.fixture(scope="module")
def report():
    return htr.analyze(mixed_state(), bootstrap=30)


def heavy(report):
    return report.matrix("heavy $x$"), report.fits["heavy $x$"]


def test_the_histogram_is_a_density(report):
    spectrum, _ = heavy(report)
    edges = log_bins(spectrum.values)
    assert (curves.density(spectrum, edges) * np.diff(edges)).sum() == pytest.approx(1)
    assert curves.num_below(spectrum, edges) == 0
    ratios = edges[1:] / edges[:-1]
    assert ratios == pytest.approx(ratios[0], rel=1e-9) and 16 <= len(ratios) <= 60


def test_eigenvalues_far_below_are_counted_as_left_out():
    W = torch.diag(torch.cat([torch.full((3,), 1e-5), torch.linspace(1, 3, 27)])).double()
    W[0, 0] = 0
    spectrum = htr.analyze({"w": W}).matrix("w")
    edges = log_bins(spectrum.values)
    assert curves.num_below(spectrum, edges) == 3
    assert (curves.density(spectrum, edges) * np.diff(edges)).sum() == pytest.approx(27 / 30)


def test_the_tail_holds_its_share(report):
    spectrum, fit = heavy(report)
    tail = curves.tail_density(spectrum, points=4000)
    t = np.log(tail.x)
    above = fit.n_tail / spectrum.count * (fit.values[-1] / fit.xmin) ** (1 - fit.alpha)
    height = tail.y * tail.x
    share = (np.diff(t) * (height[1:] + height[:-1]) / 2).sum()
    assert share == pytest.approx(fit.n_tail / spectrum.count - above, rel=1e-4)
    low, high = fit.searched_interval
    for alpha in np.linspace(low, high, 50):  # no law of the interval leaves the band
        law = fit.n_tail / spectrum.count * (alpha - 1) / fit.xmin * (tail.x / fit.xmin) ** -alpha
        assert (tail.low <= law * (1 + 1e-9)).all() and (law <= tail.high * (1 + 1e-9)).all()
    survival = curves.tail_survival(spectrum)
    assert survival.y[0] == fit.n_tail / spectrum.count
    assert survival.y[-1] == pytest.approx(above)
    assert (survival.low <= survival.y).all() and (survival.y <= survival.high).all()


@pytest.mark.parametrize("spikes", [0, 4])
def test_the_bulk_holds_its_share(spikes):
    W = mixed_state()["random"]
    W[:, :spikes] += 30 * torch.eye(100)[:, :spikes]
    spectrum = htr.analyze({"w": W}).matrix("w")
    assert spectrum.bulk.num_spikes == spikes
    x, y = curves.bulk_density(spectrum, 1e-9, points=4000)
    share = (np.diff(x) * (y[1:] + y[:-1]) / 2).sum()
    assert share == pytest.approx(1 - spectrum.bulk.num_spikes / 100, rel=1e-3)
    assert x[0] >= spectrum.bulk.bulk_min and x[-1] <= spectrum.bulk.bulk_max
    x, _ = curves.bulk_density(spectrum, 2 * spectrum.bulk.bulk_min)
    assert x[0] > 2 * spectrum.bulk.bulk_min


def test_survival_keeps_the_largest(report):
    spectrum, _ = heavy(report)
    values, shares = curves.survival(spectrum, points=40)
    assert len(values) <= 40
    for value, share in zip(values, shares, strict=True):
        assert share == (spectrum.values >= value).sum() / spectrum.count
    assert (values[:5] == spectrum.values[-5:][::-1]).all()
