"""Weights that a network computes: priors on them act through the parameters behind them."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

import bayes_htr as htr
from tests.reference.adapters import Adapted, Loralib

TOP = htr.MaxEigenvalue(htr.Frechet(2.0, 1.0))
BOTH = htr.ESD(htr.Lomax(2.0)) & htr.Entries(htr.Normal(0.0, 1.0))


class Symmetric(nn.Module):
    def forward(self, W):
        return W.triu() + W.triu(1).mT


def symmetric():
    layer = nn.Linear(6, 6)
    parametrize.register_parametrization(layer, "weight", Symmetric())
    return layer


LAYERS = {
    "weight_norm": lambda: weight_norm(nn.Linear(6, 5)),
    "spectral_norm": lambda: spectral_norm(nn.Linear(6, 5)),
    "own": symmetric,
    "pruned": lambda: prune.random_unstructured(nn.Linear(6, 5), "weight", 0.3),
    "old weight_norm": lambda: nn.utils.weight_norm(nn.Linear(6, 5)),
    "old spectral_norm": lambda: nn.utils.spectral_norm(nn.Linear(6, 5)),
    "peft": lambda: Adapted(6, 5),
    "loralib": lambda: Loralib(6, 5),
    "attention": lambda: weight_norm(nn.MultiheadAttention(6, 2), "in_proj_weight"),
    "transposed": lambda: weight_norm(nn.ConvTranspose2d(4, 5, 2)),
}
pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")


def network(kind):
    torch.manual_seed(0)
    return nn.Sequential(LAYERS[kind](), nn.Linear(5, 3)).double().eval()


def effective(net, kind):
    """The weight that the layer computes."""
    if kind == "peft":
        return 2 * net[0].lora_B["default"].weight @ net[0].lora_A["default"].weight
    if kind == "loralib":
        return 2 * net[0].lora_B @ net[0].lora_A
    return getattr(net[0], "in_proj_weight" if kind == "attention" else "weight").detach()


@pytest.mark.parametrize("refresh", [htr.Exact(), htr.Drift(), htr.Every(3)], ids=repr)
@pytest.mark.parametrize("prior", [TOP, BOTH], ids=repr)
@pytest.mark.parametrize("kind", LAYERS)
def test_energy_and_gradient_are_those_of_the_computed_weight(kind, prior, refresh):
    net = network(kind)
    energy = htr.bind(htr.Priors(prior), net, refresh=refresh)
    trainable = {n: p for n, p in net.named_parameters() if p.requires_grad and p.ndim > 1}
    energy().backward()
    through_graph = {n: p.grad.clone() for n, p in trainable.items()}
    for n, p in trainable.items():
        direction = torch.randn_like(p)
        slope = 0.0
        for sign in (1, -1):
            with torch.no_grad():
                p += sign * 1e-5 * direction
                slope += sign * float(htr.bind(energy.priors, net, refresh=htr.Exact())()) / 2e-5
                p -= sign * 1e-5 * direction
        assert slope == pytest.approx(float((p.grad * direction).sum()), rel=1e-5, abs=1e-7), n
    net.zero_grad()
    energy.backward()
    for n, p in trainable.items():
        torch.testing.assert_close(p.grad, through_graph[n])


@pytest.mark.parametrize("kind", ["weight_norm", "peft", "loralib", "pruned"])
def test_the_energy_is_that_of_a_plain_layer_with_this_weight(kind):
    net, plain = network(kind), nn.Linear(6, 5, bias=False).double()
    with torch.no_grad():
        plain.weight.copy_(effective(net, kind))
    name = {"peft": "0.lora_BA.default", "loralib": "0.lora_BA"}.get(kind, "0.weight")
    energy = htr.bind(htr.Priors({name: BOTH}), net)
    assert energy().item() == pytest.approx(htr.bind(htr.Priors(BOTH), plain)().item())
    assert htr.matrices_of(net)[name].requires_grad


@pytest.mark.parametrize("kind", ["weight_norm", "spectral_norm", "peft"])
def test_no_call_changes_the_network(kind):
    net = network(kind).train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    energy = htr.bind(htr.Priors(TOP), net)
    for _ in range(6):
        energy().backward()
    with torch.no_grad():
        energy.terms()
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert all(m.training for m in net.modules())


def test_without_gradients_the_energy_is_the_same():
    energy = htr.bind(htr.Priors(TOP), network("weight_norm"))
    expected = energy().item()
    with torch.no_grad():
        assert energy().item() == pytest.approx(expected)
    with torch.inference_mode():
        assert energy().item() == pytest.approx(expected)


def test_a_copy_and_its_state_go_on():
    net = network("weight_norm")
    energy = htr.bind(htr.Priors(TOP), net)
    energy()
    other = htr.bind(energy.priors, net)
    other.load_state_dict(energy.state_dict())
    assert other().item() == pytest.approx(energy().item())


def test_training_moves_the_computed_weight():
    torch.manual_seed(0)
    net = nn.Sequential(weight_norm(nn.Linear(8, 12)), nn.ReLU(), nn.Linear(12, 3))
    data = (torch.randn(64, 8), torch.randint(3, (64,)))
    strong = htr.Priors({"0.weight": htr.ESD(htr.Exponential(1.0))}).scaled(20.0)
    norms = {}
    for name, priors in {"none": htr.Priors({}), "strong": strong}.items():
        model = htr.BayesianClassifier(net, priors)
        posterior = htr.fit(model, data, method=htr.MAP(), epochs=10, progress=False)
        norms[name] = posterior.network()[0].weight.norm().item()
        assert "0.weight" in posterior.spectra(samples=1)
    assert norms["strong"] < 0.7 * norms["none"]


def test_log_joint_takes_values_of_the_raw_parameters():
    net = network("weight_norm").float()
    model = htr.BayesianClassifier(net, htr.Priors(TOP))
    batch = (torch.randn(4, 6), torch.tensor([0, 1, 2, 0]))
    name = "0.parametrizations.weight.original0"
    gains = (3 * net[0].parametrizations.weight.original0).detach().requires_grad_()
    value = model.log_joint({name: gains}, batch, num_data=4)
    (slope,) = torch.autograd.grad(value, gains)
    with torch.no_grad():
        net[0].parametrizations.weight.original0.copy_(gains)
    assert value.item() == pytest.approx(model.log_joint({}, batch, num_data=4).item(), rel=1e-5)
    assert float(slope.norm()) > 0


@pytest.mark.parametrize("kind", ["weight_norm", "peft"])
def test_the_functional_form_takes_values_of_the_raw_parameters(kind):
    net = network(kind)
    energy = htr.bind(htr.Priors(BOTH), net, refresh=htr.Exact())
    given = {
        n: (1.5 * p).detach().requires_grad_() for n, p in net.named_parameters() if p.ndim > 1
    }
    value = energy.at(given)
    slopes = torch.autograd.grad(value, list(given.values()), allow_unused=True)
    unchanged = energy().item()
    for n, p in net.named_parameters():
        if n in given:
            p.data.copy_(given[n].detach())
    if kind == "weight_norm":
        assert value.item() == pytest.approx(energy().item())
        energy().backward()
        for (n, _), slope in zip(given.items(), slopes, strict=True):
            torch.testing.assert_close(net.get_parameter(n).grad, slope)
    assert value.item() != pytest.approx(unchanged)
    assert energy.at({}).item() == pytest.approx(energy().item())


@pytest.mark.parametrize("coordinates", ["weight", "spectral"])
def test_a_posterior_refuses_them_with_what_to_do(coordinates):
    model = htr.BayesianClassifier(network("weight_norm").float(), htr.Priors(BOTH))
    with pytest.raises(htr.PriorError, match=r"0\.weight is computed .* no density.*htr\.MAP"):
        model.pyro_model(coordinates)
    only = htr.Priors({"0.weight": None, "1.weight": htr.ESD(htr.Lomax(2.0))})
    htr.BayesianClassifier(model.net, only).pyro_model(coordinates)
