"""The Bayesian classifier: likelihood, joint density, and the Pyro program."""

from bayes_htr.models.classifier import BayesianClassifier, Coordinates
from bayes_htr.models.likelihood import negative_log_likelihood

__all__ = ["BayesianClassifier", "Coordinates", "negative_log_likelihood"]
