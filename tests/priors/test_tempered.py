"""Powers of laws: each family against quadrature of `p^s`."""

from __future__ import annotations

import math

import pytest
import torch

import bayes_htr as htr
from bayes_htr.priors.tempered import tempered, tempered_distribution

CASES = [
    *[(htr.Powerlaw(2.5, 0.3), s, (0.3, math.inf)) for s in (0.7, 1.0, 3.0)],
    *[(htr.Lomax(2.5, 0.3), s, (0.0, math.inf)) for s in (0.7, 1.0, 3.0)],
    *[(htr.TruncatedPowerlaw(1.5, 0.3, 4.0), s, (0.3, 4.0)) for s in (0.4, 2.0)],
    *[(htr.TruncatedPowerlaw(-1.5, 0.3, 4.0), s, (0.3, 4.0)) for s in (0.4, 2.0)],
    *[(htr.Exponential(2.0), s, (0.0, math.inf)) for s in (0.4, 3.0)],
    *[(htr.Normal(0.3, 2.0), s, (-math.inf, math.inf)) for s in (0.4, 3.0)],
    *[(htr.Gamma(1.8, 2.0), s, (0.0, math.inf)) for s in (0.4, 3.0)],
    (htr.Gamma(0.7, 2.0), 1.4, (0.0, math.inf)),
    *[(htr.LogNormal(0.3, 0.8), s, (0.0, math.inf)) for s in (0.4, 3.0)],
    *[(htr.Frechet(2.0, 0.7), s, (0.0, math.inf)) for s in (0.6, 1.0, 3.0, 40.0)],
    (htr.Frechet(1.5, 2.0, -0.4), 2.0, (-0.4, math.inf)),
    *[(htr.HalfCauchy(1.5), s, (0.0, math.inf)) for s in (0.8, 3.0)],
]


@pytest.mark.parametrize(("law", "s", "ends"), CASES, ids=lambda v: repr(v))
def test_is_the_normalised_power(law, s, ends):
    p, found = law.distribution(), tempered_distribution(law, s)
    grid = torch.linspace(-2.0, 6.0, 23, dtype=torch.float64)
    x = grid[(grid > ends[0] + 1e-9) & (grid < ends[1] - 1e-9)]
    low, high = ends
    t = torch.linspace(-40.0, 60.0 if high == math.inf else math.log(high - low) - 1e-12, 40_001)
    t = t.double()
    if low == -math.inf:
        y, dy = t * 1.0, torch.ones_like(t)
    else:
        y, dy = low + t.exp(), t.exp()
        y = y.clamp(max=1e300)
    unit = law.distribution_of({k: torch.tensor(v).double() for k, v in law.arguments.items()})
    inside = unit.support.check(y) & (y > low)
    mass = torch.trapezoid(
        torch.where(inside, (s * unit.log_prob(torch.where(inside, y, x[0]))).exp() * dy, 0.0), t
    )
    expected = s * unit.log_prob(x) - mass.log()
    torch.testing.assert_close(found.log_prob(x), expected, rtol=1e-4, atol=1e-4)
    assert p.log_prob(x[0]).isfinite()
    draws = found.expand((500,)).sample()
    assert draws.dtype == torch.float64
    assert unit.support.check(draws).all()


@pytest.mark.parametrize(
    ("law", "s"),
    [
        (htr.Lomax(2.0), 0.5),
        (htr.Frechet(1.0), 0.4),
        (htr.HalfCauchy(), 0.5),
        (htr.Gamma(0.5, 1.0), 2.0),
    ],
)
def test_improper_powers_raise(law, s):
    with pytest.raises(htr.PriorError, match=f"at strength {s:g} has no finite integral"):
        tempered_distribution(law, s)


def test_families():
    law = htr.Lomax(2.0, 0.5)
    assert tempered(law, 1.0) is law
    assert tempered(law, 3.0) == htr.Lomax(6.0, 0.5)
    assert tempered(htr.Normal(1.0, 2.0), 4.0) == htr.Normal(1.0, 1.0)
    with pytest.raises(htr.PriorError, match=r"MarchenkoPastur.*htr\.NUTS"):
        tempered(htr.MarchenkoPastur(0.5), 2.0)
