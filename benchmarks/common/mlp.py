"""The network that guides and posteriors are measured on, 784-512-256-10, and priors for it."""

from __future__ import annotations

import math

from bayes_htr.priors import Entries, Normal, Prior, Priors

INPUTS = {"fc1": 784, "fc2": 512, "fc3": 256}
"""The inputs of each of its layers."""


def normal_entries(scale: float = 1.0) -> Priors:
    """Normal entries with standard deviation `scale / sqrt(inputs)`, biases as the weights."""
    return Priors(
        {
            f"{layer}.*": Entries(Normal(0.0, scale / math.sqrt(inputs)))
            for layer, inputs in INPUTS.items()
        }
    )


def with_normal_biases(prior: Prior) -> Priors:
    """A prior on the matrices, standard normal biases."""
    return Priors({"*.weight": prior, "*.bias": Entries(Normal(0.0, 1.0))})
