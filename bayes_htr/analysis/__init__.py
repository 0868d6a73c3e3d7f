"""The spectra of any trained network, with their uncertainty."""

from bayes_htr.analysis.analyze import analyze
from bayes_htr.analysis.bulk import MarchenkoPasturFit, fit_marchenko_pastur
from bayes_htr.analysis.columns import COLUMNS
from bayes_htr.analysis.esd import ESD
from bayes_htr.analysis.history import SpectrumHistory
from bayes_htr.analysis.report import CheckpointComparison, SpectraReport
from bayes_htr.analysis.resampled import Farms
from bayes_htr.analysis.sources import open_source
from bayes_htr.analysis.tables import Records

__all__ = [
    "COLUMNS",
    "ESD",
    "CheckpointComparison",
    "Farms",
    "MarchenkoPasturFit",
    "Records",
    "SpectraReport",
    "SpectrumHistory",
    "analyze",
    "fit_marchenko_pastur",
    "open_source",
]
