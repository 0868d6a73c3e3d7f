"""Programs in weight and map coordinates under Pyro's own tools."""

from __future__ import annotations

import warnings

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import MCMC, NUTS, SVI, Importance, JitTrace_ELBO, Predictive, RenyiELBO, Trace_ELBO
from pyro.infer import TraceMeanField_ELBO as MeanFieldELBO
from pyro.infer import autoguide as guides
from pyro.infer.autoguide import initialization as starts
from scipy.stats import ks_2samp
from torch import nn

import bayes_htr as htr
from bayes_htr.models.sites import WeightSite, with_data_dimension

X = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
Y = X[:, :3].argmax(1)
BIAS = {"*.bias": htr.Entries(htr.Normal(0.0, 1.0))}
PRIORS = {
    "tail index": {"*.weight": htr.ESD(htr.Lomax(tail_index=htr.Gamma(9.0, 3.0))), **BIAS},
    "flat biases": htr.MaxEigenvalue(htr.Frechet(2.0, 1.0)),
    "product": {"*.weight": htr.ESD(htr.Lomax(2.5)) & htr.Entries(htr.Normal(0.0, 1.0)), **BIAS},
    "scale": {"*.weight": htr.MaxEigenvalue(htr.Frechet(2.0, scale=htr.LogNormal(0.0, 1.0)))},
    "shared": {
        "*.weight": htr.SingularValues(htr.Lomax(tail_index=htr.Shared("t", htr.Gamma(9.0, 3.0))))
    },
}
COORDINATES = ["weight", "map"]


@pytest.fixture(autouse=True)
def _clean():
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    yield
    pyro.clear_param_store()


@pytest.fixture(params=PRIORS)
def model(request):
    return model_of(request.param)


def model_of(name, smoothing=0.0):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3))
    return htr.BayesianClassifier(net, htr.Priors(PRIORS[name]), label_smoothing=smoothing)


def step_of(program, guide, elbo, steps=3):
    svi = SVI(program, guide, pyro.optim.Adam({"lr": 0.01}), elbo)
    return [svi.step(X, Y, num_data=20) for _ in range(steps)]


GUIDES = [
    guides.AutoDelta,
    guides.AutoNormal,
    guides.AutoDiagonalNormal,
    guides.AutoMultivariateNormal,
    guides.AutoLowRankMultivariateNormal,
    guides.AutoIAFNormal,
]


@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize("guide", GUIDES, ids=lambda g: g.__name__)
@pytest.mark.filterwarnings("error")
def test_guides_without_a_start_begin_at_the_weights(model, guide, coordinates):
    program = model.pyro_model(coordinates)
    guide = guide(program)
    losses = step_of(program, guide, Trace_ELBO(), steps=1)
    assert torch.tensor(losses).isfinite().all()
    if not isinstance(guide, guides.AutoIAFNormal):
        for name, start in model.initial_params().items():
            if name in dict(model.net.named_parameters()):
                torch.testing.assert_close(guide.median()[name], start, rtol=0, atol=0.011)
    drawn = Predictive(program, guide=guide, num_samples=4)(X, num_data=20)
    assert drawn["y"].shape == (4, 20)


@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize(
    "start",
    [starts.init_to_uniform, starts.init_to_sample, starts.init_to_mean],
    ids=lambda start: start.__name__,
)
def test_other_ways_to_start(model, coordinates, start):
    program = model.pyro_model(coordinates)
    assert (
        torch.tensor(
            step_of(program, guides.AutoNormal(program, init_loc_fn=start), MeanFieldELBO())
        )
        .isfinite()
        .all()
    )


@pytest.mark.filterwarnings("ignore:.*where nothing else gives")
@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("name", PRIORS)
def test_a_plate_of_values_has_the_density_of_each(name, coordinates, smoothing):
    model = model_of(name, smoothing)
    program = model.pyro_model(coordinates)
    trace = poutine.trace(program).get_trace(X, Y, num_data=20)
    sites = [n for n, s in trace.nodes.items() if s["type"] == "sample" and not s["is_observed"]]
    sites.remove("data")
    noise = torch.Generator().manual_seed(1)
    values = {
        n: trace.nodes[n]["value"]
        * (1 + 0.1 * torch.rand(5, *trace.nodes[n]["value"].shape, generator=noise))
        for n in sites
    }
    expected = [
        model.log_joint({n: v[i] for n, v in values.items()}, (X, Y), num_data=20,
                        coordinates=coordinates)
        for i in range(5)
    ]  # fmt: skip
    together = {n: v.unsqueeze(1) for n, v in values.items()}
    plate = pyro.plate("values", 5, dim=-2)
    traced = poutine.trace(plate(poutine.condition(program, data=together)))
    traced = traced.get_trace(X, Y, num_data=20)
    traced.compute_log_prob()
    found = sum(
        s["log_prob"].expand(5, -1).sum(1)
        for s in traced.nodes.values()
        if s["type"] == "sample" and s["name"] not in ("data", "values")
    )
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize("elbo", [Trace_ELBO, RenyiELBO])
def test_vectorised_particles(model, coordinates, elbo):
    program = model.pyro_model(coordinates)
    losses = step_of(
        program, guides.AutoNormal(program), elbo(num_particles=4, vectorize_particles=True)
    )
    assert torch.tensor(losses).isfinite().all()


@pytest.mark.filterwarnings("ignore:.*(torch.jit|trace)")
@pytest.mark.parametrize("name", PRIORS)
def test_traced_losses_are_those_of_the_program(name):
    losses = []
    for elbo in (Trace_ELBO(), JitTrace_ELBO(ignore_jit_warnings=True)):
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        program = model_of(name).pyro_model("weight")
        losses.append(step_of(program, guides.AutoDelta(program), elbo, steps=5))
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert losses[0][4] < losses[0][0]


@pytest.mark.filterwarnings("ignore:.*(torch.jit|trace)")
def test_what_cannot_be_traced_says_so(model):
    program = model.pyro_model("map")
    with pytest.raises(RuntimeError, match=r"cannot be traced.*Trace_ELBO, or take pyro_model"):
        step_of(program, guides.AutoDelta(program), JitTrace_ELBO(ignore_jit_warnings=True))
    energy = htr.bind(model.priors, model.net)
    with pytest.raises(RuntimeError, match="the trace would keep the present value"):
        torch.jit.trace(lambda x: x + energy(), torch.ones(()))


@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.filterwarnings("ignore:.*where nothing else gives")
def test_nuts_and_predictions_from_its_samples(coordinates):
    model = model_of("flat biases")
    program = model.pyro_model(coordinates)
    mcmc = MCMC(NUTS(program, max_tree_depth=3), 4, warmup_steps=4, disable_progbar=True)
    mcmc.run(X, Y, num_data=20)
    samples = mcmc.get_samples()
    assert samples["0.weight"].shape == (4, 3, 4)
    for parallel in (False, True):
        drawn = Predictive(program, samples, parallel=parallel)(X, num_data=20)
        assert drawn["y"].shape == (4, 20)


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.filterwarnings("error")
def test_predictive_draws_from_the_prior(parallel):
    model = model_of("tail index")
    program = model.pyro_model("weight")
    drawn = Predictive(program, num_samples=400, parallel=parallel)(X, num_data=20)
    expected = htr.sample_prior(model, 400, seed=1)
    assert drawn["y"].shape == (400, 20)
    for name, draws in expected.items():
        found = drawn[name].reshape(draws.shape)
        if draws.ndim == 3:
            draws, found = (torch.linalg.matrix_norm(v, 2).log() for v in (draws, found))
        assert ks_2samp(found.flatten()[:400], draws.flatten()[:400]).pvalue > 1e-3


def test_importance_sampling_finds_the_evidence():
    net = nn.Linear(2, 2, bias=False)
    model = htr.BayesianClassifier(net, htr.Priors(htr.Entries(htr.Normal(0.0, 1.0))))
    x, y = torch.tensor([[1.0, 0.0]]), torch.tensor([1])
    run = Importance(model.pyro_model("weight"), num_samples=200).run(x, y, num_data=1)
    assert run.get_log_normalizer().exp().item() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(
    ("name", "coordinates", "message"),
    [
        ("flat biases", "weight", r"no prior on 0\.bias; where nothing else gives 0\.bias a value"),
        ("product", "weight", r"0\.weight: a product of priors has no simulator.* its present one"),
        ("shared", "map", r"'map' a prior is a factor.* gives 0\.weight a value"),
    ],
)
def test_what_cannot_be_drawn_is_named_and_stays(name, coordinates, message):
    model = model_of(name)
    program = model.pyro_model(coordinates)
    with pytest.warns(UserWarning, match=message):
        drawn = Predictive(program, num_samples=2)(X, num_data=20)
    stays = "0.bias" if name == "flat biases" else "0.weight"
    start = model.initial_params()[stays]
    assert torch.equal(drawn[stays].reshape(2, *start.shape), start.expand(2, *start.shape))


def test_sites_follow_the_network():
    model = model_of("shared")
    program = model.pyro_model("map")
    with torch.no_grad():
        model.net[0].weight += 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trace = poutine.trace(program).get_trace(X, num_data=20)
    assert torch.equal(trace.nodes["0.weight"]["value"], model.net[0].weight)


@pytest.mark.parametrize("how", ["particles", "parallel"])
def test_spectral_programs_refuse_plates(how):
    program = model_of("tail index").pyro_model("spectral")
    with pytest.raises(ValueError, match=r"takes no plates around it.*pyro_model\('weight'\)"):
        if how == "parallel":
            Predictive(program, num_samples=3, parallel=True)(X, num_data=20)
        else:
            elbo = Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1)
            step_of(program, guides.AutoNormal(program), elbo)


def test_a_site_alone():
    start = torch.randn(2, 3)
    site = WeightSite("w", start, reason="nothing")
    assert torch.equal(site.sample((4,)), start.expand(4, 2, 3))
    assert site.expand((5, 1)).sample().shape == (5, 1, 2, 3)
    assert site.log_prob(torch.zeros(7, 2, 3)).shape == (7, 1)
    assert site.support is torch.distributions.constraints.real
    assert with_data_dimension(torch.zeros(7, 1, 2, 3), 2).shape == (7, 1, 2, 3)
    assert with_data_dimension(torch.zeros(2, 3), 2).shape == (2, 3)
