"""Laws, statistics and priors as values, and `Priors`, which assigns them to parameters."""

from bayes_htr.priors import penalties
from bayes_htr.priors.common_laws import Exponential, Gamma, HalfCauchy, LogNormal, Normal
from bayes_htr.priors.explain import ExplainedRow, Explanation
from bayes_htr.priors.heavy_tailed_laws import (
    Frechet,
    ImproperPowerlaw,
    Lomax,
    MarchenkoPastur,
    Powerlaw,
    TruncatedPowerlaw,
)
from bayes_htr.priors.law import Hill, Joint, Law, Shared
from bayes_htr.priors.prior import Flat, Gate, Prior, Statistic, Term
from bayes_htr.priors.schedules import ExpDecay, PowerDecay, Schedule, factor_at
from bayes_htr.priors.spec import Assignment, Priors
from bayes_htr.priors.statistics import (
    ESD,
    Entries,
    MaxEigenvalue,
    SingularValues,
    StableRank,
)

__all__ = [
    "ESD",
    "Assignment",
    "Entries",
    "ExpDecay",
    "ExplainedRow",
    "Explanation",
    "Exponential",
    "Flat",
    "Frechet",
    "Gamma",
    "Gate",
    "HalfCauchy",
    "Hill",
    "ImproperPowerlaw",
    "Joint",
    "Law",
    "LogNormal",
    "Lomax",
    "MarchenkoPastur",
    "MaxEigenvalue",
    "Normal",
    "PowerDecay",
    "Powerlaw",
    "Prior",
    "Priors",
    "Schedule",
    "Shared",
    "SingularValues",
    "StableRank",
    "Statistic",
    "Term",
    "TruncatedPowerlaw",
    "factor_at",
    "penalties",
]
