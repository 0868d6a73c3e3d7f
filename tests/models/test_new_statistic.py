"""A statistic is one class: everything else takes it as it takes the others.

The fourth roots of the eigenvalues, under a lognormal law, are the same model as the eigenvalues
under another lognormal law, in every coordinate but that of the mode.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import nn

import bayes_htr as htr
from bayes_htr.inference.guides import SpectralGuide
from bayes_htr.priors import Statistic
from bayes_htr.spectra import Need

M, S = 0.2, 0.3


@dataclass(frozen=True, repr=False)
class FourthRoots(Statistic):
    """A law on the fourth root of every eigenvalue."""

    @property
    def own_needs(self):
        return Need(upper=1)

    def values(self, view):
        return view.eigenvalues**0.25

    def of_eigenvalues(self, eigenvalues):
        return eigenvalues**0.25

    def to_eigenvalues(self, values):
        return values**4

    def log_derivative(self, eigenvalues):
        return (0.25 * eigenvalues**-0.75).log()


ROOTS = FourthRoots(htr.LogNormal(M, S))
SAME = htr.ESD(htr.LogNormal(4 * M, 4 * S))


def models():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Linear(4, 3).double()
    return [htr.BayesianClassifier(net, htr.Priors({"weight": p})) for p in (ROOTS, SAME)]


X = torch.randn(12, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
Y = torch.arange(12) % 3


def test_the_density_over_weights_is_the_same():
    found = []
    for model in models():
        params = model.initial_params()
        joint = model.log_joint(params, (X, Y), num_data=12, coordinates="weight")
        found.append(float(joint))
    assert found[0] == pytest.approx(found[1], rel=1e-9)


def test_simulation_is_the_same():
    found = [htr.sample_prior(model, 5, seed=2)["weight"] for model in models()]
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-12)


def test_the_spectral_guide_has_the_same_divergence():
    found = []
    for model in models():
        guide = SpectralGuide(model.densities(0), init_scale=0.2)
        torch.manual_seed(3)
        found.append(float(guide.kl(guide.rsample())))
    assert found[0] == pytest.approx(found[1], rel=1e-9)


def test_fits_spectra_and_checks_take_it():
    model = models()[0]
    for method in (htr.MAP(), None):
        posterior = htr.fit(model, (X, Y), method=method, epochs=1, progress=False)
        assert posterior.spectra(4)["weight"].shape[1] == 3
    check = posterior.check("weight")
    assert check.p_value > 0
    draws = htr.fit(model, (X, Y), method=htr.NUTS(warmup=5, samples=4), progress=False)
    assert draws.spectra(4)["weight"].min() > 0
    assert "FourthRoots" in str(model.priors.explain(model.net, num_data=12))
