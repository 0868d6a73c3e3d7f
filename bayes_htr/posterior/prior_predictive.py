"""What a network predicts under its priors alone, before it has seen any data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from torch import Tensor
from torch.func import functional_call

from bayes_htr._checks import whole_number
from bayes_htr._torch import evaluation_mode, isolated_randomness
from bayes_htr.models import BayesianClassifier
from bayes_htr.models.simulate import simulated, warn_of_flat
from bayes_htr.posterior.prediction import Prediction, predict_batches, unlabelled_batches
from bayes_htr.spectra.matrices import unwrap


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
