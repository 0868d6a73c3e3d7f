"""The strength of priors chosen by a few fits: `htr.tune`, and `strength="auto"` of `htr.fit`."""

from bayes_htr._lazy import lazy

__getattr__, __dir__ = lazy(__name__, {"choose": "tune", "result": "Tuning"})
