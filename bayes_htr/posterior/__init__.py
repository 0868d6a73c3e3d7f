"""The result of a fit: predictions, scores, draws of spectra, and checks of their laws."""

from bayes_htr.posterior.checks import SpectrumCheck
from bayes_htr.posterior.mixture import PosteriorMixture
from bayes_htr.posterior.mixture_prediction import MixturePrediction
from bayes_htr.posterior.posterior import Posterior
from bayes_htr.posterior.prediction import Prediction, prior_predictive
from bayes_htr.posterior.scores import Scores
from bayes_htr.posterior.spectra import PosteriorSpectra, network_spectra
from bayes_htr.posterior.summary import Interval

__all__ = [
    "Interval",
    "MixturePrediction",
    "Posterior",
    "PosteriorMixture",
    "PosteriorSpectra",
    "Prediction",
    "Scores",
    "SpectrumCheck",
    "network_spectra",
    "prior_predictive",
]
