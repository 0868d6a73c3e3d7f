"""The Bayesian classifier: likelihood, joint density, and the Pyro program."""

from bayes_htr.models.classifier import BayesianClassifier, Coordinates
from bayes_htr.models.likelihood import negative_log_likelihood
from bayes_htr.models.simulate import sample_prior

__all__ = ["BayesianClassifier", "Coordinates", "negative_log_likelihood", "sample_prior"]
