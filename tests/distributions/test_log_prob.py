"""Gradients of `log_prob`, its values outside the support, and at the extremes of the range."""

from __future__ import annotations

import math

import pytest
import torch

from bayes_htr.distributions import (
    Frechet,
    ImproperPowerlaw,
    Lomax,
    MarchenkoPastur,
    Powerlaw,
    TruncatedPowerlaw,
)


def test_gradcheck(case):
    x = case.points[2:5].clone().requires_grad_()
    parameters = [t.requires_grad_() for t in case.tensors()]
    if case.parameters.get("ratio") == 1:
        parameters[0] = torch.tensor(0.999, dtype=torch.float64, requires_grad=True)

    def log_prob(x, *parameters):
        return case.cls(*parameters, validate_args=False).log_prob(x)

    def cdf(x, *parameters):
        return case.cls(*parameters, validate_args=False).cdf(x)

    for f in (log_prob, cdf):
        assert torch.autograd.gradcheck(f, (x, *parameters), eps=1e-7, rtol=1e-4, atol=1e-5)


OUTSIDE = [
    (Powerlaw(2.0, 1.0, validate_args=False), [-1.0, 0.0, 0.999]),
    (ImproperPowerlaw(2.0, validate_args=False), [-1.0, 0.0]),
    (Lomax(2.0, 1.0, validate_args=False), [-1.0, -1e-30]),
    (TruncatedPowerlaw(2.0, 1.0, 3.0, validate_args=False), [-1.0, 0.0, 0.9, 3.1]),
    (Frechet(2.0, 1.0, 1.0, validate_args=False), [-1.0, 0.0, 1.0]),
    (MarchenkoPastur(0.25, 1.0, 2.0, validate_args=False), [-1.0, 0.0, 0.49, 4.51]),
    (MarchenkoPastur(1.0, validate_args=False), [-1.0, 4.1]),
]


@pytest.mark.parametrize(("law", "values"), OUTSIDE, ids=str)
def test_minus_infinity_outside_the_support(law, values):
    x = torch.tensor(values, requires_grad=True)
    log_prob = law.log_prob(x)
    assert (log_prob == -math.inf).all()
    (gradient,) = torch.autograd.grad(log_prob.sum(), x)
    assert (gradient == 0).all()
    if law.has_rsample:
        assert ((law.cdf(x) == 0) | (law.cdf(x) == 1)).all()


@pytest.mark.parametrize(("law", "values"), OUTSIDE, ids=str)
def test_validation_rejects_values_outside_the_support(law, values):
    parameters = [getattr(law, name) for name in law.arg_constraints]
    with pytest.raises(ValueError, match="within the support"):
        type(law)(*parameters, validate_args=True).log_prob(torch.tensor(values))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    ("cls", "parameters"),
    [
        (Powerlaw, (50.0, 1e-30)),
        (Powerlaw, (1.001, 1.0)),
        (ImproperPowerlaw, (50.0,)),
        (Lomax, (50.0, 1e-30)),
        (Lomax, (1.001, 1e10)),
        (TruncatedPowerlaw, (50.0, 1e-30, 1e30)),
        (TruncatedPowerlaw, (-50.0, 1e-30, 1e30)),
        (TruncatedPowerlaw, (1.0, 1e-30, 1e30)),
        (Frechet, (50.0, 1.0, 0.0)),
        (Frechet, (0.05, 1.0, 0.0)),
        (Frechet, (2.0, 1.0, -1.0)),
        (MarchenkoPastur, (1.0, 1.0, 1e4)),
        (MarchenkoPastur, (0.3, 1.0, 1.0)),
    ],
)
def test_no_nan_at_the_extremes(cls, parameters, dtype):
    leaves = [torch.tensor(p, dtype=dtype, requires_grad=True) for p in parameters]
    x = torch.tensor([0.0, 1e-30, 1e-3, 1.0, 1e3, 1e30], dtype=dtype, requires_grad=True)
    law = cls(*leaves, validate_args=False)
    functions = [law.log_prob] if cls is ImproperPowerlaw else [law.log_prob, law.cdf]
    for f in functions:
        y = f(x)
        assert not y.isnan().any()
        assert not f(torch.tensor([-math.inf, math.inf], dtype=dtype)).isnan().any()
        for single in y.unbind():
            for gradient in torch.autograd.grad(single, [x, *leaves], retain_graph=True):
                assert not gradient.isnan().any()


def test_frechet_below_its_scale_is_minus_infinity_not_nan():
    x = torch.tensor([1e-30, 1e30], dtype=torch.float64)
    low, high = Frechet(50.0, 1.0).log_prob(x).tolist()
    assert low == -math.inf
    assert high == pytest.approx(math.log(50) - 51 * math.log(1e30), rel=1e-6)


def test_closed_ends_belong_to_the_support():
    x = torch.tensor([2.0, 8.0], dtype=torch.float64)
    assert Powerlaw(3.0, x).log_prob(x).tolist() == pytest.approx([0.0, -math.log(4)])
    truncated = TruncatedPowerlaw(0.0, *x).log_prob(x)
    torch.testing.assert_close(truncated, torch.full_like(x, -math.log(6)))


def test_lomax_gradient_at_zero_is_that_of_the_right_side():
    x = torch.zeros((), requires_grad=True)
    (gradient,) = torch.autograd.grad(Lomax(3.0, 2.0).log_prob(x), x)
    assert gradient.item() == -1.5


def test_improper_powerlaw_is_the_papers_energy():
    x = torch.tensor([0.5, 2.0])
    torch.testing.assert_close(ImproperPowerlaw(2.5).log_prob(x), -2.5 * x.log())


def test_marchenko_pastur_at_its_edges():
    assert MarchenkoPastur(1.0).log_prob(torch.tensor(0.0)) == math.inf
    soft = MarchenkoPastur(0.25, 1.0, 2.0)
    assert (soft.log_prob(torch.stack([soft.lower, soft.upper])) == -math.inf).all()


def test_marchenko_pastur_is_the_spectrum_of_a_random_matrix():
    k, m, variance = 300, 600, 0.3
    w = variance**0.5 * torch.randn(k, m, dtype=torch.float64)
    eigenvalues = torch.linalg.eigvalsh(w @ w.T)
    law = MarchenkoPastur(k / m, variance, float(m))
    uniform = law.cdf(eigenvalues)
    assert (uniform - (torch.arange(k) + 0.5) / k).abs().max() < 0.01
    assert eigenvalues.mean().item() == pytest.approx(law.mean.item(), rel=0.01)
    assert eigenvalues.var().item() == pytest.approx(law.variance.item(), rel=0.02)
