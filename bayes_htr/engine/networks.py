"""What an energy requires of its network, when priors are bound and at every call afterwards.

A parameter with a prior that is replaced by another one is scored anew at the next call, and one
that is gone is an error (`MatrixEnergy.update`). A frozen parameter is a constant, which is left
out until it is trainable again. `NetworkWatch` notices a parameter that is added to the network: if
it has a prior, the energy would silently leave it out. A new parameter of a module that was there
before is noticed at the next call, and that of a module that has replaced another within 16 calls.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bayes_htr.errors import PriorError
from bayes_htr.priors import ParameterPrior, Priors
from bayes_htr.spectra import parameters_of
from bayes_htr.spectra.modules import checked_module, unwrap
from bayes_htr.spectra.names import without_wrappers

_EVERY = 16
"""All modules are examined again after this many calls."""


def prepared_root(net: nn.Module) -> nn.Module:
    """Return the unwrapped network, to which priors can be bound.

    Modules under `fully_shard` have their own parameters from then on, and not gathered copies.

    Raises:
        PriorError: TorchScript has compiled a module with parameters.
        SpectrumError: The network is no module, or is under `FullyShardedDataParallel`.
    """
    for path, module in checked_module(net).named_modules():
        if "FSDPModule" in {kind.__name__ for kind in type(module).__mro__}:
            module.reshard()
        if isinstance(module, torch.jit.ScriptModule) and any(True for _ in module.parameters()):
            raise PriorError(
                f"{path or 'the network'} is a module of TorchScript, whose parameters cannot be "
                "replaced; bind the priors to the module that it was made from"
            )
    return unwrap(net)


def sparse_parameters(net: nn.Module) -> set[int]:
    """Return the identities of the parameters of embeddings whose gradients are sparse."""
    return {
        id(module.weight)
        for module in net.modules()
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.sparse
    }


def by_parameter(net: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors given in place of parameters, by the names that priors use for these.

    Args:
        net: The network.
        tensors: Tensors by any names of parameters, with or without the prefixes of wrappers.
            Buffers are ignored.

    Raises:
        ValueError: The network has no parameter of a given name, or it has another shape, or one
            tied parameter is given two tensors.
    """
    parameters = parameters_of(net, spread=True)
    known = {without_wrappers(alias): p for p in parameters for alias in p.aliases}
    buffers = {without_wrappers(name) for name, _ in unwrap(net).named_buffers()}
    given: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        parameter = known.get(without_wrappers(name))
        if parameter is None:
            if without_wrappers(name) in buffers:
                continue
            raise ValueError(
                f"the network has no parameter {name!r}; it has "
                f"{', '.join(p.name for p in parameters)}"
            )
        if tensor.shape != parameter.tensor.shape:
            raise ValueError(
                f"{name} has shape {tuple(parameter.tensor.shape)}, not {tuple(tensor.shape)}"
            )
        if given.setdefault(parameter.name, tensor) is not tensor:
            raise ValueError(
                f"{' and '.join(parameter.aliases)} are one tied parameter, and two tensors are "
                "given for it; give one"
            )
    return given


class NetworkWatch:
    """A watch that notices when a network gets new parameters.

    Args:
        priors: The priors.
        resolved: The result of `Priors.resolve` for the network.
        root: The unwrapped network.
    """

    _members: Sequence[dict[str, Any]]

    def __init__(self, priors: Priors, resolved: Iterable[ParameterPrior], root: nn.Module) -> None:
        self._priors = priors
        self._calls = 0
        self._names = {p.parameter.name for p in resolved}
        self._look(root)

    def check(self, root: nn.Module) -> None:
        """Raise an error if the network has got a parameter with a prior.

        If nothing is new, the check only counts members of modules.

        Raises:
            PriorError: A new parameter has a prior.
        """
        self._calls += 1
        is_same_size = sum(map(len, self._members)) == self._size
        if is_same_size and (self._calls % _EVERY or _count_parameters(root) == self._count):
            return
        new = [
            p.name
            for p in self._priors.resolve(root, spread=True)
            if p.name not in self._names and p.prior is not None
        ]
        if new:
            raise PriorError(
                f"{', '.join(new)} came to the network after its priors were bound, and has a "
                "prior that the energy lacks; bind the priors again"
            )
        self._look(root)

    def _look(self, root: nn.Module) -> None:
        """Remember the number of members that the network has."""
        self._count = _count_parameters(root)
        modules = list(root.modules())
        self._members = [m._parameters for m in modules] + [m._modules for m in modules]
        self._size = sum(map(len, self._members))

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for copies, without the members.

        A copy looks up the members in its own network.
        """
        return self.__dict__ | {"_members": (), "_size": -1}


def _count_parameters(root: nn.Module) -> int:
    """Return the number of parameters of a network's modules.

    Parameters of shared modules count as often as these occur.
    """
    count, modules = 0, [root]
    while modules:
        module = modules.pop()
        count += sum(p is not None for p in module._parameters.values())
        modules += [m for m in module._modules.values() if m is not None]
    return count
