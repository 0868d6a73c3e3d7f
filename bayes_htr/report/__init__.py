"""Tables and pictures of a run."""

from bayes_htr.report.run_report import RESULTS, SPECTRA_BEFORE, RunReport

__all__ = ["RESULTS", "SPECTRA_BEFORE", "RunReport"]
