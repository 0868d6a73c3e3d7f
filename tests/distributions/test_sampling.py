"""Goodness of fit of the draws, and their gradients to every parameter."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import kstest

from bayes_htr.distributions import (
    Frechet,
    Lomax,
    MarchenkoPastur,
    Powerlaw,
    TruncatedPowerlaw,
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_goodness_of_fit(case, dtype):
    law = case.law(dtype)
    x = law.sample((100_000,))
    assert x.dtype == dtype
    assert law.support.check(x).all()
    assert x.isfinite().all()
    assert kstest(case.law().cdf(x.double()).numpy(), "uniform").pvalue > 1e-3


def test_rsample_gradients(case):
    """Against central differences of draws with one seed."""
    parameters = case.tensors()

    def draw(*tensors):
        torch.manual_seed(7)
        return case.cls(*tensors, validate_args=False).rsample((200,))

    for i, value in enumerate(parameters):
        leaf = value.clone().requires_grad_()
        x = draw(*parameters[:i], leaf, *parameters[i + 1 :])
        got = torch.stack([torch.autograd.grad(v, leaf, retain_graph=True)[0] for v in x])
        step = 1e-5 * (value.abs() if value != 0 else 1.0)
        if case.cls is MarchenkoPastur and i == 0 and value == 1:
            # The ratio cannot exceed 1: a one-sided difference of second order.
            one, two = (draw(value - k * step, *parameters[1:]) for k in (1, 2))
            expected = (3 * x - 4 * one + two) / (2 * step)
        else:
            high, low = (
                draw(*parameters[:i], value + s * step, *parameters[i + 1 :]) for s in (1, -1)
            )
            expected = (high - low) / (2 * step)
        rounding = 1e-12 * x.detach().abs() / step
        assert ((got - expected).abs() <= 1e-6 * expected.abs() + rounding).all()
        assert got.abs().max() > 0


def test_icdf_gradient_is_one_over_the_density(case):
    law = case.law()
    q = torch.tensor([0.01, 0.3, 0.6, 0.99], dtype=torch.float64, requires_grad=True)
    x = law.icdf(q)
    (got,) = torch.autograd.grad(x.sum(), q)
    torch.testing.assert_close(got, torch.exp(-law.log_prob(x.detach())), rtol=1e-8, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    "law",
    [
        lambda a: Powerlaw(1 + a, 1e-3),
        lambda a: Lomax(1 + a, 1e-3),
        lambda a: Lomax(1 + a, 1e20),
        lambda a: Frechet(a, 1e-3, 0.0),
        lambda a: Frechet(a, 1.0, 5.0),
        lambda a: TruncatedPowerlaw(1 + a, 1e-30, 1e30),
    ],
)
def test_no_infinite_draw_or_gradient_in_the_heaviest_tails(law, dtype):
    a = torch.tensor(0.02, dtype=dtype, requires_grad=True)
    law = law(a)
    x = law.rsample((20_000,))
    assert x.isfinite().all()
    assert law.support.check(x).all()
    assert not law.log_prob(x.detach()).isnan().any()
    (gradient,) = torch.autograd.grad((x / x.detach().clamp(min=1e-37)).sum(), a)
    assert gradient.isfinite()


@pytest.mark.parametrize("alpha", [1 - 1e-3, 1 - 1e-9, 1.0, 1 + 1e-9, 1 + 1e-3])
def test_truncated_powerlaw_is_smooth_at_one(alpha):
    """At fixed q and x, derivatives at alpha near 1 against their closed form at 1."""
    alpha = torch.tensor(alpha, dtype=torch.float64, requires_grad=True)
    law = TruncatedPowerlaw(alpha, 1.0, torch.tensor(20.0, dtype=torch.float64))
    span, q = torch.tensor(20.0, dtype=torch.float64).log(), 0.3
    x = law.icdf(torch.tensor(q, dtype=torch.float64))
    (dx,) = torch.autograd.grad(x, alpha)
    expected = -(q * (1 - q) / 2) * span**2 * torch.exp(q * span)
    torch.testing.assert_close(dx, expected, rtol=4e-3, atol=0)
    (dlog,) = torch.autograd.grad(law.log_prob(x.detach()), alpha)
    torch.testing.assert_close(dlog, span / 2 - x.detach().log(), rtol=4e-3, atol=0)
    (dcdf,) = torch.autograd.grad(law.cdf(x.detach()), alpha)
    torch.testing.assert_close(dcdf, q * (1 - q) / 2 * span, rtol=4e-3, atol=0)
