"""Data: how batches are made, and what is refused before anything is written."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.utils.data as data_utils
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import bayes_htr as htr

X = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(20) % 3
LOMAX = htr.Priors(htr.ESD(htr.Lomax(2.0)))


def fitted(net, priors, data, method, **more):
    return htr.fit(htr.BayesianClassifier(net, priors), data, method=method, **more)


def with_entry(x, index, value):
    x = x.clone()
    x[index] = value
    return x


class Endless(IterableDataset):
    def __iter__(self):
        yield X[0], Y[0]


DATA = {
    "nan": ((with_entry(X, (3, 2), float("nan")), Y), r"1 inputs are not finite.*\(3, 2\)"),
    "inf": ((with_entry(X, (3, 2), float("-inf")), Y), r"-inf at \(3, 2\); clean the data"),
    "nan in an array": ((np.full((20, 6), np.nan), Y.numpy()), "120 inputs are not finite"),
    "label too large": ((X, with_entry(Y, 4, 3)), "label 3 .* 3 outputs .*; change the last layer"),
    "label negative": ((X, Y - 1), "label -1 is negative"),
    "float labels": ((X, Y.float()), r"torch.float32 must be whole numbers.*\.long\(\)"),
    "bool labels": ((X, Y > 0), "torch.bool must be whole numbers"),
    "words": (
        (X, np.array(["a"] * 20)),
        "labels of dtype <U1 are no numbers; encode words by classes, y = np.unique",
    ),
    "objects": ((np.array([object()] * 20), Y), "inputs of dtype object are no numbers"),
    "no examples": ((X[:0], Y[:0]), "no examples"),
    "one-hot labels": ((X, nn.functional.one_hot(Y)), r"labels of shape \(20, 3\)"),
    "sparse": ((X.to_sparse(), Y), r"are not dense; convert them with .to_dense\(\)"),
    "ragged": (([X[0], X[1, :4]], Y[:2]), r"of different shapes, \(4,\) and \(6,\); pad or crop"),
    "targets": (
        (X, Y + 0.5),
        r"Real-valued targets need another likelihood, as in htr.BayesianModel",
    ),
    "a column of labels": ((X, Y[:, None]), r"take labels.squeeze\(1\)"),
    "complex nan": ((X * complex("nan"), Y), "120 inputs are not finite"),
    "masked": ((np.ma.masked_greater(X.numpy(), 1.0), Y), "masked entries; fill them"),
    "lengths": ((X[:19], Y), r"shape \(19, 6\) and labels of shape \(20,\)"),
    "width": ((X[:, :5], Y), r"does not take inputs of shape \(20, 5\)"),
    "uint8": (((X * 10).abs().byte(), Y), r"uint8; convert them, as in X.float\(\) / 255"),
    "three": ((X, Y, Y), "must be a DataLoader or a pair"),
    "a tensor": (X, "must be a DataLoader or a pair"),
    "a loader of tensors": (DataLoader(X, 4), r"a batch must be a pair \(x, y\)"),
    "a loader with nan": (
        DataLoader(TensorDataset(with_entry(X, 0, float("nan")), Y), 4),
        "6 inputs are not finite",
    ),
    "a loader of nothing": (DataLoader(TensorDataset(X[:0], Y[:0]), 4), "no examples"),
    "a loader that drops all": (
        DataLoader(TensorDataset(X, Y), 32, drop_last=True),
        "batch size is above its 20 examples",
    ),
}

UNCOUNTED = {
    "a loader without length": (DataLoader(Endless(), 4), "no length.*; pass num_data=, or use a"),
    "a loader that does not batch": (
        DataLoader(TensorDataset(X[None], Y[None]), batch_size=None),
        "batch_size=None.*; pass num_data=",
    ),
}


@pytest.mark.parametrize("which", ["train", "validation"])
@pytest.mark.parametrize(("data", "message"), DATA.values(), ids=DATA)
def test_data(model, untouched, data, message, which):
    given = {"train": (X, Y), "validation": (X, Y)} | {which: data}
    with pytest.raises(htr.DataError, match=f"(?s){which}.*{message}"):
        htr.fit(model, method=htr.MAP(), epochs=1, out=untouched, **given)


@pytest.mark.parametrize(("data", "message"), UNCOUNTED.values(), ids=UNCOUNTED)
def test_data_of_unknown_number(model, untouched, data, message):
    """The number is needed for training alone, and may be given."""
    with pytest.raises(htr.DataError, match=f"(?s)train.*{message}"):
        htr.fit(model, data, method=htr.MAP(), epochs=1, out=untouched)
    given = {"method": htr.MAP(), "epochs": 1, "validation": data}
    posterior = htr.fit(model, data, num_data=20, **given)
    assert posterior.config["num_data"] == 20
    assert posterior.evaluate(data)["nll"] > 0


def test_a_late_label_of_a_loader_is_named(model):
    y = with_entry(Y, 19, 7)
    with pytest.raises(htr.DataError, match="label 7 does not match a network with 3 outputs"):
        htr.fit(model, DataLoader(TensorDataset(X, y), 4), method=htr.MAP(), epochs=1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "make",
    [
        lambda x, y: (x.double().numpy(), y.numpy()),
        lambda x, y: (x.numpy().astype(">f8"), y.numpy().astype(np.uint16)),
        lambda x, y: (x.flip(0).numpy()[::-1], y.flip(0).numpy()[::-1].astype(np.uint8)),
        lambda x, y: (x.tolist(), y.tolist()),
        lambda x, y: [x.double(), y.to(torch.int32)],
    ],
    ids=["float64", "foreign byte order", "backwards", "lists", "list of tensors"],
)
def test_inputs_are_cast_to_the_network(network, data, dtype, make, same_weights, recwarn):
    net = network().to(dtype)
    model = htr.BayesianClassifier(net, htr.Priors({}))
    expected = htr.fit(model, data, method=htr.MAP(), epochs=1)
    posterior = htr.fit(model, make(*data), method=htr.MAP(), epochs=1)
    same_weights(posterior, expected)
    assert posterior.network().fc1.weight.dtype == dtype
    assert not recwarn.list


@pytest.mark.parametrize(
    ("make", "count"),
    [
        (lambda d: DataLoader(d, 16, drop_last=True), 50),
        (lambda d: DataLoader(d, 16, sampler=range(20)), 20),
        (
            lambda d: DataLoader(
                d, batch_sampler=torch.utils.data.BatchSampler(range(20), 8, drop_last=False)
            ),
            20,
        ),
        (lambda d: DataLoader(d, 16, sampler=data_utils.WeightedRandomSampler([1.0] * 50, 20)), 50),
        (lambda d: DataLoader(d, 16, sampler=data_utils.RandomSampler(d, num_samples=20)), 50),
        (lambda d: DataLoader(d, 16, sampler=data_utils.SubsetRandomSampler(range(20))), 20),
    ],
    ids=["drop_last", "sampler", "batch_sampler", "weighted", "fewer", "subset"],
)
def test_num_data_of_loaders(make_model, data, frechet, make, count):
    loader = make(TensorDataset(*data))
    posterior = htr.fit(make_model(frechet), loader, method=htr.MAP(), epochs=1)
    assert posterior.config["num_data"] == count


@pytest.mark.parametrize("method", [htr.MAP(), htr.SVI(guide="meanfield")], ids=["map", "svi"])
@pytest.mark.parametrize("kind", ["arrays", "loader"])
def test_a_last_batch_of_one_under_batch_normalisation(network, method, kind, tmp_path):
    data = torch.randn(33, 6), torch.arange(33) % 3
    given = data if kind == "arrays" else DataLoader(TensorDataset(*data), 16)
    priors, out = htr.Priors({"*": htr.Entries(htr.Normal(0.0, 1.0))}), tmp_path / "run"
    with pytest.raises(htr.errors.DataError, match="33 examples in batches of 16 leave a last"):
        fitted(network("batchnorm"), priors, given, method, epochs=1, batch_size=16, out=out)
    assert not out.exists()
    assert fitted(network("mlp"), priors, given, method, epochs=1, batch_size=16).history
    for fine in (
        DataLoader(TensorDataset(*data), 16, drop_last=True),
        DataLoader(TensorDataset(*data), 11),
    ):
        assert fitted(network("batchnorm"), priors, fine, method, epochs=1).history
    frozen = network("batchnorm")
    frozen.bn.eval()
    assert fitted(frozen, priors, given, method, epochs=1, batch_size=16).history
    with pytest.raises(htr.errors.DataError, match="last batch of one"):
        fitted(network("batchnorm"), priors, data, method, epochs=1, batch_size=1)


def test_batch_normalisation_of_images_takes_one_example():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(32, 3))
    data = torch.randn(17, 1, 6, 6), torch.arange(17) % 3
    assert fitted(net, LOMAX, data, htr.MAP(), epochs=1, batch_size=16).history
