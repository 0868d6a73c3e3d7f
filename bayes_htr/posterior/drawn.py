"""Writing draws of weights into a network, and checking that they fit."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from bayes_htr.posterior.laws import hyperparameters_of
from bayes_htr.priors import Priors
from bayes_htr.spectra import parameters_of


def place(net: nn.Module, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Write parameters into a network by name, in place; parameters without a value do not change.

    Returns:
        The values that are not parameters: hyperparameters.
    """
    rest = dict(values)
    with torch.no_grad():
        for p in parameters_of(net):
            if p.name in rest:
                p.tensor.copy_(rest.pop(p.name))
    return rest


def check_fits(values: Mapping[str, Tensor], net: nn.Module, priors: Priors) -> None:
    """Raise an error unless the values fit the parameters and hyperparameters of a network.

    Raises:
        ValueError: A name that the network and its priors do not have, another shape, or a value
            that is not finite.
    """
    shapes = {p.name: p.tensor.shape for p in parameters_of(net)}
    latents = hyperparameters_of(priors, net)
    for name, value in values.items():
        if name not in shapes and name not in latents:
            raise ValueError(
                f"no parameter or hyperparameter {name}; there are {', '.join([*shapes, *latents])}"
            )
        wanted = shapes.get(name, torch.Size())
        if value.shape != wanted:
            raise ValueError(f"{name} has shape {tuple(wanted)}, not {tuple(value.shape)}")
        if not bool(torch.isfinite(value).all()):
            raise ValueError(f"{name} is not finite")
