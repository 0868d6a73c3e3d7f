"""Energies of networks under priors, and when their gradients are computed anew."""

from bayes_htr.engine.energy import SpectralEnergy, bind
from bayes_htr.engine.pull import starting_strength
from bayes_htr.engine.refresh import Drift, Every, Exact, Refresh

__all__ = ["Drift", "Every", "Exact", "Refresh", "SpectralEnergy", "bind", "starting_strength"]
