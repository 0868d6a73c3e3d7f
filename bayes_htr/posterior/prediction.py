"""Predictions: averages over draws of a network, and their uncertainty."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

import torch
from rich.table import Table
from torch import Tensor, nn

from bayes_htr._checks import whole_number
from bayes_htr._printing import Printable, add_row, compact_table
from bayes_htr._torch import evaluation_mode, input_dtype, isolated_randomness
from bayes_htr.inference.data import Batches, Data
from bayes_htr.models import BayesianModel, Likelihood
from bayes_htr.models.inputs import Inputs, call_with, tensors_in
from bayes_htr.models.simulate import simulated, warn_of_flat
from bayes_htr.posterior.mixture_prediction import MixturePrediction
from bayes_htr.spectra.modules import unwrap

_BATCH = 1024
_SHOWN = 5
_CHUNK_BYTES = 2**28


@dataclass(frozen=True, repr=False)
class Prediction(Printable):
    """The predictive distribution of `N` examples over `C` classes, on the CPU.

    If an example has several labels, such as tokens or pixels, their dimensions are between those
    two: `(N, ..., C)`. The classes of yes-or-no labels are no and yes, `(N, 2)` for one label and
    `(N, L, 2)` for several.

    Attributes:
        log_probs: Logarithms of the probabilities, averaged over draws of the weights:
            `(N, ..., C)`.
        mutual_information: The information that a label would give about the weights, in nats:
            `(N, ...)`. This is the epistemic uncertainty, and it is zero for a point estimate.
    """

    log_probs: Tensor
    mutual_information: Tensor

    @classmethod
    def joined(cls, parts: Sequence[Prediction]) -> Prediction:
        """Return the prediction of several sets of examples, one after another."""
        log_probs = torch.cat([part.log_probs for part in parts])
        return cls(log_probs, torch.cat([part.mutual_information for part in parts]))

    @property
    def probs(self) -> Tensor:
        """The probabilities: `(N, ..., C)`, which sum to 1 over the classes."""
        return self.log_probs.exp()

    @property
    def labels(self) -> Tensor:
        """The most probable class of each label: `(N, ...)`."""
        return self.log_probs.argmax(-1)

    @property
    def entropy(self) -> Tensor:
        """The total uncertainty of each label in nats: `(N, ...)`."""
        return _entropy(self.log_probs)

    @property
    def aleatoric(self) -> Tensor:
        """The mean entropy of the draws in nats: `(N, ...)`.

        The sum of this and `mutual_information` is `entropy`.
        """
        return (self.entropy - self.mutual_information).clamp_min(0)

    def uncertainties(self) -> dict[str, Tensor]:
        """Return measures of uncertainty by name, by which foreign examples can be detected."""
        return {
            "entropy": self.entropy,
            "mutual_information": self.mutual_information,
            "confidence": -self.log_probs.amax(-1),
        }

    def __repr__(self) -> str:
        *shape, classes = self.log_probs.shape
        return f"Prediction({'x'.join(map(str, shape))} labels, {classes} classes)"

    def parts(self, width: int) -> Sequence[Table | str]:
        """Return the first labels with their probability and uncertainty, in nats."""
        classes = self.log_probs.shape[-1]
        probs = self.probs.reshape(-1, classes)
        columns = (self.entropy, self.mutual_information)
        table = compact_table("", "class", "probability", "entropy", "mutual information")
        for i in range(min(_SHOWN, len(probs))):
            numbers = (f"{float(column.flatten()[i]):.3f}" for column in columns)
            best = int(probs[i].argmax())
            add_row(table, [str(i), str(best), f"{float(probs[i, best]):.3f}", *numbers])
        first = f", of which the first {_SHOWN}" if len(probs) > _SHOWN else ""
        return [f"{len(probs)} labels of {classes} classes{first}:", table]


def mix(log_probs: Iterable[Tensor]) -> Prediction:
    """Average the probabilities of several draws.

    The mutual information is the entropy of the average minus the average of the entropies
    (Houlsby et al. 2011; Depeweg et al. 2018). The draws are consumed one at a time and summed in
    float64.

    Args:
        log_probs: The logarithms of the probabilities under each draw, `(N, ..., C)`.
    """
    draws = iter(log_probs)
    first = next(draws)
    total, entropies, count = first.double(), _entropy(first.double()), 1
    for draw in draws:
        total = torch.logaddexp(total, draw.double())
        entropies = entropies + _entropy(draw.double())
        count += 1
    if count == 1:
        return Prediction(first, torch.zeros(first.shape[:-1]))
    mean = total - math.log(count)
    information = (_entropy(mean) - entropies / count).clamp_min(0)
    return Prediction(mean.to(first), information.to(first))


class Draw(NamedTuple):
    """A network under one draw of the weights.

    Attributes:
        network: A function that takes the inputs of a batch to outputs `(B, ...)`.
        values: The likelihood's hyperparameters by name, 0-d each.
    """

    network: Callable[[Inputs], Any]
    values: Mapping[str, Tensor]


def predict_batches(
    draws: Callable[[], Iterable[Draw]], batches: Batches, likelihood: Likelihood
) -> tuple[Prediction | MixturePrediction, Tensor]:
    """Average the predictions of several draws of a network over one pass through the data.

    All draws predict one chunk of batches before the next chunk is loaded, since a loader that
    shuffles would give each of them another order.

    Args:
        draws: A function that returns an iterator over the draws, the same ones at each call.
        batches: The data.
        likelihood: The likelihood, which turns outputs into predictions.

    Returns:
        The prediction, and the labels `(N, ...)` in the same order.
    """
    predictions: list[Any] = []
    labels: list[Tensor] = []
    with torch.no_grad():
        for chunk in _chunks(batches, _CHUNK_BYTES):
            labels += [y.cpu() for _, y in chunk]
            predictions.append(_predict(draws(), chunk, likelihood))
    return type(predictions[0]).joined(predictions), torch.cat(labels)


def _predict(
    draws: Iterable[Draw], chunk: list[tuple[Inputs, Tensor]], likelihood: Likelihood
) -> Prediction | MixturePrediction:
    """Return the average prediction of draws for a chunk of batches."""
    outputs = ((_outputs(draw.network, chunk), draw.values) for draw in draws)
    first, values = next(outputs)
    if likelihood.class_log_probs(first) is None:
        rest = list(outputs)
        stacked = torch.stack([first, *(each for each, _ in rest)])
        all_values = [values, *(v for _, v in rest)]
        on_cpu = ({name: v.detach().cpu() for name, v in each.items()} for each in all_values)
        return MixturePrediction(stacked, tuple(on_cpu), likelihood)
    return mix(_log_probs(each, likelihood) for each, _ in chain([(first, values)], outputs))


def _log_probs(outputs: Tensor, likelihood: Likelihood) -> Tensor:
    log_probs = likelihood.class_log_probs(outputs.float())
    assert log_probs is not None
    return log_probs


def _outputs(network: Callable[[Inputs], Any], chunk: list[tuple[Inputs, Tensor]]) -> Tensor:
    """Return the outputs for all batches, on the CPU, in float32 at least."""
    outputs = torch.cat([network(x).cpu() for x, _ in chunk])
    return outputs if outputs.dtype == torch.float64 else outputs.float()


def batches_for(
    net: nn.Module,
    data: Data,
    name: str,
    likelihood: Likelihood | None = None,
    *,
    labelled: bool = True,
) -> Batches:
    """Return batches of data, on the device and in the precision of a network.

    Args:
        net: The network.
        data: Whatever `htr.fit` takes. If labels are not needed, it may also be inputs alone, or a
            `DataLoader` of batches of inputs; labels beside them are ignored.
        name: The name of the data in errors.
        likelihood: The likelihood, which labels and outputs have to fit.
        labelled: Whether labels are needed.

    Raises:
        DataError: The data are not valid; see `Batches`.
    """
    first = next(net.parameters(), torch.zeros(()))
    return Batches(
        data,
        batch_size=_BATCH,
        device=first.device,
        dtype=input_dtype(net),
        name=name,
        likelihood=likelihood,
        labelled=labelled,
        counted=False,
    )


def _chunks(batches: Batches, size: int) -> Iterator[list[tuple[Inputs, Tensor]]]:
    """Yield consecutive batches in lists whose inputs have at least `size` bytes."""
    chunk: list[tuple[Inputs, Tensor]] = []
    count = 0
    for x, y in batches:
        chunk.append((x, y))
        count += sum(tensor.nbytes for tensor in tensors_in(x))
        if count >= size:
            yield chunk
            chunk, count = [], 0
    if chunk:
        yield chunk


def _entropy(log_probs: Tensor) -> Tensor:
    return torch.special.entr(log_probs.exp()).sum(-1)


def prior_predictive(
    model: BayesianModel,
    x: Any,
    samples: int = 32,
    seed: int = 0,
    *,
    epoch: int | None = None,
) -> Any:
    """Return the predictive distribution before any data: predictions averaged over prior draws.

    The draws are those of `sample_prior(model, samples, seed=seed)`, and all of them are in memory
    at once. The network is in evaluation mode and keeps its present buffers.

    Args:
        model: The model. It is not changed.
        x: Inputs as `Posterior.predict` takes them.
        samples: The number of draws.
        seed: The seed of the draws.
        epoch: The epoch at which scheduled priors are evaluated.

    Returns:
        A `Prediction`, whose mutual information says how much labels would tell about the weights,
        or a `MixturePrediction` for targets that are no classes.

    Raises:
        PriorError: A prior is not a density, or cannot be simulated.
        DataError: The network does not accept the inputs, or some are not finite.
        ValueError: `samples` is less than 1.
    """
    samples = whole_number(samples, "samples", at_least=1)
    parameters = model.densities(epoch).trainable
    warn_of_flat(parameters, stacklevel=3)
    likelihood = model.likelihood
    batches = batches_for(model.net, x, "x", likelihood, labelled=False)
    batches.check_network(model.net)
    draws = simulated(parameters, samples, seed)
    hyperparameters = likelihood.hyperparameters
    like = torch.zeros((), dtype=torch.float64)
    with isolated_randomness():
        torch.manual_seed(seed)
        values = {n: h.distribution(like).sample((samples,)) for n, h in hyperparameters.items()}
    root = unwrap(model.net)

    def networks() -> Iterator[Draw]:
        for i in range(samples):
            weights = {p.parameter.path: draws[p.name][i] for p in parameters}
            own = {name: value[i] for name, value in values.items()}
            yield Draw(partial(call_with, root, weights), own)

    with evaluation_mode(model.net), isolated_randomness():
        return predict_batches(networks, batches, likelihood)[0]
