"""Energies of networks under priors, refreshes of their gradients, and optimisers with priors."""

from bayes_htr.engine.energy import SpectralEnergy, bind
from bayes_htr.engine.optimizer import PriorOptimizer, with_prior
from bayes_htr.engine.pull import starting_strength
from bayes_htr.engine.refresh import Drift, Every, Exact, Refresh

__all__ = [
    "Drift",
    "Every",
    "Exact",
    "PriorOptimizer",
    "Refresh",
    "SpectralEnergy",
    "bind",
    "starting_strength",
    "with_prior",
]
