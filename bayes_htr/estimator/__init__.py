"""The estimator of scikit-learn: `HTRClassifier`."""

from __future__ import annotations

from bayes_htr.estimator.classifier import HTRClassifier

__all__ = ["HTRClassifier"]
