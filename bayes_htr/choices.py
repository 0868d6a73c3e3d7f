"""The names that the command line knows, as plain data, so that its help needs no other module.

`tests/test_imports.py` holds each to the module that says what the names stand for.
"""

from __future__ import annotations

DATASETS = ("digits", "fashion_mnist", "kmnist", "cifar10")
"""Of `bayes_htr.experiments.datasets`."""
NETWORKS = ("mlp", "lenet5", "resnet18")
"""Of `bayes_htr.experiments.networks`."""
PRIORS = (
    "frechet",
    "lomax",
    "exponential",
    "powerlaw",
    "frechet_hill",
    "powerlaw_hill",
    "weighted_alpha",
    "stable_rank",
    "weight_decay",
    "spectral_norm",
    "nuclear_norm",
)
"""Of `bayes_htr.experiments.named_priors`."""
GUIDES = ("spectral", "meanfield", "lowrank")
"""Of `bayes_htr.inference.guide_choice`."""
