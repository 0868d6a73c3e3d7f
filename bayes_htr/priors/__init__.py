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
from bayes_htr.priors.law import Hill, Hyperparameter, Joint, Law, Shared
from bayes_htr.priors.matrix_prior import MatrixPrior, ResolvedTerm
from bayes_htr.priors.parameter_prior import Densities, ParameterPrior
from bayes_htr.priors.prior import Prior, Statistic
from bayes_htr.priors.schedules import ExpDecay, PowerDecay, Schedule, factor_at
from bayes_htr.priors.spec import Priors
from bayes_htr.priors.statistics import (
    ESD,
    Entries,
    MaxEigenvalue,
    SingularValues,
    StableRank,
)

__all__ = [
    "ESD",
    "Densities",
    "Entries",
    "ExpDecay",
    "ExplainedRow",
    "Explanation",
    "Exponential",
    "Frechet",
    "Gamma",
    "HalfCauchy",
    "Hill",
    "Hyperparameter",
    "ImproperPowerlaw",
    "Joint",
    "Law",
    "LogNormal",
    "Lomax",
    "MarchenkoPastur",
    "MatrixPrior",
    "MaxEigenvalue",
    "Normal",
    "ParameterPrior",
    "PowerDecay",
    "Powerlaw",
    "Prior",
    "Priors",
    "ResolvedTerm",
    "Schedule",
    "Shared",
    "SingularValues",
    "StableRank",
    "Statistic",
    "TruncatedPowerlaw",
    "factor_at",
    "penalties",
]
