"""The spectra of any trained network, with their uncertainty.

`SpectrumHistory` and the loggers are imported on first use, because they are callbacks of trainers,
which `analyze` does not need.
"""

from typing import TYPE_CHECKING

from bayes_htr._lazy import lazy
from bayes_htr.analysis.analyze import analyze
from bayes_htr.analysis.bulk import MarchenkoPasturFit, fit_marchenko_pastur
from bayes_htr.analysis.columns import COLUMNS
from bayes_htr.analysis.esd import ESD
from bayes_htr.analysis.report import CheckpointComparison, SpectraReport
from bayes_htr.analysis.resampled import Farms
from bayes_htr.analysis.sources import open_source
from bayes_htr.analysis.tables import Records

if TYPE_CHECKING:
    from bayes_htr.analysis.history import SpectrumHistory
    from bayes_htr.analysis.loggers import (
        CSVLogger,
        MetricsLogger,
        MLflowLogger,
        TensorBoardLogger,
        WandbLogger,
    )
else:
    __getattr__, __dir__ = lazy(
        __name__,
        {
            "history": "SpectrumHistory",
            "loggers": "CSVLogger MLflowLogger MetricsLogger TensorBoardLogger WandbLogger",
        },
    )

__all__ = [
    "COLUMNS",
    "ESD",
    "CSVLogger",
    "CheckpointComparison",
    "Farms",
    "MLflowLogger",
    "MarchenkoPasturFit",
    "MetricsLogger",
    "Records",
    "SpectraReport",
    "SpectrumHistory",
    "TensorBoardLogger",
    "WandbLogger",
    "analyze",
    "fit_marchenko_pastur",
    "open_source",
]
