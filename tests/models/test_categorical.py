"""Class weights and label smoothing against PyTorch's, by hand, and in all coordinates."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pyro
import pytest
import torch
import torch.nn.functional as F
from pyro import poutine

import bayes_htr as htr
from bayes_htr.models import Categorical, Likelihood
from tests.models.densities import draw

WEIGHTS = (0.3, 1.0, 4.1)
LOGITS = draw((12, 3), seed=5)
Y = torch.arange(12) % 3
NORMAL = htr.Priors(htr.Entries(htr.Normal(0.0, 1.0)))


@pytest.mark.parametrize("eps", [0.0, 0.05, 0.9])
def test_without_weights_it_is_pytorchs(eps):
    found = Categorical(label_smoothing=eps)(LOGITS, Y)
    assert torch.equal(found, F.cross_entropy(LOGITS, Y, label_smoothing=eps))


def test_without_smoothing_it_is_as_ever():
    """Bit for bit."""
    weights = torch.tensor(WEIGHTS).float()
    for logits in (LOGITS, LOGITS.float()):
        assert torch.equal(Categorical()(logits, Y), F.cross_entropy(logits, Y))
        weights = torch.tensor(WEIGHTS, dtype=torch.float64).to(logits)
        expected = F.cross_entropy(logits, Y, weight=weights, reduction="sum") / 12
        assert torch.equal(Categorical(WEIGHTS)(logits, Y), expected)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("eps", [0.0, 0.2, 0.75])
def test_value_and_gradient_by_hand(weights, eps):
    w = np.asarray(weights or (1.0, 1.0, 1.0))[Y]
    q = (1 - eps) * np.eye(3)[Y] + eps / 3
    p = np.exp(LOGITS.numpy())
    p /= p.sum(1, keepdims=True)
    logits = LOGITS.clone().requires_grad_()
    found = Categorical(weights, eps)(logits, Y)
    found.backward()
    assert found.item() == pytest.approx(-np.mean(w * (q * np.log(p)).sum(1)), rel=1e-12)
    expected = torch.as_tensor(w[:, None] * (p - q) / 12)
    torch.testing.assert_close(logits.grad, expected)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("eps", [0.0, 0.2])
def test_as_a_program_it_is_num_data_times_the_mean(weights, eps):
    likelihood = Categorical(weights, eps)
    trace = poutine.trace(likelihood.sample).get_trace(LOGITS, Y, 200)
    torch.testing.assert_close(trace.log_prob_sum(), -200 * likelihood(LOGITS, Y))
    assert torch.equal(trace.nodes["_RETURN"]["value"], Y)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("coordinates", ["map", "weight", "spectral"])
def test_coordinates_agree(make_model, weights, coordinates):
    """Smoothing adds to `log_joint` and to a trace what it adds to the likelihood there."""
    x, y = draw((30, 6), seed=6), torch.arange(30) % 3
    plain, smooth = (make_model(NORMAL, "mlp", weights, eps) for eps in (0.0, 0.3))
    with torch.random.fork_rng(devices=[]):
        pyro.set_rng_seed(0)
        trace = poutine.trace(plain.pyro_model("spectral")).get_trace(x, num_data=30)
    params = {name: 5 * p.detach() for name, p in plain.net.named_parameters()}
    if coordinates == "spectral":
        params = {
            name: site["value"]
            for name, site in trace.nodes.items()
            if name.startswith("fc") and site["type"] == "sample" and not site["is_observed"]
        }
    found = []
    for model in (plain, smooth):
        program = poutine.condition(model.pyro_model(coordinates), data=params)
        trace = poutine.trace(program).get_trace(x, y, num_data=200)
        joint = model.log_joint(params, (x, y), num_data=200, coordinates=coordinates)
        torch.testing.assert_close(trace.log_prob_sum(), joint)
        likelihood = model.likelihood(trace.nodes["y"]["fn"].logits, y)
        found.append((joint, -200 * likelihood))
    (joint, likelihood), (smooth_joint, smooth_likelihood) = found
    assert abs(smooth_likelihood - likelihood) > 0.1
    torch.testing.assert_close(smooth_joint - joint, smooth_likelihood - likelihood)


def test_labels_are_drawn_without_smoothing():
    """From the softmax, and with nothing observed."""
    logits = torch.tensor([[2.0, 0.0, -3.0]]).repeat(20_000, 1)
    with torch.random.fork_rng(devices=[]):
        pyro.set_rng_seed(0)
        trace = poutine.trace(Categorical(WEIGHTS, 0.9).sample).get_trace(logits, None, 1)
    assert "y:tempering" not in trace.nodes
    shares = torch.bincount(trace.nodes["y"]["value"], minlength=3) / 20_000
    torch.testing.assert_close(shares, logits[0].softmax(0), atol=0.015, rtol=0)


@pytest.mark.parametrize("eps", [1.0, -0.01, 1.5, float("nan"), float("inf"), None, "0.1", True])
def test_smoothing_out_of_range_raises(make_model, eps):
    with pytest.raises(ValueError, match=r"label_smoothing=.* at least 0 and below 1"):
        make_model(htr.Priors({}), label_smoothing=eps)


@pytest.mark.parametrize("eps", [0, np.float32(0.25), Fraction(1, 8)])
def test_any_number_is_taken(eps):
    assert Categorical(label_smoothing=eps) == Categorical(label_smoothing=float(eps))


def test_plain_data_and_back():
    for likelihood in (Categorical(), Categorical(WEIGHTS, 0.1, -100, 1), Categorical(np.ones(3))):
        assert Likelihood.from_dict(likelihood.to_dict()) == likelihood


TOKENS, OF_TOKENS = draw((4, 5, 3), seed=8), torch.arange(20).reshape(4, 5) % 3
PADDED = torch.where(torch.arange(5) < torch.tensor([[5], [3], [1], [0]]), OF_TOKENS, -100)
SHAPES = {
    "tokens": (Categorical(), TOKENS, OF_TOKENS),
    "pixels": (Categorical(), draw((4, 3, 2, 5), seed=9), torch.arange(40).reshape(4, 2, 5) % 3),
    "a sequence of vectors": (Categorical(class_dim=1), draw((4, 3, 5), seed=9), OF_TOKENS),
    "padding": (Categorical(ignore_index=-100), TOKENS, PADDED),
    "padding, weights": (Categorical(WEIGHTS, ignore_index=-100), TOKENS, PADDED),
    "padding, smoothing": (Categorical(WEIGHTS, 0.2, ignore_index=-100), TOKENS, PADDED),
    "smoothing": (Categorical(None, 0.2, ignore_index=-100), TOKENS, PADDED),
}


def by_hand(likelihood, logits, y):
    """The log likelihood of each example, position by position; the classes are last."""
    weights, eps = likelihood.class_weights or (1.0, 1.0, 1.0), likelihood.label_smoothing
    log_p = torch.log_softmax(logits, -1).reshape(len(y), -1, 3)
    total = []
    for rows, labels in zip(log_p, y.reshape(len(y), -1), strict=True):
        parts = [
            weights[label] * ((1 - eps) * row[label] + eps * row.mean())
            for row, label in zip(rows, labels.tolist(), strict=True)
            if label != likelihood.ignore_index
        ]
        total.append(sum(parts, torch.zeros((), dtype=torch.float64)))
    return torch.stack(total)


@pytest.mark.parametrize(("likelihood", "outputs", "y"), SHAPES.values(), ids=SHAPES)
def test_several_labels_of_an_example(likelihood, outputs, y):
    likelihood.check_outputs(outputs, 4, "train", likelihood.checked(y, "train"))
    dim = outputs.shape.index(3, 1)
    expected = by_hand(likelihood, outputs.movedim(dim, -1), y)
    torch.testing.assert_close(likelihood.log_prob(outputs, y), expected)
    torch.testing.assert_close(likelihood(outputs, y), -expected.mean())
    trace = poutine.trace(likelihood.sample).get_trace(outputs, y, 200)
    torch.testing.assert_close(trace.log_prob_sum(), 200 * expected.mean())
    assert likelihood.sample(outputs, None, 200).shape == y.shape


def test_padding_does_not_count():
    likelihood = Categorical(ignore_index=-100)
    right = TOKENS.argmax(-1) == PADDED
    shares = [right[i, :n].double().mean() for i, n in enumerate((5, 3, 1))]
    assert float(likelihood.score(TOKENS, PADDED)) == pytest.approx(float(sum(shares)))
    assert bool((likelihood.pointwise(TOKENS, PADDED)[PADDED == -100] == 0).all())
    assert likelihood.counted(PADDED).sum() == 9
    gradient = TOKENS.clone().requires_grad_()
    likelihood(gradient, PADDED).backward()
    assert bool((gradient.grad[PADDED == -100] == 0).all())


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("eps", [0.0, 0.2])
def test_soft_labels(weights, eps):
    likelihood = Categorical(weights, eps)
    one_hot = F.one_hot(Y, 3).double()
    torch.testing.assert_close(likelihood(LOGITS, one_hot), likelihood(LOGITS, Y))
    q = draw((12, 3), seed=11).softmax(1)
    smooth = (1 - eps) * q + eps / 3
    each = (smooth * LOGITS.log_softmax(1)).sum(1) * (
        q @ torch.tensor(weights or [1.0] * 3).double()
    )
    torch.testing.assert_close(likelihood(LOGITS, q), -each.mean())
    trace = poutine.trace(likelihood.sample).get_trace(LOGITS, q, 200)
    torch.testing.assert_close(trace.log_prob_sum(), 200 * each.mean())
    mean = (LOGITS.softmax(1) + (2 * LOGITS).softmax(1)) / 2
    found = likelihood.mixture_pointwise([LOGITS, 2 * LOGITS], q, [{}, {}])
    torch.testing.assert_close(found, (q * mean.log()).sum(1))


@pytest.mark.parametrize(
    ("likelihood", "y", "reason"),
    [
        (Categorical(), Y, None),
        (Categorical(ignore_index=-100), Y, None),
        (Categorical(WEIGHTS), Y, "class weights"),
        (Categorical(label_smoothing=0.1), Y, "label smoothing"),
        (Categorical(), F.one_hot(Y, 3).double(), "soft labels"),
    ],
)
def test_what_is_no_density(likelihood, y, reason):
    found = likelihood.improper(y)
    assert found is None if reason is None else reason in found


@pytest.mark.parametrize(
    ("likelihood", "outputs", "y", "message"),
    [
        (Categorical(), TOKENS, Y[:4], r"labels of shape \(4,\) do not fit logits of shape"),
        (Categorical(), LOGITS, F.one_hot(Y), r"labels.argmax\(1\), or htr.Bernoulli\(\)"),
        (Categorical(), TOKENS.mT, OF_TOKENS, "set class_dim="),
        (Categorical(WEIGHTS[:2]), LOGITS, Y, "2 class weights for a network with 3 outputs"),
        (Categorical(), LOGITS, Y + 1, r"label 3 does not match a network with 3 outputs"),
        (Categorical(), LOGITS[:, 0], Y, r"logits of shape \(12, classes\), not \(12,\)"),
    ],
)
def test_outputs_that_do_not_fit(likelihood, outputs, y, message):
    with pytest.raises(htr.DataError, match=message):
        likelihood.check_outputs(outputs, len(y), "train", y)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([[0.2, 0.9]], "taken for soft labels, and must be probabilities that sum to 1.*1.1"),
        ([[-0.1, 1.1]], "taken for soft labels"),
        ([0.5, 1.0], "must be whole numbers of an integer dtype"),
        ([0, -100], r"take htr.Categorical\(ignore_index=-100\)"),
        (["cat", "dog"], "are no numbers; encode words by classes, y = np.unique"),
    ],
)
def test_labels_that_are_none(y, message):
    with pytest.raises(htr.DataError, match=f"train.*{message}"):
        Categorical().checked(y, "train")


@pytest.mark.parametrize("name", ["ignore_index", "class_dim"])
@pytest.mark.parametrize("value", [1.0, "1", True])
def test_settings_that_are_no_whole_numbers(name, value):
    with pytest.raises(ValueError, match=f"{name}=.* must be a whole number"):
        Categorical(**{name: value})
    with pytest.raises(ValueError, match="class_dim=0"):
        Categorical(class_dim=0)
