from __future__ import annotations

import copy
import pickle
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import bayes_htr as htr
from bayes_htr.experiments import NETWORKS, build_network

GREY, COLOUR, DIGITS = (1, 28, 28), (3, 32, 32), (1, 8, 8)
CASES = [
    ("mlp", DIGITS),
    ("mlp", GREY),
    ("mlp", COLOUR),
    ("lenet5", GREY),
    ("lenet5", COLOUR),
    ("lenet5", (2, 31, 45)),
    ("resnet18", DIGITS),
    ("resnet18", GREY),
    ("resnet18", COLOUR),
]


def parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


def images(shape, n=3):
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(0))


def test_names():
    assert NETWORKS == ("mlp", "lenet5", "resnet18")


@pytest.mark.parametrize(("name", "shape"), CASES)
@pytest.mark.parametrize("num_classes", [2, 10])
def test_forward(name, shape, num_classes):
    network = build_network(name, shape, num_classes)
    logits = network(images(shape))
    assert logits.shape == (3, num_classes)
    assert torch.isfinite(logits).all()
    logits.logsumexp(1).sum().backward()
    for parameter in network.parameters():
        assert parameter.dtype == torch.float32
        assert parameter.grad is not None
        assert torch.isfinite(parameter.grad).all()


@pytest.mark.parametrize(
    ("name", "shape", "count"),
    [
        ("mlp", GREY, 785 * 512 + 513 * 256 + 257 * 10),
        ("mlp", DIGITS, 65 * 512 + 513 * 256 + 257 * 10),
        ("lenet5", GREY, 61_706),
        ("lenet5", COLOUR, 62_006),
        ("resnet18", COLOUR, 11_173_962),
        ("resnet18", GREY, 11_173_962 - 2 * 9 * 64),
    ],
)
def test_parameter_counts(name, shape, count):
    assert parameters(build_network(name, shape, 10)) == count


def test_parameter_names():
    def names(name):
        return [key for key, _ in build_network(name, GREY, 10).named_parameters()]

    layers = ["fc1", "fc2", "fc3"]
    assert names("mlp") == [f"{x}.{y}" for x in layers for y in ("weight", "bias")]
    layers = ["conv1", "conv2", *layers]
    assert names("lenet5") == [f"{x}.{y}" for x in layers for y in ("weight", "bias")]


def test_resnet18_names_are_torchvisions():
    norm = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    expected = {"conv1.weight", *(f"bn1.{x}" for x in norm), "fc.weight", "fc.bias"}
    for stage in (1, 2, 3, 4):
        for block in (0, 1):
            prefix = f"layer{stage}.{block}"
            for layer in (1, 2):
                expected |= {f"{prefix}.conv{layer}.weight"}
                expected |= {f"{prefix}.bn{layer}.{x}" for x in norm}
            if stage > 1 and block == 0:
                expected |= {f"{prefix}.downsample.0.weight"}
                expected |= {f"{prefix}.downsample.1.{x}" for x in norm}
    assert set(build_network("resnet18", COLOUR, 10).state_dict()) == expected


def test_resnet18_against_a_functional_one():
    network = build_network("resnet18", COLOUR, 10).eval()
    state = network.state_dict()
    x = images(COLOUR)

    def norm(x, name):
        mean, var = state[f"{name}.running_mean"], state[f"{name}.running_var"]
        return F.batch_norm(x, mean, var, state[f"{name}.weight"], state[f"{name}.bias"])

    h = F.relu(norm(F.conv2d(x, state["conv1.weight"], padding=1), "bn1"))
    sizes = []
    for stage in (1, 2, 3, 4):
        for block in (0, 1):
            name = f"layer{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            z = F.conv2d(h, state[f"{name}.conv1.weight"], stride=stride, padding=1)
            z = F.conv2d(F.relu(norm(z, f"{name}.bn1")), state[f"{name}.conv2.weight"], padding=1)
            z = norm(z, f"{name}.bn2")
            if stride == 2:
                h = F.conv2d(h, state[f"{name}.downsample.0.weight"], stride=2)
                h = norm(h, f"{name}.downsample.1")
            h = F.relu(z + h)
        sizes.append(tuple(h.shape[1:]))
    assert sizes == [(64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4)]
    expected = F.linear(h.mean((2, 3)), state["fc.weight"], state["fc.bias"])
    torch.testing.assert_close(network(x), expected, atol=1e-5, rtol=1e-5)


def test_resnet18_initial_weights():
    network = build_network("resnet18", COLOUR, 10)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            out, _, height, width = module.weight.shape
            deviation = (2 / (out * height * width)) ** 0.5
            assert module.weight.std().item() == pytest.approx(deviation, rel=0.06)
            assert module.bias is None
        elif isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all()
            assert (module.bias == 0).all()


def test_lenet5_weights_are_pytorchs():
    network = build_network("lenet5", GREY, 10, seed=4)
    state = torch.get_rng_state()
    torch.manual_seed(4)
    expected = nn.Conv2d(1, 6, 5)
    torch.set_rng_state(state)
    assert torch.equal(network.conv1.weight, expected.weight)


@pytest.mark.parametrize("name", NETWORKS)
def test_seed(name):
    first, again, other = (build_network(name, GREY, 10, seed=seed) for seed in (1, 1, 2))
    for (key, a), (_, b) in zip(
        first.state_dict().items(), again.state_dict().items(), strict=True
    ):
        assert torch.equal(a, b), key
    assert not torch.equal(next(first.parameters()), next(other.parameters()))


@pytest.mark.parametrize("name", NETWORKS)
def test_global_random_state_is_untouched(name):
    state = torch.get_rng_state()
    first = build_network(name, GREY, 10, seed=7)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(1)
    again = build_network(name, GREY, 10, seed=7)
    assert torch.equal(next(first.parameters()), next(again.parameters()))


@pytest.mark.parametrize("name", NETWORKS)
def test_default_device_does_not_matter(name):
    with torch.device("meta"):
        network = build_network(name, GREY, 10)
    assert {parameter.device.type for parameter in network.parameters()} == {"cpu"}


@pytest.mark.parametrize("name", NETWORKS)
def test_copies(name):
    network = build_network(name, GREY, 10).eval()
    x = images(GREY)
    for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert torch.equal(other(x), network(x))


@pytest.mark.parametrize("shape", [[1, 28, 28], torch.Size([1, 28, 28])])
def test_any_sequence_is_a_shape(shape):
    assert build_network("lenet5", shape, 10)(images(GREY)).shape == (3, 10)


@pytest.mark.parametrize("name", ["resnet", "MLP", "", None])
def test_unknown_name(name):
    with pytest.raises(ValueError, match="mlp, lenet5, resnet18") as caught:
        build_network(name, GREY, 10)
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize("shape", [DIGITS, (1, 27, 28), (3, 32, 16)])
def test_lenet5_small_images(shape):
    with pytest.raises(ValueError, match=r"at least 28x28.*choose mlp or resnet18") as caught:
        build_network("lenet5", shape, 10)
    assert f"{shape[1]}x{shape[2]}" in str(caught.value)


@pytest.mark.parametrize("shape", [(28, 28), (0, 28, 28), (1, -1, 28), (2, 1, 28, 28), ()])
@pytest.mark.parametrize("name", NETWORKS)
def test_bad_shape(name, shape):
    with pytest.raises(ValueError, match=r"channels, height, width"):
        build_network(name, shape, 10)


@pytest.mark.parametrize("num_classes", [0, -3])
def test_bad_num_classes(num_classes):
    with pytest.raises(ValueError, match=f"num_classes is {num_classes}"):
        build_network("mlp", GREY, num_classes)


DROPPED = {"mlp": ["fc2", "fc3"], "lenet5": ["fc2", "fc3"], "resnet18": ["fc"]}


@pytest.mark.parametrize("name", NETWORKS)
def test_dropout_is_before_fully_connected_layers_and_changes_no_weight(name):
    plain = build_network(name, GREY, 10, seed=3)
    network = build_network(name, GREY, 10, seed=3, dropout=0.4)
    children = list(network.named_children())
    before = [
        after
        for (_, module), (after, _) in pairwise(children)
        if isinstance(module, nn.Dropout) and module.p == 0.4
    ]
    assert before == DROPPED[name]
    assert not [m for m in plain.modules() if isinstance(m, nn.Dropout)]
    assert plain.state_dict().keys() == network.state_dict().keys()
    for key, value in plain.state_dict().items():
        assert torch.equal(value, network.state_dict()[key]), key
    x = images(GREY)
    assert torch.equal(plain.eval()(x), network.eval()(x))
    assert not torch.equal(network.train()(x), network(x))


def test_a_fit_with_dropout_trains_and_predicts_without_it():
    x = images(DIGITS, n=60)
    data = x, (x.mean((1, 2, 3)) > 0).long()

    def fitted(**more):
        network = build_network("mlp", DIGITS, 2, **more)
        model = htr.BayesianClassifier(network, htr.Priors({}))
        return htr.fit(model, data, method=htr.MAP(lr=0.1), epochs=8, batch_size=20)

    posterior, plain = fitted(dropout=0.3), fitted()
    losses = [row["loss"] for row in posterior.history]
    assert losses[-1] < 0.5 * losses[0]
    assert losses[0] != plain.history[0]["loss"]
    first = posterior.predict(x).probs
    assert torch.equal(first, posterior.predict(x).probs)
    assert posterior.network().training is False
    torch.testing.assert_close(first, posterior.network()(x).softmax(1).to(first))


@pytest.mark.parametrize("dropout", [1.0, -0.1, float("nan")])
def test_bad_dropout(dropout):
    with pytest.raises(ValueError, match=f"dropout={dropout!r}"):
        build_network("mlp", GREY, 10, dropout=dropout)


@pytest.mark.parametrize(
    ("name", "shape", "sizes"),
    [
        ("mlp", GREY, [(128, 784), (64, 128), (10, 64)]),
        ("lenet5", GREY, [(2, 25), (4, 50), (30, 100), (21, 30), (10, 21)]),
    ],
)
def test_width_multiplies_hidden_units_and_channels(name, shape, sizes):
    network = build_network(name, shape, 10, width=0.25)
    found = [tuple(W.flatten(1).shape) for W in network.parameters() if W.ndim > 1]
    assert found == sizes
    assert network(torch.zeros(2, *shape)).shape == (2, 10)


def test_a_narrow_resnet_and_the_least_width():
    network = build_network("resnet18", (3, 32, 32), 10, width=0.125)
    assert network.layer4[1].conv2.weight.shape == (64, 64, 3, 3)
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert build_network("mlp", GREY, 10, width=1e-6).fc1.weight.shape == (1, 784)


@pytest.mark.parametrize("width", [0.0, -1.0, float("inf"), float("nan")])
def test_bad_width(width):
    with pytest.raises(ValueError, match=f"width={width!r}"):
        build_network("mlp", GREY, 10, width=width)
