"""What a network predicts under its priors alone, before any data."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call

from bayes_htr.inference.data import Batches
from bayes_htr.inference.modes import evaluation_mode
from bayes_htr.inference.randomness import isolated_randomness
from bayes_htr.models import BayesianClassifier
from bayes_htr.models.simulate import simulated, warn_of_flat
from bayes_htr.posterior.prediction import Prediction, mix
from bayes_htr.spectra.matrices import unwrap

_BATCH = 1024


def prior_predictive(
    model: BayesianClassifier,
    x: Any,
    samples: int = 32,
    seed: int = 0,
    *,
    epoch: int | None = None,
) -> Prediction:
    """The predictive distribution before any data: softmax outputs averaged over prior draws.

    The draws are those of `sample_prior(model, samples, seed=seed)`, all in memory at once; the
    network is in evaluation mode, with its present buffers.

    Args:
        model: The model. It is not changed.
        x: `(N, ...)` tensor or array.
        samples: How many draws.
        seed: Of the draws.
        epoch: The epoch at which scheduled priors are taken.

    Returns:
        The prediction; its mutual information is what the labels would tell of the weights.

    Raises:
        PriorError: A prior that is no density, or cannot be simulated.
        DataError: Inputs that the network does not take, or that are not finite.
        ValueError: `samples` is less than 1.
    """
    if isinstance(samples, bool) or not isinstance(samples, int) or samples < 1:
        raise ValueError(f"samples={samples!r} must be a whole number of at least 1")
    parameters = model.densities(epoch).trainable
    warn_of_flat(parameters, stacklevel=3)
    batches = _batches(model, x)
    batches.check_network(model.net)
    draws = simulated(parameters, samples, seed)
    root = unwrap(model.net)
    log_probs: list[Tensor] = []
    with evaluation_mode(model.net), torch.no_grad(), isolated_randomness():
        for i in range(samples):
            weights = {p.parameter.path: draws[p.name][i] for p in parameters}
            logits = [functional_call(root, weights, (inputs,)) for inputs, _ in batches]
            log_probs.append(torch.cat([part.float().cpu() for part in logits]).log_softmax(1))
    return mix(log_probs)


def _batches(model: BayesianClassifier, x: Any) -> Batches:
    inputs = x if isinstance(x, Tensor) else np.asarray(x)
    labels = torch.zeros(len(inputs) if inputs.ndim else 0, dtype=torch.int64)
    first = next(model.net.parameters(), torch.zeros(()))
    dtype = first.dtype if first.dtype.is_floating_point else torch.float32
    return Batches((inputs, labels), batch_size=_BATCH, device=first.device, dtype=dtype, name="x")
