"""A draw of the spectra for each example: against a matrix for each."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

import bayes_htr as htr
from bayes_htr.inference.guides import SpectralGuide
from bayes_htr.inference.guides.example_noise import ExampleNoise

LOMAX = htr.ESD(htr.Lomax(2.0, 0.7))
PRIORS = {
    "Lomax": LOMAX,
    "lower end": htr.ESD(htr.Powerlaw(2.5, 1e-3)),
    "largest": htr.MaxEigenvalue(htr.Frechet(2.0, 1.0)),
}


class Positions(nn.Module):
    """A linear layer at several positions of an example, called twice."""

    def __init__(self):
        super().__init__()
        self.mix, self.head = nn.Linear(5, 5), nn.Linear(5, 3, bias=False)

    def forward(self, x):
        return self.head(self.mix(self.mix(x).tanh()).mean(1))


def network(kind):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = {
            "mlp": lambda: nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3, bias=False)),
            "convolutions": lambda: nn.Sequential(
                nn.Conv2d(2, 3, 3, stride=2, padding=1, padding_mode="circular"),
                nn.Tanh(),
                nn.Conv2d(3, 14, 2, dilation=2, bias=False),  # taller than wide
                nn.Flatten(),
                nn.Linear(14 * 4, 3),
            ),
            "one dimension": lambda: nn.Sequential(
                nn.Conv1d(2, 8, 3, padding=1), nn.Flatten(), nn.Linear(40, 3)
            ),
            "positions": Positions,
        }[kind]()
    return net.double()


INPUTS = {
    "mlp": (6,),
    "convolutions": (2, 7, 7),
    "one dimension": (2, 5),
    "positions": (4, 5),
}


def guide_of(net, prior, **options):
    model = htr.BayesianClassifier(net, htr.Priors(prior))
    return SpectralGuide(model.placed(0), init_scale=0.4, **options)


def called(examples, guide, net, points, x):
    with examples.drawn(len(x)):
        return functional_call(net, {n: points[n] for n in guide.names}, (x,))


@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("name", PRIORS)
@pytest.mark.parametrize("directions", [None, 2])
def test_each_example_has_a_matrix_of_its_own(kind, name, directions):
    net = network(kind)
    guide = guide_of(net, PRIORS[name], directions=directions)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(6, *INPUTS[kind], generator=generator, dtype=torch.float64)
    y = torch.tensor([0, 1, 2, 0, 1, 2])
    points = guide.points()
    torch.manual_seed(3)
    logits = called(ExampleNoise(guide, net), guide, net, points, x)
    torch.manual_seed(3)
    noise = [held.noise(examples=6) for held in guide.spectra_held]
    places = [i for i, p in enumerate(guide.placed) if p.matrices]
    expected = []
    for i in range(6):
        weights = dict(zip(guide.names, guide.weights, strict=True))
        for held, place, own in zip(guide.spectra_held, places, noise, strict=True):
            W = guide.weights[place]
            weights[guide.names[place]] = held.factored(W.flatten(1), own[i]).view_as(W)
        expected.append(functional_call(net, weights, (x[i : i + 1],)))
    expected = torch.cat(expected)
    torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-9)
    learnt = [p for p in guide.parameters() if p.requires_grad]
    found = torch.autograd.grad(F.cross_entropy(logits, y), learnt, allow_unused=True)
    wanted = torch.autograd.grad(F.cross_entropy(expected, y), learnt, allow_unused=True)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-10)
    assert len({tuple(row) for row in noise[0].tolist()}) == 6
    assert not torch.allclose(logits, functional_call(net, points, (x,)))
    assert not any(module._forward_hooks for module in net.modules())


def test_it_has_less_variance():
    """Of the loss over a batch, of which the noise of the examples averages out."""
    net = network("mlp")
    guide = guide_of(net, LOMAX)
    examples = ExampleNoise(guide, net)
    x = torch.randn(64, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y = net(x).argmax(1)  # what a draw does to one example it does to the others
    torch.manual_seed(0)
    with torch.no_grad():
        points = guide.points()
        own = [F.cross_entropy(called(examples, guide, net, points, x), y) for _ in range(400)]
        shared = [
            F.cross_entropy(functional_call(net, guide.rsample(), (x,)), y) for _ in range(400)
        ]
    own, shared = torch.stack(own), torch.stack(shared)
    error = float(shared.std()) / 400**0.5
    assert own.mean().item() == pytest.approx(shared.mean().item(), abs=4 * error)
    assert own.var() < 0.1 * shared.var()


def test_it_trains():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(90, 6, generator=generator)
    y = x[:, :3].argmax(1)
    model = htr.BayesianClassifier(network("mlp").float(), htr.Priors(LOMAX))
    method = htr.SVI(noise="example", lr=0.02)
    posterior = htr.fit(model, (x, y), method=method, epochs=40)
    assert posterior.history[-1]["loss"] < posterior.history[0]["loss"] - 0.5
    assert posterior.evaluate((x, y))["accuracy"] > 0.8


def test_tied_layers_share_their_draws():
    net = nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 5)).double()
    net[2].weight = net[0].weight
    guide = guide_of(net, LOMAX)
    examples = ExampleNoise(guide, net)
    x = torch.randn(1, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    points = guide.points()
    torch.manual_seed(3)
    found = called(examples, guide, net, points, x)
    torch.manual_seed(3)
    held = guide.spectra_held[0]
    W = held.factored(guide.weights[0], held.noise(examples=1)[0])
    torch.testing.assert_close(found, functional_call(net, points | {"0.weight": W}, (x,)))


@pytest.mark.parametrize(
    ("net", "prior", "message"),
    [
        (nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4)), LOMAX, "1 .BatchNorm1d. takes stat"),
        (nn.ConvTranspose2d(2, 3, 2), LOMAX, "the network .ConvTranspose2d. is neither"),
        (nn.Conv2d(4, 4, 2, groups=2), LOMAX, "has 2 groups"),
        (nn.Embedding(5, 3), LOMAX, "is neither linear nor"),
        (nn.Linear(4, 3), LOMAX & htr.Entries(htr.Normal(0.0, 1.0)), r"Entries\(...\) beside"),
    ],
    ids=["batch norm", "transposed", "groups", "embedding", "entries"],
)
def test_what_it_cannot_do(net, prior, message):
    with pytest.raises(ValueError, match=f"{message}.*noise='shared'"):
        ExampleNoise(guide_of(net, prior), net)


def test_networks_that_mix_examples_or_leave_layers_out():
    net = network("mlp")
    guide = guide_of(net, LOMAX)
    examples, x = ExampleNoise(guide, net), torch.zeros(4, 6, dtype=torch.float64)
    given = r"0 \(Linear\) is given 4 rows, and the batch has 2"
    with pytest.raises(ValueError, match=given), examples.drawn(2):
        net(x)
    with pytest.raises(ValueError, match=r"2 \(Linear\) was not called"), examples.drawn(4):
        net[0](x)
    assert not any(module._forward_hooks for module in net.modules())


@pytest.mark.parametrize("more", [{"guide": "meanfield"}, {"particles": 2}, {"noise": "own"}])
def test_settings(more):
    with pytest.raises(ValueError, match="noise="):
        htr.SVI(**{"noise": "example", **more})
