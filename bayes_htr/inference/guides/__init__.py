"""Posteriors over weights, one file each."""

from bayes_htr.inference.guides.base import Guide, VariationalGuide
from bayes_htr.inference.guides.gaussian import LowRank, MeanField
from bayes_htr.inference.guides.pyro_guide import PyroGuide
from bayes_htr.inference.guides.samples import PointMass, Samples
from bayes_htr.inference.guides.spectral import SpectralGuide

GUIDES: dict[str, type[VariationalGuide | Samples]] = {
    guide.kind: guide for guide in (SpectralGuide, MeanField, LowRank, PyroGuide, Samples)
}
"""The guides that have a file of their own in run folders, by the name that these use."""

__all__ = [
    "GUIDES",
    "Guide",
    "LowRank",
    "MeanField",
    "PointMass",
    "PyroGuide",
    "Samples",
    "SpectralGuide",
    "VariationalGuide",
]
