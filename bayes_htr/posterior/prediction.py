"""Predictions: averages over draws of a network, their uncertainty, and how good they are."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import scipy
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.data import DataLoader

from bayes_htr._checks import whole_number
from bayes_htr._torch import evaluation_mode, input_dtype, isolated_randomness
from bayes_htr.inference.data import Batches, Data
from bayes_htr.models import BayesianClassifier
from bayes_htr.models.examples import as_tensor
from bayes_htr.models.simulate import simulated, warn_of_flat
from bayes_htr.spectra.modules import unwrap

ECE_BINS = 15
"""Bins of equal width of the calibration error."""

_BATCH = 1024
_CHUNK_BYTES = 2**28


@dataclass(frozen=True)
class Prediction:
    """The predictive distribution of `N` examples over `C` classes, on the CPU.

    Attributes:
        log_probs: Logarithms of the probabilities, averaged over draws of the weights: `(N, C)`.
        mutual_information: What the label of an example would tell about the weights, in nats:
            `(N,)`. This is the epistemic uncertainty, and it is zero for a point estimate.
    """

    log_probs: Tensor
    mutual_information: Tensor

    @property
    def probs(self) -> Tensor:
        """The probabilities: `(N, C)`, with rows that sum to 1."""
        return self.log_probs.exp()

    @property
    def labels(self) -> Tensor:
        """The most probable class of each example: `(N,)`."""
        return self.log_probs.argmax(1)

    @property
    def entropy(self) -> Tensor:
        """The total uncertainty of each example in nats: `(N,)`."""
        return _entropy(self.log_probs)

    @property
    def aleatoric(self) -> Tensor:
        """The mean entropy of the draws in nats: `(N,)`.

        The sum of this and `mutual_information` is `entropy`.
        """
        return (self.entropy - self.mutual_information).clamp_min(0)


def mix(log_probs: Iterable[Tensor]) -> Prediction:
    """Average the probabilities of several draws.

    The mutual information is the entropy of the average minus the average of the entropies
    (Houlsby et al. 2011; Depeweg et al. 2018). The draws are consumed one at a time and summed in
    float64.

    Args:
        log_probs: The logarithms of the probabilities under each draw, `(N, C)`.
    """
    draws = iter(log_probs)
    first = next(draws)
    total, entropies, count = first.double(), _entropy(first.double()), 1
    for draw in draws:
        total = torch.logaddexp(total, draw.double())
        entropies = entropies + _entropy(draw.double())
        count += 1
    if count == 1:
        return Prediction(first, torch.zeros(len(first)))
    mean = total - math.log(count)
    information = (_entropy(mean) - entropies / count).clamp_min(0)
    return Prediction(mean.to(first), information.to(first))


def predict_batches(
    draws: Callable[[], Iterable[Callable[[Tensor], Tensor]]], batches: Batches
) -> tuple[Prediction, Tensor]:
    """Average the predictions of several draws of a network over one pass through the data.

    All draws predict one chunk of batches before the next chunk is loaded, since a loader that
    shuffles would give each of them another order.

    Args:
        draws: Starts an iteration over the draws, the same at each call. Each draw takes inputs
            `(B, ...)` to logits `(B, C)`.
        batches: The data.

    Returns:
        The prediction, and the labels `(N,)` in the same order.
    """
    predictions: list[Prediction] = []
    labels: list[Tensor] = []
    with torch.no_grad():
        for chunk in _chunks(batches, _CHUNK_BYTES):
            labels += [y.cpu() for _, y in chunk]
            predictions.append(mix(_log_probs(network, chunk) for network in draws()))
    prediction = Prediction(
        torch.cat([part.log_probs for part in predictions]),
        torch.cat([part.mutual_information for part in predictions]),
    )
    return prediction, torch.cat(labels)


def batches_for(net: nn.Module, data: Data, name: str, kind: type[Batches] = Batches) -> Batches:
    """Batches of labelled data, on the device and in the precision of a network.

    Args:
        net: The network.
        data: A `DataLoader` or `(X, y)`.
        name: What errors call the data.
        kind: The class of the batches.

    Raises:
        DataError: The data are not valid; see `Batches`.
    """
    first = next(net.parameters(), torch.zeros(()))
    return kind(data, batch_size=_BATCH, device=first.device, dtype=input_dtype(net), name=name)


def unlabelled_batches(net: nn.Module, x: Any, name: str) -> Batches:
    """Batches of inputs; if there are labels beside them, the labels are ignored.

    Args:
        net: The network, whose device and precision the inputs take.
        x: Inputs `(N, ...)`, a pair `(X, y)`, or a `DataLoader` of pairs.
        name: What errors call the data.

    Raises:
        DataError: The data are not valid; see `Batches`.
    """
    if isinstance(x, DataLoader):
        return batches_for(net, x, name, _AnyLabels)
    inputs = x[0] if isinstance(x, tuple) and len(x) == 2 else x
    inputs = as_tensor(inputs, f"{name} inputs")
    labels = torch.zeros(len(inputs) if inputs.ndim else 0, dtype=torch.int64)
    return batches_for(net, (inputs, labels), name)


def scores(prediction: Prediction, y: Tensor) -> dict[str, float]:
    """Score predictions against labels.

    Args:
        prediction: The prediction of `N` examples.
        y: Their labels, `(N,)`.

    Returns:
        `accuracy`, in [0, 1]; `nll`, the negative log likelihood in nats per example; `ece`, the
        expected calibration error with 15 bins of equal width and the L1 norm (Guo et al. 2017);
        `brier`, the mean over examples of the sum over classes of squared differences (Brier 1950),
        in [0, 2].
    """
    log_probs = prediction.log_probs.double()
    probs = log_probs.exp()
    correct = prediction.labels == y
    return {
        "accuracy": float(correct.double().mean()),
        "nll": float(F.nll_loss(log_probs, y)),
        "ece": _calibration_error(probs.amax(1), correct),
        "brier": float((probs - F.one_hot(y, probs.shape[1])).square().sum(1).mean()),
    }


def ood_scores(inside: Prediction, outside: Prediction) -> dict[str, float]:
    """Score how well uncertainty detects examples from outside the distribution of the data.

    Args:
        inside: The prediction of examples like the training data.
        outside: The prediction of other examples.

    Returns:
        The area under the ROC curve of three detectors: `ood_auroc_entropy`,
        `ood_auroc_mutual_information` (0.5 for a point mass, which has none), and
        `ood_auroc_confidence`, for one minus the largest probability.
    """

    def doubt(prediction: Prediction) -> Tensor:
        return -prediction.log_probs.amax(1)

    detectors = {
        "entropy": (outside.entropy, inside.entropy),
        "mutual_information": (outside.mutual_information, inside.mutual_information),
        "confidence": (doubt(outside), doubt(inside)),
    }
    return {f"ood_auroc_{name}": auroc(*pair) for name, pair in detectors.items()}


def auroc(positive: Tensor, negative: Tensor) -> float:
    """The probability that a positive example scores above a negative one.

    Ties count as halves. This is the area under the ROC curve (Hanley & McNeil 1982), computed from
    ranks as the Mann-Whitney statistic.

    Args:
        positive: Scores of the positive examples, `(P,)`.
        negative: Scores of the negative examples, `(N,)`.
    """
    ranks = scipy.stats.rankdata(
        np.concatenate([positive.double().numpy(), negative.double().numpy()])
    )
    p, n = len(positive), len(negative)
    return float((ranks[:p].sum() - p * (p + 1) / 2) / (p * n))


class _AnyLabels(Batches):
    """Batches whose labels may be those of classes that the network does not know."""

    def check_labels(self, classes: int, batch: Tensor | None = None) -> None:
        """Accept all labels."""


def _chunks(batches: Batches, size: int) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Consecutive batches, collected until their inputs have at least `size` bytes."""
    chunk: list[tuple[Tensor, Tensor]] = []
    count = 0
    for x, y in batches:
        chunk.append((x, y))
        count += x.nbytes
        if count >= size:
            yield chunk
            chunk, count = [], 0
    if chunk:
        yield chunk


def _log_probs(network: Callable[[Tensor], Tensor], chunk: list[tuple[Tensor, Tensor]]) -> Tensor:
    return torch.cat([network(x).float().cpu() for x, _ in chunk]).log_softmax(1)


def _entropy(log_probs: Tensor) -> Tensor:
    return torch.special.entr(log_probs.exp()).sum(-1)


def _calibration_error(confidence: Tensor, correct: Tensor) -> float:
    """`sum_b n_b / N |accuracy_b - confidence_b|` over bins `[b / 15, (b + 1) / 15)`.

    The last bin also contains 1, for which torchmetrics 1.9 has a bin of its own.
    """
    bins = (confidence * ECE_BINS).long().clamp(0, ECE_BINS - 1)
    excess = torch.zeros(ECE_BINS, dtype=torch.float64)
    excess.index_add_(0, bins, correct.double() - confidence)
    return float(excess.abs().sum() / len(confidence))


def prior_predictive(
    model: BayesianClassifier,
    x: Any,
    samples: int = 32,
    seed: int = 0,
    *,
    epoch: int | None = None,
) -> Prediction:
    """The predictive distribution before any data: softmax outputs averaged over prior draws.

    The draws are those of `sample_prior(model, samples, seed=seed)`, and all of them are in memory
    at once. The network is in evaluation mode and keeps its present buffers.

    Args:
        model: The model. It is not changed.
        x: Inputs `(N, ...)`, a tensor or an array.
        samples: The number of draws.
        seed: The seed of the draws.
        epoch: The epoch at which scheduled priors are evaluated.

    Returns:
        The prediction. Its mutual information says how much labels would tell about the weights.

    Raises:
        PriorError: A prior is not a density, or cannot be simulated.
        DataError: The network does not accept the inputs, or some are not finite.
        ValueError: `samples` is less than 1.
    """
    samples = whole_number(samples, "samples", at_least=1)
    parameters = model.densities(epoch).trainable
    warn_of_flat(parameters, stacklevel=3)
    batches = unlabelled_batches(model.net, x, "x")
    batches.check_network(model.net)
    draws = simulated(parameters, samples, seed)
    root = unwrap(model.net)

    def networks() -> Iterator[Callable[[Tensor], Tensor]]:
        for i in range(samples):
            weights = {p.parameter.path: draws[p.name][i] for p in parameters}
            yield partial(functional_call, root, weights)

    with evaluation_mode(model.net), isolated_randomness():
        return predict_batches(networks, batches)[0]
