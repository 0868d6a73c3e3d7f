from __future__ import annotations

import copy
import math
import pickle
import re

import numpy as np
import pyro
import pytest
import torch
import torch.nn.functional as F
from pyro.infer.autoguide import AutoDelta, AutoNormal
from torch import nn
from torch.optim import LBFGS, SGD, Adam
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

import bayes_htr as htr
from bayes_htr.inference.data import Batches
from bayes_htr.inference.guides import MeanField
from bayes_htr.inference.problem import Problem
from bayes_htr.spectra import parameters_of
from bayes_htr.spectra.matrices import set_parameters

NORMAL = htr.Priors({"*": htr.Entries(htr.Normal(0.0, 0.5))})
LOMAX = htr.Priors(htr.ESD(htr.Lomax(tail_index=htr.Gamma(9.0, 3.0))))
METRICS = ("epoch", "loss", "train_nll", "kl", "train_accuracy", "lr", "seconds")
GUIDES = pytest.mark.parametrize("guide", ["spectral", "meanfield", "lowrank", AutoNormal], ids=str)


def fitted(model, data, method, epochs=1, batch_size=16, **more):
    """What the method itself returns, with the guide."""
    problem = Problem(
        model=model,
        net=copy.deepcopy(model.net),
        train=Batches(data, batch_size=batch_size, seed=0),
        validation=None,
        epochs=epochs,
        seed=0,
        **more,
    )
    return method.prepare(problem).run()


def part_of(data):
    """Of 50 examples an epoch with one batch of 20."""
    dataset = TensorDataset(*data)
    order, own = (torch.Generator().manual_seed(seed) for seed in (3, 4))
    sampler = RandomSampler(dataset, num_samples=20, generator=order)
    return DataLoader(dataset, 20, sampler=sampler, generator=own)


@pytest.mark.parametrize("particles", [1, 2])
@pytest.mark.parametrize("batch", ["all", "part"])
def test_step_is_the_gradient_of_the_bound(make_model, data, particles, batch):
    """With class weights: against the formula, with the same noise.

    The divergence is divided by the number of examples that there are, whatever is drawn of them.
    """
    model = make_model(NORMAL.scaled(3.0), class_weights=[0.5, 1.0, 3.0])
    method = htr.SVI(
        "meanfield", lr=0.1, optimizer=SGD, scheduler=None, particles=particles, init_scale=0.1
    )
    result = fitted(model, data if batch == "all" else part_of(data), method, batch_size=50)
    given = data if batch == "all" else part_of(data)
    x, y = next(iter(Batches(given, batch_size=50, seed=0)))
    loc = {n: p.detach().clone().requires_grad_() for n, p in model.net.named_parameters()}
    log = {n: torch.full_like(p, math.log(0.1)).requires_grad_() for n, p in loc.items()}
    torch.manual_seed(0)
    nll = 0.0
    for _ in range(particles):
        W = {n: loc[n] + log[n].exp() * torch.randn(loc[n].shape) for n in loc}
        logits = torch.func.functional_call(model.net, W, (x,))
        each = F.cross_entropy(logits, y, reduction="none")
        nll = nll + (each * torch.tensor([0.5, 1.0, 3.0])[y]).mean() / particles
    kl = 0.0
    for n in loc:
        second = loc[n] ** 2 + (2 * log[n]).exp()
        energy = second / (2 * 0.25) + math.log(0.5) + 0.5 * math.log(2 * math.pi)
        kl = kl + (3.0 * energy - log[n] - 0.5 * math.log(2 * math.pi * math.e)).sum()
    (nll + kl / 50).backward()
    for n, p in loc.items():
        found = result.guide.centre()[n]
        torch.testing.assert_close(found, p.detach() - 0.1 * p.grad, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(result.net.get_parameter(n).detach(), found)
    scales = dict(zip(result.guide.random, result.guide.log_scales, strict=True))
    for n, u in log.items():
        torch.testing.assert_close(scales[n], u.detach() - 0.1 * u.grad, rtol=1e-4, atol=1e-5)
    (row,) = result.history
    assert row["train_nll"] == pytest.approx(nll.item(), rel=1e-5)
    assert row["kl"] == pytest.approx(kl.item(), rel=1e-5)
    assert row["loss"] == pytest.approx(nll.item() + kl.item() / 50, rel=1e-5)


@pytest.mark.parametrize("particles", [1, 3])
def test_a_spectral_guide_counts_steps_and_not_draws(make_model, data, particles):
    method = htr.SVI(lr=0.01, particles=particles, refresh=htr.Every(3))
    guide = fitted(make_model(LOMAX), data, method, epochs=2, batch_size=10).guide
    assert int(guide.calls) == 10


@GUIDES
def test_the_objective_does_not_depend_on_the_batch_size(make_model, data, guide):
    """Where nothing moves and draws hardly differ, the mean of mini-batches is the full one."""
    model = make_model(NORMAL, class_weights=[0.5, 1.0, 3.0])
    still = htr.SVI(guide=guide, lr=1e-30, init_scale=1e-6)
    rows = [fitted(model, data, still, batch_size=size).history[0] for size in (50, 25, 16, 3)]
    assert [r["train_nll"] for r in rows] == pytest.approx([rows[0]["train_nll"]] * 4, rel=1e-4)
    slack = {"rel": 0.1} if guide is AutoNormal else {"rel": 1e-4}  # one-sample estimates
    assert [r["kl"] for r in rows] == pytest.approx([rows[0]["kl"]] * 4, **slack)


@pytest.mark.parametrize("priors", [htr.Priors({}), NORMAL.scaled(0.0)], ids=["flat", "strength 0"])
@pytest.mark.parametrize("kind", ["mlp", "batchnorm", "dropout"])
def test_without_a_prior_it_is_plain_training(make_model, data, priors, kind, same_weights):
    optimizer = {"lr": 0.01, "optimizer": Adam}
    plain = htr.fit(make_model(kind=kind), data, method=htr.MAP(**optimizer), epochs=3)
    for guide in ("spectral", "meanfield", "lowrank"):
        method = htr.SVI(guide=guide, **optimizer)
        same_weights(htr.fit(make_model(priors, kind), data, method=method, epochs=3), plain)


@GUIDES
@pytest.mark.parametrize("priors", [NORMAL, LOMAX], ids=["normal", "lomax"])
def test_metrics(make_model, data, validation, guide, priors):
    method = htr.SVI(guide=guide, lr=0.01)
    state = torch.get_rng_state()
    posterior = htr.fit(
        make_model(priors, "batchnorm"), data, method=method, epochs=3, validation=validation
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert not list(pyro.get_param_store().keys())
    assert [row["epoch"] for row in posterior.history] == [1, 2, 3]
    for row in posterior.history:
        assert set(row) == {*METRICS, "val_nll", "val_accuracy"}
        assert all(type(v) is float and math.isfinite(v) for v in row.values())
        assert row["loss"] == pytest.approx(row["train_nll"] + row["kl"] / 50)
    rates = [0.005 * (1 + math.cos(math.pi * e / 3)) for e in range(3)]
    assert [row["lr"] for row in posterior.history] == pytest.approx(rates)


@GUIDES
def test_it_learns(make_model, data, validation, guide):
    method = htr.SVI(guide=guide, lr=0.02)
    model = make_model(LOMAX if guide == "spectral" else NORMAL)
    result = htr.fit(model, data, method=method, epochs=60, validation=validation)
    first, last = result.history[0], result.history[-1]
    assert last["loss"] < first["loss"] - 0.5
    assert last["val_accuracy"] > 0.6


@GUIDES
def test_the_network_is_at_the_centre(make_model, data, guide):
    result = fitted(make_model(LOMAX), data, htr.SVI(guide=guide, lr=0.01), epochs=2)
    centre = result.guide.centre()
    for name, p in result.net.named_parameters():
        assert torch.equal(p.detach(), centre[name])
    assert not result.net.training
    tails = {n: math.exp(u.item()) for n, u in result.hyperparameters.items()}
    assert tails == pytest.approx({n: centre[n].item() for n in tails})
    assert set(tails) == {"fc1.weight:ESD.tail_index", "fc2.weight:ESD.tail_index"}
    pickle.loads(pickle.dumps(result))
    copy.deepcopy(result)


@GUIDES
def test_it_starts_from_a_map_fit(make_model, data, guide):
    law = htr.Lomax(tail_index=htr.Joint(htr.Gamma(9.0, 3.0)))
    if guide == "spectral":  # where a tail index follows from the spectra
        law = htr.Lomax(3.0, scale=htr.LogNormal(0.0, 0.5))
    model = make_model(htr.Priors(htr.ESD(law)))
    first = htr.fit(model, data, method=htr.MAP(), epochs=5)
    start = htr.fit(model, data, method=htr.SVI(guide=guide), epochs=0, init=first)
    for a, b in zip(first.network().parameters(), start.network().parameters(), strict=True):
        assert torch.equal(a, b)
    assert start.hyperparameters() == pytest.approx(first.hyperparameters(), rel=1e-5)


def test_warm_up(make_model, data):
    """Linear in steps; what the history tells is the bound itself."""
    model = make_model(NORMAL)
    still = {"guide": "meanfield", "lr": 1e-30, "init_scale": 1e-6}
    plain = fitted(model, data, htr.SVI(**still), epochs=2).history
    warm = fitted(model, data, htr.SVI(kl_warmup=2, **still), epochs=2).history
    assert [r["loss"] for r in warm] == pytest.approx([r["loss"] for r in plain], rel=1e-4)
    # Plain gradient descent on a network without likelihood gradient: the divergence alone.
    net = nn.Linear(6, 3)
    with torch.no_grad():
        net.weight.fill_(1.0)
        net.bias.zero_()
    x, y = torch.zeros(8, 6), torch.zeros(8, dtype=torch.int64)
    priors = htr.Priors({"weight": htr.Entries(htr.Normal(0.0, 1.0))})
    method = htr.SVI("meanfield", lr=0.1, optimizer=SGD, scheduler=None, kl_warmup=2)
    linear = htr.BayesianClassifier(net, priors)
    result = fitted(linear, (x, y), method, epochs=3, batch_size=4)
    expected = np.prod([1 - 0.1 / 8 * w for w in (0.25, 0.5, 0.75, 1.0, 1.0, 1.0)])
    torch.testing.assert_close(
        result.guide.centre()["weight"], torch.full((3, 6), float(expected)), rtol=1e-5, atol=0
    )


def test_temperature_is_the_weight_of_the_divergence():
    """The divergence alone, as in the test before; the history's loss is what is descended."""
    net = nn.Linear(6, 3)
    with torch.no_grad():
        net.weight.fill_(1.0)
        net.bias.zero_()
    x, y = torch.zeros(8, 6), torch.zeros(8, dtype=torch.int64)
    model = htr.BayesianClassifier(net, htr.Priors({"weight": htr.Entries(htr.Normal(0.0, 1.0))}))
    method = htr.SVI("meanfield", lr=0.1, optimizer=SGD, scheduler=None, temperature=0.25)
    result = fitted(model, (x, y), method, epochs=3)
    torch.testing.assert_close(
        result.guide.centre()["weight"], torch.full((3, 6), (1 - 0.1 / 8 / 4) ** 3)
    )
    for line in result.history:
        assert line["loss"] == pytest.approx(line["train_nll"] + 0.25 * line["kl"] / 8)


def test_a_schedule_that_ends_in_no_density_is_refused_at_once(make_model, data, tmp_path):
    priors = LOMAX.scheduled(htr.PowerDecay(1.0, period=1))
    with pytest.raises(htr.PriorError, match=r"no finite integral at strength 0\.5"):
        htr.fit(make_model(priors), data, method=htr.SVI(), epochs=3, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_schedule_is_followed(make_model, data):
    priors = NORMAL.scheduled(htr.PowerDecay(1.0, period=1, cutoff=0.4))
    still = htr.SVI("meanfield", lr=1e-30, init_scale=0.1)
    kl = [row["kl"] for row in fitted(make_model(priors), data, still, epochs=4).history]
    flat = [fitted(make_model(NORMAL.scaled(s)), data, still).history[0]["kl"] for s in (1, 0.5)]
    assert kl[:3] == pytest.approx([flat[0], flat[0], flat[1]], rel=1e-5)
    assert kl[3] == pytest.approx(-(27 + 56) * (math.log(0.1) + 1.4189385), rel=1e-5)  # entropy


def test_patience_restores_the_best_guide(make_model, data, validation):
    seen = []
    method = htr.SVI("meanfield", lr=1.0, optimizer=SGD, scheduler=None, patience=3)
    posterior = htr.fit(
        make_model(NORMAL),
        data,
        method=method,
        epochs=60,
        validation=validation,
        callbacks=[lambda event: seen.append(copy.deepcopy(event.network))],
    )
    nll = [row["val_nll"] for row in posterior.history]
    best = int(np.argmin(nll))
    assert len(nll) == best + 4 < 60
    for a, b in zip(posterior.network().parameters(), seen[best].parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_mean_field_bound_of_a_linear_gaussian_model_is_the_log_evidence():
    """Orthogonal design: the posterior is mean field, and at its optimum the bound is tight."""
    torch.manual_seed(0)
    n, d, noise, tau = 40, 5, 0.5, 0.8
    X = torch.linalg.qr(torch.randn(n, d, dtype=torch.float64)).Q * 3.0
    y = X @ torch.randn(d, dtype=torch.float64) + noise * torch.randn(n, dtype=torch.float64)
    net = nn.Linear(d, 1, bias=False).double()
    model = htr.BayesianClassifier(net, htr.Priors(htr.Entries(htr.Normal(0.0, tau))))
    guide = MeanField(model.densities(), init_scale=0.1)

    def bound(sample):
        """One-sample negative bound; the likelihood's expectation over the noise is closed too."""
        fit = torch.distributions.Normal(X @ sample["weight"][0], noise).log_prob(y).sum()
        return guide.kl(sample) - fit

    optimizer = torch.optim.Adam(guide.parameters(), lr=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 800)
    for _ in range(800):
        optimizer.zero_grad()
        (sum(bound(guide.rsample()) for _ in range(4)) / 4).backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        estimate = torch.stack([bound(guide.rsample()) for _ in range(3000)])
        variance = (2 * guide.log_scales[0]).exp()[0]
        expected_fit = -n * (math.log(noise) + 0.5 * math.log(2 * math.pi)) - (
            (y - X @ guide.centre()["weight"][0]).square().sum() + (X.square() @ variance).sum()
        ) / (2 * noise**2)
        exact_bound = guide.kl(guide.rsample()) - expected_fit
    cov = tau**2 * X @ X.T + noise**2 * torch.eye(n, dtype=torch.float64)
    law = torch.distributions.MultivariateNormal(torch.zeros(n, dtype=torch.float64), cov)
    evidence = law.log_prob(y).item()
    assert -exact_bound.item() == pytest.approx(evidence, abs=0.01)
    assert -exact_bound.item() <= evidence + 1e-9
    error = estimate.std().item() / 3000**0.5
    assert estimate.mean().item() == pytest.approx(exact_bound.item(), abs=4 * error)


def test_tied_and_frozen_parameters(data):
    net = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6), nn.Linear(6, 3))
    net[2].weight = net[0].weight
    net[3].weight.requires_grad_(False)
    before = net[3].weight.clone()
    result = fitted(htr.BayesianClassifier(net, NORMAL), data, htr.SVI("meanfield", lr=0.1))
    assert result.net[2].weight is result.net[0].weight
    assert torch.equal(result.net[3].weight, before)
    assert "3.weight" not in result.guide.centre()
    set_parameters(parameters_of(net), {"0.weight": torch.ones(6, 6)})
    assert net[2].weight.eq(1).all()


@pytest.mark.parametrize(
    ("prior", "instead"),
    [
        (htr.ESD(htr.ImproperPowerlaw(2.0)), "Lomax"),
        (htr.MaxEigenvalue(htr.Frechet(htr.Hill(), 1.0)), "Lomax"),
        (htr.StableRank(htr.Exponential(1.0)), "Lomax"),
        (htr.ESD(htr.Lomax(2.0), tail=0.5), "Lomax"),
        (htr.Entries(htr.Normal(0.0, 1.0)).above(1.0), "htr.MAP"),
    ],
)
@GUIDES
def test_a_prior_that_is_no_density_is_refused(make_model, data, tmp_path, guide, prior, instead):
    out = tmp_path / "run"
    with pytest.raises(htr.PriorError, match=instead):
        htr.fit(make_model(htr.Priors(prior)), data, method=htr.SVI(guide=guide), epochs=1, out=out)
    assert not out.exists()


@pytest.mark.parametrize(
    "setting",
    [
        {"guide": "full"},
        {"guide": MeanField},
        {"guide": None},
        {"lr": -1.0},
        {"optimizer": "adam"},
        {"scheduler": "linear"},
        {"particles": 0},
        {"particles": 1.5},
        {"kl_warmup": -1},
        {"rank": 0},
        {"rank": True},
        {"init_scale": 0.0},
        {"temperature": 0.0},
        {"clip": -1.0},
        {"patience": 0},
        {"full_gradient": "yes"},
        {"noisy_directions": 0},
        {"noisy_directions": 8},  # without noise="example"
    ],
    ids=str,
)
def test_settings_out_of_range(setting):
    ((name, _),) = setting.items()
    with pytest.raises(ValueError, match=f"{name}="):
        htr.SVI(**setting)


@pytest.mark.parametrize(
    ("guide", "setting", "instead"),
    [
        ("meanfield", {"rank": 4}, "'lowrank'"),
        ("spectral", {"rank": 2}, "'lowrank'"),
        (AutoNormal, {"rank": 2}, "'lowrank'"),
        ("meanfield", {"directions": 3}, "'spectral'"),
        ("lowrank", {"directions": 3}, "'spectral'"),
        (AutoNormal, {"directions": 3}, "'spectral'"),
        ("meanfield", {"refresh": htr.Drift()}, "'spectral'"),
        ("meanfield", {"full_gradient": True}, "'spectral'"),
        ("lowrank", {"refresh": htr.Exact()}, "'spectral'"),
        (AutoNormal, {"refresh": htr.Every(3)}, "'spectral'"),
        (AutoDelta, {"init_scale": 0.1}, "'spectral' or 'meanfield' or 'lowrank'"),
    ],
    ids=str,
)
def test_settings_that_the_guide_would_ignore(guide, setting, instead):
    ((name, value),) = setting.items()
    shown = guide if isinstance(guide, str) else guide.__name__
    message = f"{re.escape(f'{name}={value!r}')} is no setting of .*{shown}.*{instead}"
    with pytest.raises(ValueError, match=message):
        htr.SVI(guide=guide, **setting)


def test_settings_that_are_left_out():
    """As they are described: what a run folder holds has not changed."""
    options = htr.SVI().options()
    assert (options["rank"], options["directions"], options["init_scale"]) == (4, None, None)
    assert options["refresh"] == htr.Drift().to_dict()
    assert "full_gradient" not in options
    assert htr.SVI(full_gradient=True).options()["full_gradient"]
    assert htr.SVI(guide="lowrank", rank=2).options()["rank"] == 2
    assert htr.SVI(refresh=htr.Every(3)).options()["refresh"] == htr.Every(3).to_dict()


def test_problems_that_it_cannot_train(make_model, data):
    for method, message in (
        (htr.SVI(patience=2), "validation"),
        (htr.SVI(optimizer=LBFGS), "LBFGS"),
    ):
        with pytest.raises(ValueError, match=message):
            htr.fit(make_model(NORMAL), data, method=method, epochs=1)


@pytest.mark.parametrize("priors", [NORMAL, LOMAX], ids=["normal", "lomax"])
@GUIDES
def test_divergence_is_told(make_model, data, priors, guide):
    method = htr.SVI(guide=guide, lr=1e18, optimizer=SGD)
    with pytest.raises(htr.DivergenceError, match=r"step \d+ \(epoch"):
        htr.fit(make_model(priors), data, method=method, epochs=5)


def test_clip(make_model, data):
    method = htr.SVI("meanfield", lr=1.0, optimizer=SGD, scheduler=None, clip=1e-3)
    model = make_model(NORMAL)
    result = fitted(model, data, method, batch_size=50)
    start = MeanField(model.densities())
    moved = [
        (a - b).detach().square().sum().item()
        for a, b in zip(start.parameters(), result.guide.parameters(), strict=True)
    ]
    assert math.sqrt(sum(moved)) == pytest.approx(1e-3, rel=1e-2)


def test_priors_are_resolved_once_unless_a_schedule_changes_them(monkeypatch):
    counts = []
    resolve = htr.Priors.resolve
    monkeypatch.setattr(
        htr.Priors,
        "resolve",
        lambda self, net, **how: counts.append(1) or resolve(self, net, **how),
    )
    net = torch.nn.Linear(6, 4)
    data = torch.randn(20, 6), torch.arange(20) % 4
    fixed = htr.Priors({"weight": htr.ESD(htr.Lomax(2.5, 0.05))})
    found = {}
    for name, priors in (("fixed", fixed), ("fading", fixed.scheduled(htr.PowerDecay(1.0, 2)))):
        for epochs in (2, 6):
            model = htr.BayesianClassifier(net, priors)
            counts.clear()
            htr.fit(model, data, epochs=epochs, progress=False)
            found[name, epochs] = len(counts)
    assert found["fixed", 2] == found["fixed", 6] <= 4
    assert found["fading", 6] > found["fading", 2]
