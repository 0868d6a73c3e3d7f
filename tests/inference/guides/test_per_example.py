"""A draw of the spectra for each example: against a matrix for each."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

import bayes_htr as htr
from bayes_htr.inference.guides import SpectralGuide
from bayes_htr.inference.guides.per_example import ExampleNoise

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
            "orders": lambda: nn.Sequential(
                nn.Conv2d(2, 6, 3),  # more outputs than positions: two thin products
                nn.Tanh(),
                nn.Flatten(2),
                nn.Linear(4, 3),  # more positions than outputs: a matrix for each example
                nn.Tanh(),
                nn.Flatten(),
                nn.Linear(18, 3),
            ),
        }[kind]()
    return net.double()


INPUTS = {
    "mlp": (6,),
    "convolutions": (2, 7, 7),
    "one dimension": (2, 5),
    "positions": (4, 5),
    "orders": (2, 4, 4),
}


def guide_of(net, prior, **options):
    model = htr.BayesianClassifier(net, htr.Priors(prior))
    return SpectralGuide(model.densities(0), init_scale=0.4, **options)


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
    noise = [held.noise(examples=6) for held in guide.states]
    places = [i for i, p in enumerate(guide.priors) if p.matrices]
    expected = []
    for i in range(6):
        weights = dict(zip(guide.names, guide.weights, strict=True))
        for held, place, own in zip(guide.states, places, noise, strict=True):
            W = guide.weights[place]
            weights[guide.names[place]] = held.with_noise(W.flatten(1), own[i]).view_as(W)
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


PARTS = {
    "mlp": ("mlp", LOMAX, None),
    "tall and at positions": ("convolutions", LOMAX, None),
    "leading directions": ("orders", LOMAX, 4),
    "a linear layer at positions": ("positions", LOMAX, None),
}


@pytest.mark.parametrize(("kind", "prior", "directions"), PARTS.values(), ids=PARTS)
def test_noise_in_every_second_direction(kind, prior, directions):
    """Each example has the matrix that these directions give it."""
    net = network(kind)
    guide = guide_of(net, prior, directions=directions)
    examples = ExampleNoise(guide, net, noisy_directions=2)
    drawn = {}

    def recorded(state, count):
        drawn[state.name] = examples.noise(state, count)
        return drawn[state.name]

    examples.noise_of = recorded
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(6, *INPUTS[kind], generator=generator, dtype=torch.float64)
    points = guide.points()
    torch.manual_seed(3)
    logits = called(examples, guide, net, points, x)
    assert any(noise.part.step == 2 for noise in drawn.values())
    expected = []
    for i in range(6):
        weights = dict(points)
        for state in guide.states:
            noise = drawn[state.name]
            W = points[state.name]
            M = W.flatten(1) if state.is_tall else W.flatten(1).mT
            V = state.frames[:, noise.part]
            change, _ = state.changes(None, noise.values[i], noise.part)
            M = M + M @ (V * change) @ V.mT
            weights[state.name] = (M if state.is_tall else M.mT).reshape(W.shape)
        expected.append(functional_call(net, weights, (x[i : i + 1],)))
    expected = torch.cat(expected)
    torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-9)
    learnt = [p for p in guide.parameters() if p.requires_grad]
    found = torch.autograd.grad(logits.square().sum(), learnt, allow_unused=True)
    wanted = torch.autograd.grad(expected.square().sum(), learnt, allow_unused=True)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("spread", [0.05, 0.3, 0.7, 1.5])
@pytest.mark.parametrize("step", [2, 5, 12])
def test_a_direction_keeps_the_mean_and_the_variance_of_its_factor(spread, step):
    """Over the noise, by quadrature, and over the random first direction."""
    net = nn.Linear(15, 24).double()
    guide = guide_of(net, LOMAX)
    guide.points()
    (state,) = guide.states
    with torch.no_grad():
        state.log_spread.fill_(math.log(spread))
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    weights = torch.from_numpy(weights / weights.sum())
    means, squares = torch.zeros(15).double(), torch.zeros(15).double()
    for first in range(step):
        part = slice(first, None, step)
        count = len(range(15)[part])
        noise = torch.from_numpy(nodes).unsqueeze(1).expand(-1, count)
        change, base = state.changes(None, noise, part)
        assert base is None
        means[part] += weights @ change.detach() / step
        squares[part] += weights @ change.detach().square() / step
    mean = math.expm1(spread**2 / 2)
    variance = math.exp(spread**2) * math.expm1(spread**2)
    torch.testing.assert_close(means, torch.full((15,), mean).double(), rtol=1e-6, atol=0)
    expected = torch.full((15,), variance).double()
    torch.testing.assert_close(squares - means.square(), expected, rtol=1e-6, atol=0)


def test_every_direction_has_its_turn():
    net = nn.Linear(15, 24)
    guide = guide_of(net, LOMAX)
    examples = ExampleNoise(guide, net, noisy_directions=5)
    torch.manual_seed(0)
    drawn = [examples.noise(guide.states[0], 4) for _ in range(60)]
    assert {noise.part.start for noise in drawn} == {0, 1, 2}
    assert all(noise.values.shape == (4, 5) for noise in drawn)


def test_how_many_directions_have_noise():
    steps = {}
    for prior in PRIORS:
        (state,) = guide_of(nn.Linear(40, 50), PRIORS[prior]).states
        steps[prior] = [state.every(about) for about in (None, 1, 8, 26, 27, 100)]
    assert steps["Lomax"] == [1, 12, 5, 2, 1, 1]
    assert steps["largest"] == [1] * 6  # factors depend on medians
    assert steps["lower end"] == [1] * 6


def test_noise_in_a_part_of_the_directions_changes_outputs_as_much():
    """To second order in the spreads: the mean and the variance of the outputs stay."""
    net = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3)).double()
    guide = SpectralGuide(
        htr.BayesianClassifier(net, htr.Priors(LOMAX)).densities(0), init_scale=0.1
    )
    x = torch.randn(1, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x = x.expand(50, 6)
    outputs = []
    with torch.no_grad():
        points = guide.points()
        for some in (None, 2):
            torch.manual_seed(0)
            examples = ExampleNoise(guide, net, some)
            parts = [called(examples, guide, net, points, x) for _ in range(4000)]
            outputs.append(torch.cat(parts))
    full, part = outputs
    spread = full.std(0)
    torch.testing.assert_close(part.std(0), spread, rtol=0.05, atol=0)
    assert ((part.mean(0) - full.mean(0)).abs() < 0.1 * spread).all()


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


def test_a_matrix_whose_prior_is_over_is_a_point():
    net = network("mlp")
    over = LOMAX.scaled(2.0).scheduled(htr.PowerDecay(1.0, 1, cutoff=0.4))
    model = htr.BayesianClassifier(net, htr.Priors({"0.weight": over, "2.weight": LOMAX}))
    guide = SpectralGuide(model.densities(0), init_scale=0.4)
    examples = ExampleNoise(guide, net)
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    guide.points()
    guide.set_epoch(model.densities(3), 3)
    hidden = net[0](x)
    with examples.drawn(4):
        torch.testing.assert_close(net[0](x), hidden)
        noisy = net[2](hidden)
    assert not torch.allclose(noisy, net[2](hidden))


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
    held = guide.states[0]
    W = held.with_noise(guide.weights[0], held.noise(examples=1)[0])
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


class Named(nn.Module):
    """Its layers are called with their input by name."""

    def __init__(self):
        super().__init__()
        self.mix, self.head = nn.Conv1d(2, 3, 2), nn.Linear(12, 3)

    def forward(self, x):
        return self.head(input=self.mix(input=x).tanh().flatten(1))


def test_layers_called_by_name():
    net = Named().double()
    guide = guide_of(net, LOMAX)
    x = torch.randn(6, 2, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    examples, points = ExampleNoise(guide, net), guide.points()
    examples.check(x)
    torch.manual_seed(3)
    found = called(examples, guide, net, points, x)
    plain = nn.Sequential(net.mix, nn.Tanh(), nn.Flatten(), net.head)
    torch.manual_seed(3)
    with examples.drawn(6):
        expected = plain(x)
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(found, net(x))


class Elsewhere(nn.Module):
    """A weight that is used by its layer and again, before or after the other layer."""

    def __init__(self, when):
        super().__init__()
        self.when, self.first, self.second = when, nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x):
        if self.when == "before":
            x = x @ self.first.weight.mT
        x = self.second(self.first(x).tanh())
        if self.when == "penalty":
            return x + self.first.weight.square().sum()
        return F.linear(x, self.second.weight) if self.when == "after" else x


@pytest.mark.parametrize(
    ("when", "layer"),
    [("before", "first"), ("after", "second"), ("penalty", "first"), ("never", None)],
)
def test_weights_that_are_used_elsewhere_too(when, layer):
    net = Elsewhere(when).double()
    examples, x = ExampleNoise(guide_of(net, LOMAX), net), torch.ones(4, 6).double()
    state = {name: value.clone() for name, value in net.state_dict().items()}
    with torch.no_grad():
        if layer is None:
            examples.check(x)
        else:
            message = rf"{layer} \(Linear\) has a weight that is used elsewhere.*noise='shared'"
            with pytest.raises(ValueError, match=message):
                examples.check(x)
    assert not any(module._forward_hooks for module in net.modules())
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


class Standardised(nn.Conv2d):
    def _conv_forward(self, x, weight, bias):
        return super()._conv_forward(x, weight / weight.std(), bias)


class Adapted(nn.Linear):
    """A plain forward pass, and another matrix."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.adapter = nn.Parameter(torch.randn(3, 2))


class SameForward(nn.Linear):
    pass


def replaced():
    net = nn.Linear(6, 3)
    net.forward = lambda x: x[:, :3]
    return net


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (Doubled(6, 3), "Doubled.* has a forward that is not that of Linear"),
        (replaced(), "Linear.* has a forward that is not that of Linear"),
        (Standardised(2, 3, 2), "has a _conv_forward that is not that of Conv2d"),
        (Adapted(6, 3), "a spectral prior on a parameter that is not its weight"),
    ],
)
def test_layers_with_a_forward_pass_of_their_own(net, message):
    with pytest.raises(ValueError, match=f"{message}.*noise='shared'"):
        ExampleNoise(guide_of(net, {"*": LOMAX}), net)


def test_subclasses_with_the_same_forward_pass_are_taken():
    net = SameForward(6, 3)
    assert len(ExampleNoise(guide_of(net, LOMAX), net).layers) == 1


def test_other_hooks_see_the_noisy_output():
    """As if it were the output of the layer."""
    net = nn.Sequential(nn.Linear(6, 3)).double()
    guide = guide_of(net, PRIORS["largest"])
    examples, points = ExampleNoise(guide, net), guide.points()
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.manual_seed(3)
    found = called(examples, guide, net, points, x)
    with net[0].register_forward_hook(lambda module, args, output: 10 * output):
        torch.manual_seed(3)
        torch.testing.assert_close(called(examples, guide, net, points, x), 10 * found)


class Attends(nn.Module):
    """The weight of `out_proj` is used, but its layer is not called."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(6, 2)

    def forward(self, x):
        return self.attention(x, x, x)[0]


@pytest.mark.parametrize(
    ("net", "pattern"),
    [(Elsewhere("after"), "*"), (Doubled(6, 6), "*"), (Attends(), "*.out_proj.weight")],
)
def test_a_fit_refuses_before_anything_is_written(tmp_path, net, pattern):
    data = torch.randn(8, 6), torch.arange(8) % 6
    model = htr.BayesianClassifier(net, htr.Priors({pattern: LOMAX}))
    method = htr.SVI(noise="example")
    with pytest.raises(ValueError, match="noise='shared'"):
        htr.fit(model, data, method=method, epochs=1, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("more", [{"guide": "meanfield"}, {"particles": 2}, {"noise": "own"}])
def test_settings(more):
    with pytest.raises(ValueError, match="noise="):
        htr.SVI(**{"noise": "example", **more})
