"""The HTML report: one file that needs no network and no other file."""

from bayes_htr.analysis.page.document import page

__all__ = ["page"]
