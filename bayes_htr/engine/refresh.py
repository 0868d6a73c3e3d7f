"""When the gradient of an energy is computed anew.

A refresh policy is a value given to `bind` and `MAP`.
"""

from __future__ import annotations

from dataclasses import dataclass

from bayes_htr.priors.values import Value


@dataclass(frozen=True, repr=False)
class Refresh(Value, abstract=True):
    """Base of the refresh policies."""


@dataclass(frozen=True, repr=False)
class Exact(Refresh):
    """Value and gradient belong to the present weights at every call."""
