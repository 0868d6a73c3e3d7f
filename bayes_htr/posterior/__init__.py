"""What a fit knows: prediction, evaluation, and draws of spectra."""

from bayes_htr.posterior.posterior import Posterior, network_spectra
from bayes_htr.posterior.prediction import Prediction
from bayes_htr.posterior.prior_predictive import prior_predictive
from bayes_htr.posterior.spectra import Interval, PosteriorSpectra

__all__ = [
    "Interval",
    "Posterior",
    "PosteriorSpectra",
    "Prediction",
    "network_spectra",
    "prior_predictive",
]
