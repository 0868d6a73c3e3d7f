"""The matrices of a module, and how each is obtained from its parameter.

A parameter with two or more dimensions is one matrix of shape `(out, everything else)`, with these
rules and exceptions:

- a convolution `[out, in, kh, kw]` is `out x (in kh kw)`, grouped or not;
- for a transposed convolution `[in, out / groups, kh, kw]`, `out` is moved first, group by group;
- `MultiheadAttention.in_proj_weight` contains three matrices: query, key and value;
- scales and biases of normalisation layers, of any shape, and complex parameters contain no matrix;
- tied parameters count once, and can be addressed by any of their names.

Names are those of `named_parameters()` of the plain network, without the prefixes of
`DataParallel`, `DistributedDataParallel` and `torch.compile`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from bayes_htr.errors import SpectrumError

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
NORMS = (nn.LayerNorm, nn.RMSNorm)
"""Normalisation layers whose parameters can have two or more dimensions."""


@dataclass(frozen=True)
class Matrix:
    """One matrix inside a parameter.

    Attributes:
        name: The name of the parameter, followed by `[q]`, `[k]` or `[v]` for `in_proj_weight`.
        shape: `(rows, columns)`.
        view: Maps the tensor of the parameter to the matrix, differentiably.
    """

    name: str
    shape: tuple[int, int]
    view: Callable[[Tensor], Tensor]

    @property
    def rank(self) -> int:
        """`K`, the number of singular values: the smaller side."""
        return min(self.shape)


@dataclass(frozen=True)
class Parameter:
    """A parameter of a module and the matrices in it (none for a vector).

    Attributes:
        name: The first of its names.
        aliases: All its names; a tied parameter has more than one.
        path: The name of the parameter in the unwrapped module.
        tensor: The parameter.
        matrices: The matrices in it.
        raw: Whether the network computes its weight from this parameter, for example by a
            parametrisation. Then the parameter is not the weight and contains no matrix of the
            network.
    """

    name: str
    aliases: tuple[str, ...]
    path: str
    tensor: nn.Parameter
    matrices: tuple[Matrix, ...]
    raw: bool = False


def unwrap(module: nn.Module) -> nn.Module:
    """The plain network inside `DataParallel`, `DistributedDataParallel` and `torch.compile`."""
    while True:
        if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
            module = module.module
        elif "_orig_mod" in module._modules:
            module = submodule(module, "_orig_mod")
        else:
            return module


def submodule(module: nn.Module, path: str) -> nn.Module:
    """The submodule at a path; `get_submodule`, which modules of TorchScript do not have."""
    for name in path.split(".") if path else ():
        module = module._modules[name]  # type: ignore[assignment]
    return module


def is_layer(module: nn.Module, kinds: type[nn.Module] | tuple[type[nn.Module], ...]) -> bool:
    """Whether a module is of one of these classes, or was before TorchScript compiled it."""
    if isinstance(module, torch.jit.ScriptModule):
        kinds = kinds if isinstance(kinds, tuple) else (kinds,)
        return module.original_name in {kind.__name__ for kind in kinds}
    return isinstance(module, kinds)


def plain_name(name: str) -> str:
    """A parameter's name without prefixes of `torch.compile` and activation checkpointing."""
    return name.replace("_orig_mod.", "").replace("_checkpoint_wrapped_module.", "")


def without_wrappers(name: str) -> str:
    """A name or pattern without the prefixes of `DataParallel` and `torch.compile`."""
    name = plain_name(name)
    while name.startswith("module."):
        name = name.removeprefix("module.")
    return name


def parameters_of(module: nn.Module) -> list[Parameter]:
    """The parameters of a module in its own order, where tied parameters count once.

    Raises:
        SpectrumError: No module, a lazy parameter that has no shape yet, or parameters of which
            this process has a part alone.
    """
    module = unwrap(_checked_module(module))
    names: dict[int, list[str]] = {}
    tensors: dict[int, nn.Parameter] = {}
    for name, tensor in module.named_parameters(remove_duplicate=False):
        names.setdefault(id(tensor), []).append(name)
        tensors[id(tensor)] = tensor
    found = []
    for key, tensor in tensors.items():
        raw = names[key][0]
        if isinstance(tensor, nn.parameter.UninitializedParameter):
            raise SpectrumError(
                f"{raw} has no shape yet; run the network once before its spectra are used"
            )
        require_whole(raw, tensor)
        owner = submodule(module, raw.rpartition(".")[0])
        aliases = tuple(dict.fromkeys(plain_name(n) for n in names[key]))
        computed = _is_computed_from(raw, owner)
        matrices = () if computed else _matrices(aliases[0], tensor, owner)
        found.append(Parameter(aliases[0], aliases, raw, tensor, matrices, computed))
    return found


def _checked_module(module: Any) -> nn.Module:
    """A module that has its parameters itself."""
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


def require_whole(name: str, tensor: Tensor) -> None:
    """Require a parameter all of whose entries this process has.

    Raises:
        SpectrumError: It is spread over processes, by `fully_shard`, tensor parallelism or
            DeepSpeed.
    """
    if hasattr(tensor, "placements"):
        raise _sharded(f"{name} is a DTensor with the placements {list(tensor.placements)}")
    if hasattr(tensor, "ds_id"):
        raise _sharded(f"{name} is partitioned by DeepSpeed")


def _sharded(what: str) -> SpectrumError:
    return SpectrumError(
        f"{what}: this process has a part of the weights, and a spectrum is that of all of them. "
        "Gather the weights to look at them; train under a prior with DistributedDataParallel"
    )


def set_parameters(parameters: Iterable[Parameter], values: Mapping[str, Tensor]) -> None:
    """Write values into parameters, in place; those without a value stay as they are.

    Args:
        parameters: What `parameters_of` returns.
        values: Tensors by name, with the shapes of the parameters; other names are ignored.
    """
    with torch.no_grad():
        for p in parameters:
            if p.name in values:
                p.tensor.copy_(values[p.name])


def matrices_of(module: nn.Module) -> dict[str, Tensor]:
    """Every matrix of a module by name, as a differentiable view of its parameter."""
    return {
        matrix.name: matrix.view(parameter.tensor)
        for parameter in parameters_of(module)
        for matrix in parameter.matrices
    }


def as_matrix(W: Tensor) -> Tensor:
    """A tensor of two or more dimensions as `(out, everything else)`.

    Raises:
        SpectrumError: Fewer than two dimensions, or no entries.
    """
    if W.ndim < 2 or W.numel() == 0:
        raise SpectrumError(
            f"a tensor of shape {tuple(W.shape)} has no spectrum; "
            "give one with two or more dimensions, none of them 0"
        )
    return W if W.ndim == 2 else W.reshape(W.shape[0], -1)


def as_row(tensor: Tensor) -> Tensor:
    """A tensor as a matrix of one row, in which priors see vectors."""
    return tensor.reshape(1, -1)


def hooked(owner: nn.Module) -> dict[str, WeightNorm | SpectralNorm]:
    """The older normalisations, which compute a weight before each call, by its name."""
    hooks = owner._forward_pre_hooks.values()
    return {h.name: h for h in hooks if isinstance(h, WeightNorm | SpectralNorm)}


def _is_computed_from(name: str, owner: nn.Module) -> bool:
    """Whether the owner computes its weight from this parameter.

    Parametrisations, pruning and normalisations do this.
    """
    stem, _, kind = name.rpartition(".")[2].rpartition("_")
    pruned = kind == "orig" and hasattr(owner, f"{stem}_mask")
    normalised = kind in ("g", "v", "orig") and stem in hooked(owner)
    return pruned or normalised or is_layer(owner, nn.utils.parametrize.ParametrizationList)


def _matrices(name: str, tensor: Tensor, owner: nn.Module) -> tuple[Matrix, ...]:
    if tensor.ndim < 2 or tensor.numel() == 0 or tensor.is_complex() or is_layer(owner, NORMS):
        return ()
    if is_layer(owner, nn.MultiheadAttention) and name.endswith("in_proj_weight"):
        rows = tensor.shape[0] // 3
        return tuple(
            Matrix(f"{name}[{part}]", (rows, tensor.shape[1]), _Rows(i * rows, (i + 1) * rows))
            for i, part in enumerate("qkv")
        )
    view: Callable[[Tensor], Tensor] = as_matrix
    if is_layer(owner, _TRANSPOSED):
        view = _OutFirst(groups_of(owner, name))
    rows, columns = view(tensor.detach()).shape
    return (Matrix(name, (rows, columns), view),)


def groups_of(owner: nn.Module, name: str) -> int:
    """The groups of a transposed convolution; one that was traced knows them by its bias alone.

    Raises:
        SpectrumError: A traced layer without bias.
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


@dataclass(frozen=True)
class _Rows:
    """Rows `start` to `stop` of a stacked parameter."""

    start: int
    stop: int

    def __call__(self, tensor: Tensor) -> Tensor:
        return tensor[self.start : self.stop]


@dataclass(frozen=True)
class _OutFirst:
    """A transposed convolution's `[in, out / groups, ...]` as `out x (in / groups ...)`."""

    groups: int

    def __call__(self, tensor: Tensor) -> Tensor:
        grouped = tensor.reshape(self.groups, -1, *tensor.shape[1:]).transpose(1, 2)
        return grouped.reshape(self.groups * tensor.shape[1], -1)


def check_finite(W: Tensor, name: str) -> None:
    """Raise `SpectrumError` naming the matrix if an entry is NaN, infinite, or not there."""
    if W.is_meta:
        raise SpectrumError(
            f"{name} is on the meta device and has no entries; load the weights first"
        )
    if W.is_floating_point() and W.itemsize == 1:
        W = W.float()  # eight bits have no minimum
    # One pass without a temporary; NaN is passed on.
    ends = torch.view_as_real(W.resolve_conj()) if W.is_complex() else W
    if W.numel() and not bool(torch.isfinite(torch.stack(torch.aminmax(ends))).all()):
        bad = ~torch.isfinite(W)
        first = tuple(int(i) for i in bad.nonzero()[0])
        raise SpectrumError(
            f"{name} holds {int(bad.sum())} entries that are not finite, the first "
            f"{W[first].item()} at {first}; lower the learning rate or clip gradients "
            "(if training led here), or load other weights"
        )
