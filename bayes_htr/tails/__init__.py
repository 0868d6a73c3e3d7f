"""Power laws in the upper tail of a sample: the fit, its uncertainty, and its alternatives."""

from bayes_htr.tails.alternatives import ALTERNATIVES, Comparison
from bayes_htr.tails.fit import fit_powerlaw
from bayes_htr.tails.hill_curve import HillCurve, hill_curve
from bayes_htr.tails.result import PowerlawFit
from bayes_htr.tails.spectrum_tail import SpectrumTail, fit_tail

__all__ = [
    "ALTERNATIVES",
    "Comparison",
    "HillCurve",
    "PowerlawFit",
    "SpectrumTail",
    "fit_powerlaw",
    "fit_tail",
    "hill_curve",
]
