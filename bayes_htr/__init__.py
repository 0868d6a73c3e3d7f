"""Bayesian training of neural networks with heavy-tailed priors on their weight spectra.

    >>> import bayes_htr as htr
    >>> priors = htr.Priors(htr.MaxEigenvalue(htr.Frechet(2.0, 1.0))).scaled(10.0)
    >>> model = htr.BayesianClassifier(net, priors)
    >>> posterior = htr.fit(model, (X, y), method=htr.MAP(lr=0.05), epochs=20)

The layers, each of which imports only those before it, are `distributions`, `spectra`, `tails`,
`priors`, `engine`, `models`, `inference`, `posterior`; then `analysis`, `report`, `experiments` and
the command line.
"""

from typing import TYPE_CHECKING

from bayes_htr._lazy import lazy
from bayes_htr._version import __version__ as __version__

if TYPE_CHECKING:
    from bayes_htr import distributions
    from bayes_htr.analysis import CheckpointComparison, Farms, SpectraReport, SpectrumHistory
    from bayes_htr.analysis.analyze import analyze
    from bayes_htr.engine import Drift, Every, Exact, SpectralEnergy, bind
    from bayes_htr.errors import (
        CheckpointError,
        DataError,
        DivergenceError,
        OutputError,
        PriorError,
        ProcessError,
        SpectrumError,
    )
    from bayes_htr.fitting import fit, load
    from bayes_htr.inference import MAP, NUTS, SVI, EpochEvent
    from bayes_htr.models import BayesianClassifier, sample_prior
    from bayes_htr.posterior import (
        Interval,
        Posterior,
        PosteriorSpectra,
        Prediction,
        SpectrumCheck,
    )
    from bayes_htr.posterior.prediction import prior_predictive
    from bayes_htr.priors import (
        ESD,
        Entries,
        ExpDecay,
        Exponential,
        Frechet,
        Gamma,
        HalfCauchy,
        Hill,
        ImproperPowerlaw,
        Joint,
        LogNormal,
        Lomax,
        MarchenkoPastur,
        MaxEigenvalue,
        Normal,
        PowerDecay,
        Powerlaw,
        Priors,
        Shared,
        SingularValues,
        StableRank,
        TruncatedPowerlaw,
        penalties,
    )
    from bayes_htr.spectra import (
        MatrixLayout,
        frobenius_norm,
        hill,
        matrices_of,
        nuclear_norm,
        spectral_norm,
        spectrum,
        stable_rank,
    )
    from bayes_htr.tails import HillCurve, PowerlawFit, fit_powerlaw, hill_curve
else:
    __getattr__, __dir__ = lazy(
        __name__,
        {
            "analysis": "CheckpointComparison Farms SpectraReport SpectrumHistory analyze",
            "engine": "Drift Every Exact SpectralEnergy bind",
            "errors": "CheckpointError DataError DivergenceError OutputError PriorError "
            "ProcessError SpectrumError",
            "fitting": "fit load",
            "inference": "MAP NUTS SVI EpochEvent",
            "models": "BayesianClassifier sample_prior",
            "posterior": "Interval Posterior PosteriorSpectra Prediction SpectrumCheck "
            "prior_predictive",
            "priors": "ESD Entries ExpDecay Exponential Frechet Gamma HalfCauchy Hill "
            "ImproperPowerlaw Joint LogNormal Lomax MarchenkoPastur MaxEigenvalue Normal "
            "PowerDecay Powerlaw Priors Shared SingularValues StableRank TruncatedPowerlaw "
            "penalties",
            "spectra": "MatrixLayout frobenius_norm hill matrices_of nuclear_norm spectral_norm "
            "spectrum stable_rank",
            "tails": "HillCurve PowerlawFit fit_powerlaw hill_curve",
            "distributions": "",
        },
    )

__all__ = [
    "ESD",
    "MAP",
    "NUTS",
    "SVI",
    "BayesianClassifier",
    "CheckpointComparison",
    "CheckpointError",
    "DataError",
    "DivergenceError",
    "Drift",
    "Entries",
    "EpochEvent",
    "Every",
    "Exact",
    "ExpDecay",
    "Exponential",
    "Farms",
    "Frechet",
    "Gamma",
    "HalfCauchy",
    "Hill",
    "HillCurve",
    "ImproperPowerlaw",
    "Interval",
    "Joint",
    "LogNormal",
    "Lomax",
    "MarchenkoPastur",
    "MatrixLayout",
    "MaxEigenvalue",
    "Normal",
    "OutputError",
    "Posterior",
    "PosteriorSpectra",
    "PowerDecay",
    "Powerlaw",
    "PowerlawFit",
    "Prediction",
    "PriorError",
    "Priors",
    "ProcessError",
    "Shared",
    "SingularValues",
    "SpectraReport",
    "SpectralEnergy",
    "SpectrumCheck",
    "SpectrumError",
    "SpectrumHistory",
    "StableRank",
    "TruncatedPowerlaw",
    "analyze",
    "bind",
    "distributions",
    "fit",
    "fit_powerlaw",
    "frobenius_norm",
    "hill",
    "hill_curve",
    "load",
    "matrices_of",
    "nuclear_norm",
    "penalties",
    "prior_predictive",
    "sample_prior",
    "spectral_norm",
    "spectrum",
    "stable_rank",
]
