"""Classical and heavy-tailed penalties as priors: the special cases of `docs/theory.md`.

Each function returns the prior whose energy is the penalty with coefficient `c = 1`. Use
`.scaled(c)` for any other coefficient. The heavy-tailed penalties are those of Xiao, Li, Xie & Zhou
(2023), arXiv:2304.02911.
"""

from __future__ import annotations

from bayes_htr.priors.common_laws import Exponential, Normal
from bayes_htr.priors.heavy_tailed_laws import Frechet, ImproperPowerlaw
from bayes_htr.priors.law import Hill
from bayes_htr.priors.prior import Prior
from bayes_htr.priors.statistics import (
    ESD,
    Entries,
    MaxEigenvalue,
    SingularValues,
    StableRank,
)


def weight_decay() -> Prior:
    """Return `1/2 |W|_F^2`: normal entries."""
    return Entries(Normal(0.0, 1.0))


def spectral_norm() -> Prior:
    """Return `1/2 sigma_1^2` (Yoshida & Miyato 2017): an exponential largest eigenvalue."""
    return MaxEigenvalue(Exponential(0.5))


def nuclear_norm() -> Prior:
    """Return `sum sigma`: exponential singular values."""
    return SingularValues(Exponential(1.0))


def weighted_alpha(fraction: float = 0.5) -> Prior:
    """Return `alpha log lambda_1` with a differentiable Hill estimate `alpha`: Weighted Alpha.

    Args:
        fraction: Hill's tail fraction.
    """
    return MaxEigenvalue(ImproperPowerlaw(Hill(fraction, differentiable=True)))


def stable_rank() -> Prior:
    """Return `|W|_F^2 / |W|_2^2`: Stable Rank."""
    return StableRank(Exponential(1.0))


def powerlaw(fraction: float = 0.5) -> Prior:
    """Return `alpha sum log lambda_j` with Hill's `alpha` as a constant: the Powerlaw prior.

    Args:
        fraction: Hill's tail fraction.
    """
    return ESD(ImproperPowerlaw(Hill(fraction)))


def frechet(fraction: float = 0.5) -> Prior:
    """Return `(alpha + 1) log lambda_1 + lambda_1^-alpha` with Hill's `alpha`: the Fréchet prior.

    Args:
        fraction: Hill's tail fraction.
    """
    return MaxEigenvalue(Frechet(Hill(fraction), 1.0))
