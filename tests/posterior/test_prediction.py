from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import bayes_htr as htr
from bayes_htr.inference import Batches
from bayes_htr.posterior.prediction import _chunks, mix
from bayes_htr.posterior.scores import auroc, ood_scores


def test_is_the_networks_softmax(posterior, data):
    prediction = posterior.predict(data[0])
    logits = posterior.network()(data[0]).detach().double().numpy()
    probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert prediction.probs.shape == (60, 3)
    np.testing.assert_allclose(prediction.probs, probs, rtol=1e-5)
    np.testing.assert_allclose(prediction.log_probs, np.log(probs), rtol=1e-4)
    np.testing.assert_array_equal(prediction.labels, probs.argmax(1))
    np.testing.assert_allclose(prediction.entropy, -(probs * np.log(probs)).sum(1), rtol=1e-4)
    assert torch.equal(prediction.mutual_information, torch.zeros(60))


@pytest.mark.parametrize("make", [np.asarray, lambda x: x.double().numpy(), torch.Tensor.tolist])
def test_arrays(posterior, data, make):
    torch.testing.assert_close(
        posterior.predict(make(data[0])).probs, posterior.predict(data[0]).probs
    )


def test_batches_are_one_batch(posterior):
    x = torch.randn(2500, 1, 4, 4, generator=torch.Generator().manual_seed(2))
    parts = [posterior.predict(part).log_probs for part in x.split(700)]
    whole = posterior.predict(x)
    torch.testing.assert_close(whole.log_probs, torch.cat(parts))
    logits = posterior.network()(x)
    torch.testing.assert_close(whole.log_probs, logits.log_softmax(1).detach())


def test_nothing_is_changed(posterior, data):
    before, state = posterior.network().state_dict(), torch.get_rng_state()
    posterior.predict(data[0])
    posterior.evaluate(data)
    posterior.spectra()
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in posterior.network().state_dict().items():
        assert torch.equal(value, before[name]), name


def test_network_is_a_copy_in_evaluation_mode(posterior, data):
    before = posterior.predict(data[0]).probs
    net = posterior.network()
    assert not any(m.training for m in net.modules())
    with torch.no_grad():
        net.fc.weight.zero_()
    net.train()
    assert torch.equal(posterior.predict(data[0]).probs, before)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(3, 1, 4, 5), r"does not take inputs of shape \(3, 1, 4, 5\)"),
        (torch.full((3, 1, 4, 4), float("nan")), "x: 48 inputs are not finite"),
        (torch.zeros(0, 1, 4, 4), "x holds no examples"),
        (torch.zeros(3, 1, 4, 4, dtype=torch.uint8), "uint8"),
        (torch.tensor(1.0), "x: inputs of shape"),
        (np.array(["a", "b"]), "x inputs of dtype <U1 are no numbers"),
    ],
    ids=["shape", "nan", "empty", "uint8", "0-d", "words"],
)
def test_bad_inputs(posterior, x, message):
    with pytest.raises(htr.DataError, match=message):
        posterior.predict(x)


@pytest.mark.parametrize("samples", [0, -1])
def test_bad_samples(posterior, data, samples):
    with pytest.raises(ValueError, match=f"samples={samples}"):
        posterior.predict(data[0], samples=samples)


def test_mixture_of_draws():
    """Two certain and contradictory draws: all uncertainty is about the weights."""
    certain = torch.tensor([[1.0, 0.0], [1.0, 0.0]]).log()
    other = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).log()
    mixed = mix([certain, other])
    torch.testing.assert_close(mixed.probs, torch.tensor([[0.5, 0.5], [1.0, 0.0]]))
    expected = torch.tensor([np.log(2.0), 0.0], dtype=torch.float32)
    torch.testing.assert_close(mixed.entropy, expected)
    torch.testing.assert_close(mixed.mutual_information, expected)
    same = mix([certain.exp().add(0.2).log().log_softmax(1)] * 3)
    torch.testing.assert_close(same.mutual_information, torch.zeros(2), atol=1e-6, rtol=0)


# Scores, against numpy.


def reference(probs, y, bins=15):
    probs, y = np.asarray(probs, dtype=float), np.asarray(y)
    confidence, correct = probs.max(1), probs.argmax(1) == y
    ece = 0.0
    for b in range(bins):
        last = b == bins - 1
        inside = (confidence >= b / bins) & ((confidence < (b + 1) / bins) | last)
        if inside.any():
            ece += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    return {
        "accuracy": correct.mean(),
        "nll": -np.log(probs[np.arange(len(y)), y]).mean(),
        "ece": ece,
        "brier": ((probs - np.eye(probs.shape[1])[y]) ** 2).sum(1).mean(),
    }


class Fixed(nn.Module):
    """Takes logits to the same logits."""

    def forward(self, x):
        return x


@pytest.mark.parametrize("n", [1, 200, 5000])
@pytest.mark.parametrize("scale", [0.1, 2.0, 8.0])
@pytest.mark.parametrize("classes", [2, 10])
def test_scores(n, scale, classes):
    generator = torch.Generator().manual_seed(n)
    logits = scale * torch.randn(n, classes, generator=generator)
    y = torch.randint(classes, (n,), generator=generator)
    y = torch.where(torch.rand(n, generator=generator) < 0.6, logits.argmax(1), y)
    posterior = htr.Posterior(Fixed(), htr.Priors({}))
    scores = posterior.evaluate((logits, y))
    expected = reference(posterior.predict(logits).probs, y)
    assert all(type(v) is float for v in scores.values())
    assert scores == pytest.approx(expected, rel=1e-4, abs=1e-7)


def test_certain_predictions():
    """Probabilities of exactly 1 belong to the last of 15 bins; torchmetrics makes it two."""
    logits = torch.tensor([[200.0, 0.0], [3.0, 0.0], [3.0, 0.0]])
    y = torch.tensor([1, 0, 0])
    scores = htr.Posterior(Fixed(), htr.Priors({})).evaluate((logits, y))
    p = 1 / (1 + np.exp(-3.0))  # 0.953, in the last bin as well
    assert scores["ece"] == pytest.approx(abs(2 / 3 - (1 + 2 * p) / 3), rel=1e-5)
    assert scores["nll"] == pytest.approx((200.0 - 2 * np.log(p)) / 3, rel=1e-5)
    assert scores["brier"] == pytest.approx((2.0 + 4 * (1 - p) ** 2) / 3, rel=1e-5)


@pytest.mark.parametrize("shuffle", [False, True])
def test_loaders_and_pairs_are_scored_alike(posterior, data, shuffle):
    loader = DataLoader(TensorDataset(*data), 7, shuffle=shuffle)
    arrays = tuple(t.numpy() for t in data)
    expected = posterior.evaluate(data)
    assert posterior.evaluate(loader) == pytest.approx(expected, rel=1e-5)
    assert posterior.evaluate(arrays) == pytest.approx(expected)


@pytest.mark.parametrize("loader", [False, True])
def test_labels_outside_the_classes(posterior, data, loader):
    y = data[1].clone()
    y[-1] = 3
    bad = DataLoader(TensorDataset(data[0], y), 7) if loader else (data[0], y)
    with pytest.raises(htr.DataError, match=r"test: label 3 does not match .* 3 outputs"):
        posterior.evaluate(bad)


def test_no_more_batches_are_held_than_needed(data):
    batches = Batches(DataLoader(TensorDataset(*data), 7))  # 448 bytes each, the last 256
    found = [len(chunk) for chunk in _chunks(batches, 1000)]
    assert found == [3, 3, 3]
    assert [len(chunk) for chunk in _chunks(batches, 0)] == [1] * 9


# Examples outside the distribution


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(("p", "n"), [(1, 1), (40, 7), (300, 500)])
def test_auroc(ties, p, n):
    rng = np.random.default_rng(p)
    scores = rng.normal(size=p + n) + np.repeat([0.5, 0.0], [p, n])
    scores = scores.round(0 if ties else 12)
    expected = roc_auc_score(np.repeat([1, 0], [p, n]), scores)
    found = auroc(torch.as_tensor(scores[:p]), torch.as_tensor(scores[p:]))
    assert found == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("form", ["inputs", "pair", "loader"])
def test_ood_scores(sampled, data, form):
    x = 3 * torch.randn(25, 1, 4, 4, generator=torch.Generator().manual_seed(8))
    y = torch.arange(25) + 90  # classes that the network does not know
    ood = {"inputs": x, "pair": (x, y), "loader": DataLoader(TensorDataset(x, y), 4)}[form]
    found = sampled.evaluate(data, samples=12, ood=ood)
    assert {k: v for k, v in found.items() if "ood" not in k} == sampled.evaluate(data, samples=12)
    inside, outside = (sampled.predict(z, samples=12) for z in (data[0], x))
    labels = np.repeat([0, 1], [60, 25])
    scores = {
        "entropy": lambda p: p.entropy,
        "mutual_information": lambda p: p.mutual_information,
        "confidence": lambda p: -p.probs.amax(1),
    }
    for name, score in scores.items():
        expected = roc_auc_score(labels, torch.cat([score(inside), score(outside)]))
        assert found[f"ood_auroc_{name}"] == pytest.approx(expected, abs=1e-3), name
    assert found["ood_auroc_mutual_information"] > 0.6


def test_a_point_mass_has_no_mutual_information(posterior, data):
    prediction = posterior.predict(data[0])
    assert ood_scores(prediction, prediction)["ood_auroc_mutual_information"] == 0.5
    torch.testing.assert_close(prediction.aleatoric, prediction.entropy)


def test_ood_data_that_do_not_fit(sampled, data):
    with pytest.raises(htr.DataError, match="ood: the network does not take"):
        sampled.evaluate(data, ood=torch.zeros(3, 1, 5, 5))
