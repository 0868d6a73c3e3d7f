"""The Bayesian model: likelihoods, joint density, and the Pyro program."""

from bayes_htr.models.bernoulli import Bernoulli
from bayes_htr.models.categorical import Categorical
from bayes_htr.models.likelihood import Likelihood
from bayes_htr.models.model import BayesianClassifier, BayesianModel, Coordinates
from bayes_htr.models.simulate import sample_prior

__all__ = [
    "BayesianClassifier",
    "BayesianModel",
    "Bernoulli",
    "Categorical",
    "Coordinates",
    "Likelihood",
    "sample_prior",
]
