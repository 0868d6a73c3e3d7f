"""The hyperparameters of an energy that have hyperpriors, and their own part of the energy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from bayes_htr.engine.autograd import Derivative, Summand, itself
from bayes_htr.engine.matrix_energy import MatrixEnergy
from bayes_htr.priors import Hyperparameter
from bayes_htr.spectra import Gradient, working_dtype


class EnergyHyperparameters(nn.ParameterDict):
    """Hyperparameters that are optimised together with the weights, in unconstrained coordinates.

    They start at the values that their hyperpriors give (`Hyperparameter.start`). A hyperparameter
    that several matrices share has the highest precision of these matrices.

    Args:
        matrices: The energies of all matrices.
        root: The unwrapped network.

    Attributes:
        hyperpriors: The hyperparameters with their hyperpriors, by name.
    """

    def __init__(self, matrices: Sequence[MatrixEnergy], root: nn.Module) -> None:
        self.hyperpriors: dict[str, Hyperparameter] = {}
        starts: dict[str, Tensor] = {}
        for matrix in matrices:
            dtype = working_dtype(matrix.parameter_in(root).dtype)
            for name, hyperparameter in matrix.prior.optimised.items():
                self.hyperpriors[name] = hyperparameter
                start = starts.get(name, hyperparameter.start())
                starts[name] = start.to(torch.promote_types(start.dtype, dtype))
        super().__init__({_key(name): nn.Parameter(u) for name, u in starts.items()})

    def by_name(self) -> dict[str, Tensor]:
        """Return the unconstrained coordinates by name, 0-d each: the parameters of this module."""
        return {name: self[_key(name)] for name in self.hyperpriors}

    def constrained(self) -> dict[str, Tensor]:
        """Return the present values by name, 0-d, without gradient."""
        return {n: self.hyperpriors[n].value(u.detach()) for n, u in self.by_name().items()}

    def summands(self, coordinates: Mapping[str, Tensor]) -> list[Summand]:
        """Return the summands of hyperparameters under their hyperpriors, which are never cached.

        Args:
            coordinates: The unconstrained coordinates by name, which need not be the present ones.
        """
        summands = []
        for name, hyperparameter in self.hyperpriors.items():
            wanted = torch.is_grad_enabled()
            u = coordinates[name].detach().requires_grad_(wanted)
            energy = hyperparameter.energy(u)
            derivatives = []
            if wanted:
                (slope,) = torch.autograd.grad(energy, u)
                derivatives = [Derivative(coordinates[name], itself, Gradient(slope))]
            summands.append(Summand(name, energy.detach(), 0.0, derivatives))
        return summands


def _key(name: str) -> str:
    """Return a name that a module accepts for a parameter.

    It has no dots, and differs from every attribute of the module.
    """
    return "u:" + name.replace(".", "/")
