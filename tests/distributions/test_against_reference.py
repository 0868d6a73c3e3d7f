"""Densities, cdfs, quantiles and moments against scipy or quadrature, in float64."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext

import numpy as np
import pytest
import torch

from bayes_htr.distributions import Frechet, Lomax, Powerlaw, TruncatedPowerlaw

RTOL, ATOL = 1e-10, 1e-12
_TAIL = torch.logspace(-6, -2, 9, dtype=torch.float64)
PROBABILITIES = torch.cat(
    [_TAIL, torch.linspace(0.05, 0.95, 19, dtype=torch.float64), 1 - _TAIL.flip(0)]
)


def test_log_prob(case):
    got = case.law().log_prob(case.points)
    np.testing.assert_allclose(got, case.reference.logpdf(case.points.numpy()), RTOL, ATOL)


def test_cdf(case):
    got = case.law().cdf(case.points)
    np.testing.assert_allclose(got, case.reference.cdf(case.points.numpy()), RTOL, ATOL)


def test_icdf(case):
    q = torch.tensor([1e-3, 0.2, 0.7, 0.999], dtype=torch.float64)
    np.testing.assert_allclose(case.law().icdf(q), case.reference.ppf(q.numpy()), RTOL, ATOL)


def test_icdf_inverts_cdf(case):
    law = case.law()
    x = law.icdf(PROBABILITIES)
    torch.testing.assert_close(law.cdf(x), PROBABILITIES, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(law.icdf(law.cdf(x)), x, rtol=1e-9, atol=0)
    assert (x.diff() > 0).all()


def test_density_integrates_to_one(law_case):
    """Trapezium rule of exp(log_prob) between two quantiles, in steps of equal probability."""
    law = law_case.law()
    x = law.icdf(torch.linspace(0.01, 0.99, 20001, dtype=torch.float64))
    torch.testing.assert_close(
        torch.trapezoid(law.log_prob(x).exp(), x), torch.tensor(0.98).double(), rtol=1e-6, atol=0
    )


def test_reference_density_is_normalised(case):
    if hasattr(case.reference, "total"):
        assert case.reference.total() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("y", [-0.0101, -0.0099, 0.0099, 0.0101])
def test_truncated_powerlaw_quantile_on_both_sides_of_its_series(y):
    q = PROBABILITIES.numpy()
    x = TruncatedPowerlaw(1 - y, 1.0, torch.tensor(math.e, dtype=torch.float64)).icdf(PROBABILITIES)
    np.testing.assert_allclose(x.log(), np.log1p(q * np.expm1(y)) / y, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("alpha", [-2.0, 0.0, 0.5, 0.99, 1.01, 1.5, 3.0])
@pytest.mark.parametrize(("xmin", "xmax"), [(1e-100, 1e100), (1.0, 1e3), (1.0, 1.001)])
def test_truncated_powerlaw_quantile_keeps_its_digits_at_both_ends(alpha, xmin, xmax):
    probabilities = [1e-300, 1e-100, 1e-12, 1e-3, 0.5, 0.9, 0.999, 1 - 1e-12]
    with localcontext() as context:
        context.prec = 700
        b = 1 - Decimal(alpha)
        span = (Decimal(xmax) / Decimal(xmin)).ln()
        expected = [
            float(Decimal(xmin) * ((1 + Decimal(q) * ((b * span).exp() - 1)).ln() / b).exp())
            for q in probabilities
        ]
    law = TruncatedPowerlaw(*torch.tensor([alpha, xmin, xmax], dtype=torch.float64))
    x = law.icdf(torch.tensor(probabilities, dtype=torch.float64))
    np.testing.assert_allclose(x, expected, rtol=2e-13)


@pytest.mark.parametrize("moment", ["mean", "variance"])
def test_moments(case, moment):
    order = {"mean": 1, "variance": 2}[moment]
    if case.cls is Frechet and case.parameters["alpha"] <= order:
        expected = math.inf  # scipy's invweibull continues the gamma function instead
    else:
        expected = getattr(case.reference, {"mean": "mean", "variance": "var"}[moment])()
    got = getattr(case.law(), moment)
    np.testing.assert_allclose(got, expected, RTOL, ATOL)


@pytest.mark.parametrize("cls", [Powerlaw, Lomax])
def test_moments_are_infinite_up_to_the_bound(cls):
    alpha = torch.tensor([1.5, 2.0, 2.5, 3.0, 3.5], requires_grad=True)
    law = cls(alpha, 1.0)
    assert law.mean.isinf().tolist() == [True, True, False, False, False]
    assert law.variance.isinf().tolist() == [True, True, True, True, False]
    (law.mean[2:].sum() + law.variance[4]).backward()
    assert alpha.grad.isfinite().all()
