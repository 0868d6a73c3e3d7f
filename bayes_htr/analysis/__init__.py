"""Spectra of any network: how they change in training."""

from bayes_htr.analysis.history import SpectrumHistory

__all__ = ["SpectrumHistory"]
