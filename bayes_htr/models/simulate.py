"""Draws of a network's weights from its priors."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from bayes_htr._checks import whole_number
from bayes_htr._torch import isolated_randomness
from bayes_htr.models.model import BayesianModel
from bayes_htr.priors import ParameterPrior
from bayes_htr.priors.parameter_prior import hyperparameters_by_name

_FLOAT64 = torch.zeros((), dtype=torch.float64)


def sample_prior(
    model: BayesianModel, n: int, *, seed: int = 0, epoch: int | None = None
) -> dict[str, Tensor]:
    """Draw the network's parameters from their priors.

    Hyperparameters with hyperpriors are drawn first; the law of each matrix is simulated at its
    strength, with uniformly distributed singular vectors. The global random state is left as it
    was.

    Args:
        model: The model.
        n: The number of draws.
        seed: The seed of the draws.
        epoch: The epoch that gives scheduled priors their strength.

    Returns:
        `(n, *shape)` for each trainable parameter by name, in its dtype and on its device, and
        `(n,)` for each hyperparameter. Parameters with a flat prior stay at their present values,
        and a warning names them.

    Raises:
        PriorError: A prior is no density, or is a product or a power that cannot be simulated.
        ValueError: `n` is less than 1.
    """
    n = whole_number(n, "n", at_least=1)
    parameters = model.densities(epoch).trainable
    warn_of_flat(parameters, stacklevel=3)
    return simulated(parameters, n, seed)


def warn_of_flat(parameters: Sequence[ParameterPrior], *, stacklevel: int) -> None:
    """Warn of parameters without a prior; `stacklevel` is that of `warnings.warn`."""
    flat = [p.name for p in parameters if not p.matrices]
    if flat:
        warnings.warn(
            f"no prior on {', '.join(flat)}: they stay at their present values; give vectors "
            "Entries(Normal(0.0, 1.0)), for instance",
            stacklevel=stacklevel,
        )


def simulated(parameters: list[ParameterPrior], n: int, seed: int) -> dict[str, Tensor]:
    """Draw these parameters and their hyperparameters, as `sample_prior` returns them."""
    values: dict[str, Tensor] = {}
    with isolated_randomness():
        torch.default_generator.manual_seed(seed)  # that of the CPU, where all draws are made
        for name, hyperparameter in hyperparameters_by_name(parameters).items():
            values[name] = hyperparameter.distribution(_FLOAT64).sample((n,))
        for p in parameters:
            tensor = p.parameter.tensor.detach()
            if not p.matrices:
                values[p.name] = tensor.expand(n, *p.shape).clone()
                continue
            matrices = {m.name: m.sample(n, values) for m in p.matrices}
            values[p.name] = p.join(matrices).to(tensor)
    return values
