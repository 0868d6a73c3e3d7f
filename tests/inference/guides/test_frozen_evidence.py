"""Frozen parameters that share hyperparameters with trainable ones."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from torch import nn
from torch.distributions import Exponential, Gamma

import bayes_htr as htr
from bayes_htr.errors import PriorError
from bayes_htr.inference.guides import LowRank, MeanField, PyroGuide, SpectralGuide
from bayes_htr.inference.guides.hyperparameters import FrozenEvidence
from bayes_htr.priors.matrix_prior import spectrum_of

SHARED = htr.Shared("t", htr.Gamma(9.0, 3.0))
LOMAX = htr.ESD(htr.Lomax(tail_index=SHARED))


def model_of(priors):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            OrderedDict(fc1=nn.Linear(6, 4, bias=False), fc2=nn.Linear(4, 3, bias=False))
        ).double()
    net.fc1.weight.requires_grad_(False)
    return htr.BayesianClassifier(net, htr.Priors(priors))


@pytest.mark.parametrize("kind", [MeanField, LowRank, PyroGuide])
def test_guides_over_weights_score_them_at_the_sample(kind):
    model = model_of({"*": LOMAX})
    options = {"init_scale": 0.1, "rank": 2, "guide": AutoNormal.__name__}
    guide = kind.from_weights(model.densities(0), {}, options)
    alone = kind.from_weights(model.densities(0)._replace(frozen=[]), {}, options)
    alone.load_state_dict(guide.state_dict())
    sample = guide.rsample()
    lam = spectrum_of(model.net.fc1.weight)
    expected = -htr.distributions.Lomax(1 + sample["t"], 1.0).log_prob(lam).sum()
    found = guide.kl(sample) - alone.kl(sample)
    torch.testing.assert_close(found, expected)
    assert sample["t"].requires_grad


def test_the_law_of_a_tail_index_counts_them():
    model = model_of({"fc1.weight": LOMAX.scaled(2.0), "fc2.weight": LOMAX})
    guide = SpectralGuide(model.densities(0), init_scale=1e-4)
    guide.rsample()
    law = guide._conditional()["t"]
    logs = [spectrum_of(p.detach()).log1p().sum().item() for p in model.net.parameters()]
    assert law.concentration.item() == pytest.approx(9 + 2 * 4 + 3)
    assert law.rate.item() == pytest.approx(3 + 2 * logs[0] + logs[1], rel=1e-5)
    present = guide._conditional(current=True)["t"]
    assert present.rate.item() == pytest.approx(law.rate.item())


def test_the_spectral_bound_is_largest_at_that_law():
    """Its derivative by the concentration and rate vanishes: what is scored is what is counted."""
    model = model_of({"*": LOMAX})
    guide = SpectralGuide(model.densities(0))
    sample = guide.rsample()
    best = guide._conditional()["t"]

    def total(law):
        laws = {"t": law}
        given = guide.hyperparameters.moments(sample, laws)
        return (
            guide.hyperparameters.kl(laws)
            + guide.evidence.energy(given)
            + guide.state_of("fc2.weight").law.kl(
                guide.state_of("fc2.weight").eigenvalues, guide.state_of("fc2.weight").spread, given
            )
        ).item()

    assert guide.kl(sample).item() == pytest.approx(total(best))
    for a, b in ((1.05, 1.0), (0.95, 1.0), (1.0, 1.05), (1.0, 0.95)):
        assert total(Gamma(best.concentration * a, best.rate * b)) > total(best)


def test_frozen_entries_leave_it_to_be_learnt():
    model = model_of({"fc1.weight": htr.Entries(htr.Exponential(SHARED)), "fc2.weight": LOMAX})
    with torch.no_grad():
        model.net.fc1.weight.abs_()
    guide = SpectralGuide(model.densities(0))
    alone = SpectralGuide(model.densities(0)._replace(frozen=[]))
    assert alone.hyperparameters.conjugate
    assert not guide.hyperparameters.conjugate
    sample = guide.rsample()
    guide.kl(sample).backward()
    ((term, x),) = guide.evidence.scored()
    assert term.strength == 1.0
    found = FrozenEvidence(model.densities(0).frozen).energy(
        guide.hyperparameters.moments(sample, {})
    )
    expected = -Exponential(sample["t"].detach().double()).log_prob(x).sum()
    torch.testing.assert_close(found.detach(), expected)


def test_values_outside_of_the_support():
    prior = {"fc1.weight": htr.ESD(htr.Powerlaw(tail_index=SHARED, xmin=50.0)), "fc2.weight": LOMAX}
    model = model_of(prior)
    with pytest.raises(PriorError, match=r"fc1\.weight is frozen and has values outside"):
        SpectralGuide(model.densities(0))


@pytest.mark.parametrize("guide", ["spectral", "meanfield"])
def test_they_come_back_with_a_run(guide, tmp_path):
    model = model_of({"*": LOMAX})
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(60, 6, generator=generator, dtype=torch.float64)
    method = htr.SVI(guide=guide, lr=0.01)
    fitted = htr.fit(model, (x, x[:, :3].argmax(1)), method=method, epochs=2, out=tmp_path / "run")
    assert len(fitted.guide.evidence.terms) == 1
    loaded = htr.load(tmp_path / "run", model_of({"*": LOMAX}).net)
    a, b = (p.guide.draw(torch.Generator().manual_seed(0)) for p in (fitted, loaded))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
