from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pyro import poutine
from scipy import stats
from torch import nn

import bayes_htr as htr

WEIGHTS = [0.3, 1.0, 4.1]


def cross_entropy(params, x, y, weights=(1.0, 1.0, 1.0)):
    """Mean over the examples of `-w_y log p(y | x)` of the network of conftest, in numpy."""
    p = {name: value.detach().numpy() for name, value in params.items()}
    hidden = np.tanh(x.numpy() @ p["fc1.weight"].T + p["fc1.bias"])
    logits = hidden @ p["fc2.weight"].T + p["fc2.bias"]
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    y = y.numpy()
    return np.mean(np.asarray(weights)[y] * -log_p[np.arange(len(y)), y])


def eigenvalues(W):
    return np.linalg.svd(W.detach().numpy(), compute_uv=False) ** 2


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_is_the_formula(make_model, elsewhere, data, weights):
    priors = htr.Priors(
        {
            "fc1.weight": htr.MaxEigenvalue(htr.Frechet(2.0, 1.5)).scaled(2.0),
            "fc2.weight": htr.ESD(htr.Lomax(2.5, 0.7)) & htr.Entries(htr.Normal(0.0, 0.5)),
        }
    ).scaled(3.0)
    model = make_model(priors, class_weights=weights)
    params = elsewhere(model)
    z = eigenvalues(params["fc1.weight"]).max() / 1.5
    lam = eigenvalues(params["fc2.weight"])
    W = params["fc2.weight"].numpy()
    energy = 3.0 * (
        2.0 * (3.0 * np.log(z) + z**-2.0)
        + 2.5 * np.log1p(lam / 0.7).sum()
        + (W**2).sum() / (2 * 0.25)
    )
    expected = -200 * cross_entropy(params, *data, weights or (1, 1, 1)) - energy
    torch.testing.assert_close(model.log_joint(params, data, num_data=200).item(), expected)


def test_joint_hyperparameters_are_in_log_coordinates(make_model, elsewhere, data):
    model = make_model(
        htr.Priors({"fc2.weight": htr.ESD(htr.Lomax(tail_index=htr.Joint(htr.Gamma(9.0, 3.0))))})
    )
    params = elsewhere(model)
    (name,) = set(params) - {n for n, _ in model.net.named_parameters()}
    t, lam = np.exp(params[name].item()), eigenvalues(params["fc2.weight"])
    log_prior = stats.lomax(t).logpdf(lam).sum() + stats.gamma(9.0, scale=1 / 3).logpdf(t)
    expected = -30 * cross_entropy(params, *data) + log_prior + np.log(t)
    value = model.log_joint(params, data, num_data=30).item()
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("size", [1, 2, 7, 14, 16, 30])
def test_every_batch_size_is_unbiased(make_model, priors, elsewhere, data, size, weights):
    model = make_model(priors, class_weights=weights)
    params = elsewhere(model)
    full = model.log_joint(params, data, num_data=30)
    batches = zip(data[0].split(size), data[1].split(size), strict=True)
    mean = sum(model.log_joint(params, b, num_data=30) * len(b[1]) / 30 for b in batches)
    torch.testing.assert_close(mean, full)


def test_differentiable_and_left_out_parameters_stay(model, data):
    weight = model.initial_params()["fc1.weight"].requires_grad_()
    joint = model.log_joint({"fc1.weight": weight}, data, num_data=30)
    (gradient,) = torch.autograd.grad(joint, weight)
    energy = htr.bind(model.priors, model.net, refresh=htr.Exact())
    (30 * F.cross_entropy(model.net(data[0]), data[1]) + energy()).backward()
    torch.testing.assert_close(gradient, -model.net.fc1.weight.grad)
    torch.testing.assert_close(joint, model.log_joint({}, data, num_data=30))


def test_schedule_needs_the_epoch(make_model, data):
    prior = htr.MaxEigenvalue(htr.Frechet(2.0)).scheduled(htr.PowerDecay(1.0))
    model, plain = (make_model(p) for p in (htr.Priors(prior), htr.Priors({})))
    with pytest.raises(htr.PriorError, match="epoch"):
        model.log_joint({}, data, num_data=30)
    likelihood = plain.log_joint({}, data, num_data=30)
    energies = [model.log_joint({}, data, num_data=30, epoch=e) - likelihood for e in (0, 4)]
    torch.testing.assert_close(energies[0], 4 * energies[1])


@pytest.mark.parametrize("training", [True, False])
def test_network_is_not_touched(make_model, elsewhere, data, training):
    model = make_model(htr.Priors(htr.MaxEigenvalue(htr.Frechet(2.0))), "batchnorm")
    model.net.train(training)
    before = copy.deepcopy(model.net.state_dict())
    params = elsewhere(model)
    model.log_joint(params, data, num_data=30)
    poutine.condition(model.pyro_model(), data=params)(*data, num_data=30)
    assert model.net.training is training
    for name, value in model.net.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_tied_parameters_count_once(data):
    net = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6)).double()
    net[2].weight = net[0].weight
    model = htr.BayesianClassifier(net, htr.Priors(htr.Entries(htr.Normal(0.0, 1.0))))
    flat = htr.BayesianClassifier(net, htr.Priors({}))
    params = {k: 2 * v for k, v in model.initial_params().items()}
    assert set(params) == {"0.weight", "0.bias", "2.bias"}
    prior = model.log_joint(params, data, num_data=30) - flat.log_joint(params, data, num_data=30)
    torch.testing.assert_close(prior, -(params["0.weight"] ** 2).sum() / 2)
    with torch.no_grad():  # both layers see the given weights
        net[0].weight *= 2
        net[0].bias *= 2
        net[2].bias *= 2
    expected = -30 * F.cross_entropy(net(data[0]), data[1])
    torch.testing.assert_close(flat.log_joint(params, data, num_data=30), expected)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"fc9.weight": torch.zeros(3)}, "no parameter fc9.weight; it has fc1.weight"),
        ({"fc1.bias": torch.zeros(1)}, r"fc1.bias has shape \(5,\), not \(1,\)"),
    ],
)
def test_wrong_parameters_raise(model, data, params, message):
    with pytest.raises(ValueError, match=message):
        model.log_joint(params, data, num_data=30)


@pytest.mark.parametrize("coordinates", ["natural", "MAP", None])
def test_other_coordinates_raise(model, data, coordinates):
    with pytest.raises(ValueError, match=f"coordinates={coordinates!r}"):
        model.log_joint({}, data, num_data=30, coordinates=coordinates)
    with pytest.raises(ValueError, match=f"coordinates={coordinates!r}"):
        model.pyro_model(coordinates)


@pytest.mark.parametrize(
    "weights",
    [
        [1.0, 0.0, 1.0],
        [1.0, -1.0, 1.0],
        [1.0, float("nan"), 1.0],
        [[1.0]],
        1.0,
        "balanced",
        {0: 1.0},
    ],
)
def test_bad_class_weights_raise(make_model, weights):
    with pytest.raises(htr.DataError, match="class_weights="):
        make_model(htr.Priors({}), class_weights=weights)


@pytest.mark.parametrize("how", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies(make_model, priors, data, how):
    model = make_model(priors, "batchnorm", WEIGHTS)
    before = model.log_joint({}, data, num_data=30)
    copied = how(model)
    torch.testing.assert_close(copied.log_joint({}, data, num_data=30), before)
    with torch.no_grad():
        copied.net.fc2.weight *= 2  # the copy scores its own network
    assert not torch.isclose(copied.log_joint({}, data, num_data=30), before)
    torch.testing.assert_close(model.log_joint({}, data, num_data=30), before)
    assert repr(copied) == repr(model)


LABELS = {
    "a column": (lambda y: y[:, None], r"labels of shape \(\d+, 1\).*take labels.squeeze\(1\)"),
    "one-hot": (lambda y: 2 * F.one_hot(y, 3).float(), "soft labels"),
    "too few": (lambda y: y[1:], "labels of shape"),
    "floats": (lambda y: y.float(), r"float32 must be whole numbers.*need another likelihood"),
    "booleans": (lambda y: y > 0, "torch.bool must be whole numbers"),
    "ignored": (lambda y: torch.where(y == 0, -100, y), "label -100 is negative"),
    "too large": (lambda y: y + 3, "label . does not match a network with 3 outputs"),
}


@pytest.mark.parametrize("coordinates", ["map", "weight", "spectral"])
@pytest.mark.parametrize("kind", LABELS)
def test_labels_that_fit_refuses(make_model, data, coordinates, kind):
    model = make_model(htr.Priors(htr.ESD(htr.Lomax(2.0))))
    change, message = LABELS[kind]
    x, y = data
    params = {}
    if coordinates != "map":
        program = poutine.trace(model.pyro_model(coordinates))
        with poutine.condition(data=model.initial_params()):
            program.get_trace(x, num_data=50)
        params = {
            name: site["value"]
            for name, site in program.trace.nodes.items()
            if (site["type"] == "sample" and name not in ("data", "y") and not site["is_observed"])
            or name in model.initial_params()
        }
    with pytest.raises(htr.DataError, match=message):
        model.log_joint(params, (x, change(y)), num_data=50, coordinates=coordinates)


@pytest.mark.parametrize("make", [list, lambda y: y.to(torch.int32), lambda y: y.numpy()])
def test_labels_of_any_integer_dtype(model, data, make):
    x, y = data
    expected = model.log_joint({}, data, num_data=50)
    assert model.log_joint({}, (x, make(y)), num_data=50) == expected


def test_other_batches_and_sizes(model, data):
    with pytest.raises(htr.DataError, match=r"must be a pair \(x, y\), not Tensor"):
        model.log_joint({}, data[0], num_data=50)
    for size in (0, -3, float("nan"), "50"):
        with pytest.raises(ValueError, match="num_data="):
            model.log_joint({}, data, num_data=size)


@pytest.mark.parametrize("coordinates", ["map", "weight"])
def test_a_network_that_returns_a_sequence(data, coordinates):
    class Sequence(nn.Linear):
        def forward(self, x):
            return super().forward(x).expand(len(x), len(x), 3)

    priors = htr.Priors({"weight": htr.ESD(htr.Lomax(2.0))})
    model = htr.BayesianClassifier(Sequence(data[0].shape[1], 3).double(), priors)
    with pytest.raises(htr.DataError, match=r"labels of shape \(30,\) do not fit logits"):
        model.log_joint(model.initial_params(), data, num_data=50, coordinates=coordinates)
