"""The Bayesian classifier: likelihood, joint density, and the Pyro program."""

from bayes_htr.models.classifier import BayesianClassifier, Coordinates
from bayes_htr.models.likelihood import Likelihood
from bayes_htr.models.simulate import sample_prior

__all__ = ["BayesianClassifier", "Coordinates", "Likelihood", "sample_prior"]
