"""The weights of a module, each by its layer's type.

Where a parametrization, a normalisation or pruning computes a weight, the computed one counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.spectral_norm import SpectralNorm

from bayes_htr.analysis.weights import (
    Source,
    Weight,
    in_projections,
    kind_by_dimensions,
    reason_against,
)
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


def module_source(module: nn.Module) -> Source:
    """The weights of a module.

    Raises:
        SpectrumError: A lazy parameter that has no shape yet.
    """
    net = unwrap(module)
    weights: list[Weight] = []
    skipped: dict[str, str] = {}
    for parameter in parameters_of(net):
        tensor = parameter.tensor
        owner = submodule(net, parameter.path.rpartition(".")[0])
        if parameter.raw and isinstance(owner, torch.jit.ScriptModule):
            skipped[parameter.name] = "a weight is computed from it by TorchScript"
        if parameter.raw or tensor.ndim < 2:
            continue
        _add(parameter.name, owner, tensor.detach(), partial(_same, tensor), weights, skipped)
    for path, owner in net.named_modules():
        for name in _computed(owner):
            with torch.no_grad(), _evaluating(owner):
                tensor = getattr(owner, name)
            if tensor.ndim >= 2:
                full = plain_name(f"{path}.{name}" if path else name)
                _add(full, owner, tensor, partial(_compute, owner, name), weights, skipped)
    return Source(type(net).__name__, tuple(weights), skipped)


def _add(
    name: str,
    owner: nn.Module,
    tensor: Tensor,
    load: Callable[[], Tensor],
    weights: list[Weight],
    skipped: dict[str, str],
) -> None:
    reason = reason_against(tuple(tensor.shape), tensor.is_floating_point(), str(tensor.dtype))
    if is_layer(owner, NORMS):
        reason = "a gain or bias of a normalisation is no weight matrix"
    if tensor.is_meta:
        reason = "it is on the meta device, without values"
    if reason is not None:
        skipped[name] = reason
        return
    kind = next((k for t, k in _KINDS if is_layer(owner, t)), kind_by_dimensions(tensor.ndim))
    if is_layer(owner, _TRANSPOSED):
        groups = groups_of(owner, name)
        shape = _out_first(tensor, groups).shape
        load = partial(_loaded_out_first, load, groups)
    else:
        shape = tensor.shape
    weights.extend(in_projections(Weight(name, kind, tuple(shape), load)))


def _computed(owner: nn.Module) -> list[str]:
    """Names of the weights that a parametrization, a normalisation or pruning computes."""
    names = list(owner.parametrizations) if parametrize.is_parametrized(owner) else []  # type: ignore[arg-type]
    masks = [name for name, _ in owner.named_buffers(recurse=False) if name.endswith("_mask")]
    pruned = [m[:-5] for m in masks if f"{m[:-5]}_orig" in owner._parameters]
    return [*names, *pruned, *hooked(owner)]


def _compute(owner: nn.Module, name: str) -> Tensor:
    with torch.no_grad(), _evaluating(owner):
        hook = hooked(owner).get(name)  # here and if pruned the attribute may be out of date
        if isinstance(hook, SpectralNorm):
            return hook.compute_weight(owner, do_power_iteration=False)
        if hook is not None:
            return hook.compute_weight(owner)
        if f"{name}_orig" in owner._parameters:
            return getattr(owner, f"{name}_orig") * getattr(owner, f"{name}_mask")
        return getattr(owner, name)


@contextmanager
def _evaluating(owner: nn.Module) -> Iterator[None]:
    """Without training: spectral normalisation takes a step of its iteration with each look."""
    inside = list(owner.modules())
    before = [m.training for m in inside]
    try:
        for m in inside:
            m.training = False
        yield
    finally:
        for m, mode in zip(inside, before, strict=True):
            m.training = mode


def _out_first(tensor: Tensor, groups: int) -> Tensor:
    """A transposed convolution's `[in, out / groups, ...]` as `[out, in / groups, ...]`."""
    grouped = tensor.reshape(groups, -1, *tensor.shape[1:]).transpose(1, 2)
    return grouped.reshape(groups * tensor.shape[1], -1, *tensor.shape[2:])


def _loaded_out_first(load: Callable[[], Tensor], groups: int) -> Tensor:
    return _out_first(load().detach(), groups)


def _same(tensor: Tensor) -> Tensor:
    return tensor
