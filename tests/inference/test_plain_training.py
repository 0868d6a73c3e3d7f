"""Without an acting prior, MAP is ordinary training in PyTorch, bit for bit."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch.optim import LBFGS, SGD, Adam, AdamW, RMSprop
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR, StepLR
from torch.utils.data import DataLoader, TensorDataset

import bayes_htr as htr

ACTING = {
    "frechet": htr.Priors(htr.MaxEigenvalue(htr.Frechet(2.0, 1.0))),
    "product": htr.Priors(htr.ESD(htr.Lomax(2.0)) & htr.Entries(htr.Normal(0.0, 0.1))),
    "plug-in": htr.Priors(htr.penalties.powerlaw()),
    "joint": htr.Priors(htr.ESD(htr.Lomax(tail_index=htr.Joint(htr.Gamma(2.0, 1.0))))),
}
OFF = {"flat": htr.Priors({})} | {f"{k}, off": p.scaled(0.0) for k, p in ACTING.items()}
momentum = partial(SGD, momentum=0.9)


@pytest.mark.parametrize("priors", OFF.values(), ids=OFF)
@pytest.mark.parametrize("kind", ["mlp", "dropout", "batchnorm"])
@pytest.mark.parametrize("seed", [0, 7])
def test_priors_that_do_nothing(make_model, plain_loop, same_weights, data, priors, kind, seed):
    model = make_model(priors, kind)
    posterior = htr.fit(model, data, method=htr.MAP(lr=0.05), epochs=4, batch_size=16, seed=seed)
    expected = plain_loop(
        model.net,
        *data,
        epochs=4,
        seed=seed,
        optimizer=partial(momentum, lr=0.05),
        scheduler=partial(CosineAnnealingLR, T_max=4),
    )
    same_weights(posterior, expected)


@pytest.mark.parametrize("priors", ACTING.values(), ids=ACTING)
def test_acting_priors_change_the_weights(make_model, data, priors):
    flat, acting = (
        htr.fit(make_model(p), data, method=htr.MAP(), epochs=1).network().fc1.weight
        for p in (htr.Priors({}), priors)
    )
    assert (flat - acting).abs().max() > 1e-4


@pytest.mark.parametrize(
    "optimizer",
    [SGD, Adam, AdamW, partial(RMSprop, momentum=0.5), partial(LBFGS, max_iter=4)],
    ids=["SGD", "Adam", "AdamW", "RMSprop", "LBFGS"],
)
@pytest.mark.parametrize(
    "scheduler",
    [
        None,
        partial(StepLR, step_size=2, gamma=0.3),
        partial(OneCycleLR, max_lr=0.02, total_steps=5, cycle_momentum=False),
    ],
    ids=["none", "step", "onecycle"],
)
@pytest.mark.parametrize("clip", [None, 0.1])
def test_optimizers_and_schedulers(
    model, plain_loop, same_weights, data, optimizer, scheduler, clip
):
    method = htr.MAP(lr=0.01, optimizer=optimizer, scheduler=scheduler, clip=clip)
    posterior = htr.fit(model, data, method=method, epochs=5, batch_size=16)
    expected = plain_loop(
        model.net,
        *data,
        epochs=5,
        optimizer=partial(optimizer, lr=0.01),
        scheduler=scheduler,
        clip=clip,
    )
    same_weights(posterior, expected)


@pytest.mark.parametrize("batch_size", [1, 16, 50, 1000])
def test_batch_sizes(model, plain_loop, same_weights, data, batch_size):
    posterior = htr.fit(
        model, data, method=htr.MAP(scheduler=None), epochs=2, batch_size=batch_size
    )
    expected = plain_loop(
        model.net, *data, epochs=2, batch_size=batch_size, optimizer=partial(momentum, lr=0.05)
    )
    same_weights(posterior, expected)


def test_loader_is_taken_as_it_is(model, plain_loop, same_weights, data):
    loader = DataLoader(
        TensorDataset(*data), 16, shuffle=True, generator=torch.Generator().manual_seed(5)
    )
    posterior = htr.fit(model, loader, method=htr.MAP(scheduler=None), epochs=3, batch_size=7)
    expected = plain_loop(model.net, *data, epochs=3, seed=5, optimizer=partial(momentum, lr=0.05))
    same_weights(posterior, expected)


def test_validation_does_not_change_the_training(make_model, same_weights, data, validation):
    shuffled = DataLoader(TensorDataset(*validation), 16, shuffle=True)
    posteriors = [
        htr.fit(make_model(kind="dropout"), data, method=htr.MAP(), epochs=3, validation=v)
        for v in (None, validation, shuffled)
    ]
    same_weights(posteriors[0], posteriors[1])
    same_weights(posteriors[0], posteriors[2])


def test_callbacks_do_not_change_the_training(make_model, same_weights, data):
    def disturb(event):
        event.network.eval()
        torch.rand(3)

    model = make_model(kind="dropout")
    plain = htr.fit(model, data, method=htr.MAP(), epochs=3)
    same_weights(plain, htr.fit(model, data, method=htr.MAP(), epochs=3, callbacks=[disturb]))


def test_frozen_layers_stay(make_model, plain_loop, same_weights, data, frechet):
    model = make_model()
    model.net.fc1.requires_grad_(False)
    posterior = htr.fit(model, data, method=htr.MAP(scheduler=None), epochs=2, batch_size=16)
    expected = plain_loop(model.net, *data, epochs=2, optimizer=partial(momentum, lr=0.05))
    same_weights(posterior, expected)
    acting = htr.BayesianClassifier(model.net, frechet)
    same_weights(htr.fit(acting, data, method=htr.MAP(), epochs=2).network().fc1, model.net.fc1)


@pytest.mark.parametrize("strength", [1.0, 6.0])
def test_weight_decay_is_the_optimizers(network, plain_loop, data, strength):
    net, x, c = network().double(), data[0].double(), 4.0
    priors = htr.Priors({"*": htr.Entries(htr.Normal(0.0, c**-0.5))}).scaled(strength)
    model = htr.BayesianClassifier(net, priors)
    posterior = htr.fit(model, (x, data[1]), method=htr.MAP(), epochs=4, batch_size=16)
    expected = plain_loop(
        net,
        x,
        data[1],
        epochs=4,
        optimizer=partial(momentum, lr=0.05, weight_decay=strength * c / 50),
        scheduler=partial(CosineAnnealingLR, T_max=4),
    )
    for name, value in posterior.network().state_dict().items():
        torch.testing.assert_close(value, expected.state_dict()[name], rtol=0, atol=1e-10)
