"""Shapes, dtypes, validation, and what Pyro expects of a distribution."""

from __future__ import annotations

import math

import pyro
import pyro.distributions
import pytest
import torch
from pyro.infer import MCMC, NUTS, SVI, Trace_ELBO
from pyro.infer.autoguide import AutoDelta, AutoNormal

import bayes_htr.distributions as laws
from bayes_htr.distributions import (
    Frechet,
    ImproperPowerlaw,
    Lomax,
    MarchenkoPastur,
    Powerlaw,
    TruncatedPowerlaw,
)


def test_all_names_are_exported():
    assert all(hasattr(laws, name) for name in laws.__all__)
    assert laws.Gamma is pyro.distributions.Gamma


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_shapes_and_dtypes(law_case, dtype):
    """The first parameter has shape (3, 1), the last (2,): everything has shape (3, 2)."""
    first, *middle, last = law_case.tensors(dtype)
    law = law_case.cls(first.expand(3, 1), *middle, last.expand(2))
    assert (law.batch_shape, law.event_shape, law.event_dim) == ((3, 2), (), 0)
    assert law.support.event_dim == 0
    x = law.rsample((5,))
    for y in (x, law.sample((5,)), law.log_prob(x), law.cdf(x), law.icdf(law.cdf(x))):
        assert y.shape == (5, 3, 2)
        assert y.dtype == dtype
    for moment in (law.mean, law.variance):
        assert moment.shape == (3, 2)
        assert moment.dtype == dtype


@pytest.mark.parametrize("validate", [True, False])
def test_expand(law_case, validate):
    law = law_case.law(validate_args=validate)
    expanded = law.expand([4, 2])
    assert type(expanded) is type(law)
    assert (expanded.batch_shape, expanded.sample().shape) == ((4, 2), (4, 2))
    assert expanded._validate_args is validate
    x = law.sample()
    torch.testing.assert_close(expanded.log_prob(x), law.log_prob(x).expand(4, 2))
    assert law.expand_by([3]).to_event(1).log_prob(law.sample((3,))).shape == ()


def test_python_numbers(law_case):
    law = law_case.cls(*law_case.parameters.values())
    assert law.sample().dtype == torch.get_default_dtype()
    assert law.batch_shape == ()


def test_frechet_and_marchenko_pastur_defaults():
    assert (Frechet(2.0).scale, Frechet(2.0).loc) == (1, 0)
    assert (MarchenkoPastur(0.5).mean, MarchenkoPastur(0.5).variance) == (1, 0.5)


@pytest.mark.parametrize(
    ("cls", "parameters"),
    [
        (Powerlaw, (1.0, 1.0)),
        (Powerlaw, (2.0, 0.0)),
        (ImproperPowerlaw, (0.0,)),
        (Lomax, (1.0, 1.0)),
        (Lomax, (2.0, -1.0)),
        (TruncatedPowerlaw, (2.0, 1.0, 1.0)),
        (TruncatedPowerlaw, (2.0, 2.0, 1.0)),
        (TruncatedPowerlaw, (2.0, 0.0, 1.0)),
        (TruncatedPowerlaw, (math.nan, 1.0, 2.0)),
        (Frechet, (0.0,)),
        (Frechet, (2.0, -1.0)),
        (Frechet, (2.0, 1.0, math.nan)),
        (MarchenkoPastur, (0.0,)),
        (MarchenkoPastur, (1.01,)),
        (MarchenkoPastur, (0.5, 0.0)),
        (MarchenkoPastur, (0.5, 1.0, -2.0)),
    ],
)
def test_invalid_parameters(cls, parameters):
    with pytest.raises(ValueError):
        cls(*parameters, validate_args=True)
    cls(*parameters, validate_args=False)


@pytest.mark.parametrize("method", ["sample", "rsample", "cdf", "icdf"])
def test_improper_powerlaw_refuses(method):
    law = ImproperPowerlaw(torch.tensor([2.0, 3.0]))
    with pytest.raises(NotImplementedError, match=r"Powerlaw\(alpha, xmin\) or Lomax"):
        getattr(law, method)(torch.tensor(0.5))
    assert not law.has_rsample
    assert law.mean.isnan().all()
    assert law.variance.isnan().all()
    assert law.expand([3, 2]).mean.shape == (3, 2)


def test_quantiles_at_zero_and_one(law_case):
    law = law_case.law()
    q = torch.tensor([0.0, 1.0], dtype=torch.float64, requires_grad=True)
    low, high = law.icdf(q)
    support = law.support
    assert low == getattr(support, "lower_bound", 0.0)
    assert high == getattr(support, "upper_bound", math.inf)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_truncated_powerlaw_quantiles_stay_inside(dtype):
    xmax = torch.linspace(1.1, 1000, 500, dtype=dtype)
    law = TruncatedPowerlaw(2.5, 0.7, xmax)
    assert (law.icdf(torch.ones((), dtype=dtype)) <= xmax).all()


def test_support_maps_to_the_real_line(law_case):
    law = law_case.law()
    x = law.sample((100,))
    transform = torch.distributions.biject_to(law.support)
    torch.testing.assert_close(transform(transform.inv(x)), x, rtol=1e-6, atol=1e-10)
    assert law.support.check(transform(torch.linspace(-5, 5, 11).double())).all()


@pytest.fixture
def site(law_case):
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    law = law_case.law()
    observed = law.icdf(torch.tensor([0.5, 0.6], dtype=torch.float64))

    def model():
        x = pyro.sample("x", law.expand([2]).to_event(1))
        pyro.sample("y", pyro.distributions.Normal(x, 1.0).to_event(1), obs=observed)

    yield law, model
    pyro.clear_param_store()


@pytest.mark.parametrize("guide", [AutoDelta, AutoNormal])
def test_autoguides(site, guide):
    _, model = site
    svi = SVI(model, guide(model), pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
    losses = [svi.step() for _ in range(5)]
    assert all(math.isfinite(loss) for loss in losses)


def test_nuts(site):
    law, model = site
    mcmc = MCMC(NUTS(model, max_tree_depth=3), 5, warmup_steps=5, disable_progbar=True)
    mcmc.run()
    assert law.support.check(mcmc.get_samples()["x"]).all()
