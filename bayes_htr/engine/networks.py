"""What an energy asks of its network: parameters that can be replaced, by which names."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from bayes_htr.errors import PriorError
from bayes_htr.spectra import parameters_of
from bayes_htr.spectra.modules import unwrap
from bayes_htr.spectra.names import without_wrappers


def refuse_torchscript(net: nn.Module) -> None:
    """Raise if parameters are in modules that TorchScript has compiled.

    Raises:
        PriorError: There is such a module.
    """
    for path, module in net.named_modules():
        if isinstance(module, torch.jit.ScriptModule) and any(True for _ in module.parameters()):
            raise PriorError(
                f"{path or 'the network'} is a module of TorchScript, whose parameters cannot be "
                "replaced; bind the priors to the module that it was made from"
            )


def sparse_parameters(net: nn.Module) -> set[int]:
    """The identities of the parameters of embeddings whose gradients are sparse."""
    return {
        id(module.weight)
        for module in net.modules()
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.sparse
    }


def by_parameter(net: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors given in place of parameters, by the names by which priors know these.

    Args:
        net: The network.
        tensors: Tensors by any names of parameters, also those with the prefixes of wrappers.
            Buffers are left out.

    Raises:
        ValueError: A name that the network does not have, another shape, or two tensors for one
            tied parameter.
    """
    parameters = parameters_of(net)
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
