"""A strength of priors to start from, without a single fit.

The pull of priors on a network says how much energy there is to lose by shrinking its weights:

    pull = sum over matrices of sum_i sigma_i |dE / d sigma_i|

where `E` is the energy at strength 1 and `sigma_i` are the singular values of the weights as they
are before training. A law of all eigenvalues has a pull that grows with their number, and a law of
the largest one has a pull of a few units per matrix. Halving the scale in which a penalty is
measured changes its pull as it changes the best strength, so that the product of both says more
than either: in the two studies the best strength times the pull is about the same multiple of
`sqrt(num_data)` for eight priors, although strengths themselves differ by a factor of 2,000
(`docs/strength.md` has the cells, those included in which it fails).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from bayes_htr._checks import whole_number
from bayes_htr.errors import PriorError
from bayes_htr.priors import MatrixPrior, Priors
from bayes_htr.priors.evaluation import evaluate
from bayes_htr.spectra import MatrixView, working

MODE_SHARE = 35.0
"""Strength times pull, divided by the square root of the number of examples, for a mode."""
POSTERIOR_SHARE = 8.0
"""The same for a posterior, whose spread already keeps weights from fitting every example."""


def starting_strength(
    priors: Priors, net: nn.Module, *, num_data: int, posterior: bool = False
) -> float:
    """Return the strength from which to start looking for the best one; no training is needed.

    It is `c sqrt(num_data) / pull`, with `c = 35` for a mode and `c = 8` for a posterior, both
    fitted to the two studies of this project. In most of their cells the result is within a factor
    of three of a strength that scores like the best one. Check it on held-out data where that
    matters: `htr.tune` starts here.

    Args:
        priors: The priors at strength 1, or at a strength that the result multiplies. Scheduled
            priors are taken as they are in the first epoch.
        net: The network with the weights from which training starts.
        num_data: The number of training examples.
        posterior: Whether a posterior is looked for (SVI, NUTS), not a mode (MAP).

    Returns:
        A positive strength for `priors.scaled`, rounded to two digits.

    Raises:
        PriorError: The priors do not fit the network, or have no pull on it: they are flat, or act
            only above a threshold that the weights do not reach, or the weights are zero.
        SpectrumError: A matrix is not finite, or a law cannot score it.
        ValueError: `num_data` is not a positive whole number.

    Example:
        >>> strength = htr.starting_strength(priors, net, num_data=len(X))
        >>> model = htr.BayesianClassifier(net, priors.scaled(strength))
    """
    num_data = whole_number(num_data, "num_data", at_least=1)
    pull = pull_of(priors, net)
    if not (math.isfinite(pull) and pull > 0):
        raise PriorError(
            f"{priors!r} has a pull of {pull:g} on the weights of {type(net).__name__}, so that no "
            "strength can be told from it; name one, as in htr.tune(..., start=1.0), or give the "
            "weights a prior"
        )
    share = POSTERIOR_SHARE if posterior else MODE_SHARE
    return float(f"{share * math.sqrt(num_data) / pull:.2g}")


def pull_of(priors: Priors, net: nn.Module) -> float:
    """Return the pull of priors on the present weights of a network, as in the module docstring.

    Vectors count as matrices of one row. Frozen parameters have no pull. A threshold on the sum of
    all penalties is ignored.

    Args:
        priors: The priors, with their strengths in the first epoch.
        net: The network.

    Raises:
        PriorError: The priors do not fit the network.
        SpectrumError: A matrix is not finite, or a law cannot score it.
    """
    return sum(
        _pull(matrix, matrix.view(p.parameter.tensor.detach()))
        for p in priors.resolve(net)
        for matrix in p.matrices
        if p.parameter.tensor.requires_grad
    )


def _pull(prior: MatrixPrior, W: Tensor) -> float:
    """Return `sum_i sigma_i |u_i' G v_i|` of a matrix and the gradient `G` of its energy."""
    W = working(W)
    strengths = prior.strengths(0)
    latents = {name: h.start().to(W) for name, h in prior.optimised.items()}
    with torch.enable_grad():
        view = MatrixView(W, prior.name, prior.needs(strengths), rank=prior.factors)
        gradient = evaluate(prior, view, strengths, latents).gradient
    with torch.no_grad():
        U, sigma, Vh = torch.linalg.svd(W.double(), full_matrices=False)
        along = torch.zeros_like(sigma)
        if gradient.rest is not None:
            along += torch.einsum("ik,ij,kj->k", U, gradient.rest.double(), Vh)
        if gradient.left is not None and gradient.right is not None:
            along += (gradient.left.double() @ U) * (Vh @ gradient.right.double())
        return float((sigma * along.abs()).sum())
