"""Bayesian training of neural networks with heavy-tailed priors on their weight spectra."""

__version__ = "0.1.0"
