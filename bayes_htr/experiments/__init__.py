"""Data sets, networks and named priors for the command line and the benchmarks."""

from __future__ import annotations

from bayes_htr._parallel import Workers
from bayes_htr.experiments.comparison import Entrant, FitSettings, claimed_folder, compare
from bayes_htr.experiments.datasets import DATASETS, Dataset, load_dataset
from bayes_htr.experiments.named_priors import PRIORS, check_densities, named_priors
from bayes_htr.experiments.networks import NETWORKS, build_network

__all__ = [
    "DATASETS",
    "NETWORKS",
    "PRIORS",
    "Dataset",
    "Entrant",
    "FitSettings",
    "Workers",
    "build_network",
    "check_densities",
    "claimed_folder",
    "compare",
    "load_dataset",
    "named_priors",
]
