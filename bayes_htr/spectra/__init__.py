"""The matrices of a module, their decompositions, and statistics of their spectra."""

from bayes_htr.spectra.cluster import Cluster, Followed, follow, shares
from bayes_htr.spectra.gram import eigenvalues
from bayes_htr.spectra.haar import frame_of, haar, log_frame_constant, log_jacobian
from bayes_htr.spectra.matrices import Matrix, Parameter, as_matrix, matrices_of, parameters_of
from bayes_htr.spectra.need import Need, Plan, plan
from bayes_htr.spectra.statistics import (
    frobenius_norm,
    hill,
    nuclear_norm,
    singular_values,
    spectral_norm,
    spectrum,
    stable_rank,
    tail_count,
    working,
    working_dtype,
)
from bayes_htr.spectra.top import TopPair, start_block, top_pair
from bayes_htr.spectra.view import Gradient, MatrixView

__all__ = [
    "Cluster",
    "Followed",
    "Gradient",
    "Matrix",
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
    "working",
    "working_dtype",
]
