"""`htr.fit` without a method: the posterior, by the spectral guide."""

import pytest
import torch
from torch import nn

import bayes_htr as htr
from tests.reference.adapters import Adapted, Loralib

X = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(40) % 3
PRIORS = htr.Priors({"*.weight": htr.ESD(htr.Lomax(2.5, 0.05))})


def network(*layers):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 8), *layers, nn.ReLU(), nn.Linear(8, 3))


@pytest.mark.parametrize(
    ("layers", "noise", "more"),
    [((), "example", {"noisy_directions": 192}), ((nn.BatchNorm1d(8),), "shared", {})],
)
def test_the_default_is_the_posterior(layers, noise, more):
    model = htr.BayesianClassifier(network(*layers), PRIORS)
    found = htr.fit(model, (X, Y), progress=False)
    how = {"lr": 6e-3, "init_scale": 0.3, "refresh": htr.Drift(0.25), "noise": noise}
    method = htr.SVI(guide="spectral", **how, **more)
    expected = htr.fit(model, (X, Y), method=method, epochs=30, progress=False)
    assert found.config["method"] == method.describe()
    assert found.config["epochs"] == 30
    assert found.evaluate((X, Y)) == expected.evaluate((X, Y))


@pytest.mark.parametrize("adapter", [Adapted, Loralib])
def test_the_default_takes_adapters(adapter):
    torch.manual_seed(0)
    net = nn.Sequential(adapter(6, 8), nn.ReLU(), nn.Linear(8, 3))
    model = htr.BayesianClassifier(net, htr.Priors({"*lora_BA*": htr.ESD(htr.Lomax(2.5, 0.05))}))
    found = htr.fit(model, (X, Y), epochs=1, progress=False)
    method = htr.SVI(lr=6e-3, init_scale=0.3, refresh=htr.Drift(0.25), noise="shared")
    assert found.config["method"] == method.describe()


def test_a_prior_that_is_no_density_names_map():
    model = htr.BayesianClassifier(network(), htr.Priors({"*.weight": htr.penalties.powerlaw()}))
    with pytest.raises(htr.PriorError, match="MAP"):
        htr.fit(model, (X, Y), progress=False)


def test_methods_have_names():
    data = {"epochs": 1, "progress": False}
    model = htr.BayesianClassifier(network(), PRIORS)
    for name, method in (("map", htr.MAP()), ("SVI", None)):
        found = htr.fit(model, (X, Y), method=name, **data)
        expected = htr.fit(model, (X, Y), method=method, **data)
        assert found.config == expected.config
        assert found.evaluate((X, Y)) == expected.evaluate((X, Y))
    with pytest.raises(ValueError, match=r"method='mapp' must be one of map, svi, nuts, or a"):
        htr.fit(model, (X, Y), method="mapp", **data)


def test_nuts_has_no_epochs_by_default():
    model = htr.BayesianClassifier(
        nn.Linear(6, 3), htr.Priors({"weight": htr.ESD(htr.Lomax(2.5, 0.05))})
    )
    posterior = htr.fit(model, (X, Y), method=htr.NUTS(warmup=5, samples=4), progress=False)
    assert posterior.config["epochs"] == 0


class Front(nn.Module):
    """A network with a parameter before its first layer."""

    def __init__(self, dtype):
        super().__init__()
        self.front = nn.Parameter(torch.ones(2, 2).to(dtype), requires_grad=False)
        self.net = network()

    def forward(self, x):
        return self.net(x)


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.float8_e4m3fn, torch.complex64])
@pytest.mark.parametrize("method", [htr.MAP(), htr.SVI()], ids=["MAP", "SVI"])
def test_a_parameter_in_front_does_not_change_the_inputs(dtype, method):
    models = [htr.BayesianClassifier(n, PRIORS) for n in (network(), Front(dtype))]
    first, second = (htr.fit(m, (X, Y), method=method, epochs=2, progress=False) for m in models)
    assert second.history[-1]["train_nll"] == first.history[-1]["train_nll"]
    assert second.evaluate((X, Y))["nll"] == pytest.approx(first.evaluate((X, Y))["nll"])


def test_hooks_that_a_copy_does_not_have_are_named():
    net = network()
    net[0].weight.register_hook(torch.zeros_like)
    net[2].bias.register_post_accumulate_grad_hook(lambda p: None)
    model = htr.BayesianClassifier(net, PRIORS)
    with pytest.warns(UserWarning, match=r"on 0\.weight, 2\.bias, and fit trains a copy") as caught:
        htr.fit(model, (X, Y), method=htr.MAP(), epochs=1, progress=False)
    assert caught[0].filename == __file__


@pytest.mark.parametrize("method", [htr.MAP(), htr.SVI()], ids=["MAP", "SVI"])
def test_a_softmax_at_the_end_is_warned_of(method):
    model = htr.BayesianClassifier(nn.Sequential(*network(), nn.Softmax(1)), PRIORS)
    with pytest.warns(UserWarning, match="last layer is a softmax") as caught:
        htr.fit(model, (X, Y), method=method, epochs=1, validation=(X, Y), progress=False)
    (warning,) = [w for w in caught if "softmax" in str(w.message)]
    assert warning.filename == __file__


@pytest.mark.filterwarnings("error:.*(hooks are|softmax)")
def test_usual_networks_are_not_warned_of():
    for last in ((), (nn.LogSoftmax(1),)):
        model = htr.BayesianClassifier(nn.Sequential(*network(), *last), PRIORS)
        htr.fit(model, (X, Y), method=htr.MAP(), epochs=1, progress=False)
