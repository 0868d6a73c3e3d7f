"""Fits that are scored on training images that were held out, with their processor time."""

from __future__ import annotations

import time

import torch
from torch import nn

import bayes_htr as htr
from bayes_htr.experiments import Dataset

HELD = 1000
"""The number of images that are held out."""


def scored_fit(
    net: nn.Module,
    priors: htr.Priors,
    method: htr.MAP | htr.SVI,
    data: Dataset,
    *,
    examples: int,
    epochs: int,
    seed: int,
) -> dict[str, float]:
    """Return scores of images that were held out, and `seconds`, the processor time of the fit.

    Args:
        net: The network, which may draw numbers of its own.
        priors: The priors of the network.
        method: The inference method.
        data: The images, of which those of the test are not seen.
        examples: The number of training images.
        epochs: The number of epochs.
        seed: The seed of the split, of the fit, and of what the network draws when it is scored.

    Raises:
        ValueError: There are fewer images.
    """
    if len(data.y_train) < HELD + examples:
        raise ValueError(
            f"{examples} training images and {HELD} that are held out are more than the "
            f"{len(data.y_train)} of {data.name}; ask for fewer"
        )
    order = torch.randperm(len(data.y_train), generator=torch.Generator().manual_seed(seed))
    held, rest = order[:HELD], order[HELD : HELD + examples]
    start = time.process_time()
    posterior = htr.fit(
        htr.BayesianClassifier(net, priors),
        (data.x_train[rest], data.y_train[rest]),
        method=method,
        epochs=epochs,
        seed=seed,
        progress=False,
        threads=torch.get_num_threads(),
    )
    seconds = time.process_time() - start
    torch.manual_seed(seed)
    return posterior.evaluate((data.x_train[held], data.y_train[held])) | {"seconds": seconds}
