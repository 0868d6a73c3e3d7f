"""Bayesian training of neural networks with heavy-tailed priors on their weight spectra.

    >>> import bayes_htr as htr
    >>> priors = htr.Priors(htr.MaxEigenvalue(htr.Frechet(2.0, 1.0))).scaled(10.0)
    >>> model = htr.BayesianClassifier(net, priors)
    >>> posterior = htr.fit(model, (X, y), method=htr.MAP(lr=0.05), epochs=20)

The layers, each of which imports only those before it, are `distributions`, `spectra`, `tails`,
`priors`, `engine`, `models`, `inference`, `integrations`, `posterior`; then `analysis`, `report`,
`experiments`,
`estimator` and the command line.
"""

from typing import TYPE_CHECKING

from bayes_htr._lazy import lazy
from bayes_htr._version import __version__ as __version__

if TYPE_CHECKING:
    from bayes_htr import distributions, integrations
    from bayes_htr.analysis import (
        CheckpointComparison,
        CSVLogger,
        Farms,
        MetricsLogger,
        MLflowLogger,
        SpectraReport,
        SpectrumHistory,
        TensorBoardLogger,
        WandbLogger,
    )
    from bayes_htr.analysis.analyze import analyze
    from bayes_htr.choosing import tune
    from bayes_htr.engine import (
        Drift,
        Every,
        Exact,
        PriorOptimizer,
        SpectralEnergy,
        bind,
        starting_strength,
        with_prior,
    )
    from bayes_htr.errors import (
        CheckpointError,
        DataError,
        DivergenceError,
        OutputError,
        PriorError,
        ProcessError,
        SpectrumError,
    )
    from bayes_htr.estimator import HTRClassifier
    from bayes_htr.fitting import fit, load
    from bayes_htr.inference import MAP, NUTS, SVI, EpochEvent
    from bayes_htr.models import (
        BayesianClassifier,
        BayesianModel,
        Bernoulli,
        Categorical,
        sample_prior,
    )
    from bayes_htr.posterior import (
        Interval,
        MixturePrediction,
        Posterior,
        PosteriorMixture,
        PosteriorSpectra,
        Prediction,
        Scores,
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
    from bayes_htr.tuning import Tuning
else:
    __getattr__, __dir__ = lazy(
        __name__,
        {
            "analysis": "CSVLogger CheckpointComparison Farms MLflowLogger MetricsLogger "
            "SpectraReport SpectrumHistory TensorBoardLogger WandbLogger analyze",
            "engine": "Drift Every Exact PriorOptimizer SpectralEnergy bind starting_strength "
            "with_prior",
            "errors": "CheckpointError DataError DivergenceError OutputError PriorError "
            "ProcessError SpectrumError",
            "estimator": "HTRClassifier",
            "fitting": "fit load",
            "inference": "MAP NUTS SVI EpochEvent",
            "models": "BayesianClassifier BayesianModel Bernoulli Categorical sample_prior",
            "posterior": "Interval MixturePrediction Posterior PosteriorMixture PosteriorSpectra "
            "Prediction Scores SpectrumCheck prior_predictive",
            "priors": "ESD Entries ExpDecay Exponential Frechet Gamma HalfCauchy Hill "
            "ImproperPowerlaw Joint LogNormal Lomax MarchenkoPastur MaxEigenvalue Normal "
            "PowerDecay Powerlaw Priors Shared SingularValues StableRank TruncatedPowerlaw "
            "penalties",
            "spectra": "MatrixLayout frobenius_norm hill matrices_of nuclear_norm spectral_norm "
            "spectrum stable_rank",
            "tails": "HillCurve PowerlawFit fit_powerlaw hill_curve",
            "tuning": "Tuning",
            "choosing": "tune",
            "distributions": "",
            "integrations": "",
        },
    )

__all__ = [
    "ESD",
    "MAP",
    "NUTS",
    "SVI",
    "BayesianClassifier",
    "BayesianModel",
    "Bernoulli",
    "CSVLogger",
    "Categorical",
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
    "HTRClassifier",
    "HalfCauchy",
    "Hill",
    "HillCurve",
    "ImproperPowerlaw",
    "Interval",
    "Joint",
    "LogNormal",
    "Lomax",
    "MLflowLogger",
    "MarchenkoPastur",
    "MatrixLayout",
    "MaxEigenvalue",
    "MetricsLogger",
    "MixturePrediction",
    "Normal",
    "OutputError",
    "Posterior",
    "PosteriorMixture",
    "PosteriorSpectra",
    "PowerDecay",
    "Powerlaw",
    "PowerlawFit",
    "Prediction",
    "PriorError",
    "PriorOptimizer",
    "Priors",
    "ProcessError",
    "Scores",
    "Shared",
    "SingularValues",
    "SpectraReport",
    "SpectralEnergy",
    "SpectrumCheck",
    "SpectrumError",
    "SpectrumHistory",
    "StableRank",
    "TensorBoardLogger",
    "TruncatedPowerlaw",
    "Tuning",
    "WandbLogger",
    "analyze",
    "bind",
    "distributions",
    "fit",
    "fit_powerlaw",
    "frobenius_norm",
    "hill",
    "hill_curve",
    "integrations",
    "load",
    "matrices_of",
    "nuclear_norm",
    "penalties",
    "prior_predictive",
    "sample_prior",
    "spectral_norm",
    "spectrum",
    "stable_rank",
    "starting_strength",
    "tune",
    "with_prior",
]
