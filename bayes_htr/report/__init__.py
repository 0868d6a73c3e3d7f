"""Tables and pictures of a run."""

from bayes_htr.inference.run_folder import RESULTS, SPECTRA_BEFORE
from bayes_htr.report.run_report import RunReport

__all__ = ["RESULTS", "SPECTRA_BEFORE", "RunReport"]
