"""Weights that a network computes from its parameters.

Parametrizations, pruning, and the older normalisations, which use hooks, compute the weight of a
layer from parameters that are no weights themselves. A LoRA adapter adds `scale * B A` to a weight
that does not change. The matrix of the adapter is this product, with the name `lora_BA`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import parametrize
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from bayes_htr.spectra.names import plain_name

LORA = "lora_BA"
"""The name of the product of a LoRA adapter's factors."""


@dataclass(frozen=True)
class ComputedWeight:
    """A weight that a module computes from its parameters.

    Attributes:
        module: The path of the module in the network; empty for the network itself.
        name: The weight's name in the module.
        parts: The paths, within the module, of the parameters from which it is computed.
        adapter: The name of the adapter, if the weight is the product of an adapter's factors.
            The parts are then `A` and `B`, in this order.
        rank: The number of columns of `B`, if the weight is such a product.
        scale: The number by which `B A` is multiplied, if the weight is such a product.
    """

    module: str
    name: str
    parts: tuple[str, ...]
    adapter: str | None = None
    rank: int | None = None
    scale: float = 1.0

    @property
    def path(self) -> str:
        """The path of the weight in the network."""
        return f"{self.module}.{self.name}" if self.module else self.name

    @property
    def part_paths(self) -> tuple[str, ...]:
        """The paths, in the network, of the parameters from which the weight is computed."""
        return tuple(f"{self.module}.{p}" if self.module else p for p in self.parts)

    def of(self, root: nn.Module) -> Tensor:
        """Return the present weight, in the graph of its parameters.

        Raises:
            AttributeError: The network no longer computes the weight.
        """
        owner = root.get_submodule(self.module)
        with torch.inference_mode(False), torch.enable_grad():
            return _compute(owner, self.name, self.adapter)

    def at(self, root: nn.Module, values: Mapping[str, Tensor]) -> Tensor:
        """Return the weight at other values of its parameters, given by their plain names."""
        owner = root.get_submodule(self.module)
        given = {
            f"owner.{part}": values[plain_name(path)]
            for part, path in zip(self.parts, self.part_paths, strict=True)
            if plain_name(path) in values
        }
        tensor: Tensor = functional_call(_Getter(owner, self.name, self.adapter), given, ())
        return tensor


class _Getter(nn.Module):
    """A module whose output is the computed weight of another module."""

    def __init__(self, owner: nn.Module, name: str, adapter: str | None) -> None:
        super().__init__()
        self.owner, self.name, self.adapter = owner, name, adapter

    def forward(self) -> Tensor:
        """Return the weight."""
        return _compute(self.owner, self.name, self.adapter)


def computed_weights(root: nn.Module) -> list[ComputedWeight]:
    """Return the weights that a network computes, in the order of its modules."""
    weights = []
    for path, owner in root.named_modules():
        if isinstance(owner, torch.jit.ScriptModule):
            continue
        for name in _names(owner):
            weights.append(ComputedWeight(path, name, _parts(owner, name)))
        for adapter, parts in _adapters(owner).items():
            name = f"{LORA}.{adapter}" if adapter else LORA
            A, _, scale = _factors(owner, adapter)
            weights.append(ComputedWeight(path, name, parts, adapter, len(A), float(scale)))
    return weights


def _names(owner: nn.Module) -> list[str]:
    """Return the names of weights that a parametrization, a normalisation or pruning computes."""
    names = list(owner.parametrizations) if parametrize.is_parametrized(owner) else []  # type: ignore[arg-type]
    masks = [name for name, _ in owner.named_buffers(recurse=False) if name.endswith("_mask")]
    pruned = [m[:-5] for m in masks if f"{m[:-5]}_orig" in owner._parameters]
    return [*names, *pruned, *_hooked(owner)]


def _hooked(owner: nn.Module) -> dict[str, WeightNorm | SpectralNorm]:
    """Return the older normalisations, by the names of their weights.

    They have hooks that compute a weight before each call.
    """
    hooks = owner._forward_pre_hooks.values()
    return {h.name: h for h in hooks if isinstance(h, WeightNorm | SpectralNorm)}


def _parts(owner: nn.Module, name: str) -> tuple[str, ...]:
    if parametrize.is_parametrized(owner, name):
        inside = owner.get_submodule(f"parametrizations.{name}")
        return tuple(f"parametrizations.{name}.{n}" for n, _ in inside.named_parameters())
    stems = (f"{name}_{kind}" for kind in ("g", "v", "orig"))
    return tuple(stem for stem in stems if stem in owner._parameters)


def _adapters(owner: nn.Module) -> dict[str, tuple[str, ...]]:
    """Return the factors of each LoRA adapter of a module by the adapter's name.

    The name is empty if the module has a single adapter.
    """
    A, B = getattr(owner, "lora_A", None), getattr(owner, "lora_B", None)
    if isinstance(A, nn.Parameter) and isinstance(B, nn.Parameter):
        return {"": ("lora_A", "lora_B")}
    if not isinstance(A, nn.ModuleDict) or not isinstance(B, nn.ModuleDict):
        return {}
    return {
        name: (f"lora_A.{name}.weight", f"lora_B.{name}.weight")
        for name in A
        if name in B and all(isinstance(getattr(m[name], "weight", None), Tensor) for m in (A, B))
    }


def _compute(owner: nn.Module, name: str, adapter: str | None) -> Tensor:
    if adapter is not None:
        return _product(owner, adapter)
    with _evaluating(owner):
        hook = _hooked(owner).get(name)  # with a hook or a mask the attribute may be out of date
        if isinstance(hook, SpectralNorm):
            return hook.compute_weight(owner, do_power_iteration=False)
        if hook is not None:
            return hook.compute_weight(owner)
        if f"{name}_orig" in owner._parameters:
            return getattr(owner, f"{name}_orig") * getattr(owner, f"{name}_mask")
        tensor: Tensor = getattr(owner, name)
        return tensor


def _product(owner: Any, adapter: str) -> Tensor:
    """Return `scale * B A` of an adapter: `(out, in, ...)`."""
    A, B, scale = _factors(owner, adapter)
    product = scale * lora_product(A, B)
    base = getattr(owner, "weight", None)  # of a convolution, the factors may be flattened
    if isinstance(base, Tensor) and base.numel() == product.numel():
        product = product.reshape(base.shape)
    return product


def _factors(owner: Any, adapter: str) -> tuple[Tensor, Tensor, Any]:
    """Return the factors `A` and `B` of an adapter, and the scale of their product."""
    if not adapter:
        return owner.lora_A, owner.lora_B, getattr(owner, "scaling", 1.0)
    scales = getattr(owner, "scaling", {})
    return owner.lora_A[adapter].weight, owner.lora_B[adapter].weight, scales.get(adapter, 1.0)


def lora_product(A: Tensor, B: Tensor) -> Tensor:
    """Return `B A` of factors `(r, in, ...)` and `(out, r, 1, ...)`: `(out, in, ...)`."""
    return (B.flatten(1) @ A.flatten(1)).reshape(B.shape[0], *A.shape[1:])


@contextmanager
def _evaluating(owner: nn.Module) -> Iterator[None]:
    """Put a module into evaluation mode within the block.

    In training mode, each access to the weight would change the vectors of spectral normalisation.
    """
    modules = list(owner.modules())
    modes = [m.training for m in modules]
    try:
        for m in modules:
            m.training = False
        yield
    finally:
        for m, mode in zip(modules, modes, strict=True):
            m.training = mode
