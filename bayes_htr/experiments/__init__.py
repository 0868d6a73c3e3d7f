"""Data sets and networks for experiments: what the command line and the benchmarks train on."""

from __future__ import annotations

from bayes_htr.experiments.datasets import DATASETS, Dataset, load_dataset
from bayes_htr.experiments.networks import NETWORKS, build_network

__all__ = ["DATASETS", "NETWORKS", "Dataset", "build_network", "load_dataset"]
