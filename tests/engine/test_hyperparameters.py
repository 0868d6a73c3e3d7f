"""Hyperpriors: integrated out, optimised jointly, shared."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch

import bayes_htr as htr
from tests.reference.penalties import spectrum

SHAPE, RATE = 2.5, 1.7
GAMMA = htr.Gamma(SHAPE, RATE)


def lomax(t, lam):
    return scipy.stats.lomax(t, scale=0.4).logpdf(lam)


def pareto(t, lam):
    return scipy.stats.pareto(t, scale=1e-3).logpdf(lam)


def pareto_tail(t, lam):
    return scipy.stats.pareto(t, scale=lam[2]).logpdf(lam[:2])


def lomax_tail(t, lam):
    law = scipy.stats.lomax(t, scale=0.4)
    return law.logpdf(lam[:2]) - law.logsf(lam[2])


# The prior for a hyperprior on the tail index, and log p(lambda | tail index) of what it scores.
CONJUGATE = [
    (lambda h: htr.ESD(htr.Lomax(tail_index=h, scale=0.4)), lomax),
    (lambda h: htr.ESD(htr.Powerlaw(tail_index=h, xmin=1e-3)), pareto),
    (lambda h: htr.ESD(htr.Powerlaw(tail_index=h), tail=0.5), pareto_tail),
    (lambda h: htr.ESD(htr.Lomax(tail_index=h, scale=0.4), tail=0.5), lomax_tail),
    (lambda h: htr.MaxEigenvalue(htr.Lomax(tail_index=h, scale=0.4)), lambda t, x: lomax(t, x[:1])),
]
IDS = ["lomax", "powerlaw", "powerlaw tail", "lomax tail", "largest"]


@pytest.fixture
def two_matrices():
    return [torch.randn(4, 6, dtype=torch.float64) * scale for scale in (0.5, 2.0)]


def posterior_of_tail_index(log_likelihood, W, strength):
    """`-log` of the evidence, and the mean of the tail index, by trapezoids in `log t`."""
    u = np.linspace(-30, 8, 4001)
    t = np.exp(u)
    likelihood = log_likelihood(t[:, None], spectrum(W).numpy()).sum(1)
    hyper = scipy.stats.gamma(SHAPE, scale=1 / RATE).logpdf(t)
    log_density = strength * likelihood + hyper + u
    log_evidence = scipy.special.logsumexp(log_density) + math.log(u[1] - u[0])
    return -log_evidence, np.average(t, weights=np.exp(log_density - log_density.max()))


@pytest.mark.parametrize("strength", [1.0, 0.3, 4.0])
@pytest.mark.parametrize(("prior", "log_likelihood"), CONJUGATE, ids=IDS)
def test_gamma_is_integrated_out(prior, log_likelihood, strength, two_matrices, evaluate):
    scaled = prior(GAMMA).scaled(strength)
    energies = [evaluate(scaled, W)[0].item() for W in two_matrices]
    expected = [posterior_of_tail_index(log_likelihood, W, strength)[0] for W in two_matrices]
    assert energies[1] - energies[0] == pytest.approx(expected[1] - expected[0], rel=1e-9)


@pytest.mark.parametrize("strength", [1.0, 0.3, 4.0])
@pytest.mark.parametrize(
    "make", [htr.Joint, lambda law: htr.Shared("t", law)], ids=["own", "shared"]
)
@pytest.mark.parametrize(("prior", "log_likelihood"), CONJUGATE, ids=IDS)
def test_the_joint_optimum_is_the_marginal(
    prior, log_likelihood, make, strength, two_matrices, evaluate, one_matrix
):
    differences = []
    for W in two_matrices:
        net = one_matrix(W)
        energy = htr.bind(
            htr.Priors(prior(make(GAMMA))).scaled(strength), net, refresh=htr.Exact()
        ).double()
        (u,) = energy.parameters()
        optimizer = torch.optim.LBFGS([u], max_iter=50, line_search_fn="strong_wolfe")
        for option in ("tolerance_grad", "tolerance_change"):
            optimizer.param_groups[0][option] = 1e-14

        def closure(optimizer=optimizer, energy=energy):
            optimizer.zero_grad()
            value = energy()
            value.backward()
            return value

        optimizer.step(closure)
        net.zero_grad()
        value = energy()
        value.backward()
        marginal, gradient = evaluate(prior(GAMMA).scaled(strength), W)
        torch.testing.assert_close(net.weight.grad, gradient, rtol=1e-6, atol=1e-8)
        differences.append(value.item() - marginal.item())
        # The mode in log coordinates is the mean of the Gamma posterior.
        (t,) = energy.hyperparameters().values()
        expected = posterior_of_tail_index(log_likelihood, W, strength)[1]
        assert t.item() == pytest.approx(expected, rel=1e-6)
    assert differences[1] == pytest.approx(differences[0], rel=1e-9)


# With its start: the median, or the mean where Torch has no median.
HYPERPRIORS = [
    (htr.Gamma(2.5, 1.7), scipy.stats.gamma(2.5, scale=1 / 1.7), "mean"),
    (htr.LogNormal(0.3, 0.8), scipy.stats.lognorm(0.8, scale=math.exp(0.3)), "median"),
    (htr.HalfCauchy(1.4), scipy.stats.halfcauchy(scale=1.4), "median"),
    (htr.Frechet(0.9, 1.2), scipy.stats.invweibull(0.9, scale=1.2), "median"),
    (htr.Lomax(1.8, 0.5), scipy.stats.lomax(0.8, scale=0.5), "median"),
    (htr.Exponential(1.4), scipy.stats.expon(scale=1 / 1.4), "median"),
    (htr.Normal(0.3, 0.8), scipy.stats.norm(0.3, 0.8), "median"),
]


@pytest.mark.parametrize(
    ("law", "reference", "start"),
    HYPERPRIORS,
    ids=lambda x: repr(x) if isinstance(x, htr.priors.Law) else "",
)
def test_the_energy_of_a_hyperparameter_is_that_of_its_coordinate(
    law, reference, start, one_matrix
):
    prior = htr.ESD(htr.TruncatedPowerlaw(law, 1e-3, 1e3))
    energy = htr.bind(
        htr.Priors(prior).scaled(5.0), one_matrix(torch.eye(3)), refresh=htr.Exact()
    ).double()
    (name,) = energy.latents()
    (u,) = energy.parameters()
    expected = getattr(reference, start)()
    assert energy.hyperparameters()[name].item() == pytest.approx(expected, rel=1e-6)
    for coordinate in (-1.3, 0.4):
        with torch.no_grad():
            u.fill_(coordinate)
        value = math.exp(coordinate) if law.positive else coordinate
        assert energy.hyperparameters()[name].item() == pytest.approx(value, rel=1e-12)
        density = reference.logpdf(value) + (coordinate if law.positive else 0.0)
        # Not multiplied by the strength: that tempers laws and not hyperpriors.
        assert energy.terms()[name].item() == pytest.approx(-density, rel=1e-12)


@pytest.mark.parametrize(
    ("prior", "names", "log_p"),
    [
        (
            htr.MaxEigenvalue(htr.Frechet(htr.Gamma(2.0, 1.0), htr.HalfCauchy(2.0))),
            {"alpha": 1.3, "scale": 0.7},
            lambda lam, a: scipy.stats.invweibull(a["alpha"], scale=a["scale"]).logpdf(lam[0]),
        ),
        (
            htr.ESD(htr.Lomax(tail_index=htr.Gamma(2.0, 1.0), scale=htr.HalfCauchy(2.0))),
            {"tail_index": 1.3, "scale": 0.7},
            lambda lam, a: scipy.stats.lomax(a["tail_index"], scale=a["scale"]).logpdf(lam).sum(),
        ),
        (
            htr.ESD(htr.Lomax(2.3, scale=htr.HalfCauchy(2.0)), tail=0.5),
            {"scale": 0.7},
            lambda lam, a: (
                scipy.stats.lomax(1.3, scale=a["scale"]).logpdf(lam[:2])
                - scipy.stats.lomax(1.3, scale=a["scale"]).logsf(lam[2])
            ).sum(),
        ),
        (
            htr.SingularValues(htr.Exponential(htr.Gamma(2.0, 1.0))),
            {"rate": 1.3},
            lambda lam, a: scipy.stats.expon(scale=1 / a["rate"]).logpdf(np.sqrt(lam)).sum(),
        ),
    ],
    ids=["frechet", "lomax", "lomax tail", "exponential"],
)
def test_latent_arguments_keep_their_normaliser(prior, names, log_p, one_matrix):
    net = one_matrix(torch.randn(4, 6, dtype=torch.float64))
    energy = htr.bind(htr.Priors(prior).scaled(3.0), net, refresh=htr.Exact()).double()
    assert {name.rpartition(".")[2] for name in energy.latents()} == set(names)
    with torch.no_grad():
        for name, u in energy.latents().items():
            u.fill_(math.log(names[name.rpartition(".")[2]]))
    expected = -3.0 * log_p(spectrum(net.weight.detach()).numpy(), names)
    assert energy.terms()["weight"].item() == pytest.approx(expected, rel=1e-7)

    inputs = [net.weight.detach(), *(u.detach() for u in energy.latents().values())]

    def f(W, *us):
        given = dict(zip(energy.latents(), us, strict=True))
        return energy.total(energy.terms_at({"weight": W}, given))

    # The start of a tail is a constant, which numerical differentiation cannot know.
    held_start = getattr(prior, "tail", None) is not None
    for x in inputs[1:] if held_start else inputs:
        x.requires_grad_()
    assert torch.autograd.gradcheck(f, inputs)


def test_a_shared_latent_is_one_for_all():
    shared = htr.Shared("tail.index", htr.Gamma(2.0, 1.0))
    prior = htr.MaxEigenvalue(htr.Frechet(shared))
    net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.MultiheadAttention(4, 2))
    energy = htr.bind(htr.Priors(prior), net, refresh=htr.Exact())
    assert list(energy.latents()) == ["tail.index"]
    assert [p.shape for p in energy.parameters()] == [()]
    energy().backward()
    terms = energy.terms()
    assert set(terms) == {"0.weight", "1.in_proj_weight", "1.out_proj.weight", "tail.index"}

    # The latent's gradient is the sum of what each of the five matrices has to say.
    own = htr.bind(
        htr.Priors(htr.MaxEigenvalue(htr.Frechet(htr.Gamma(2.0, 1.0)))), net, refresh=htr.Exact()
    )
    assert len(own.latents()) == 5
    own().backward()
    (u,) = energy.parameters()
    (hyper,) = torch.autograd.grad(terms["tail.index"], u)
    expected = sum(p.grad for p in own.parameters()) - 4 * hyper
    torch.testing.assert_close(u.grad, expected)


def test_one_name_for_two_laws_is_an_error():
    net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2))

    def prior(rate):
        return htr.MaxEigenvalue(htr.Frechet(htr.Shared("t", htr.Gamma(2.0, rate))))

    with pytest.raises(htr.PriorError, match=r"'t'.*two laws.*Gamma\(2.0, 3.0\)"):
        htr.bind(
            htr.Priors({"0.weight": prior(1.0), "1.weight": prior(3.0)}), net, refresh=htr.Exact()
        )


@pytest.mark.parametrize("name", ["values", "type", "training", "a.b", "keys"])
def test_a_shared_latent_may_have_any_name(name, one_matrix):
    shared = htr.MaxEigenvalue(htr.Frechet(htr.Shared(name, htr.Gamma(2.0, 1.0))))
    energy = htr.bind(htr.Priors(shared), one_matrix(torch.eye(3)), refresh=htr.Exact()).eval()
    assert list(energy.hyperparameters()) == [name]


def test_frozen_weights_still_inform_a_shared_latent():
    net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2)).requires_grad_(False)
    shared = htr.MaxEigenvalue(htr.Frechet(htr.Shared("t", htr.Gamma(2.0, 1.0))))
    energy = htr.bind(htr.Priors(shared), net, refresh=htr.Exact())
    assert set(energy.terms()) == {"0.weight", "1.weight", "t"}
    own = htr.bind(
        htr.Priors(htr.ESD(htr.Lomax(tail_index=htr.Gamma(2.0, 1.0)))), net, refresh=htr.Exact()
    )
    assert own.terms() == {}


def test_a_latent_law_that_cannot_score_names_the_matrix(one_matrix):
    prior = htr.MaxEigenvalue(htr.Frechet(htr.Gamma(2.0, 1.0)))
    with pytest.raises(htr.SpectrumError, match="weight"):
        htr.bind(htr.Priors(prior), one_matrix(torch.zeros(3, 4)), refresh=htr.Exact())()
