"""The spectra of any trained network, with what is uncertain about them."""

from bayes_htr.analysis.analyze import analyze
from bayes_htr.analysis.columns import COLUMNS
from bayes_htr.analysis.esd import ESD
from bayes_htr.analysis.farms import Farms
from bayes_htr.analysis.history import SpectrumHistory
from bayes_htr.analysis.marchenko_pastur import MarchenkoPasturFit, fit_marchenko_pastur
from bayes_htr.analysis.records import Records
from bayes_htr.analysis.report_table import CheckpointComparison, SpectraReport
from bayes_htr.analysis.sources import open_source

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
