"""The model as a Pyro program: its density is `log_joint`, and `AutoDelta` on it is MAP."""

from __future__ import annotations

import pyro
import pytest
import torch
import torch.nn.functional as F
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoDelta
from pyro.infer.autoguide.initialization import init_to_value

import bayes_htr as htr

WEIGHTS = torch.tensor([0.3, 1.0, 4.1], dtype=torch.float64)


@pytest.fixture(autouse=True)
def _clean():
    pyro.clear_param_store()
    yield
    pyro.clear_param_store()


@pytest.fixture(params=["mlp", "batchnorm", "weighted", "smoothed", "both"])
def model(request, priors, make_model):
    weights = WEIGHTS.tolist() if request.param in ("weighted", "both") else None
    smoothing = 0.2 if request.param in ("smoothed", "both") else 0.0
    kind = "batchnorm" if request.param == "batchnorm" else "mlp"
    return make_model(priors, kind, weights, smoothing)


def guide_of(model, program, data):
    guide = AutoDelta(program, init_loc_fn=init_to_value(values=model.initial_params()))
    guide(*data, num_data=200)
    return guide


def objective(model, data, num_data):
    """MAP's loss as `docs` state it, from the network itself: for a plain loop."""
    energy = htr.bind(model.priors, model.net, refresh=htr.Exact())
    weights = torch.tensor(model.likelihood.class_weights or [1.0] * 3, dtype=torch.float64)
    eps = model.likelihood.label_smoothing

    def loss():
        given = {"reduction": "none", "label_smoothing": eps}
        losses = F.cross_entropy(model.net(data[0]), data[1], **given)
        return (losses * weights[data[1]]).mean() + energy() / num_data

    return energy, loss


def test_traced_density_is_log_joint(model, elsewhere, data):
    params = elsewhere(model)
    program = poutine.condition(model.pyro_model("map"), data=params)
    trace = poutine.trace(program).get_trace(*data, num_data=200)
    expected = model.log_joint(params, data, num_data=200)
    torch.testing.assert_close(trace.log_prob_sum(), expected)
    assert set(trace.nodes) >= set(params) | {"prior", "y"}


def test_autodelta_has_maps_objective_and_gradient(model, data):
    program = model.pyro_model("map")
    guide = guide_of(model, program, data)
    loss = Trace_ELBO().differentiable_loss(program, guide, *data, num_data=200)
    loss.backward()
    energy, plain = objective(model, data, 200)
    (200 * plain()).backward()
    torch.testing.assert_close(loss, (200 * plain()).to(loss))
    named = dict(model.net.named_parameters()) | energy.latents()
    found = {n.removeprefix("AutoDelta."): p for n, p in guide.named_parameters()}
    assert len(found) == len(named)
    for name, parameter in named.items():
        (p,) = [p for n, p in found.items() if n.replace("_unconstrained", "") == name]
        torch.testing.assert_close(p.grad, parameter.grad, msg=lambda m, n=name: f"{n}: {m}")


def test_svi_follows_a_plain_loop(model, data):
    program = model.pyro_model("map")
    guide = guide_of(model, program, data)
    svi = SVI(program, guide, pyro.optim.SGD({"lr": 0.05 / 200}), Trace_ELBO())
    energy, loss = objective(model, data, 200)
    optimizer = torch.optim.SGD([*model.net.parameters(), *energy.parameters()], lr=0.05)
    start = model.initial_params()
    for _ in range(5):
        svi.step(*data, num_data=200)
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    found = guide.median()
    named = dict(model.net.named_parameters()) | energy.latents()
    assert set(found) == set(named)
    for name, parameter in named.items():
        torch.testing.assert_close(
            found[name].detach(), parameter.detach(), msg=lambda m, n=name: f"{n}: {m}"
        )
    assert not torch.equal(found["fc1.weight"], start["fc1.weight"])


def test_initial_params_are_copies(model, data):
    start = {n: u.clone() for n, u in model.initial_params().items()}
    for u in model.initial_params().values():
        u += 1.0
    for name, u in model.initial_params().items():
        assert torch.equal(u, start[name])


def test_without_labels_it_draws_them(model, elsewhere, data):
    program = poutine.condition(model.pyro_model(), data=elsewhere(model))
    pyro.set_rng_seed(0)
    y = program(data[0], num_data=200)
    assert y.shape == (30,)
    assert set(y.tolist()) <= {0, 1, 2}


def test_schedule(make_model, data):
    prior = htr.MaxEigenvalue(htr.Frechet(2.0)).scheduled(htr.ExpDecay(1.0))
    model = make_model(htr.Priors(prior))
    program = poutine.condition(model.pyro_model(epoch=2), data=model.initial_params())
    trace = poutine.trace(program).get_trace(*data, num_data=200)
    expected = model.log_joint({}, data, num_data=200, epoch=2)
    torch.testing.assert_close(trace.log_prob_sum(), expected)
