from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import bayes_htr as htr

METRICS = ("epoch", "loss", "train_nll", "energy", "train_accuracy", "lr", "seconds")


def test_step_is_the_gradient_of_loss_and_energy(make_model, data, frechet):
    model = make_model(frechet.scaled(5.0), class_weights=[0.5, 1.0, 3.0])
    net, (x, y) = copy.deepcopy(model.net), data
    method = htr.MAP(lr=0.1, optimizer=torch.optim.SGD, scheduler=None)
    posterior = htr.fit(model, data, method=method, epochs=1, batch_size=50)
    lam = [torch.linalg.svdvals(net.get_parameter(n))[0] ** 2 for n in ("fc1.weight", "fc2.weight")]
    energy = 5.0 * sum(3.0 * z.log() + z**-2.0 for z in lam)
    nll = (F.cross_entropy(net(x), y, reduction="none") * torch.tensor([0.5, 1.0, 3.0])[y]).mean()
    (nll + energy / 50).backward()
    for name, p in net.named_parameters():
        expected = p.detach() - 0.1 * p.grad
        torch.testing.assert_close(posterior.network().get_parameter(name).detach(), expected)
    (row,) = posterior.history
    assert row["loss"] == pytest.approx((nll + energy / 50).item(), rel=1e-6)
    assert row["train_nll"] == pytest.approx(nll.item(), rel=1e-6)
    assert row["energy"] == pytest.approx(energy.item(), rel=1e-6)
    assert row["train_accuracy"] == pytest.approx((net(x).argmax(1) == y).double().mean().item())


def test_the_loss_does_not_depend_on_the_batch_size(make_model, data, frechet):
    """At a learning rate that moves nothing, the mean of the mini-batch losses is the full one."""
    model = make_model(frechet.scaled(50.0), class_weights=[0.5, 1.0, 3.0])
    still = htr.MAP(lr=1e-30)
    losses = [
        htr.fit(model, data, method=still, epochs=1, batch_size=size).history[0]["loss"]
        for size in (50, 25, 16, 3)
    ]
    assert losses == pytest.approx([losses[0]] * 4, rel=1e-6)


@pytest.mark.parametrize("strength", [1.0, 3.0])
@pytest.mark.parametrize("shared", [False, True])
def test_joint_optimisation_finds_the_optimum(make_model, data, strength, shared):
    a, b = 2.0, 1.0
    latent = htr.Shared("t", htr.Gamma(a, b)) if shared else htr.Joint(htr.Gamma(a, b))
    prior = htr.ESD(htr.Lomax(tail_index=latent, scale=0.01))
    model = make_model(htr.Priors(prior).scaled(strength))
    model.net.requires_grad_(False)
    model.net.fc2.bias.requires_grad_(True)
    posterior = htr.fit(model, data, method=htr.MAP(), epochs=300, batch_size=50)
    S, K = [], []
    for layer in (model.net.fc1, model.net.fc2):
        lam = torch.linalg.svdvals(layer.weight.double()) ** 2
        S.append(torch.log1p(lam / 0.01).sum().item())
        K.append(len(lam))
    found = posterior.hyperparameters()
    if shared:
        S, K = [sum(S)], [sum(K)]
        assert set(found) == {"t"}
    # The mode in log t of Gamma(a + s K, b + s S).
    expected = [(a + strength * k) / (b + strength * s) for k, s in zip(K, S, strict=True)]
    assert list(found.values()) == pytest.approx(expected, rel=2e-3)


def test_metrics(make_model, data, validation, frechet):
    model = make_model(frechet, "batchnorm")
    posterior = htr.fit(model, data, method=htr.MAP(lr=0.04), epochs=5, validation=validation)
    assert [row["epoch"] for row in posterior.history] == [1, 2, 3, 4, 5]
    for row in posterior.history:
        assert set(row) == {*METRICS, "val_nll", "val_accuracy"}
        assert all(type(v) is float and math.isfinite(v) for v in row.values())
        assert row["loss"] == pytest.approx(row["train_nll"] + row["energy"] / 50)
    rates = [0.02 * (1 + math.cos(math.pi * e / 5)) for e in range(5)]
    assert [row["lr"] for row in posterior.history] == pytest.approx(rates)
    scores = posterior.evaluate(validation)
    assert posterior.history[-1]["val_nll"] == pytest.approx(scores["nll"], rel=1e-5)
    assert posterior.history[-1]["val_accuracy"] == pytest.approx(scores["accuracy"])


def test_it_learns(make_model, data, validation, frechet):
    posterior = htr.fit(make_model(frechet), data, method=htr.MAP(lr=0.1), epochs=40, batch_size=16)
    assert posterior.evaluate(validation)["accuracy"] > 0.6


def test_decay_follows_the_epochs(make_model, data):
    prior = htr.Priors(htr.Entries(htr.Normal(0.0, 1.0))).scheduled(htr.PowerDecay(1.0, period=2))
    posterior = htr.fit(make_model(prior), data, method=htr.MAP(lr=1e-30), epochs=8)
    energies = np.array([row["energy"] for row in posterior.history])
    factors = [1, 1, 1, 1, 1 / 2, 1 / 2, 1 / 3, 1 / 3]
    assert energies / energies[0] == pytest.approx(factors, rel=1e-6)


@pytest.mark.parametrize("device", [None, "cpu", torch.device("cpu"), "auto"])
def test_devices(model, data, device):
    posterior = htr.fit(model, data, method=htr.MAP(), epochs=1, device=device)
    accelerated = device == "auto" and torch.accelerator.is_available()
    assert posterior.network().fc1.weight.is_cpu is not accelerated
    assert posterior.predict(data[0]).probs.is_cpu


def test_init_continues_from_a_posterior(make_model, data, same_weights):
    model = make_model(htr.Priors(htr.ESD(htr.Lomax(tail_index=htr.Joint(htr.Gamma(2.0, 1.0))))))
    first = htr.fit(model, data, method=htr.MAP(), epochs=3)
    unchanged = htr.fit(model, data, method=htr.MAP(), epochs=0, init=first)
    same_weights(unchanged, first)
    assert unchanged.hyperparameters() == first.hyperparameters()
    again = htr.fit(model, data, method=htr.MAP(), epochs=1, init=first)
    assert again.history[0]["loss"] < first.history[0]["loss"]
    same_weights(unchanged, first)


def test_init_of_another_network_raises(model, data):
    other = htr.Posterior(nn.Linear(6, 3), htr.Priors({}))
    with pytest.raises(ValueError, match="init is the posterior of another network"):
        htr.fit(model, data, method=htr.MAP(), epochs=1, init=other)


def test_no_epochs_is_the_start(model, data, same_weights, tmp_path):
    posterior = htr.fit(model, data, method=htr.MAP(), epochs=0, out=tmp_path / "run")
    same_weights(posterior, model.net)
    assert posterior.history == htr.load(tmp_path / "run", model.net).history == []


@pytest.mark.parametrize(
    "setting",
    [
        {"lr": 0.0},
        {"lr": -1.0},
        {"lr": float("nan")},
        {"lr": float("inf")},
        {"lr": "fast"},
        {"optimizer": "adam"},
        {"scheduler": "linear"},
        {"patience": 0},
        {"patience": 1.5},
        {"clip": 0.0},
        {"clip": float("nan")},
        {"refresh": 4},
    ],
    ids=str,
)
def test_settings_out_of_range(setting):
    ((name, value),) = setting.items()
    with pytest.raises(ValueError, match=f"{name}={value!r}"):
        htr.MAP(**setting)


def test_an_optimiser_without_a_closure(make_model, data, frechet):
    class Plain(torch.optim.SGD):
        def step(self):
            return super().step()

    runs = [
        htr.fit(
            make_model(frechet), data, method=htr.MAP(optimizer=kind, lr=0.1), epochs=2
        ).network()
        for kind in (torch.optim.SGD, Plain)
    ]
    for a, b in zip(*(net.parameters() for net in runs), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("law", [htr.Powerlaw(2.0, 0.3), htr.TruncatedPowerlaw(2.0, 0.3, 50.0)])
def test_a_power_law_that_has_reached_its_lower_end_goes_on(make_model, data, law):
    """The energy is constant there: what the prior asks for is reached, not an error."""
    priors = htr.Priors({"fc2.weight": htr.MaxEigenvalue(law)}).scaled(5.0)
    posterior = htr.fit(
        make_model(priors), data, method=htr.MAP(lr=0.02, scheduler=None), epochs=15
    )
    energies = [row["energy"] for row in posterior.history]
    assert energies[-1] < energies[0]
    assert min(energies) == pytest.approx(5.0 * 2.0 * math.log(0.3), rel=0.2)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"method": htr.MAP}, "MAP()"),
        ({"method": "sgd"}, "must be one of map, svi, nuts"),
        ({"init": torch.nn.Linear(2, 2)}, "Posterior"),
        ({"callbacks": [3]}, "callables"),
        ({"callbacks": print}, "callables"),
        ({"metadata": {"data": object()}}, "plain data"),
        ({"seed": 2**70}, "seed"),
    ],
)
def test_settings_of_another_kind_are_named(make_model, data, frechet, tmp_path, setting, message):
    settings = {"method": htr.MAP(), "epochs": 1, "out": tmp_path / "run"} | setting
    with pytest.raises(ValueError, match=message.replace("(", r"\(").replace(")", r"\)")):
        htr.fit(make_model(frechet), data, **settings)
    assert not (tmp_path / "run").exists()


def test_numpy_integers_are_whole_numbers(make_model, data, frechet):
    import numpy as np

    posterior = htr.fit(
        make_model(frechet),
        data,
        method=htr.MAP(lr=np.float32(0.1)),
        epochs=np.int64(2),
        batch_size=np.int64(16),
    )
    assert len(posterior.history) == 2
