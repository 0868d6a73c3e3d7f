"""The modules of a network: unwrapping them, telling their kind, and requiring whole parameters."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bayes_htr.errors import SpectrumError


def unwrap(module: nn.Module) -> nn.Module:
    """Return the network without `DataParallel`, `DistributedDataParallel` and `torch.compile`."""
    while True:
        if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
            module = module.module
        elif "_orig_mod" in module._modules:
            module = submodule(module, "_orig_mod")
        else:
            return module


def submodule(module: nn.Module, path: str) -> nn.Module:
    """Return the submodule at a path.

    It may be one of TorchScript, whose modules have no `get_submodule`.
    """
    for name in path.split(".") if path else ():
        module = module._modules[name]  # type: ignore[assignment]
    return module


def is_layer(module: nn.Module, kinds: type[nn.Module] | tuple[type[nn.Module], ...]) -> bool:
    """Return whether a module has one of these classes.

    A module of TorchScript counts by the class that it had before it was compiled.
    """
    if isinstance(module, torch.jit.ScriptModule):
        kinds = kinds if isinstance(kinds, tuple) else (kinds,)
        return module.original_name in {kind.__name__ for kind in kinds}
    return isinstance(module, kinds)


def class_name(module: nn.Module) -> str:
    """Return the name of a module's class, or of the class that TorchScript compiled."""
    if isinstance(module, torch.jit.ScriptModule):
        return str(module.original_name)
    return type(module).__name__


def groups_of(owner: nn.Module, name: str) -> int:
    """Return the number of groups of a transposed convolution.

    For a traced layer, only the shapes of its weight and bias tell the number.

    Raises:
        SpectrumError: A traced layer has no bias.
    """
    groups = getattr(owner, "groups", None)
    if groups is None:
        own = dict(owner.named_parameters(recurse=False))
        if "bias" not in own:
            raise SpectrumError(
                f"{name} is of a traced transposed convolution without bias, which does not tell "
                "its groups; use the module that was traced, or its state_dict()"
            )
        groups = len(own["bias"]) // own["weight"].shape[1]
    return int(groups)


def checked_module(module: Any) -> nn.Module:
    """Return `module` if it is a module that contains its parameters.

    Raises:
        SpectrumError: `module` is no module, or its parameters are spread over processes by
            `FullyShardedDataParallel`.
    """
    if not isinstance(module, nn.Module):
        inside = (
            ", ".join(sorted({type(m).__name__ for m in module}))
            if isinstance(module, list | tuple)
            else ""
        )
        raise SpectrumError(
            f"a network must be a torch.nn.Module, not a {type(module).__name__}"
            f"{f' of {inside}' if inside else ''}; for several networks take one nn.ModuleList"
        )
    for path, inner in module.named_modules():
        if "FullyShardedDataParallel" in {kind.__name__ for kind in type(inner).__mro__}:
            raise _sharded(f"{path or 'the network'} is wrapped by FullyShardedDataParallel")
    return module


def require_whole(name: str, tensor: Tensor, *, spread: bool = False) -> None:
    """Raise an error unless this process has all entries of a parameter.

    Args:
        name: The parameter's name.
        tensor: The parameter.
        spread: Whether it may be a `DTensor`.

    Raises:
        SpectrumError: The parameter is spread over processes, by `fully_shard`, tensor parallelism
            or DeepSpeed.
    """
    if hasattr(tensor, "placements") and not spread:
        raise _sharded(f"{name} is a DTensor with the placements {list(tensor.placements)}")
    if hasattr(tensor, "ds_id"):
        raise _sharded(f"{name} is partitioned by DeepSpeed")


def _sharded(what: str) -> SpectrumError:
    return SpectrumError(
        f"{what}: this process has a part of the weights, and a spectrum is that of all of them. "
        "Gather the weights to look at them; to train under a prior, apply fully_shard before "
        "htr.bind, or use DistributedDataParallel"
    )
