"""Laws, statistics and priors as values, and the specification that gives each parameter one."""

from bayes_htr.priors import penalties
from bayes_htr.priors.explain import ExplainedRow, Explanation
from bayes_htr.priors.hyperparameters import Hill, Joint, Shared
from bayes_htr.priors.laws import (
    Exponential,
    Frechet,
    Gamma,
    HalfCauchy,
    ImproperPowerlaw,
    Law,
    LogNormal,
    Lomax,
    MarchenkoPastur,
    Normal,
    Powerlaw,
    TruncatedPowerlaw,
)
from bayes_htr.priors.schedules import ExpDecay, PowerDecay, Schedule, factor_at
from bayes_htr.priors.spec import Assignment, Priors
from bayes_htr.priors.statistics import (
    ESD,
    Entries,
    Flat,
    Gate,
    MaxEigenvalue,
    Prior,
    SingularValues,
    StableRank,
    Statistic,
    Term,
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
