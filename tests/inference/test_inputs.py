"""Data of every form through `fit`, `evaluate` and `predict`: several inputs, names, no labels."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import bayes_htr as htr

torch.set_num_threads(1)

A = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
B = torch.randint(5, (20, 4), generator=torch.Generator().manual_seed(1))
Y = torch.arange(20) % 3
PRIORS = htr.Priors({"*": htr.Entries(htr.Normal(0.0, 1.0))})
MAP = htr.MAP(lr=0.05)


class TwoInputs(nn.Module):
    """Floats and tokens, by position or by name, to an object with logits."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.embedding, self.linear = nn.Embedding(5, 3), nn.Linear(6, 3)

    def forward(self, floats, tokens):
        embedded = self.embedding(tokens).mean(1)
        return SimpleNamespace(logits=self.linear(torch.cat([floats, embedded], 1)))


class Rows(Dataset):
    """Examples as dictionaries, as data sets of Hugging Face have them."""

    def __init__(self, labels="labels"):
        self.labels = labels

    def __len__(self):
        return 20

    def __getitem__(self, i):
        return {"floats": A[i], "tokens": B[i], **({self.labels: Y[i]} if self.labels else {})}


class Pairs(Rows):
    def __getitem__(self, i):
        return (A[i], B[i]), Y[i]


class Streamed(IterableDataset):
    def __init__(self, rounds=1):
        self.rounds = rounds

    def __iter__(self):
        for _ in range(self.rounds):
            yield from (Rows()[i] for i in range(20))


FORMS = {
    "a tuple of inputs": lambda: ((A.numpy(), B.numpy()), Y.numpy()),
    "inputs by name": lambda: ({"floats": A, "tokens": B}, Y),
    "labels by name": lambda: {"floats": A, "tokens": B.tolist(), "labels": Y},
    "a loader of pairs": lambda: DataLoader(Pairs(), 8),
    "a loader of dictionaries": lambda: DataLoader(Rows(), 8),
    "label": lambda: DataLoader(Rows("label"), 8),
    "a stream": lambda: DataLoader(Streamed(), 8),
    "an endless stream": lambda: DataLoader(Streamed(rounds=10**9), 10),
}


def fitted(train, method=MAP, epochs=2, **more):
    model = htr.BayesianClassifier(TwoInputs(), PRIORS)
    return htr.fit(model, train, method=method, epochs=epochs, progress=False, **more)


@pytest.mark.parametrize("name", FORMS)
def test_every_form_is_the_same_training(name, same_weights):
    size = 10 if name == "an endless stream" else 8
    plain = DataLoader(Pairs(), size)
    expected = fitted(plain)
    more = {"num_data": 20} if "stream" in name else {}
    given = FORMS[name]()
    if not isinstance(given, DataLoader):  # arrays are shuffled
        assert fitted(given, batch_size=8).history[-1]["train_nll"] < 1.2
        return
    posterior = fitted(given, **more)
    same_weights(posterior, expected)
    assert posterior.config["num_data"] == 20
    for row, other in zip(posterior.history, expected.history, strict=True):
        assert {**row, "seconds": 0} == {**other, "seconds": 0}


@pytest.mark.parametrize("name", [n for n in FORMS if n != "an endless stream"])
def test_every_form_is_evaluated_and_predicted(name):
    posterior = fitted(DataLoader(Pairs(), 8))
    logits = posterior.network()(A, B).logits
    nll = nn.functional.cross_entropy(logits, Y).item()
    assert posterior.evaluate(FORMS[name]())["nll"] == pytest.approx(nll, rel=1e-5)
    torch.testing.assert_close(posterior.predict(FORMS[name]()).probs, logits.softmax(1).detach())


@pytest.mark.parametrize(
    "x",
    [
        {"floats": A, "tokens": B},
        DataLoader(Rows(None), 8),
        DataLoader([{"floats": A[i], "tokens": B[i]} for i in range(20)], 8),
        ((A, B), None),
    ],
    ids=["names", "a loader of dictionaries", "a list of dictionaries", "a tuple"],
)
def test_predictions_need_no_labels(x):
    posterior = fitted(DataLoader(Pairs(), 8))
    expected = posterior.network()(A, B).logits.softmax(1).detach()
    torch.testing.assert_close(posterior.predict(x).probs, expected)


@pytest.mark.parametrize(
    "x",
    [
        DataLoader(A, 8),
        DataLoader(TensorDataset(A), 8),
        DataLoader(TensorDataset(A, Y), 8),
        A,
        (A, Y),
    ],
    ids=["inputs", "tuples of one", "pairs", "a tensor", "a pair"],
)
def test_a_loader_of_one_input_without_labels(x):
    model = htr.BayesianClassifier(nn.Linear(3, 3), PRIORS)
    posterior = htr.fit(model, (A, Y), method=MAP, epochs=1)
    expected = posterior.network()(A).softmax(1).detach()
    torch.testing.assert_close(posterior.predict(x).probs, expected)
    torch.testing.assert_close(htr.prior_predictive(model, x, 2).probs.sum(1), torch.ones(20))


@pytest.mark.parametrize(
    ("method", "epochs"),
    [
        (htr.SVI(guide="meanfield"), 2),
        (htr.SVI(guide="spectral"), 1),
        (htr.NUTS(warmup=2, samples=4, chains=1, max_tree_depth=1), 0),
    ],
    ids=["meanfield", "spectral", "nuts"],
)
@pytest.mark.filterwarnings("ignore:.*(chains|trajectories)")
def test_other_methods_take_several_inputs(method, epochs, tmp_path):
    posterior = fitted(DataLoader(Rows(), 8), method, epochs, out=tmp_path / "run")
    scores = posterior.evaluate(DataLoader(Rows(), 8))
    assert scores == htr.load(tmp_path / "run", TwoInputs()).evaluate(DataLoader(Rows(), 8))


def test_the_joint_density_of_several_inputs():
    model = htr.BayesianClassifier(TwoInputs(), htr.Priors({}))
    given = {"num_data": 20}
    by_name = model.log_joint({}, ({"floats": A, "tokens": B}, Y), **given)
    torch.testing.assert_close(model.log_joint({}, ((A, B), Y), **given), by_name)
    nll = nn.functional.cross_entropy(model.net(A, B).logits, Y, reduction="sum")
    torch.testing.assert_close(by_name, -nll)


@pytest.mark.parametrize(
    ("train", "more", "message"),
    [
        (DataLoader(Rows(None), 8), {}, "a dictionary with floats, tokens has no 'labels'; put"),
        (
            DataLoader(TensorDataset(A, B, Y), 8),
            {},
            r"a batch must be a pair .* of 3; for several inputs give \(\(x1, x2\), y\)",
        ),
        (({"floats": A, "wrong": B}, Y), {}, "does not take inputs floats of shape .* wrong"),
        (({"floats": A, "tokens": B[:9]}, Y), {}, "must have the same number of examples"),
        ((A, Y), {}, "does not take inputs of shape"),
        (DataLoader(Streamed(), 8), {}, "has no length.*pass num_data="),
        (DataLoader(Streamed(), 8), {"num_data": 0}, "num_data=0 must be a whole number"),
        (DataLoader(Streamed(), 8), {"num_data": 2.5}, "num_data=2.5 must be a whole number"),
        (DataLoader(Streamed(rounds=0), 8), {"num_data": 20}, "train holds no examples"),
        (((A, B), np.array(["a", "b"] * 10)), {}, "encode words by classes, y = np.unique"),
    ],
)
def test_data_that_cannot_be_used(untouched, train, more, message):
    with pytest.raises(htr.DataError, match=f"(?s){message}"):
        fitted(train, out=untouched, **more)


def test_the_size_of_a_stream_weighs_the_prior():
    first, second = (fitted(DataLoader(Streamed(), 8), num_data=n) for n in (20, 2000))
    assert first.network().linear.weight.norm() < second.network().linear.weight.norm()


def test_a_model_and_a_tokeniser_of_hugging_face():
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=30,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=8,
        num_labels=3,
        pad_token_id=None,  # mean-field draws would fill the row of a padding token with noise
    )
    tokens = transformers.BatchEncoding(
        {"input_ids": B.numpy(), "attention_mask": np.ones_like(B.numpy())}
    )
    torch.manual_seed(0)
    net = transformers.BertForSequenceClassification(config)
    model = htr.BayesianClassifier(net, htr.Priors({"*.dense.weight": htr.ESD(htr.Lomax(2.0))}))
    rows = [
        {k: torch.as_tensor(v[i]) for k, v in tokens.items()} | {"labels": Y[i]} for i in range(20)
    ]
    collated = DataLoader(rows, 8, collate_fn=transformers.default_data_collator)
    for train in ((tokens, Y), {**tokens, "labels": Y}, collated):
        posterior = htr.fit(model, train, method=MAP, epochs=1)
        scores = posterior.evaluate(train)
        logits = posterior.network()(**{k: torch.as_tensor(v) for k, v in tokens.items()}).logits
        nll = nn.functional.cross_entropy(logits, Y).item()
        assert scores["nll"] == pytest.approx(nll, rel=1e-4)
        assert posterior.predict(tokens).probs.shape == (20, 3)
    token_net = transformers.BertForTokenClassification(config)
    model = htr.BayesianModel(token_net, PRIORS, likelihood=htr.Categorical(ignore_index=-100))
    labels = torch.where(B == 4, -100, B.clamp(max=2))
    svi = htr.SVI(guide="meanfield", noise="shared")
    posterior = htr.fit(model, {**tokens, "labels": labels}, method=svi, epochs=1)
    assert posterior.predict(tokens).probs.shape == (20, 4, 3)
    assert 0 < posterior.evaluate({**tokens, "labels": labels})["accuracy"] < 1
