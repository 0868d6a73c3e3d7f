"""The matrices of a module, their decompositions, and statistics of their spectra."""

from bayes_htr.spectra.cluster import Cluster, Followed, follow, shares
from bayes_htr.spectra.gram import eigenvalues
from bayes_htr.spectra.haar import frame_of, haar, log_frame_constant, log_jacobian
from bayes_htr.spectra.layout import Matrix, MatrixLayout
from bayes_htr.spectra.leading import TopPair, start_block, top_pair
from bayes_htr.spectra.matrices import (
    Parameter,
    as_matrix,
    matrices_of,
    parameters_of,
    weights_of,
    working,
    working_dtype,
)
from bayes_htr.spectra.statistics import (
    frobenius_norm,
    hill,
    nuclear_norm,
    singular_values,
    spectral_norm,
    spectrum,
    stable_rank,
    tail_count,
)
from bayes_htr.spectra.view import Gradient, MatrixView, Need, Plan, plan

__all__ = [
    "Cluster",
    "Followed",
    "Gradient",
    "Matrix",
    "MatrixLayout",
    "MatrixView",
    "Need",
    "Parameter",
    "Plan",
    "TopPair",
    "as_matrix",
    "eigenvalues",
    "follow",
    "frame_of",
    "frobenius_norm",
    "haar",
    "hill",
    "log_frame_constant",
    "log_jacobian",
    "matrices_of",
    "nuclear_norm",
    "parameters_of",
    "plan",
    "shares",
    "singular_values",
    "spectral_norm",
    "spectrum",
    "stable_rank",
    "start_block",
    "tail_count",
    "top_pair",
    "weights_of",
    "working",
    "working_dtype",
]
