"""The weights of a network, and the matrices as which each weight is analysed.

A module gives each weight with its layer's type. Where a parametrization, a normalisation or
pruning computes a weight, the computed weight is read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.spectral_norm import SpectralNorm

from bayes_htr.spectra import parameters_of
from bayes_htr.spectra.matrices import (
    NORMS,
    groups_of,
    hooked,
    is_layer,
    plain_name,
    submodule,
    unwrap,
)

Conv = Literal["flatten", "slices"]

_KINDS_BY_DIMENSIONS = {2: "dense", 3: "conv1d", 4: "conv2d", 5: "conv3d"}

_KINDS: tuple[tuple[type[nn.Module], str], ...] = (
    (nn.Linear, "dense"),
    (nn.Embedding, "embedding"),
    (nn.EmbeddingBag, "embedding"),
    (nn.Conv1d, "conv1d"),
    (nn.Conv2d, "conv2d"),
    (nn.Conv3d, "conv3d"),
    (nn.ConvTranspose1d, "conv_transpose1d"),
    (nn.ConvTranspose2d, "conv_transpose2d"),
    (nn.ConvTranspose3d, "conv_transpose3d"),
    (nn.MultiheadAttention, "attention"),
)

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True)
class Weight:
    """A tensor of two or more dimensions, the output first, which is read on demand.

    Attributes:
        name: The parameter's name, followed by `[q]`, `[k]` or `[v]` for parts of `in_proj_weight`.
        kind: The type of its layer: `dense`, `conv2d`, `embedding`, ...
        shape: `(out, in, ...)`.
        load: Reads the tensor.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    load: Callable[[], Tensor]

    @property
    def positions(self) -> int:
        """The number of positions of a convolution's kernel; 1 for a matrix."""
        return math.prod(self.shape[2:])

    def sides(self, conv: Conv) -> tuple[int, int]:
        """The numbers of rows and columns of each of its matrices."""
        if conv == "slices":
            return self.shape[0], self.shape[1]
        return self.shape[0], math.prod(self.shape[1:])

    def count(self, conv: Conv) -> int:
        """The number of eigenvalues of all its matrices together."""
        return min(self.sides(conv)) * (self.positions if conv == "slices" else 1)

    def matrices(self, conv: Conv) -> list[Tensor]:
        """Read the weight as one `out x (in kh kw)` matrix, or one `out x in` per kernel position.

        Args:
            conv: `"flatten"` for one matrix, `"slices"` for one per position.
        """
        tensor = self.load().detach()
        if conv == "flatten" or tensor.ndim == 2:
            return [tensor.reshape(tensor.shape[0], -1)]
        return list(tensor.flatten(2).movedim(2, 0).contiguous())

    def factor(self, conv: Conv) -> float:
        """The factor of its eigenvalues: 1/2 for slices of convolutions, as in WeightWatcher."""
        return 0.5 if conv == "slices" and len(self.shape) > 2 else 1.0


@dataclass
class Source:
    """The weights of a network.

    Attributes:
        label: What errors and titles call the network.
        weights: The weights in the network's own order; tied ones once.
        skipped: Tensors of two or more dimensions that are not weights, by name, with the reason.
    """

    label: str
    weights: list[Weight] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)

    def add(
        self,
        name: str,
        shape: Sequence[int],
        load: Callable[[], Tensor],
        *,
        kind: str = "",
        reason: str | None = None,
    ) -> None:
        """Add a tensor of two or more dimensions.

        The query, key and value matrices of an `in_proj_weight` become three weights.

        Args:
            name: The parameter's name.
            shape: `(out, in, ...)`.
            load: Reads the tensor.
            kind: The type of its layer; by default the one that the number of dimensions suggests.
            reason: Why the tensor is not a weight, if it is not.
        """
        if reason is not None:
            self.skipped[name] = reason
            return
        kind = kind or _KINDS_BY_DIMENSIONS.get(len(shape), f"{len(shape)}-dimensional")
        rows = shape[0]
        if not name.endswith("in_proj_weight") or len(shape) != 2 or rows % 3:
            self.weights.append(Weight(name, kind, tuple(shape), load))
            return
        third = rows // 3
        for i, part in enumerate("qkv"):
            load_part = partial(_load_rows, load, i * third, (i + 1) * third)
            part_shape = (third, shape[1])
            self.weights.append(Weight(f"{name}[{part}]", "attention", part_shape, load_part))


def reason_against(shape: Sequence[int], floating: bool, dtype: str) -> str | None:
    """Why a tensor of two or more dimensions is not a weight, or `None` if it is one."""
    if not floating or "float4" in dtype:
        return f"{dtype} is no floating-point type that can be read"
    if math.prod(shape) == 0:
        return f"it is empty: {tuple(shape)}"
    return None


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether a name equals one of the patterns, such as `proj[q]`, or matches one by `fnmatch`."""
    return any(name == pattern or fnmatchcase(name, pattern) for pattern in patterns)


def _load_rows(load: Callable[[], Tensor], start: int, stop: int) -> Tensor:
    return load()[start:stop]


# Modules


def module_source(module: nn.Module) -> Source:
    """Collect the weights of a module.

    Raises:
        SpectrumError: A lazy parameter has no shape yet.
    """
    net = unwrap(module)
    source = Source(type(net).__name__)
    for parameter in parameters_of(net):
        tensor = parameter.tensor
        owner = submodule(net, parameter.path.rpartition(".")[0])
        if parameter.raw and isinstance(owner, torch.jit.ScriptModule):
            source.skipped[parameter.name] = "a weight is computed from it by TorchScript"
        if parameter.raw or tensor.ndim < 2:
            continue
        _add(source, parameter.name, owner, tensor.detach(), tensor.detach)
    for path, owner in net.named_modules():
        for name in _computed(owner):
            with torch.no_grad(), _evaluating(owner):
                tensor = getattr(owner, name)
            if tensor.ndim >= 2:
                full_name = plain_name(f"{path}.{name}" if path else name)
                _add(source, full_name, owner, tensor, partial(_compute, owner, name))
    return source


def _add(
    source: Source, name: str, owner: nn.Module, tensor: Tensor, load: Callable[[], Tensor]
) -> None:
    reason = reason_against(tensor.shape, tensor.is_floating_point(), str(tensor.dtype))
    if is_layer(owner, NORMS):
        reason = "a gain or bias of a normalisation is no weight matrix"
    if tensor.is_meta:
        reason = "it is on the meta device, without values"
    shape = tuple(tensor.shape)
    if reason is None and is_layer(owner, _TRANSPOSED):
        groups = groups_of(owner, name)
        shape = tuple(_out_first(tensor, groups).shape)
        load = partial(_load_out_first, load, groups)
    kind = next((kind for layer, kind in _KINDS if is_layer(owner, layer)), "")
    source.add(name, shape, load, kind=kind, reason=reason)


def _computed(owner: nn.Module) -> list[str]:
    """Names of the weights that a parametrization, a normalisation or pruning computes."""
    names = list(owner.parametrizations) if parametrize.is_parametrized(owner) else []  # type: ignore[arg-type]
    masks = [name for name, _ in owner.named_buffers(recurse=False) if name.endswith("_mask")]
    pruned = [m[:-5] for m in masks if f"{m[:-5]}_orig" in owner._parameters]
    return [*names, *pruned, *hooked(owner)]


def _compute(owner: nn.Module, name: str) -> Tensor:
    with torch.no_grad(), _evaluating(owner):
        hook = hooked(owner).get(name)  # with a hook or a mask the attribute may be out of date
        if isinstance(hook, SpectralNorm):
            return hook.compute_weight(owner, do_power_iteration=False)
        if hook is not None:
            return hook.compute_weight(owner)
        if f"{name}_orig" in owner._parameters:
            return getattr(owner, f"{name}_orig") * getattr(owner, f"{name}_mask")
        return getattr(owner, name)


@contextmanager
def _evaluating(owner: nn.Module) -> Iterator[None]:
    """Set evaluation mode: in training mode spectral normalisation changes with each access."""
    modules = list(owner.modules())
    modes = [m.training for m in modules]
    try:
        for m in modules:
            m.training = False
        yield
    finally:
        for m, mode in zip(modules, modes, strict=True):
            m.training = mode


def _out_first(tensor: Tensor, groups: int) -> Tensor:
    """A transposed convolution's `[in, out / groups, ...]` as `[out, in / groups, ...]`."""
    grouped = tensor.reshape(groups, -1, *tensor.shape[1:]).transpose(1, 2)
    return grouped.reshape(groups * tensor.shape[1], -1, *tensor.shape[2:])


def _load_out_first(load: Callable[[], Tensor], groups: int) -> Tensor:
    return _out_first(load().detach(), groups)
