"""How the strength of priors is chosen by trials, for `htr.tune` and `strength="auto"`."""

from bayes_htr.tuning.result import Tuning
from bayes_htr.tuning.search import Trial

__all__ = ["Trial", "Tuning"]
